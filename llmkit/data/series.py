"""Series in time: windows of past values, and the values that lie `horizon` steps after them.

Shapes: T points in time, C columns, L look-back, K targets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmkit.data.columns import as_number, is_missing, is_numeric, spread_of
from llmkit.data.season import Calendar, count_odd_steps, find_calendar
from llmkit.errors import DataError

Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class SeriesEncoder:
    """Windows of `look_back` past values, standardised by mean and spread of the training stretch, one per channel."""

    columns: list[str]
    look_back: int
    horizon: int
    means: list[float]
    scales: list[float]
    form = "series"

    def encode(self, series: np.ndarray) -> Tensor:
        """Every window of a series (T, C): (T - L + 1, L, C) float32. They share memory."""
        standard = torch.from_numpy((series - np.array(self.means)) / np.array(self.scales)).float()
        return standard.unfold(0, self.look_back, 1).transpose(1, 2)

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, **asdict(self)}


@dataclass(frozen=True)
class Series:
    """A series in the order of time.

    Args:
        values: (T, C) float64, without gaps.
        columns: The names of the C columns.
        targets: Which of them are forecast.
        calendar: The dates, in order, where there are any.
        order: The row of the source that each point in time was.
        notes: What was recognised, filled and left out.
    """

    values: np.ndarray
    columns: list[str]
    targets: list[str]
    calendar: Calendar | None
    order: list[int]
    notes: list[str]


def mackey_glass(length: int = 4000, *, tau: int = 17, steps_per_unit: int = 10, warm_up: int = 300) -> np.ndarray:
    """The Mackey-Glass series (1977), dx/dt = 0.2 x(t - tau) / (1 + x(t - tau)^10) - 0.1 x(t): (length,) float64.

    Chaotic from tau = 17 on: near values can be forecast, far ones cannot. Integrated by the Runge-Kutta rule of fourth
    order from x = 1.2, one value per unit of time, the beginning left out.
    """
    delay, dt = tau * steps_per_unit, 1.0 / steps_per_unit
    x = [1.2] * (delay + 1)
    for _ in range((length + warm_up) * steps_per_unit):
        before, after = x[-delay - 1], x[-delay]
        # The delayed value is known at both ends of the step; halfway it is their mean.
        start, half, end = (0.2 * past / (1.0 + past**10) for past in (before, (before + after) / 2, after))
        k1 = start - 0.1 * x[-1]
        k2 = half - 0.1 * (x[-1] + dt / 2 * k1)
        k3 = half - 0.1 * (x[-1] + dt / 2 * k2)
        k4 = end - 0.1 * (x[-1] + dt * k3)
        x.append(x[-1] + dt / 6 * (k1 + 2 * k2 + 2 * k3 + k4))
    return np.array(x[delay::steps_per_unit][warm_up : warm_up + length])


def read_series(
    rows: Rows, names: Sequence[str], targets: Sequence[str], leave_out: Sequence[str], *, where: str
) -> Series:
    """All columns of numbers in the order of time; the last of them is forecast where no target is named.

    A gap takes the value before it: the future is not looked at. Rows before the first that is complete are left out.
    """
    numeric = [name for name in names if name not in leave_out and is_filled_numeric(rows, name)]
    chosen = list(targets) or numeric[-1:]
    check_targets(chosen, names, numeric, where)
    calendar = find_calendar([(name, [row.get(name) for row in rows]) for name in names if name not in numeric])
    order, notes = order_in_time(calendar, len(rows), where)
    numbers = [[as_number(rows[i].get(name)) for i in order] for name in numeric]
    starts = [next(t for t, number in enumerate(column) if number is not None) for column in numbers]
    first = max(starts)
    filled = [fill_gaps(column, first) for column in numbers]
    values = np.array([column for column, _ in filled], dtype=np.float64).T
    shown = ", ".join(numeric) if len(numeric) > 1 else f"column {numeric[0]}"
    told = [f"series: {shown}, {len(values):,} values in the order of {'time' if calendar else 'the file'}"]
    told += [f"forecast: {', '.join(chosen)}"] if len(numeric) > 1 else []
    told += [
        f"{name}: {gaps:,} gaps take the value before them"
        for name, (_, gaps) in zip(numeric, filled, strict=True)
        if gaps
    ]
    told += [f"{first:,} rows without a value at the beginning are left out"] if first else []
    unused = [name for name in names if name not in numeric and not (calendar and name == calendar.column)]
    told += [f"not used: {', '.join(unused)}"] if unused else []
    return Series(values, numeric, chosen, calendar, order[first:], [*told, *notes])


def is_filled_numeric(rows: Rows, name: str) -> bool:
    """Whether a column holds numbers, and at least one."""
    values = [row.get(name) for row in rows]
    return any(as_number(value) is not None and not is_missing(value) for value in values) and is_numeric(values)


def check_targets(targets: Sequence[str], names: Sequence[str], numeric: Sequence[str], where: str) -> None:
    """Raise for a column to forecast that there is not, or that holds no numbers."""
    columns = ", ".join(names)
    fix = f"name one with --set data.target=COLUMN; columns: {columns}"
    if not targets:
        raise DataError("no column holds numbers", where=where, fix=fix)
    for name in targets:
        if name not in names:
            raise DataError(f"there is no column {name!r}", where=where, fix=fix)
        if name not in numeric:
            fix = f"columns that do: {', '.join(numeric) or 'none'}"
            raise DataError(f"the column {name!r} does not hold numbers", where=where, fix=fix)


def order_in_time(calendar: Calendar | None, count: int, where: str) -> tuple[list[int], list[str]]:
    """The rows by their dates, and what is odd about these.

    Raises:
        DataError: Dates repeat: several series are in one file.
    """
    if calendar is None:
        return list(range(count)), ["no column of dates is recognised: the order of the file is taken for time"]
    order = sorted(range(count), key=lambda i: calendar.dates[i])
    dates = [calendar.dates[i] for i in order]
    notes = [f"dates: column {calendar.column}, from {dates[0]} to {dates[-1]}, step: {calendar.step}"]
    long, repeated = count_odd_steps(dates)
    if repeated > count // 10:
        raise DataError(
            f"{repeated:,} of {count:,} dates in {calendar.column!r} stand there before: this is more than one series",
            where=where,
            fix="keep the rows of one series",
        )
    if order != list(range(count)):
        is_reversed = order == list(reversed(range(count)))
        notes.append("the newest row came first: the order is turned" if is_reversed else "the rows are put in order")
    notes += [f"{long:,} steps are over twice as long as usual: rows are missing there"] if long else []
    notes += [f"{repeated:,} dates stand there twice"] if repeated else []
    return order, notes


def fill_gaps(column: Sequence[float | None], first: int) -> tuple[list[float], int]:
    """The numbers from `first` on, each gap with the value before it, and how many gaps there were."""
    last = next(number for number in reversed(column[: first + 1]) if number is not None)
    values, gaps = [], 0
    for number in column[first:]:
        last, gaps = (last, gaps + 1) if number is None else (number, gaps)
        values.append(last)
    return values, gaps


def fit_series(
    series: np.ndarray, columns: list[str], *, look_back: int, horizon: int, train_end: int
) -> SeriesEncoder:
    """Mean and spread of each channel of a series (T, C) over its first `train_end` values."""
    training = series[:train_end]
    scales = [spread_of(column) for column in training.T]
    return SeriesEncoder(columns, look_back, horizon, [float(mean) for mean in training.mean(axis=0)], scales)
