"""Rows that are made ahead."""

from __future__ import annotations

import threading
import time

import pytest

from llmkit.training.feed import Feed


def rows_threads():
    return [thread for thread in threading.enumerate() if thread.name == "rows"]


@pytest.mark.parametrize("is_ahead", [False, True])
def test_the_same_things_come_in_the_same_order(is_ahead):
    with Feed(lambda step: step * step, first=3, end=40, is_ahead=is_ahead) as feed:
        assert [feed.take(step) for step in range(3, 40)] == [step * step for step in range(3, 40)]
    assert not rows_threads()


def test_what_is_ready_is_not_made_again():
    made = []
    with Feed(made.append, first=0, end=3, ready="ready") as feed:
        assert [feed.take(step) for step in range(3)] == ["ready", None, None]
    assert made == [1, 2]


def test_the_loop_does_not_wait_for_what_takes_less_than_a_step():
    def make(step):
        time.sleep(0.01)
        return step

    with Feed(make, first=0) as feed:
        for step in range(40):
            feed.take(step)
            time.sleep(0.03)
            if step == 30:
                waited = feed.waited_seconds
        # Made where it is asked for, each would be waited for 10 ms.
        assert feed.waited_seconds - waited < 9 * 0.005


def test_what_is_quick_needs_no_thread():
    with Feed(lambda step: step, first=0) as feed:
        for step in range(100):
            feed.take(step)
        assert not rows_threads()


def test_an_error_comes_at_the_step_it_belongs_to():
    def make(step):
        if step == 2:
            raise ValueError("row 17")
        return step

    with Feed(make, first=0, is_ahead=True) as feed:
        assert [feed.take(0), feed.take(1)] == [0, 1]
        with pytest.raises(ValueError, match="row 17"):
            feed.take(2)


def test_it_ends_at_once_although_nobody_takes_what_is_made():
    feed = Feed(lambda step: step, first=0, is_ahead=True)
    with feed:
        feed.take(0)
    assert feed.thread is not None
    assert not feed.thread.is_alive()


def test_no_more_is_made_than_the_run_needs():
    made = []
    with Feed(made.append, first=0, end=3, is_ahead=True) as feed:
        feed.take(0)
        time.sleep(0.1)
    assert made == [0, 1, 2]
