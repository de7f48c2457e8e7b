"""Series in time: windows of past values, and the value that lies `horizon` steps after them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmkit.data.columns import as_number, is_missing
from llmkit.data.tables import is_numeric
from llmkit.errors import DataError


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
        """Every window of a series (T, C): (T - look_back + 1, look_back, C) float32."""
        standard = (series - np.array(self.means)) / np.array(self.scales)
        windows = np.lib.stride_tricks.sliding_window_view(standard, self.look_back, axis=0)
        return torch.from_numpy(np.ascontiguousarray(windows.transpose(0, 2, 1))).float()

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, **asdict(self)}


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
    rows: Sequence[Mapping[str, Any]], names: Sequence[str], column: str | None, *, where: str
) -> tuple[str, np.ndarray, list[str]]:
    """The column to forecast, its values in time order (T,), and what was recognised, filled and left out.

    A gap takes the value before it: the future is not looked at. Gaps at the beginning are left out.
    """
    numeric = [
        name
        for name in names
        if any(not is_missing(row.get(name)) for row in rows) and is_numeric([row.get(name) for row in rows])
    ]
    if column is None and numeric:
        column = numeric[-1]
    if column is None or column not in names:
        reason = "no column holds numbers" if column is None else f"there is no column {column!r}"
        raise DataError(reason, where=where, fix=f"name one with --set data.target=COLUMN; columns: {', '.join(names)}")
    if column not in numeric:
        raise DataError(
            f"the column {column!r} does not hold numbers",
            where=where,
            fix=f"columns that do: {', '.join(numeric) or 'none'}",
        )
    numbers = [as_number(row.get(column)) for row in rows]
    first = next(i for i, number in enumerate(numbers) if number is not None)
    values = list(numbers[first:])
    gaps = 0
    for i, number in enumerate(values):
        if number is None:
            values[i], gaps = values[i - 1], gaps + 1
    notes = [f"series: column {column}, {len(values):,} values in the order of the file"]
    notes += [f"{column}: {gaps:,} gaps take the value before them"] if gaps else []
    notes += [f"{column}: {first:,} rows without a value at the beginning are left out"] if first else []
    unused = [name for name in names if name != column]
    notes += [f"not used: {', '.join(unused)}"] if unused else []
    return column, np.array(values, dtype=np.float64), notes


def fit_series(
    series: np.ndarray, columns: list[str], *, look_back: int, horizon: int, train_end: int
) -> SeriesEncoder:
    """Mean and spread of each channel of a series (T, C) over its first `train_end` values."""
    training = series[:train_end]
    scales = [float(scale) or 1.0 for scale in training.std(axis=0)]
    return SeriesEncoder(columns, look_back, horizon, [float(mean) for mean in training.mean(axis=0)], scales)
