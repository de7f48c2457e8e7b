"""Series in time: the Mackey-Glass equation, windows, and a future that is not looked at."""

from __future__ import annotations

import numpy as np
import pytest

from llmkit.data.labelled import read_labelled
from llmkit.data.series import mackey_glass
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData


def read(source, **fields):
    return read_labelled(BaselineData(source=str(source), **fields), vocab_size=10, max_words=10)


def write_series(path, values):
    path.write_text("day,x,note\n" + "".join(f"2024-01-{i},{value},n\n" for i, value in enumerate(values)))
    return path


def test_mackey_glass_solves_its_equation():
    fine = mackey_glass(60, steps_per_unit=40, warm_up=0)
    coarse = mackey_glass(60, steps_per_unit=10, warm_up=0)
    # Steps a quarter as long change nothing that could be seen: the rule has converged.
    assert np.abs(fine - coarse).max() < 5e-5
    # While x(t - 17) is 1.2, dx/dt = c - 0.1 x, which has a solution in closed form.
    c, t = 0.2 * 1.2 / (1 + 1.2**10), np.arange(17)
    assert np.abs(coarse[:17] - (10 * c + (1.2 - 10 * c) * np.exp(-0.1 * t))).max() < 1e-6


def test_mackey_glass_is_the_same_every_time_and_never_settles():
    series = mackey_glass()
    assert np.array_equal(series, mackey_glass())
    assert len(series) == 4000
    assert 0.2 < series.min() < 0.5
    assert 1.2 < series.max() < 1.4


def test_a_window_holds_the_values_before_its_target(tmp_path):
    values = [float(i * i) for i in range(40)]
    data = read(
        write_series(tmp_path / "x.csv", values), task="forecast", look_back=3, horizon=2, test=0.25, validation=0.25
    )
    encoder, rows = data.encoder, data.splits["train"]
    mean, scale = np.mean(values[:20]), np.std(values[:20])
    assert encoder.means == [pytest.approx(mean)]
    first = rows.inputs[0, :, 0].double().numpy() * scale + mean
    assert first == pytest.approx([0, 1, 4], abs=1e-3)
    # The value two steps after 4 is 16: 12 more than the last one seen.
    assert rows.targets[0].item() * data.target.scale == pytest.approx(12.0, rel=1e-5)


def test_the_end_of_time_is_the_test(tmp_path):
    values = [float(i) for i in range(100)]
    data = read(
        write_series(tmp_path / "x.csv", values), task="forecast", look_back=4, horizon=1, test=0.2, validation=0.1
    )
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [66, 10, 20]
    scale, mean = data.encoder.scales[0], data.encoder.means[0]
    lasts = [data.splits[name].inputs[-1, -1, 0].item() * scale + mean for name in ("train", "validation", "test")]
    assert lasts == pytest.approx([68, 78, 98], abs=1e-3)


def test_gaps_take_the_value_before_them(tmp_path):
    values = ["", 1, 2, "", 4, *range(5, 60)]
    data = read(write_series(tmp_path / "x.csv", values), task="forecast", look_back=4)
    told = "\n".join(data.notes)
    assert "series: column x, 59 values" in told
    assert "1 gaps take the value before them" in told
    assert "1 rows without a value at the beginning are left out" in told
    assert "not used: day, note" in told
    first = data.splits["train"].inputs[0, :, 0].numpy() * data.encoder.scales[0] + data.encoder.means[0]
    assert first == pytest.approx([1, 2, 2, 4], abs=1e-4)


def test_a_series_that_is_too_short_is_an_error(tmp_path):
    with pytest.raises(DataError, match="too few"):
        read(write_series(tmp_path / "x.csv", range(20)), task="forecast", look_back=32)


def test_a_column_of_texts_is_no_series(tmp_path):
    path = write_series(tmp_path / "x.csv", range(20))
    with pytest.raises(DataError, match="does not hold numbers"):
        read(path, task="forecast", target="day")
    with pytest.raises(DataError, match="no column 'y'"):
        read(path, task="forecast", target="y")
