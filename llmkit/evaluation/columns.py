"""Rows of a user's own table as examples: which column is what, and how the answers are written."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from llmkit.errors import DataError
from llmkit.evaluation.task import Example, TaskRow

QUESTIONS = ("question", "query", "prompt", "context", "ctx", "instruction", "input", "sentence", "text", "premise")
WHOLE_PROMPTS = ("query", "prompt", "context", "ctx")
"""Columns of these names hold prompts as the model is to see them."""
CHOICES = ("choices", "options", "endings", "candidates", "answers")
ANSWERS = ("answer", "gold", "label", "target", "correct", "answerKey", "answer_key", "output", "completion", "class")
IDS = ("id", "ind", "idx", "question_id", "QuestionId", "task_id", "qID", "uid", "fname")
NUMBERED = re.compile(r"(?:choice|option|ending|answer|sol)[ _]?([0-9]|[a-e])|([A-E])", re.IGNORECASE)
"""One column per choice: choice0, option_a, ending 1, A."""
MOST_LABELS = 30
ROWS_PER_LABEL = 3
"""Answers are labels when there are few different ones, each this often on average; else they are free text."""

Form = Literal["choice", "label", "generate", "continuation", "schema"]


@dataclass(frozen=True)
class Columns:
    """Which column is what."""

    form: Form
    question: str
    answer: str
    choices: tuple[str, ...] = ()
    """One column that holds all choices, or one column per choice."""
    aliases: str | None = None
    """Further accepted answers."""
    worked: str | None = None
    """The answer as shots show it."""
    group: str | None = None
    """The part of the task that a row belongs to."""

    def describe(self) -> str:
        """What was recognised, for people."""
        parts = [f"question: {self.question!r}", f"answer: {self.answer!r}"]
        if self.choices:
            parts.insert(1, f"choices: {', '.join(map(repr, self.choices))}")
        extra = {"further answers": self.aliases, "answer in shots": self.worked, "group": self.group}
        parts += [f"{what}: {name!r}" for what, name in extra.items() if name]
        return f"read as kind {'choice' if self.form in ('schema', 'continuation') else self.form} ({', '.join(parts)})"


@dataclass(frozen=True)
class Wanted:
    """What the user said; None where the names decide."""

    kind: str | None = None
    question: str | None = None
    choices: str | None = None
    answer: str | None = None
    worked: str | None = None
    group: str | None = None


def recognise(rows: Sequence[TaskRow], wanted: Wanted) -> Columns:
    """Which column is what, by what was said, else by the usual names.

    Raises:
        DataError: A column that was named is not there, or none has a usual name.
    """
    for what, name in (("worked", wanted.worked), ("group", wanted.group)):
        if name is not None and name not in rows[0].values:
            raise missing(rows[0], what, name)
    return replace(recognise_question(rows, wanted), worked=wanted.worked, group=wanted.group)


def recognise_question(rows: Sequence[TaskRow], wanted: Wanted) -> Columns:
    """Which columns are question, choices and answer."""
    first = rows[0]
    there = first.values
    if wanted.question is None and {"context_options", "continuation"} <= there.keys():
        return Columns("schema", "continuation", find_answer(first, wanted), ("context_options",))
    question = find(first, wanted.question, QUESTIONS, "question")
    choices = find_choices(first, wanted.choices) if wanted.kind not in ("label", "generate") else ()
    if not choices and wanted.answer is None and "continuation" in there and wanted.kind in (None, "choice"):
        return Columns("continuation", question, "continuation")
    answer = find_answer(first, wanted, taken=(question, *choices))
    if choices:
        return Columns("choice", question, answer, choices)
    if wanted.kind == "choice":
        raise missing(first, "choices")
    aliases = next((name for name in ("aliases", "accepted") if isinstance(there.get(name), list)), None)
    form: Form = (
        "label"
        if wanted.kind == "label" or (wanted.kind is None and not aliases and has_labels(rows, answer))
        else "generate"
    )
    return Columns(form, question, answer, (), aliases if form == "generate" else None)


def find(row: TaskRow, wanted: str | None, usual: Sequence[str], what: str) -> str:
    """The column that was named, or the first usual one that is there, in any case of letters."""
    if wanted is not None:
        if wanted not in row.values:
            raise missing(row, what, wanted)
        return wanted
    found = next((key for name in usual for key in row.values if key.lower() == name.lower()), None)
    if found is None:
        raise missing(row, what)
    return found


def find_answer(row: TaskRow, wanted: Wanted, taken: Sequence[str] = ()) -> str:
    """The answer's column, which is not one of those `taken`."""
    usual = [name for name in ANSWERS if name not in taken]
    return find(row, wanted.answer, usual, "answer")


