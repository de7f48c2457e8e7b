"""Series in time: the Mackey-Glass equation, windows, and a future that is not looked at."""

from __future__ import annotations

import numpy as np
import pytest
import torch

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


def test_all_columns_of_numbers_are_seen_and_several_may_be_forecast(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("hour,a,b,c\n" + "".join(f"2024-01-01 {i:02}:00,{i},{10 * i},{i % 5}\n" for i in range(24)))
    data = read(path, task="forecast", look_back=2, target=["a", "c"], validation=0.0, test=0.25)
    rows = data.splits["train"]
    assert rows.inputs.shape[1:] == (2, 3)
    assert data.target.names == ["a", "c"]
    changes = rows.targets.double() * torch.tensor(data.target.scales)
    assert changes[:, 0].numpy() == pytest.approx(np.ones(len(rows)))
    assert data.num_outputs == 2
    assert len(read(path, task="forecast", look_back=2, leave_out=["b"]).encoder.columns) == 2


def test_the_seasonal_reference_is_the_value_one_season_before(tmp_path):
    values = [[1, 5, 2, 8][i % 4] + i // 4 for i in range(80)]
    data = read(write_series(tmp_path / "x.csv", values), task="forecast", look_back=6, horizon=2, season=4)
    rows = data.splits["test"]
    assert list(rows.references) == ["naive forecast", "seasonal-naive (4)"]
    # The test is the last 16 values: the first of them at time 64, two steps after the last one seen at 62.
    seasonal = data.target.decode(rows.references["seasonal-naive (4)"], torch.tensor(values[62:78])[:, None])
    assert seasonal[:, 0].tolist() == pytest.approx(values[60:76], abs=1e-4)
    errors = (rows.references["seasonal-naive (4)"] - rows.targets) * data.target.scale
    assert errors.abs().numpy() == pytest.approx(np.ones((16, 1)), abs=1e-4)
    assert rows.references["naive forecast"].abs().sum() == 0


def test_a_season_is_found_and_told(tmp_path):
    path = tmp_path / "x.csv"
    months = [f"{2000 + i // 12}-{i % 12 + 1:02},{i % 12}" for i in range(96)]
    path.write_text("month,x\n" + "\n".join(months) + "\n")
    data = read(path, task="forecast", look_back=3)
    assert "season: 12 steps, by the step of the dates" in "\n".join(data.notes)
    assert "step: a month" in "\n".join(data.notes)
    assert len(read(path, task="forecast", look_back=3, season=0).splits["test"].references) == 1


def test_newest_first_is_turned_and_told(tmp_path):
    lines = [f"2024-{i // 28 + 1:02}-{i % 28 + 1:02},{i}" for i in range(84)]
    forward, backward = tmp_path / "f.csv", tmp_path / "b.csv"
    forward.write_text("day,x\n" + "\n".join(lines) + "\n")
    backward.write_text("day,x\n" + "\n".join(reversed(lines)) + "\n")
    one, other = (read(path, task="forecast", look_back=4) for path in (forward, backward))
    assert torch.equal(one.splits["train"].inputs, other.splits["train"].inputs)
    assert any("the order is turned" in note for note in other.notes)


def test_several_series_in_one_file_are_an_error(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("day,shop,x\n" + "".join(f"2024-01-{i:02},{s},{i}\n" for s in "ab" for i in range(1, 29)))
    with pytest.raises(DataError, match="more than one series"):
        read(path, task="forecast", look_back=4)


def test_rows_that_are_missing_in_time_are_pointed_out(tmp_path):
    days = [i for i in range(1, 29) if i not in (9, 10, 11)]
    path = tmp_path / "x.csv"
    path.write_text("day,x\n" + "".join(f"2024-01-{i:02},{i}\n" for i in days))
    data = read(path, task="forecast", look_back=3)
    assert any("1 steps are over twice as long as usual" in note for note in data.notes)


def test_a_test_file_continues_the_series(tmp_path):
    write_series(tmp_path / "a.csv", range(40))
    write_series(tmp_path / "b.csv", range(40, 50))
    data = read(tmp_path / "a.csv", test=str(tmp_path / "b.csv"), task="forecast", look_back=3)
    assert len(data.splits["test"]) == 10
