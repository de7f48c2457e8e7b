"""Rows as data sets are published, in one of several forms, as examples."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypedDict

from llmkit.errors import DataError
from llmkit.evaluation.columns import as_text, row_ids
from llmkit.evaluation.task import Example, PlainRow, TaskRow

Lines = Iterable[tuple[str, str]]
"""The lines of a text file, each with the place it stands at."""

GAUNTLET = ("query", "choices", "gold")
"""The columns of MosaicML's evaluation gauntlet."""
SCHEMA = ("context_options", "continuation", "gold")
"""The same for choices within the prompt."""


class Said(TypedDict, total=False):
    """What a row says: the fields of an Example, its id and its place apart."""

    fields: Mapping[str, str]
    choices: tuple[str, ...]
    answer: int
    references: tuple[str, ...]
    continuation: str
    worked: str
    group: str
    counted: str


class Form(NamedTuple):
    """A form in which a set is published: the columns it is known by, and what a row of it says."""

    columns: tuple[str, ...]
    read: Callable[[Mapping[str, Any]], Said]


def read_examples(rows: Sequence[TaskRow], forms: Sequence[Form]) -> list[Example]:
    """Rows as examples, each by the first form whose columns it has.

    Raises:
        DataError: A row of no known form, with something missing or without a right answer; it names the row.
    """
    return [Example(id=i, where=row.where, **said(row, forms)) for i, row in zip(row_ids(rows), rows, strict=True)]


def said(row: TaskRow, forms: Sequence[Form]) -> Said:
    """What one row says."""
    form = next((form for form in forms if all(name in row.values for name in form.columns)), None)
    if form is None:
        known = "; or ".join(", ".join(form.columns) for form in forms)
        message = f"these columns are of no known form of this set: {', '.join(row.values)}"
        raise DataError(message, where=row.where, fix=f"known columns: {known}; or write a task file for these rows")
    try:
        found = form.read(row.values)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError) as error:
        message = f"this is not a row of this set as it is published ({type(error).__name__}: {error})"
        raise DataError(message, where=row.where, fix=f"compare it with the form {', '.join(form.columns)}") from error
    check_said(found, row)
    return found


def check_said(found: Said, row: TaskRow) -> None:
    """Raise where a row has nothing to score, or no right answer: sets for competitions hide theirs."""
    choices, answer = found.get("choices", ()), found.get("answer", -1)
    if any(not choice.strip() for choice in choices):
        raise DataError("a choice is empty: there is nothing to score", where=row.where, fix="take the row out")
    if choices and not 0 <= answer < len(choices):
        fix = "use a split that has answers (most sets hide those of their test split)"
        raise DataError("it is not said which choice is right", where=row.where, fix=fix)


def choices_of(values: Iterable[Any]) -> tuple[str, ...]:
    """Choices as text, as they stand."""
    return tuple(map(as_text, values))


def choice_texts(value: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(texts, names) of choices: {"text": [...], "label": [...]}, or [{"text": ..., "label": ...}, ...]."""
    if isinstance(value, Mapping):
        return choices_of(value["text"]), choices_of(value["label"])
    return choices_of(item["text"] for item in value), choices_of(item["label"] for item in value)


def index_of(name: Any, names: Sequence[str]) -> int:
    """Which of the names it is; -1 for none."""
    text = as_text(name).strip()
    return names.index(text) if text in names else -1


def number_of(value: Any) -> int:
    """A number that may be written as text; -1 for nothing."""
    text = as_text(value).strip()
    return int(text) if text else -1


def letters(count: int) -> tuple[str, ...]:
    """The first letters: A, B, C ..."""
    return tuple(chr(ord("A") + place) for place in range(count))


def options(choices: Sequence[str]) -> str:
    """Choices as lines `A. text`."""
    return "\n".join(f"{letter}. {choice}" for letter, choice in zip(letters(len(choices)), choices, strict=True))


def listed_options(query: str) -> tuple[str, ...]:
    """The texts of the lines `A. text` between `Choices:` and `Answer:`."""
    lines = query.partition("\nChoices:\n")[2].rpartition("\nAnswer:")[0].split("\n")
    return tuple(line.partition(". ")[2] for line in lines)


def gauntlet(values: Mapping[str, Any]) -> Said:
    """A row of MosaicML's form: the question, without the word before it."""
    question = as_text(values["query"]).removeprefix("Question: ").rstrip()
    return Said(fields={"question": question}, choices=choices_of(values["choices"]), answer=number_of(values["gold"]))


def schema_row(values: Mapping[str, Any]) -> Said:
    """A row of the gauntlet whose choices stand in its prompt."""
    return Said(
        fields={"question": as_text(values["continuation"])},
        choices=choices_of(values["context_options"]),
        answer=number_of(values["gold"]),
        continuation=as_text(values["continuation"]).strip(),
    )


def table_rows(lines: Lines, columns: Sequence[str], *, delimiter: str = ",") -> Iterator[PlainRow]:
    """Rows of csv or tsv by the names of their columns: those of a header, where the first line is one.

    Tabs separate as they stand; between commas there may be quotes, and within them line ends.

    Raises:
        DataError: A row is wider or narrower than there are columns.
    """
    numbered = list(lines)
    if not numbered:
        return
    texts = (f"{text}\n" for _, text in numbered)
    if delimiter == "\t":
        reader = csv.reader(texts, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(texts, delimiter=delimiter)
    names, line = list(columns), 0
    for row in reader:
        where, line = numbered[line][0], reader.line_num
        if not row:
            continue
        if where == numbered[0][0] and is_header(row, columns):
            names = [cell.strip().lower() for cell in row]
        elif len(row) != len(names):
            message = f"{len(row)} fields, and there should be {len(names)}: {', '.join(names)}"
            raise DataError(message, where=where, fix="mend the line, or write a task file for these rows")
        else:
            yield PlainRow(where, dict(zip(names, row, strict=True)))


def is_header(row: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether a first line names columns: one of them by its name here."""
    return bool({cell.strip().lower() for cell in row} & {name.lower() for name in columns})