def find_choices(row: TaskRow, wanted: str | None) -> tuple[str, ...]:
    """The column or columns of the choices; none where there are no such."""
    if wanted is not None:
        names = (wanted,) if wanted in row.values else tuple(name.strip() for name in wanted.split(","))
        absent = next((name for name in names if name not in row.values), None)
        if absent is not None:
            raise missing(row, "choices", absent)
        return names
    for key, value in row.values.items():
        if key.lower() in CHOICES and (
            isinstance(value, (list, dict)) or "|" in str(value) or str(value).startswith("[")
        ):
            return (key,)
    numbered = tuple(key for key in row.values if NUMBERED.fullmatch(key))
    return numbered if len(numbered) > 1 else ()


def missing(row: TaskRow, what: str, name: str | None = None) -> DataError:
    """The error for a column that is not there."""
    message = f"there is no column {name!r}" if name else f"no column has a usual name of the {what}"
    there = ", ".join(row.values)
    flag = f"--{what}-column, or with " if what in ("question", "choices", "answer") else ""
    fix = f"name it with {flag}`{what}` in a task file; the columns are: {there}"
    return DataError(message, where=row.where, fix=fix)


def has_labels(rows: Sequence[TaskRow], answer: str) -> bool:
    """Whether the answers are a few labels that come again and again."""
    distinct = {as_text(row.values.get(answer)) for row in rows}
    return len(distinct) <= MOST_LABELS and len(rows) >= ROWS_PER_LABEL * len(distinct)


