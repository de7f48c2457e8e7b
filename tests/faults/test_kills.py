"""A run that is killed again and again comes to the same end, to the last bit."""

from __future__ import annotations

import random

import pytest
from trials import kill


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["pretrain", "lora", "mlp"])
def test_a_run_that_was_killed_five_times_is_the_run_that_was_not(name, seed, disturbed):
    verdicts = list(kill(disturbed(name), random.Random(f"{name} {seed}"), count=5))
    assert [verdict for verdict in verdicts if verdict.problem] == []
    assert len(verdicts) >= 5
