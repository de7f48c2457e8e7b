"""Tables of numbers and categories: what each column is, how its gaps are filled, and how it becomes a vector."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmkit.data.columns import as_number, is_missing
from llmkit.errors import DataError

MAX_CATEGORIES = 50
"""A category beyond the most frequent ones is read as none of them."""
MIN_NUMBERS = 0.95
"""A column is numeric when this share of what stands in it are numbers; the rest counts as missing, and is told."""
ROW_NUMBERS = {"", "id", "index", "row", "rownames", "unnamed: 0", "__index_level_0__"}

Values = Mapping[str, Any]


@dataclass(frozen=True)
class NumericColumn:
    """Numbers, standardised to mean 0 and spread 1 over the training rows; a gap is filled with their median."""

    name: str
    median: float
    mean: float
    scale: float
    kind: str = "numeric"

    @property
    def width(self) -> int:
        return 1

    def encode(self, values: Sequence[Any]) -> np.ndarray:
        numbers = [self.median if (number := as_number(value)) is None else number for value in values]
        return ((np.array(numbers, dtype=np.float64) - self.mean) / self.scale)[:, None]


@dataclass(frozen=True)
class CategoricalColumn:
    """One number per category: 1 where the row has it, else 0. All are 0 for one that training has not seen."""

    name: str
    categories: list[str]
    kind: str = "categorical"

    @property
    def width(self) -> int:
        return len(self.categories)

    def encode(self, values: Sequence[Any]) -> np.ndarray:
        index = {category: k for k, category in enumerate(self.categories)}
        encoded = np.zeros((len(values), self.width + 1))
        encoded[np.arange(len(values)), [index.get(category_of(value), self.width) for value in values]] = 1.0
        return encoded[:, : self.width]


Column = NumericColumn | CategoricalColumn


@dataclass(frozen=True)
class TableEncoder:
    """Rows of a table as one vector of numbers each."""

    columns: list[Column]
    form = "table"

    @property
    def width(self) -> int:
        """How many numbers a row becomes."""
        return sum(column.width for column in self.columns)

    def encode(self, rows: Sequence[Values]) -> Tensor:
        """(N, width) float32."""
        parts = [column.encode([row.get(column.name) for row in rows]) for column in self.columns]
        return torch.from_numpy(np.concatenate(parts, axis=1)).float()

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, "columns": [asdict(column) for column in self.columns]}


def read_table_encoder(stored: dict[str, Any]) -> TableEncoder:
    """A table encoder from what its `to_json` gave."""
    kinds: dict[str, type[Column]] = {"numeric": NumericColumn, "categorical": CategoricalColumn}
    return TableEncoder([kinds[column["kind"]](**column) for column in stored["columns"]])


def fit_table(
    rows: Sequence[Values], training: Sequence[Values], names: Sequence[str], *, where: str
) -> tuple[TableEncoder, list[str]]:
    """Recognise the columns over all rows, fit them on the training rows, and say what was found, filled and left out.

    Raises:
        DataError: No column is left that a network could learn from.
    """
    columns, notes, left_out = [], [], []
    for name in names:
        values = [row.get(name) for row in rows]
        reason = reason_to_leave_out(name, values)
        if reason:
            left_out.append(f"{name} ({reason})")
            continue
        column, column_notes = fit_column(name, values, [row.get(name) for row in training])
        columns.append(column)
        notes += column_notes
    if not columns:
        raise DataError(
            f"no column is left to learn from: {', '.join(left_out) or 'there is only the target'}",
            where=where,
            fix="add columns with numbers or categories",
        )
    if left_out:
        notes.append(f"left out: {', '.join(left_out)}")
    return TableEncoder(columns), [*describe_columns(columns), *notes]


def describe_columns(columns: Sequence[Column]) -> list[str]:
    """The names of the columns, by kind."""
    numeric = [column.name for column in columns if isinstance(column, NumericColumn)]
    categorical = [f"{column.name} ({column.width})" for column in columns if isinstance(column, CategoricalColumn)]
    notes = [f"numeric columns ({len(numeric)}): {shorten(numeric)}"] if numeric else []
    return [*notes, f"categorical columns ({len(categorical)}): {shorten(categorical)}"] if categorical else notes


def shorten(names: Sequence[str], most: int = 8) -> str:
    """A list of names, cut after a few."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether what stands in a column are numbers, but for a few slips."""
    present = [value for value in values if not is_missing(value)]
    return sum(as_number(value) is not None for value in present) >= MIN_NUMBERS * len(present)


def reason_to_leave_out(name: str, values: Sequence[Any]) -> str | None:
    """Why a column has nothing to teach, or None when it may."""
    present = [value for value in values if not is_missing(value)]
    if not present:
        return "empty"
    if any(isinstance(value, (list, dict)) for value in present):
        return "lists or objects"
    distinct = len({category_of(value) for value in present})
    if distinct == 1 and len(present) == len(values):
        return "always the same"
    is_unique = distinct == len(values) > 1
    if is_unique and name.strip().lower() in ROW_NUMBERS:
        return "numbers the rows"
    if not is_numeric(values) and distinct > max(20, len(present) // 2):
        return f"{distinct:,} different texts"
    return None


def fit_column(name: str, values: Sequence[Any], training: Sequence[Any]) -> tuple[Column, list[str]]:
    """One column: its kind by all values, its figures by the training rows'; and what was filled."""
    if not is_numeric(values):
        counts = Counter(category_of(value) for value in training)
        kept = sorted(counts, key=lambda category: (-counts[category], category))[:MAX_CATEGORIES]
        notes = (
            [f"{name}: the {MAX_CATEGORIES} most frequent of {len(counts)} categories are told apart"]
            if len(counts) > MAX_CATEGORIES
            else []
        )
        return CategoricalColumn(name, sorted(kept)), notes
    numbers = [number for number in map(as_number, training) if number is not None] or [0.0]
    median = statistics.median(numbers)
    # The filled values are part of what the network sees, so they are part of mean and spread.
    filled = [median if (number := as_number(value)) is None else number for value in training]
    column = NumericColumn(name, median, statistics.fmean(filled), statistics.pstdev(filled) or 1.0)
    return column, describe_gaps(column, values)


def describe_gaps(column: NumericColumn, values: Sequence[Any]) -> list[str]:
    """How many values of a numeric column were not there, or no numbers, and what stands for them."""
    missing = sum(is_missing(value) for value in values)
    slips = [value for value in values if not is_missing(value) and as_number(value) is None]
    notes = (
        [f"{column.name}: {missing:,} of {len(values):,} missing, filled with the median {column.median:g}"]
        if missing
        else []
    )
    if slips:
        notes.append(
            f"{column.name}: {len(slips):,} values are no numbers ({slips[0]!r}), filled with {column.median:g}"
        )
    return notes


def category_of(value: Any) -> str:
    """A value as a category; a missing one is a category of its own."""
    return "" if is_missing(value) else str(value).strip()
