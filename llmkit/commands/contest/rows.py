"""The rows that all methods of a comparison share: one split of a task's rows, or of a labelled set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

from llmkit.errors import DataError, LlmkitError, RecipeError, UsageError

if TYPE_CHECKING:
    from llmkit.data.labelled import LabelledData
    from llmkit.evaluation.task import Example, Task

VALIDATION = 0.1
"""Share of the training rows that is held out: early stopping and the cascade's threshold go by it."""
ENOUGH_HELD_OUT, MOST_SHARE = 100, 0.2
"""Of few rows more of them, up to so many or such a share: a dozen rows choose nothing well."""
MOST_HELD_OUT = 500
"""No more rows are held out: each of them is a row less to learn from, and a language model reads them all."""
TEST = 0.2
"""Share of the rows that are tested, where no file of test rows comes along."""


@dataclass(frozen=True)
class Part:
    """The rows of one split.

    Attributes:
        ids: Of each row.
        answers: The right class, or the number of the right choice.
        texts: What is asked, as classical methods read it; None of pictures and tables.
        examples: What a language model is asked; None of pictures and tables.
        numbers: Where the rows of pictures and tables stand in their labelled set.
    """

    ids: list[str]
    answers: list[int]
    texts: list[str] | None = None
    examples: list[Example] | None = None
    numbers: list[int] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    def only(self, kept: Sequence[int]) -> Part:
        """Some of the rows."""
        return Part(
            [self.ids[i] for i in kept],
            [self.answers[i] for i in kept],
            None if self.texts is None else [self.texts[i] for i in kept],
            None if self.examples is None else [self.examples[i] for i in kept],
            None if self.numbers is None else [self.numbers[i] for i in kept],
        )


@dataclass(frozen=True)
class Contest:
    """What is compared on.

    Attributes:
        name: Of the task.
        source: As it was named.
        metric: By which the best is found.
        labels: Names of the classes; empty where each row has choices of its own.
        parts: train, validation and test.
        notes: What was recognised, left out or cut.
        task: How language models are asked; None of pictures and tables.
        labelled: Pictures or a table.
    """

    name: str
    source: str
    metric: str
    labels: list[str]
    parts: dict[str, Part]
    notes: list[str]
    task: Task | None = None
    labelled: LabelledData | None = None

    @property
    def form(self) -> str:
        """text, image or table."""
        return "text" if self.labelled is None else self.labelled.form

    @property
    def num_outputs(self) -> int:
        """Classes, or the most choices that a row has."""
        if self.labels:
            return len(self.labels)
        return max(len(e.choices) for part in self.parts.values() for e in part.examples or [])

    @property
    def chance(self) -> float:
        """The accuracy of guessing."""
        if self.labels:
            return 1 / len(self.labels)
        examples = self.parts["test"].examples or []
        return sum(1 / len(example.choices) for example in examples) / len(examples)

    @cached_property
    def content_hash(self) -> str:
        """Equal for the same rows, split in the same way."""
        digest = hashlib.sha256(json.dumps([self.metric, self.labels, self.form]).encode())
        for name, part in self.parts.items():
            digest.update(json.dumps([name, part.ids, part.answers, part.texts, part.numbers]).encode())
        digest.update((self.labelled.content_hash if self.labelled else "").encode())
        return digest.hexdigest()

    def with_train(self, kept: Sequence[int]) -> Contest:
        """The same with some of the training rows, and none held out: what is learned from so many labelled rows."""
        parts = {**self.parts, "train": self.parts["train"].only(kept), "validation": self.parts["validation"].only([])}
        return replace(self, parts=parts)


@dataclass(frozen=True)
class Limits:
    """What the command line says of the rows' number."""

    train: int | None = None
    test: int | None = None
    seed: int = 0


def contest_of_task(task: Task, source: str, limits: Limits) -> Contest:
    """The rows of a task whose answers are labels or choices.

    Raises:
        UsageError: Its answers are written, or it has none: then there are no probabilities to compare.
    """
    from llmkit.evaluation.task import first_examples

    test = list(task.examples("test"))
    if not test:
        raise DataError("there is no row to test", where=source, fix="give more rows, or name a file of test rows")
    if task.kind not in ("label", "choice") or min(len(example.choices) for example in test) < 2:
        fix = "name a task with labels or choices: `llmkit evaluate --list`"
        raise UsageError(
            f"methods are compared on labels, and {task.name} is of kind {task.kind}", where=source, fix=fix
        )
    train, notes = list(task.examples("train")), list(task.notes)
    content = content_reader(task)
    if {example.where for example in train} == {example.where for example in test}:
        train, test, told = divide(train, content, source)
    else:
        train, told = without(train, test, content)
    notes += [*told, *tell_limits(limits, len(train), len(test))]
    test = first_examples(test, limits.test)
    same = {example.choices for example in [*train, *test]}
    labels = list(next(iter(same))) if len(same) == 1 else []
    parts = cut(part_of(train, task), part_of(test, task), [content(example) for example in train], limits)
    # Perplexity is of single continuations.
    metric = "accuracy" if task.metric == "perplexity" else task.metric
    return Contest(task.name, source, metric, labels, parts, notes, task=task)


