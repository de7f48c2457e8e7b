"""Tables as users have them: which column is the target, which hold text, and the rows of several files in one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmkit.data.columns import as_number, is_missing, is_numeric
from llmkit.data.document import Record
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData

TARGET_NAMES = ("label", "target", "class", "y", "labels", "category", "gold")
TEXT_NAMES = ("text", "sentence", "document")
WORDS_OF_A_TEXT = 6
"""A column of different values with as many words on average is text, whatever its name."""
WORDS_OF_THE_ONLY_TEXT = 1.5
"""Words that are enough where there is nothing but a target beside it."""
WORDS_BESIDE_A_TEXT = 4
"""Where there is such a column, one of as many words (a title, say) is text too."""
MOST_CLASSES_AHEAD = 20
WAYS_OF_NO_LABEL = {"", "?", "nan", "null"}
"""How files write a label that is not there. `none` and `na` are names that classes have."""


@dataclass(frozen=True)
class Table:
    """Rows by column name.

    Args:
        rows: The values of each row.
        names: The columns in their order.
        splits: The split that the source names for each row, or "".
        target: The column to predict, where the form of the source says it.
        texts: The columns of text, where the form says them.
        class_names: What classes that are numbers are called.
        notes: What was recognised.
    """

    rows: Sequence[Mapping[str, Any]]
    names: list[str]
    splits: list[str]
    target: str | None = None
    texts: tuple[str, ...] = ()
    class_names: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def part(self, split: str) -> list[int]:
        """The indices of a split's rows."""
        return [i for i, name in enumerate(self.splits) if name == split]

    def only(self, kept: Sequence[int]) -> Table:
        """The table with these rows alone."""
        return replace(self, rows=[self.rows[i] for i in kept], splits=[self.splits[i] for i in kept])

    def column(self, name: str) -> list[Any]:
        """The values of a column, None where a row has none."""
        return [row.get(name) for row in self.rows]

    @property
    def has_names(self) -> bool:
        """Whether the source named the columns; else they are called column-1, column-2 ..."""
        return self.names != [f"column-{i}" for i in range(1, len(self.names) + 1)]

    def in_split(self, split: str) -> Table:
        """The table with all its rows in one split."""
        return replace(self, splits=[split] * len(self.rows))


def table_of_records(records: Sequence[Record]) -> Table:
    """Records as a table: every column that any of them has."""
    names = list(dict.fromkeys(name for record in records for name in record.values))
    return Table([record.values for record in records], names, [""] * len(records))


def join_tables(parts: Sequence[Table], *, where: str) -> Table:
    """The rows of several files in one table.

    Raises:
        DataError: A file has other columns than the first.
    """
    first = parts[0]
    for part in parts[1:]:
        if set(part.names) != set(first.names):
            raise DataError(
                f"its files have different columns: {', '.join(first.names)}; and {', '.join(part.names)}",
                where=where,
                fix="give files with the same columns, or set data.header where one was taken wrongly",
            )
    notes = dict.fromkeys(note for part in parts for note in part.notes)
    rows = [row for part in parts for row in part.rows]
    return replace(first, rows=rows, splits=[split for part in parts for split in part.splits], notes=tuple(notes))


def check_column(name: str, table: Table, where: str) -> None:
    """Raise for a column that there is not."""
    if name not in table.names:
        raise DataError(f"there is no column {name!r}", where=where, fix=f"columns: {', '.join(table.names)}")


def find_target(table: Table, data: BaselineData) -> str:
    """The column to predict: the one named, one that the form says or with a usual name, else what looks like one."""
    if data.target is not None:
        names = [data.target] if isinstance(data.target, str) else data.target
        for name in names:
            check_column(name, table, str(data.source))
        if len(names) != 1:
            raise DataError(
                f"{len(names)} columns are named, and one is predicted", where="data.target", fix="name one column"
            )
        return names[0]
    if table.target is not None:
        return table.target
    lowered = {name.strip().lower(): name for name in reversed(table.names)}
    named = next((lowered[name] for name in TARGET_NAMES if name in lowered), None)
    return named or guess_target(table)


