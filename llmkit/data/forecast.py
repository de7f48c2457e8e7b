"""A series as rows for a network: windows, the values after them, and what simple forecasts answer.

Shapes: T points in time, C columns, K targets, N windows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from llmkit.data.labelled_set import LabelledData, RowReading, TensorRows, cut_splits
from llmkit.data.season import choose_season, lag_of
from llmkit.data.series import Series, fit_series, mackey_glass, read_series
from llmkit.data.splits import share_of
from llmkit.data.table import Table, check_column
from llmkit.data.targets import NumberTarget
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData


def encode_mackey_glass(data: BaselineData) -> LabelledData:
    """The built-in series."""
    series = Series(mackey_glass()[:, None], ["x"], ["x"], None, list(range(4000)), [])
    return encode_windows(series, [], data, RowReading(columns=["x"], targets=["x"]))


def encode_series(table: Table, data: BaselineData) -> LabelledData:
    """A table whose rows are points in time."""
    for name in data.leave_out:
        check_column(name, table, str(data.source))
    targets = [data.target] if isinstance(data.target, str) else list(data.target or [])
    series = read_series(table.rows, table.names, targets, data.leave_out, where=str(data.source))
    splits = [table.splits[i] for i in series.order]
    reading = RowReading(list(table.names), [], series.targets, table.has_names, data.encoding)
    noted = Series(
        series.values, series.columns, series.targets, series.calendar, series.order, [*table.notes, *series.notes]
    )
    return encode_windows(noted, splits, data, reading)


def encode_windows(series: Series, given: Sequence[str], data: BaselineData, reading: RowReading) -> LabelledData:
    """A series as windows; the targets are values `horizon` steps later. The end of time is the test."""
    values, length, first = series.values, len(series.values), data.look_back + data.horizon - 1
    train_end, test_start = cut_time(length, given, data)
    if train_end - first < 2:
        raise DataError(
            f"{train_end} values for training are too few for windows of {data.look_back} and horizon {data.horizon}",
            where=str(data.source),
            fix="make data.look_back smaller",
        )
    encoder = fit_series(values, series.columns, look_back=data.look_back, horizon=data.horizon, train_end=train_end)
    chosen = values[:, [series.columns.index(name) for name in series.targets]]
    last = torch.from_numpy(chosen[data.look_back - 1 : length - data.horizon])
    future = torch.from_numpy(chosen[first:])
    changes = (future - last)[: train_end - first]
    scales = [float(scale) or 1.0 for scale in changes.square().mean(0).sqrt()]
    target = NumberTarget("last", series.targets, [0.0] * len(scales), scales)
    references, told = simple_forecasts(series, chosen, target, train_end, data)
    rows = TensorRows(
        encoder.encode(values[: length - data.horizon]), target.encode(future, last), references=references
    )
    # Row i is about the value at time first + i.
    splits = ["train" if t < train_end else "validation" if t < test_start else "test" for t in range(first, length)]
    steps = f"the value {data.horizon} {'step' if data.horizon == 1 else 'steps'} ahead from the last {data.look_back}"
    walk = "training comes first in time, then validation, then the test; each window holds only what came before"
    notes = [*series.notes, f"forecast: {steps}", walk, told]
    parts = cut_splits(rows, splits, data)
    return LabelledData(str(data.source), "forecast", parts, encoder, target, notes, reading)


def cut_time(length: int, given: Sequence[str], data: BaselineData) -> tuple[int, int]:
    """The points in time at which training ends and the test begins.

    Raises:
        DataError: The source's own splits are not in the order of time.
    """
    test = sum(split == "test" for split in given) or round(length * share_of(data.test))
    validation = sum(split == "validation" for split in given) or round(length * share_of(data.validation))
    train_end, test_start = length - test - validation, length - test
    wanted = ["train"] * train_end + ["validation"] * validation + ["test"] * test
    if any(said and said != split for said, split in zip(given, wanted, strict=False)):
        raise DataError(
            "its splits are not in the order of time: training, validation, test",
            where=str(data.source),
            fix="name the training file alone, and set data.validation and data.test to shares",
        )
    return train_end, test_start


def simple_forecasts(
    series: Series, chosen: np.ndarray, target: NumberTarget, train_end: int, data: BaselineData
) -> tuple[dict[str, torch.Tensor], str]:
    """What the naive and the seasonal-naive forecast answer for each window, (N, K) in the network's units.

    The seasonal one is the last value of the same place in the season that is known; before there is one, the last.
    """
    first, length = data.look_back + data.horizon - 1, len(chosen)
    last = torch.from_numpy(chosen[data.look_back - 1 : length - data.horizon])
    references = {"naive forecast": torch.zeros(len(last), chosen.shape[1])}
    if data.season == "auto":
        known = series.calendar.seasons if series.calendar else ()
        season, found_by = choose_season(chosen[:train_end, 0], known, data.horizon)
    else:
        season, found_by = data.season, "data.season"
    if season == 0:
        return references, f"no seasonal reference: {found_by}"
    if season >= length:
        fix = f"give a season below {length}"
        raise DataError(f"a season of {season} is longer than the series", where="data.season", fix=fix)
    before = np.arange(first, length) - lag_of(season, data.horizon)
    naive = np.arange(data.look_back - 1, length - data.horizon)
    seasonal = torch.from_numpy(chosen[np.where(before >= 0, before, naive)])
    references[f"seasonal-naive ({season})"] = target.encode(seasonal, last)
    return references, f"season: {season} steps, by {found_by}"