def content_reader(task: Task) -> Callable[[Example], str]:
    """What an example is known by, whatever its letters' case and white space: all that it asks, and its choices."""
    from llmkit.evaluation.prompts import text_of_example

    def read(example: Example) -> str:
        own = [] if example.choices == task.labels else sorted(example.choices)
        return " ".join(" ".join([text_of_example(task, example), *own]).lower().split())

    return read


def divide(
    examples: Sequence[Example], content: Callable[[Example], str], source: str
) -> tuple[list[Example], list[Example], list[str]]:
    """Training and test rows of one file, by a hash of what each asks: equal rows are on the same side."""
    from llmkit.data.splits import split_at

    sides: dict[str, list[Example]] = {"train": [], "test": []}
    for example in examples:
        sides[split_at(content(example), TEST, 0.0)].append(example)
    if not sides["train"] or not sides["test"]:
        message = f"{len(examples):,} rows are too few to be divided into training and test rows"
        raise DataError(message, where=source, fix="name rows to learn from with --train")
    return sides["train"], sides["test"], [f"{TEST:.0%} of the rows are tested, chosen by a hash of what they ask"]


def without(
    train: Sequence[Example], test: Iterable[Example], content: Callable[[Example], str]
) -> tuple[list[Example], list[str]]:
    """The training rows that are not tested, and how many were."""
    tested = {content(example) for example in test}
    kept = [example for example in train if content(example) not in tested]
    return kept, tell_tested(len(train) - len(kept))


def tell_tested(count: int) -> list[str]:
    """How many rows were left out since they are tested, where there are any."""
    return [f"left out of the training rows, since they are tested: {count:,}"] if count else []


def tell_limits(limits: Limits, train: int, test: int) -> list[str]:
    """That rows are left aside, and which, where there are more than are wanted."""
    notes = []
    if limits.train is not None and limits.train < train:
        notes.append(f"learned from: {limits.train:,} of {train:,} rows, drawn so that each class comes in turn")
    if limits.test is not None and limits.test < test:
        notes.append(f"tested: the first {limits.test:,} of {test:,} rows")
    return notes


def part_of(examples: Sequence[Example], task: Task) -> Part:
    """Examples as rows of a split."""
    return Part(
        [example.id for example in examples],
        [example.answer for example in examples],
        texts=[text_of(task, example) for example in examples],
        examples=list(examples),
    )


def text_of(task: Task, example: Example) -> str:
    """What the prompt says of an example, without the words around it."""
    from llmkit.evaluation.prompts import parse_template, text_of_example

    if example.continuation is not None:
        return text_of_example(task, example)
    names = dict.fromkeys(name for _, name, _, _ in parse_template(task.prompt) if name)
    return "\n".join(example.fields[name] for name in names if name in example.fields)


def cut(train: Part, test: Part, contents: Sequence[str], limits: Limits) -> dict[str, Part]:
    """The splits: as many training rows as are wanted, and of them those that are held out by a hash of content."""
    from llmkit.data.splits import split_at
    from llmkit.evaluation.label_efficiency import nested_order

    order = list(range(len(train)))
    if limits.train is not None:
        order = sorted(nested_order(train.answers, seed=limits.seed)[: limits.train])
    if not order:
        raise DataError("there is no row to learn from", where="compare", fix="name rows with --train, or more of them")
    share = share_held_out(len(order))
    sides: dict[str, list[int]] = {"train": [], "validation": []}
    for row in order:
        # Another hash than that by which test rows are chosen: none of what that one left is low.
        sides[split_at(f"held out: {contents[row]}", 0.0, share)].append(row)
    if not sides["train"]:
        sides = {"train": order, "validation": []}
    return {"train": train.only(sides["train"]), "validation": train.only(sides["validation"]), "test": test}


def share_held_out(rows: int) -> float:
    """The share of so many training rows that is held out."""
    return min(max(VALIDATION, ENOUGH_HELD_OUT / rows), MOST_SHARE, MOST_HELD_OUT / rows)


def refusal(error: LlmkitError) -> str:
    """Why a method cannot run, in a line. What a recipe should say instead is for those who wrote one."""
    return f"{error.message}; {error.fix}" if error.fix and not isinstance(error, RecipeError) else error.message
