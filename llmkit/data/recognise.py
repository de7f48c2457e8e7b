"""Tables as users have them: which column is the target, which holds text, whether there is a header, who is tested."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmkit.data.columns import as_number, is_missing
from llmkit.data.document import Record
from llmkit.data.tables import is_numeric
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData

TARGET_NAMES = ("label", "target", "class", "y")
TEXT_NAMES = ("text", "sentence", "document")
IS_TABLE_FILE = re.compile(r"\.[ct]sv(\.\w+)?$", re.IGNORECASE)
WORDS_OF_A_TEXT = 8
"""A column of different values with as many words on average is text, whatever its name."""


@dataclass(frozen=True)
class Table:
    """Rows by column name, the names in their order, and the split of each row."""

    rows: Sequence[Mapping[str, Any]]
    names: list[str]
    splits: list[str]

    def part(self, split: str) -> list[int]:
        """The indices of a split's rows."""
        return [i for i, name in enumerate(self.splits) if name == split]

    def only(self, kept: Sequence[int]) -> Table:
        """The table with these rows alone."""
        return Table([self.rows[i] for i in kept], self.names, [self.splits[i] for i in kept])

    def column(self, name: str) -> list[Any]:
        """The values of a column, None where a row has none."""
        return [row.get(name) for row in self.rows]


def split_of(content: str, data: BaselineData) -> str:
    """The split of a row, by a hash of its content: it stays when rows are added, and equal rows are never apart."""
    place = int.from_bytes(hashlib.sha256(content.encode()).digest()[:8], "big") / 2**64
    if place < data.test:
        return "test"
    return "validation" if place < data.test + data.validation else "train"


def content_of(row: Mapping[str, Any]) -> str:
    """What the split of a row is a hash of."""
    return json.dumps(row, sort_keys=True, default=str, ensure_ascii=True)


def read_table(records: Sequence[Record], data: BaselineData) -> tuple[Table, list[str]]:
    """Records as a table: every column that any of them has; whole rows decide the split."""
    names = list(dict.fromkeys(name for record in records for name in record.values))
    rows: list[Mapping[str, Any]] = [record.values for record in records]
    notes = []
    if IS_TABLE_FILE.search(str(data.source)) and lacks_header(names, rows):
        first = dict(zip(names, names, strict=True))
        renamed = [f"column-{i}" for i in range(1, len(names) + 1)]
        rows = [{new: row.get(old) for new, old in zip(renamed, names, strict=True)} for row in [first, *rows]]
        names = renamed
        notes.append(
            f"the file has no header: its first line is a row, and its columns are called {names[0]} to {names[-1]}"
        )
    contents = [content_of(row) for row in rows]
    repeated = len(contents) - len(set(contents))
    if repeated and data.task != "forecast":
        notes.append(f"{repeated:,} rows repeat another one; equal rows are in the same split")
    return Table(rows, names, [split_of(content, data) for content in contents]), notes


def lacks_header(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the names of the columns are values: most are numbers, or one is found again below itself.

    Columns that are just counted, 0, 1, 2, ..., have names.
    """
    numbers = [number for number in map(as_number, names) if number is not None]
    if len(numbers) > 1 and all(after - before == 1 for before, after in itertools.pairwise(numbers)):
        return False
    return len(numbers) * 2 > len(names) or any(sum(row.get(name) == name for row in rows) > 1 for name in names)


def find_target(table: Table, data: BaselineData) -> str:
    """The column to predict: the one named, one with a usual name, or the last; the first where the last is text."""
    if data.target is not None:
        if data.target not in table.names:
            raise DataError(
                f"there is no column {data.target!r}", where=str(data.source), fix=f"columns: {', '.join(table.names)}"
            )
        return data.target
    lowered = {name.strip().lower(): name for name in reversed(table.names)}
    named = next((lowered[name] for name in TARGET_NAMES if name in lowered), None)
    is_text_last = named is None and average_words(table.column(table.names[-1])) >= WORDS_OF_A_TEXT
    return named or table.names[0 if is_text_last else -1]


def find_text(table: Table, data: BaselineData) -> str | None:
    """The column that holds text: the one named, one with a usual name, or the wordiest; None where there is none."""
    if data.text is not None:
        if data.text not in table.names:
            raise DataError(
                f"there is no column {data.text!r}", where=str(data.source), fix=f"columns: {', '.join(table.names)}"
            )
        return data.text
    target = find_target(table, data)
    names = [name for name in table.names if name != target]
    lowered = {name.strip().lower(): name for name in reversed(names)}
    named = next((lowered[name] for name in TEXT_NAMES if name in lowered), None)
    if named and not is_numeric(table.column(named)):
        return named
    wordiness = {name: average_words(table.column(name)) for name in names}
    wordiest = max(wordiness, key=lambda name: wordiness[name], default=None)
    enough = WORDS_OF_A_TEXT if len(names) > 1 else 1.5
    return wordiest if wordiest is not None and wordiness[wordiest] >= enough else None


def average_words(values: Sequence[Any]) -> float:
    """Words per value of a column whose values are mostly different texts; 0 for any other column."""
    present = [value for value in values if not is_missing(value)]
    if not all(isinstance(value, str) for value in present) or len(set(present)) * 2 <= len(values):
        return 0.0
    return sum(len(value.split()) for value in present) / len(present)


def drop_unlabelled(table: Table, name: str, where: str) -> tuple[Table, list[str]]:
    """The rows that have a target; how many have none is told."""
    kept = [i for i, value in enumerate(table.column(name)) if not is_missing(value)]
    dropped = len(table.rows) - len(kept)
    if not kept:
        raise DataError(
            f"no row has a value in the column to predict, {name!r}",
            where=where,
            fix=f"set data.target; columns: {', '.join(table.names)}",
        )
    return table.only(kept), [f"{dropped:,} rows without a value in {name} are left out"] if dropped else []