def as_text(value: Any) -> str:
    """A cell as text: true and false as JSON writes them, nothing for null."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def make_examples(rows: Sequence[TaskRow], columns: Columns, labels: Sequence[str]) -> list[Example]:
    """The examples that rows hold; `labels` are the choices of every row for form label.

    Raises:
        DataError: A row lacks a column, its choices, or a right answer among them; it names the row.
    """
    check_rows(rows, columns)
    examples = plain_examples(rows, columns, labels)
    worked, group = columns.worked, columns.group
    return [
        replace(
            example,
            worked=as_text(row.values[worked]).strip() if worked else "",
            group=as_text(row.values[group]) if group else "",
        )
        for example, row in zip(examples, rows, strict=True)
    ]


def plain_examples(rows: Sequence[TaskRow], columns: Columns, labels: Sequence[str]) -> list[Example]:
    """The examples by question, choices and answer."""
    ids = row_ids(rows)
    fields = [
        {**{key: as_text(value) for key, value in row.values.items()}, "question": question(row, columns)}
        for row in rows
    ]
    if columns.form == "generate":
        return [
            Example(i, row.where, f, references=references(row, columns))
            for i, row, f in zip(ids, rows, fields, strict=True)
        ]
    if columns.form == "continuation":
        return [Example(i, row.where, f, (said(row, columns),), 0) for i, row, f in zip(ids, rows, fields, strict=True)]
    choices = [tuple(labels) if columns.form == "label" else read_choices(row, columns) for row in rows]
    answers = read_answers(rows, columns.answer, choices)
    ends = [as_text(row.values["continuation"]) if columns.form == "schema" else None for row in rows]
    return [
        Example(i, row.where, f, c, a, continuation=end)
        for i, row, f, c, a, end in zip(ids, rows, fields, choices, answers, ends, strict=True)
    ]


def check_rows(rows: Sequence[TaskRow], columns: Columns) -> None:
    """Raise for the first row in which a column is not there or empty."""
    for row in rows:
        for name in (columns.question, columns.answer, *columns.choices, columns.worked, columns.group):
            if name is not None and not as_text(row.values.get(name)).strip():
                there = ", ".join(row.values)
                raise DataError(
                    f"column {name!r} is {'empty' if name in row.values else 'not there'}",
                    where=row.where,
                    fix=f"fill it or take the row out; the columns are: {there}",
                )


def question(row: TaskRow, columns: Columns) -> str:
    """The question without spaces and line ends after it."""
    return as_text(row.values[columns.question]).rstrip()


def said(row: TaskRow, columns: Columns) -> str:
    """The answer as text, without spaces around it."""
    return as_text(row.values[columns.answer]).strip()


def references(row: TaskRow, columns: Columns) -> tuple[str, ...]:
    """All accepted answers, the main one first."""
    value = row.values[columns.answer]
    answers = [as_text(v) for v in value] if isinstance(value, list) else [as_text(value)]
    return tuple(dict.fromkeys([*answers, *map(as_text, row.values.get(columns.aliases or "") or ())]))


def row_ids(rows: Sequence[TaskRow]) -> list[str]:
    """What the rows call themselves where that tells them apart, else their numbers from 0."""
    for name in IDS:
        ids = [as_text(row.values.get(name)) for row in rows]
        if all(ids) and len(set(ids)) == len(ids):
            return ids
    return [str(number) for number in range(len(rows))]


def read_choices(row: TaskRow, columns: Columns) -> tuple[str, ...]:
    """The choices of a row: one column each, a list, a JSON list, {"text": [...]}, or text with | between them."""
    if len(columns.choices) > 1:
        return tuple(as_text(row.values[name]).strip() for name in columns.choices)
    value = row.values[columns.choices[0]]
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(
                f"the choices begin as JSON and are none: {error.msg}",
                where=row.where,
                fix='write ["one", "two"] or one|two',
            ) from error
    if isinstance(value, Mapping):
        value = value.get("text", ())
    found = value.split("|") if isinstance(value, str) else value
    choices = tuple(as_text(choice).strip() for choice in found) if isinstance(found, (list, tuple)) else ()
    if "" in choices:
        raise DataError("a choice is empty: there is nothing to score", where=row.where, fix="give every choice a text")
    if len(choices) < 2:
        raise DataError("there are fewer than two choices", where=row.where, fix='write ["one", "two"] or one|two')
    return choices


Reading = Callable[[Any, Sequence[str]], int | None]


def by_text(value: Any, choices: Sequence[str]) -> int | None:
    """The answer is the text of a choice."""
    text = as_text(value).strip()
    return choices.index(text) if text in choices else None


def by_index(value: Any, choices: Sequence[str]) -> int | None:
    """The answer is a number from 0."""
    text = as_text(value).strip()
    return int(text) if text.isdecimal() and int(text) < len(choices) else None


def by_letter(value: Any, choices: Sequence[str]) -> int | None:
    """The answer is a letter from A."""
    text = as_text(value).strip().upper().strip("().")
    number = ord(text) - ord("A") if len(text) == 1 else -1
    return number if 0 <= number < len(choices) else None


def by_number(value: Any, choices: Sequence[str]) -> int | None:
    """The answer is a number from 1."""
    text = as_text(value).strip()
    return int(text) - 1 if text.isdecimal() and 1 <= int(text) <= len(choices) else None


def read_answers(rows: Sequence[TaskRow], column: str, choices: Sequence[Sequence[str]]) -> list[int]:
    """Which choice is right in each row. All rows are read in one way, the first of these that fits them all.

    Numbers count from 0 where they can; where every row has its own choices, a JSON number is never the text of one.
    """
    values = [row.values[column] for row in rows]
    is_shared = all(offered == choices[0] for offered in choices)
    is_number = not is_shared and all(isinstance(value, int) and not isinstance(value, bool) for value in values)
    readings: tuple[Reading, ...] = (
        (by_index, by_letter, by_number) if is_number else (by_text, by_index, by_letter, by_number)
    )
    attempts = [[reading(v, c) for v, c in zip(values, choices, strict=True)] for reading in readings]
    best = min(attempts, key=lambda attempt: attempt.count(None))
    if None in best:
        wrong = best.index(None)
        message = f"answer {as_text(values[wrong])!r} is none of the choices: {' | '.join(choices[wrong])}"
        raise DataError(
            message,
            where=rows[wrong].where,
            fix="give the text of a choice, its number from 0, or its letter: the same in all rows",
        )
    return [index for index in best if index is not None]
