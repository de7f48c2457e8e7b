"""A task in a few words, from a YAML file or from flags, and the Task it stands for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from pydantic import PositiveInt

from llmkit.errors import DataError, UsageError
from llmkit.evaluation.answers import Grading
from llmkit.evaluation.columns import WHOLE_PROMPTS, Columns, Wanted, as_text, make_examples, recognise
from llmkit.evaluation.prompts import render_solved, render_system
from llmkit.evaluation.task import Example, Kind, ReadRows, ShotOrder, Split, Task, TaskRow, default_metric
from llmkit.recipe.schema import Section

Make = Callable[[Sequence[TaskRow]], Sequence[Example]]
"""Turns rows as they are published into examples."""

OWN_FIELDS: dict[Kind, tuple[str, ...]] = {
    "choice": ("choices",),
    "label": ("labels",),
    "generate": ("stop", "max_new_tokens", "grading"),
    "perplexity": (),
}
"""What only one kind reads."""
ASKING = (
    "train",
    "answer",
    "worked",
    "group",
    "prompt",
    "prompts",
    "system",
    "answer_prefix",
    "delimiter",
    "separator",
)
"""What nothing is read of where a text is only predicted; its shots and choices apart."""

NO_PATHS = ("hf:", "python-docs:", "python-docs@")
"""A source that begins like this is no path."""


class TaskFile(Section):
    """An evaluation set of one's own. Paths are relative to the file."""

    name: str = ""
    """Name in results. Empty: the name of the file."""
    kind: Literal["choice", "label", "generate", "perplexity"] | None = None
    """choice: which of the row's choices is likeliest. label: the same labels for all rows. generate: a free answer.
    perplexity: how well the text is predicted. None: by the columns."""
    version: PositiveInt = 1
    """Raise it when a change moves the numbers."""
    test: str = ""
    """Rows to be scored: a jsonl, json, csv, tsv or parquet file, or hf:owner/name."""
    train: str | None = None
    """Rows that shots are drawn from. None: from the test rows, never the row itself."""
    question: str | None = None
    """Column of the question. None: question, query, prompt, context, text ..., whichever is there."""
    choices: str | None = None
    """Column of the choices, or one column per choice with commas between them."""
    answer: str | None = None
    """Column of the answer: the text of a choice, its number from 0, or its letter."""
    worked: str | None = None
    """Column of the answer as shots show it, where that is more than the answer: the way to a sum."""
    group: str | None = None
    """Column of the part that a row belongs to, such as a subject: shots come from the same, each has its score."""
    labels: tuple[str, ...] = ()
    """Labels for kind label, in the order of their numbers. Empty: those that occur."""
    prompt: str | None = None
    """What precedes the answer; {question} and the names of columns are filled in. None: by the kind."""
    prompts: tuple[str, ...] = ()
    """Other ways to ask the same, for `--prompts all`."""
    system: str = ""
    """What precedes all else, once: the system turn of a dialogue. {names} as in the prompt."""
    answer_prefix: str = ""
    """What every answer begins with; the model goes on from there."""
    delimiter: str = " "
    """Between prompt and answer."""
    separator: str = "\n\n"
    """Between shots."""
    shots: ShotOrder = "fixed"
    """fixed: the first rows of train. random: others for each row. balanced: as many of each answer as can be."""
    stop: tuple[str, ...] = ("\n",)
    """A generated answer ends before any of these."""
    max_new_tokens: PositiveInt = 64
    """Longest generated answer."""
    grading: Grading = "answer"
    """How generated answers are scored. answer: exact match in normal form, contained, F1. squad: exact match and F1 as
    SQuAD has them. number: the number after ####, and the last number. rouge: ROUGE-1, -2 and -L."""
    metric: str = ""
    """The metric that stands for the task. Empty: accuracy, exact_match, f1 (squad), rougeL or bits_per_byte."""

    @property
    def main_metric(self) -> str:
        """The metric that stands for the task, where the kind is said."""
        return self.metric or default_metric(self.kind or "choice", self.grading)


def relative_to(spec: TaskFile, folder: Path) -> TaskFile:
    """The task with its paths made relative to `folder`, where its file lies."""

    def resolve(source: str | None) -> str | None:
        if not source or source == "-" or source.startswith(NO_PATHS):
            return source
        return str(folder / source)

    return spec.model_copy(update={"test": resolve(spec.test), "train": resolve(spec.train)})


def build_task(spec: TaskFile, read_rows: ReadRows, *, make: Make | None = None) -> Task:
    """The task that `spec` describes; its test rows are read now, its training rows when shots are wanted.

    Args:
        spec: What it is.
        read_rows: Reads the rows of `test` and `train`.
        make: Makes examples of rows; without it the columns tell.

    Raises:
        DataError: The rows are not what the task says; it names file and line.
    """
    if not spec.test:
        raise UsageError("a task needs rows to score", where=spec.name or "task", fix="add `test: FILE`")

    def rows_of(source: str) -> list[TaskRow]:
        rows = list(read_rows(source))
        if not rows:
            raise DataError("there are no rows in it", where=source, fix="give a file with rows")
        return rows

    test = rows_of(spec.test)
    if make is not None:
        return made_task(spec, test, rows_of, make)
    if spec.kind == "perplexity":
        return checked(perplexity_task(spec, test))
    columns = recognise(test, Wanted(spec.kind, spec.question, spec.choices, spec.answer, spec.worked, spec.group))
    train = functools.cache(lambda: rows_of(spec.train) if spec.train else test)
    labels = spec.labels or find_labels(columns, [*test, *(train() if spec.train else ())])

    @functools.cache
    def load(split: Split) -> Sequence[Example]:
        return make_examples(test if split == "test" else train(), columns, labels)

    prompt = spec.prompt or default_prompt(columns, test)
    return checked(make_task(spec, kind_of(columns), load, prompt=prompt, labels=labels, notes=(columns.describe(),)))


