"""Rows in one of several forms that are told by their columns: how they are read, and what is said of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import chain
from typing import Any, NamedTuple, TypeVar

from llmkit.console import say
from llmkit.data.document import Record
from llmkit.data.documents import PlainTextError, read_records
from llmkit.data.messages import Message
from llmkit.data.other_forms import PLAIN_TEXT
from llmkit.data.trees import gather_trees, is_flat
from llmkit.data.turns import DialogueReading, RowError
from llmkit.errors import DataError, RecipeError

MOST_ERRORS = 20
"""So many bad rows are named before reading gives up."""

Values = Mapping[str, Any]
T = TypeVar("T")


class Form(NamedTuple):
    """A form of rows: its name, the columns that tell it, those it may have besides, and how a row is read.

    A row gives one list of messages or several; `fits` says more about the columns than that they are there.
    """

    name: str
    columns: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Values, DialogueReading], Sequence[list[Message]]]
    fits: Callable[[Values], bool] = lambda values: True

    def is_form_of(self, values: Values) -> bool:
        """Whether a row is in this form."""
        return all(column in values for column in self.columns) and self.fits(values)


def read_forms(
    source: str,
    columns: Mapping[str, str],
    reading: DialogueReading,
    *,
    known: Sequence[str],
    detect: Callable[[Values, str], Form],
    read: Callable[[Form, Values, str], Iterable[T]],
) -> Iterator[T]:
    """What the rows of a source hold. Each form is said when it is met first, what was noted at the end.

    Args:
        source: What `read_records` takes.
        columns: Column of a form -> its name in the data, where that is another.
        reading: How rows are read.
        known: The columns that forms have.
        detect: The form of a row that stands at a place; it raises where there is none.
        read: What a row of a form holds.

    Raises:
        DataError: Rows are in no known form, or cannot be read: the first 20 of them, by file and line.
        RecipeError: `columns` names a column that no form has, or that the data have not.
    """
    check_columns(columns, known)
    form: Form | None = None
    said: set[str] = set()
    problems: list[str] = []
    for record in whole_records(records_of(source)):
        where, values = record.where, renamed(record, columns)
        if form is None or not form.is_form_of(values):
            form = detect(values, where)
            if form.name not in said:
                announce(form, values, source, columns)
            said.add(form.name)
        try:
            found = list(read(form, values, where))
        except RowError as error:
            problems.append(f"{where}: {error}")
            if len(problems) == MOST_ERRORS:
                break
            continue
        yield from found
    if problems:
        raise_problems(problems)
    for note, count in reading.notes.items():
        if count:
            say(f"{source}: {count:,} {note}")


def records_of(source: str) -> Iterator[Record]:
    """The rows of a source; of plain text it is said what that is good for."""
    try:
        yield from read_records(source)
    except PlainTextError as error:
        raise DataError(error.message, where=error.where, fix=PLAIN_TEXT) from error


def whole_records(records: Iterator[Record]) -> Iterator[Record]:
    """The records; those of single messages of trees are put together first."""
    first = next(records, None)
    if first is None:
        return iter(())
    again = chain([first], records)
    return gather_trees(again) if is_flat(first.values) else again


def check_columns(columns: Mapping[str, str], known: Sequence[str]) -> None:
    """Raise for a column that no form has."""
    for name in columns:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            fix = f"{hint}write FORM'S COLUMN: YOUR COLUMN; the forms know {', '.join(known)}"
            raise RecipeError(f"no form has a column {name!r}", where="data.columns", fix=fix)


def renamed(record: Record, columns: Mapping[str, str]) -> Values:
    """The values of a row under the names that the forms know."""
    if not columns:
        return record.values
    for theirs in columns.values():
        if theirs not in record.values:
            there = ", ".join(map(str, record.values)) or "none"
            message = f"there is no column {theirs!r}, which data.columns names"
            raise DataError(message, where=record.where, fix=f"the columns are: {there}")
    taken = {*columns, *columns.values()}
    rest = {name: value for name, value in record.values.items() if name not in taken}
    return rest | {ours: record.values[theirs] for ours, theirs in columns.items()}


def announce(form: Form, values: Values, source: str, columns: Mapping[str, str]) -> None:
    """Say which form was recognised by which columns, and which columns are of no use."""
    used = [c for c in (*form.columns, *form.optional, "tools") if c in values]
    rest = [str(c) for c in values if c not in used]
    unused = f" (not used: {', '.join(rest)})" if rest else ""
    names = [f"{c} ({columns[c]})" if c in columns else c for c in used]
    say(f"{source}: {form.name}, by its columns {', '.join(names)}{unused}")


def raise_problems(problems: Sequence[str]) -> None:
    """One error for all rows that cannot be read."""
    where, _, message = problems[0].partition(": ")
    more = "".join(f"\n  {problem}" for problem in problems[1:])
    if len(problems) == MOST_ERRORS:
        more += "\n  (reading stopped here)"
    fix = "mend these rows" if "role" not in message else "rename the role, or map it with data.roles in the recipe"
    raise DataError(message + more, where=where, fix=fix)