def guess_target(table: Table) -> str:
    """The column that looks like a target: beside a text that of the fewest classes; of a table mostly the last.

    The first is a table's target where it numbers a few classes in a row and the last column does not hold classes.
    """
    first, last = table.names[0], table.names[-1]
    enough = WORDS_OF_A_TEXT if len(table.names) > 2 else WORDS_OF_THE_ONLY_TEXT
    wordy = [name for name in table.names if average_words(table.column(name)) >= enough]
    counts = {name: count_classes(table.column(name)) for name in table.names if name not in wordy}
    if wordy and counts:
        best = min(counts, key=lambda name: (counts[name] == 0, counts[name]))
        return best if counts[best] else next(iter(counts))
    numbers = {number for value in table.column(first) if (number := as_number(value)) is not None}
    is_numbered = numbers in ({*range(len(numbers))}, {*range(1, len(numbers) + 1)}) and is_complete(table, first)
    few = range(2, MOST_CLASSES_AHEAD + 1)
    if is_numbered and len(numbers) in few and count_classes(table.column(last)) not in few:
        return first
    return last


def is_complete(table: Table, name: str) -> bool:
    """Whether each row has a number in a column."""
    return all(as_number(value) is not None for value in table.column(name))


def count_classes(values: Sequence[Any]) -> int:
    """How many classes a column would have; 0 for one with gaps or a single value, or where each value is another."""
    if any(is_missing(value) for value in values):
        return 0
    count = len({str(value) for value in values})
    return count if 2 <= count < max(3, len(values) // 2) else 0


def find_texts(table: Table, data: BaselineData, target: str) -> list[str]:
    """The columns that hold text: those named, those of the form or of a usual name, or the wordy ones; none else."""
    if data.text is not None:
        names = [data.text] if isinstance(data.text, str) else list(data.text)
        for name in names:
            check_column(name, table, str(data.source))
        return names
    if table.texts:
        return list(table.texts)
    names = [name for name in table.names if name != target and name not in data.leave_out]
    lowered = {name.strip().lower(): name for name in reversed(names)}
    named = next((lowered[name] for name in TEXT_NAMES if name in lowered), None)
    if named and not is_numeric(table.column(named)):
        return [named]
    wordiness = {name: average_words(table.column(name)) for name in names}
    enough = WORDS_OF_A_TEXT if len(names) > 1 else WORDS_OF_THE_ONLY_TEXT
    if max(wordiness.values(), default=0.0) < enough:
        return []
    return [name for name in names if wordiness[name] >= min(enough, WORDS_BESIDE_A_TEXT)]


def average_words(values: Sequence[Any]) -> float:
    """Words per value of a column whose values are mostly different texts; 0 for any other column."""
    present = [value for value in values if not is_missing(value)]
    if not all(isinstance(value, str) for value in present) or len(set(present)) * 2 <= len(values):
        return 0.0
    return sum(len(value.split()) for value in present) / len(present)


def lacks_label(value: Any) -> bool:
    """Whether a row has no label: nothing, NaN, or a sign for it."""
    if isinstance(value, str):
        return value.strip().lower() in WAYS_OF_NO_LABEL
    return is_missing(value)


def drop_unlabelled(table: Table, name: str, where: str, *, is_number: bool) -> tuple[Table, list[str]]:
    """The rows that have a target; how many have none is told."""
    lacks = is_missing if is_number else lacks_label
    kept = [i for i, value in enumerate(table.column(name)) if not lacks(value)]
    dropped = len(table.rows) - len(kept)
    if not kept:
        raise DataError(
            f"no row has a value in the column to predict, {name!r}",
            where=where,
            fix=f"set data.target; columns: {', '.join(table.names)}",
        )
    return table.only(kept), [f"{dropped:,} rows without a value in {name} are left out"] if dropped else []