def made_task(spec: TaskFile, test: Sequence[TaskRow], rows_of: Callable[[str], list[TaskRow]], make: Make) -> Task:
    """The task whose examples `make` makes of rows."""
    assert spec.kind is not None

    @functools.cache
    def load(split: Split) -> Sequence[Example]:
        return make(rows_of(spec.train) if split == "train" and spec.train else test)

    return checked(make_task(spec, spec.kind, load, prompt=spec.prompt or "{question}", labels=spec.labels))


def checked(task: Task) -> Task:
    """The task; what is wrong with a row or with a prompt is said now, not when the model has been loaded.

    Raises:
        UsageError: A prompt asks for what no row has, or the metric is none of this kind.
    """
    examples = task.examples("test")
    if not examples:
        raise DataError("no example could be made of its rows", where=task.name, fix="give other rows")
    for variant in task.variants() if task.kind != "perplexity" else []:
        render_system(variant, examples[0])
        render_solved(variant, examples[0])
    check_metric(task)
    if task.kind == "label" and len(task.labels) < 2:
        fix = "give rows of several labels, or say another `kind`"
        raise DataError(f"all rows have one label: {' '.join(task.labels)}", where=task.name, fix=fix)
    return task


def check_metric(task: Task) -> None:
    """Raise for a metric that this task never gives."""
    if task.metric in task.metrics:
        return
    what = f"kind {task.kind}" + (f" with grading {task.grading}" if task.kind == "generate" else "")
    if task.kind == "choice" and "perplexity" in task.metrics:
        what += " with one continuation"
    known = ", ".join(task.metrics)
    raise UsageError(f"{task.name}: {what} has no metric {task.metric!r}", where="metric", fix=f"use one of: {known}")


def make_task(
    spec: TaskFile,
    kind: Kind,
    load: Callable[[Split], Sequence[Example]],
    *,
    prompt: str,
    labels: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
) -> Task:
    """The task of these examples with the settings of `spec`."""
    check_read(spec, kind)
    return Task(
        name=spec.name or plain_name(spec.test),
        kind=kind,
        load=load,
        version=spec.version,
        prompt=prompt,
        prompt_by="user" if spec.prompt else "llmkit",
        prompts=tuple(dict.fromkeys([prompt, *spec.prompts])) if spec.prompts else (),
        system=spec.system,
        answer_prefix=spec.answer_prefix,
        delimiter=spec.delimiter,
        separator=spec.separator,
        shots=spec.shots,
        labels=labels,
        stop=spec.stop,
        max_new_tokens=spec.max_new_tokens,
        grading=spec.grading,
        chosen_metric=spec.metric,
        notes=notes,
    )


def check_read(spec: TaskFile, kind: Kind) -> None:
    """Raise for a setting that this kind of task would leave unread."""
    unread = {name for other, names in OWN_FIELDS.items() if other != kind for name in names}
    unread |= {*ASKING, "shots"} if kind == "perplexity" else set()
    for name, field in TaskFile.model_fields.items():
        if name in unread and getattr(spec, name) != field.default:
            fix = "leave it out, or say another `kind`"
            raise UsageError(f"a task of kind {kind} does not read `{name}`", where=spec.name or spec.test, fix=fix)


def kind_of(columns: Columns) -> Kind:
    """The kind of task that columns of this form make."""
    return "label" if columns.form == "label" else "generate" if columns.form == "generate" else "choice"


def find_labels(columns: Columns, rows: Sequence[TaskRow]) -> tuple[str, ...]:
    """The labels that occur, sorted; none where each row has choices of its own."""
    if columns.form != "label":
        return ()
    return tuple(sorted({as_text(row.values.get(columns.answer)).strip() for row in rows} - {""}))


def default_prompt(columns: Columns, rows: Sequence[TaskRow]) -> str:
    """A prompt that suits the columns: whole prompts as they are, bare questions as question and answer."""
    if columns.form == "schema":
        return "{choice}"
    if columns.form == "continuation":
        return "{question}"
    if columns.form == "label":
        return "Text: {question}\nLabel:"
    if columns.question.lower() not in WHOLE_PROMPTS:
        return "Question: {question}\nAnswer:"
    texts = [as_text(row.values.get(columns.question)).rstrip() for row in rows]
    asks = all("Question:" in text and not text.endswith(":") for text in texts)
    return "{question}\nAnswer:" if asks else "{question}"


def perplexity_task(spec: TaskFile, rows: Sequence[TaskRow]) -> Task:
    """A task whose examples are texts. A row has its text in the column `question` names, or in `text`."""
    column = spec.question or "text"
    examples = []
    for number, row in enumerate(rows):
        text = row.values.get(column)
        if not isinstance(text, str) or not text:
            there = ", ".join(row.values)
            fix = f"name the column with `question`; the columns are: {there}"
            raise DataError(f"there is no text in column {column!r}", where=row.where, fix=fix)
        examples.append(Example(str(number), row.where, {"question": text}))
    return make_task(spec, "perplexity", lambda split: examples, prompt="")


def plain_name(path: str) -> str:
    """The name of a file without what tells its format and its packing: gsm8k of data/gsm8k.jsonl.gz."""
    name = Path(path).name
    for suffix in (".gz", ".zst", ".xz"):
        name = name.removesuffix(suffix)
    return Path(name).stem
