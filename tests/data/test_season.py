"""Dates, their step, and after how many steps a series repeats."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
import pytest

from llmkit.data.season import autocorrelation_peak, choose_season, find_calendar, find_step, lag_of, read_date

START = datetime(2020, 1, 1)


def test_dates_are_read_and_numbers_are_none():
    assert read_date("1949-01") == datetime(1949, 1, 1)
    assert read_date("2016-07-01 00:00:00") == datetime(2016, 7, 1)
    assert read_date("31.12.2020") == datetime(2020, 12, 31)
    assert read_date("2020") is None
    assert read_date(3.5) is None
    assert read_date("1/2/2024") is None


@pytest.mark.parametrize(
    ("dates", "step", "seasons"),
    [
        ([START + timedelta(hours=i) for i in range(50)], "an hour", (24, 168)),
        ([START + timedelta(days=i) for i in range(50)], "a day", (7, 365)),
        ([datetime(2000 + i // 12, i % 12 + 1, 1) for i in range(50)], "a month", (12,)),
        ([datetime(2000 + i // 4, 3 * (i % 4) + 1, 1) for i in range(50)], "a quarter", (4,)),
        ([START + timedelta(seconds=7 * i) for i in range(50)], "0:00:07", ()),
    ],
)
def test_the_step_of_dates_says_which_seasons_there_may_be(dates, step, seasons):
    assert find_step(dates) == (step, seasons)


def test_the_column_of_dates_is_found():
    columns = [("note", ["a", "b"]), ("day", ["2024-01-01", "2024-01-02"])]
    assert find_calendar(columns).column == "day"
    assert find_calendar(columns[:1]) is None


def test_a_wave_repeats_after_its_length_and_a_line_does_not():
    time = np.arange(400)
    assert autocorrelation_peak(np.sin(2 * np.pi * time / 23) + 0.05 * time) == 23
    assert autocorrelation_peak(0.5 * time) == 0
    assert autocorrelation_peak(np.full(400, 3.0)) == 0


def test_of_several_seasons_the_one_that_forecasts_best_is_taken():
    weekly = np.tile([1.0, 5.0, 2.0, 8.0, 3.0, 9.0, 4.0], 60)
    season, told = choose_season(weekly, (7, 365), 1)
    assert (season, told) == (7, "the step of the dates")
    assert choose_season(np.arange(100.0), (), 1)[0] == 0


def test_a_forecast_far_ahead_looks_back_whole_seasons():
    assert [lag_of(12, horizon) for horizon in (1, 12, 13, 25)] == [12, 12, 24, 36]
