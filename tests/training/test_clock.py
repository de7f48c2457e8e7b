"""Limits of time, as they are typed and as they are kept."""

from __future__ import annotations

import time

import pytest

from llmkit.errors import UsageError
from llmkit.training.clock import Clock, parse_duration, seconds_since_start


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("45m", 2700),
        ("1h", 3600),
        ("2d", 172_800),
        ("3h55m", 14_100),
        ("1.5h", 5400),
        ("1d2h3m4s", 93_784),
    ],
)
def test_a_time_is_read_as_people_type_it(text, seconds):
    assert parse_duration(text, where="--time-limit") == seconds


@pytest.mark.parametrize("text", ["", "90", "h", "3h55", "5m5m", "-1h", "0s", "1 h", "3hours"])
def test_what_is_no_time_is_an_error_that_shows_how_to_write_one(text):
    with pytest.raises(UsageError, match="3h55m"):
        parse_duration(text, where="--time-limit")


def test_time_counts_from_the_start_of_the_process():
    first = seconds_since_start()
    assert first > 0.3, "Python and its imports took longer than that"
    time.sleep(0.05)
    assert seconds_since_start() > first


def make_clock(seconds_left, **fields):
    clock = Clock(limit_seconds=seconds_since_start() + seconds_left, **fields)
    for seconds in (1.0, 4.0, 2.0):
        clock.add_step(seconds)
    return clock


def test_a_step_is_the_last_when_another_one_and_its_checkpoint_would_not_fit():
    # The step in hand, the next one (4 s at the slowest), a checkpoint of 5 s and 2 s to end.
    assert make_clock(14.5, save_seconds=5.0).is_nearly_over(saves=False, looks=False)
    assert not make_clock(16.0, save_seconds=5.0).is_nearly_over(saves=False, looks=False)


def test_what_is_due_after_the_step_counts_too():
    clock = make_clock(21.0, save_seconds=5.0, look_seconds=10.0)
    assert not clock.is_nearly_over(saves=True, looks=False)
    assert clock.is_nearly_over(saves=False, looks=True)


def test_without_a_limit_it_is_never_over():
    assert not Clock().is_nearly_over(saves=True, looks=True)


def test_the_steps_until_the_deadline_leave_time_for_the_end():
    clock = Clock(deadline_seconds=100.0, earlier_seconds=60.0 - seconds_since_start(), save_seconds=3.0)
    assert clock.steps_until_deadline() is None
    clock.add_step(2.0)
    clock.add_look(1.0)
    # 100 - 60 = 40 s, less two writings, one look and 2 s: 31 s for steps of 2 s with 1 s of looks each.
    assert clock.steps_until_deadline() == 10
