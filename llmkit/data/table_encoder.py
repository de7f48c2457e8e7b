"""Tables of numbers and categories: what each column is, how its gaps are filled, and how it becomes a vector."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmkit.data.columns import as_number, is_missing, is_numeric, spread_of
from llmkit.data.season import read_date
from llmkit.errors import DataError

MAX_CATEGORIES = 50
"""A category beyond the most frequent ones is read as none of them."""
ROW_NUMBERS = {"", "index", "row", "rownames", "unnamed: 0", "__index_level_0__"}
IDENTIFIER = re.compile(r"id|.*[ _-]id|.*[a-z]I[dD]|.*ID", re.ASCII)
"""Names of columns that only say which row this is, where no value stands there twice."""

MOST_GAPS_SHOWN = 4
FEWEST_COUNTED = 10
"""In fewer rows, 1, 2, 3 ... may well be values."""

Values = Mapping[str, Any]


@dataclass(frozen=True)
class NumericColumn:
    """Numbers, standardised to mean 0 and spread 1 over the training rows; a gap is filled with their median.

    Where training rows have gaps, a second number is 1 in a gap and else 0: that a value is missing may tell something.
    """

    name: str
    median: float
    mean: float
    scale: float
    marks_gaps: bool = False
    kind: str = "numeric"

    @property
    def width(self) -> int:
        return 2 if self.marks_gaps else 1

    def encode(self, values: Sequence[Any]) -> np.ndarray:
        numbers = np.array([np.nan if (number := as_number(value)) is None else number for value in values])
        gaps = np.isnan(numbers)
        standard = (np.where(gaps, self.median, numbers) - self.mean) / self.scale
        return np.stack([standard, gaps] if self.marks_gaps else [standard], axis=1)


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
    columns: list[Column] = []
    notes: list[str] = []
    left_out: list[str] = []
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
    return TableEncoder(columns), [*describe_columns(columns), *describe_gaps(columns, rows), *notes]


def describe_columns(columns: Sequence[Column]) -> list[str]:
    """The names of the columns, by kind."""
    numeric = [column.name for column in columns if isinstance(column, NumericColumn)]
    categorical = [f"{column.name} ({column.width})" for column in columns if isinstance(column, CategoricalColumn)]
    notes = [f"numeric columns ({len(numeric)}): {shorten(numeric)}"] if numeric else []
    return [*notes, f"categorical columns ({len(categorical)}): {shorten(categorical)}"] if categorical else notes


def shorten(names: Sequence[str], most: int = 8) -> str:
    """A list of names, cut after a few."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


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
    if is_unique and (name.strip().lower() in ROW_NUMBERS or counts_rows(present)):
        return "numbers the rows"
    if is_unique and IDENTIFIER.fullmatch(name.strip()):
        return "another one in each row: an identifier"
    if read_date(present[0]) and read_date(present[-1]) and distinct > max(20, len(present) // 2):
        return f"{distinct:,} dates; a series is forecast with data.task=forecast"
    if not is_numeric(values) and distinct > max(20, len(present) // 2):
        return f"{distinct:,} different texts"
    return None


def counts_rows(values: Sequence[Any]) -> bool:
    """Whether values are whole numbers, each one more than that above it: the rows' numbers."""
    numbers = [as_number(value) for value in values]
    if len(numbers) < FEWEST_COUNTED or numbers[0] not in (0.0, 1.0):
        return False
    return all(number == numbers[0] + i for i, number in enumerate(numbers))


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
    numbers = np.array([np.nan if (number := as_number(value)) is None else number for value in training])
    gaps = np.isnan(numbers)
    median = 0.0 if gaps.all() else float(np.median(numbers[~gaps]))
    # The filled values are part of what the network sees, so they are part of mean and spread.
    filled = np.where(gaps, median, numbers)
    return NumericColumn(name, median, float(filled.mean()), spread_of(filled), bool(gaps.any())), []


def describe_gaps(columns: Sequence[Column], rows: Sequence[Values]) -> list[str]:
    """How many values of numeric columns are not there, or no numbers, and what stands for them."""
    gaps, notes = [], []
    for column in columns:
        if not isinstance(column, NumericColumn):
            continue
        values = [row.get(column.name) for row in rows]
        missing = sum(is_missing(value) for value in values)
        slips = [value for value in values if not is_missing(value) and as_number(value) is None]
        if missing:
            gaps.append((column, missing))
        if slips:
            notes.append(
                f"{column.name}: {len(slips):,} values are no numbers ({slips[0]!r}), filled with {column.median:g}"
            )
    if len(gaps) > MOST_GAPS_SHOWN:
        shown = shorten([f"{column.name} ({count:,})" for column, count in gaps])
        return [f"missing in {len(gaps)} columns, filled with the median and marked: {shown}", *notes]
    told = [
        f"{column.name}: {count:,} of {len(rows):,} missing, filled with the median {column.median:g}"
        + (" and marked" if column.marks_gaps else "")
        for column, count in gaps
    ]
    return [*told, *notes]


def category_of(value: Any) -> str:
    """A value as a category; a missing one is a category of its own."""
    return "" if is_missing(value) else str(value).strip()
