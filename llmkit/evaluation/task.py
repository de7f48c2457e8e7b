"""What an evaluation is made of: a task, its examples, and how a row of data becomes an example."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

from llmkit.evaluation import answers

Kind = Literal["choice", "label", "generate", "perplexity"]
ShotOrder = Literal["fixed", "random", "balanced"]
Split = Literal["test", "train"]


class TaskRow(Protocol):
    """One row of data, and where it stands (`file:line`)."""

    @property
    def where(self) -> str: ...
    @property
    def values(self) -> Mapping[str, Any]: ...


@dataclass(frozen=True)
class PlainRow:
    """A row made of lines, or of another row, and the place it comes from."""

    where: str
    values: dict[str, Any]


Author = Literal["lm-evaluation-harness", "llmkit", "user"]
"""Who worded a prompt."""

CHOSEN_BY = ("accuracy", "accuracy_bytes", "accuracy_characters", "accuracy_tokens")
SAID = ("accuracy", "nats_per_token", "perplexity")
"""Where there is one continuation, and nothing to choose."""
LABELLED = (*CHOSEN_BY, "macro_f1", "matthews")
PREDICTED = ("bits_per_byte", "nats_per_token", "perplexity", "word_perplexity", "byte_perplexity")

ReadRows = Callable[[str], Iterable[TaskRow]]
"""Reads the rows of a file, or of whatever else a name stands for. Commands pass it in."""


@dataclass(frozen=True)
class Example:
    """One question with its answer, or one text."""

    id: str
    where: str
    """`file:line`, for errors."""
    fields: Mapping[str, str]
    """What the {names} of the prompt stand for."""
    choices: tuple[str, ...] = ()
    """The texts to choose from."""
    answer: int = -1
    """Which of the choices is right."""
    references: tuple[str, ...] = ()
    """Accepted answers, the first of which is shown in shots."""
    continuation: str | None = None
    """Where choices stand in the prompt as {choice}, as in WinoGrande: the text whose likelihood is compared."""
    worked: str = ""
    """The answer as a shot shows it, where that is more than the accepted answer: the way to a sum."""
    group: str = ""
    """The part of the task that it belongs to, such as a subject: shots come from the same, and it has its score."""
    counted: str | None = None
    """For texts that are changed before they are predicted: the text whose words and bytes count."""

    @property
    def counted_text(self) -> str:
        """Of a text that is predicted: that whose words and bytes count."""
        return self.fields["question"] if self.counted is None else self.counted

    @property
    def solution(self) -> str:
        """The right answer as a shot shows it."""
        if self.worked:
            return self.worked
        if self.references:
            return self.references[0]
        return self.choices[self.answer] if self.choices else ""


UNHASHED = ("load", "notes", "prompt_by", "variants_by")
"""What of a task moves no number."""


@dataclass(frozen=True)
class Task:
    """An evaluation set with its prompt and its metric."""

    name: str
    kind: Kind
    load: Callable[[Split], Sequence[Example]] = field(repr=False, compare=False)
    """The examples of a split; the training split, where there is one, gives the shots."""
    version: int = 1
    prompt: str = "{question}"
    """What precedes the answer; {names} are columns of the row, or question and choice."""
    prompts: tuple[str, ...] = ()
    """The variants of the prompt, of which `prompt` is the first; empty where it is the only one."""
    system: str = ""
    """What precedes all else, once; {names} are columns of the row. In a dialogue it is the system turn."""
    answer_prefix: str = ""
    """What every answer begins with."""
    delimiter: str = " "
    """Between prompt and answer."""
    separator: str = "\n\n"
    """Between shots."""
    shots: ShotOrder = "fixed"
    labels: tuple[str, ...] = ()
    """All labels, for kind label."""
    stop: tuple[str, ...] = ("\n",)
    """Where a generated answer ends."""
    max_new_tokens: int = 64
    grading: answers.Grading = "answer"
    """How free answers are scored."""
    prompt_by: Author = "user"
    """Who worded `prompt`."""
    variants_by: Author = "user"
    """Who worded the other prompts."""
    chosen_metric: str = ""
    """The metric that stands for the task; empty for the usual one of its kind."""
    notes: tuple[str, ...] = ()
    """What was recognised in the data, for people."""

    def examples(self, split: Split) -> Sequence[Example]:
        """The examples of a split."""
        return self.load(split)

    @property
    def content_hash(self) -> str:
        """A hash of everything that moves the numbers, the data apart."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in UNHASHED}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def metric(self) -> str:
        """The metric that stands for the task."""
        return self.chosen_metric or default_metric(self.kind, self.grading)

    @property
    def metrics(self) -> tuple[str, ...]:
        """What can stand for the task; the first does where nothing else is said."""
        if self.kind == "choice":
            return SAID if all(len(example.choices) == 1 for example in self.examples("test")) else CHOSEN_BY
        return {"label": LABELLED, "generate": answers.METRICS[self.grading], "perplexity": PREDICTED}[self.kind]

    def grade(self, example: Example, text: str) -> dict[str, float]:
        """The scores of a free answer to an example, by metric; `metric` is among them."""
        return answers.grade(self.grading, text, example.references)

    def variants(self) -> list[Task]:
        """The task once with each of its prompts."""
        others = [replace(self, prompt=prompt, prompt_by=self.variants_by) for prompt in self.prompts[1:]]
        return [self, *others]


def first_examples(examples: Sequence[Example], limit: int | None) -> list[Example]:
    """The first so many examples, in their order; where they belong to groups, equally many of each."""
    if limit is None or not any(example.group for example in examples):
        return list(examples[:limit])
    counts: dict[str, int] = {}
    turns = []
    for place, example in enumerate(examples):
        turns.append((counts.get(example.group, 0), place))
        counts[example.group] = turns[-1][0] + 1
    return [examples[place] for place in sorted(place for _, place in sorted(turns)[:limit])]


def default_metric(kind: Kind, grading: answers.Grading) -> str:
    """The usual metric of a kind of task."""
    if kind == "generate":
        return answers.METRICS[grading][0]
    return PREDICTED[0] if kind == "perplexity" else CHOSEN_BY[0]
