"""Losses that leap."""

from __future__ import annotations

import random
from statistics import median

import pytest

from llmkit.training.health import NUM_LOSSES, Losses


@pytest.mark.parametrize("known", [0, 30, NUM_LOSSES])
def test_a_leap_is_judged_by_the_median_of_the_last_losses(known):
    generator = random.Random(0)
    values = [generator.uniform(1, 2) for _ in range(3 * NUM_LOSSES)]
    losses = Losses(values[:known])  # as a checkpoint has them
    for value in values[known:]:
        losses.add(value)
    assert losses.add(100.0) == median(values[-NUM_LOSSES:])


def test_equal_losses_leave_one_by_one():
    losses = Losses([1.0] * NUM_LOSSES)
    for _ in range(NUM_LOSSES // 2 + 1):
        losses.add(2.0)
    assert losses.add(100.0) == 2.0


@pytest.mark.parametrize(("usual", "loss", "leaps"), [(0.0001, 0.0003, False), (0.0001, 0.1, True), (2.0, 2.2, True)])
def test_next_to_nothing_a_leap_is_no_trifle(usual, loss, leaps):
    losses = Losses([usual] * NUM_LOSSES)
    assert (losses.add(loss) is not None) == leaps
