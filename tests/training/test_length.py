"""How long a run with a deadline is."""

from __future__ import annotations

import pytest

from llmkit.errors import UsageError
from llmkit.recipe.schema import TrainSection
from llmkit.training.length import Length
from llmkit.training.optim import lr_at

CONFIG = TrainSection(steps=50, schedule="wsd", decay_share=0.2, warmup_steps=5, lr=1.0, min_lr_ratio=0.0)


def follow(length, capacity):
    """The learning rates of a run that has time for `capacity(step)` steps in all, as it looks at each step."""
    rates, step, num_steps = [], 0, length.planned
    while step < num_steps:
        num_steps = length.propose(step, None if step == 0 else capacity(step) - step)
        rates.append(lr_at(step, CONFIG, num_steps=num_steps))
        step += 1
    return rates


@pytest.mark.parametrize("steps", [20, 50, 200])
def test_the_decay_begins_when_the_time_left_is_what_it_needs(steps):
    rates = follow(Length(CONFIG, 50, has_deadline=True), lambda step: steps)
    assert len(rates) == steps
    decay = round(0.2 * steps)
    assert rates[5 : steps - decay] == [1.0] * (steps - decay - 5)
    assert rates[-1] == 0.0
    assert rates[-decay:] == sorted(rates[-decay:], reverse=True)


def test_a_settled_length_is_a_function_of_step_and_length_alone():
    length = Length(CONFIG, 50, has_deadline=True)
    rates = follow(length, lambda step: 100)
    assert [lr_at(step, CONFIG, num_steps=length.settled) for step in range(100)] == rates


def test_a_run_that_becomes_slower_is_cut_and_still_decays():
    rates = follow(Length(CONFIG, 50, has_deadline=True), lambda step: 100 if step < 85 else 95)
    assert len(rates) == 95
    assert rates[-1] == 0.0


def test_noise_moves_no_settled_length():
    rates = follow(Length(CONFIG, 50, has_deadline=True), lambda step: 100 if step < 85 else 99)
    assert len(rates) == 100


def test_a_resumed_run_keeps_its_settled_length():
    length = Length(CONFIG, 50, has_deadline=True, settled=100)
    assert length.propose(90, None) == 100


def test_without_a_deadline_the_recipe_decides():
    assert Length(CONFIG, 50).propose(3, 10) == 0


def test_a_schedule_that_falls_from_the_beginning_cannot_end_on_time():
    with pytest.raises(UsageError, match="on the way"):
        Length(TrainSection(steps=50, schedule="cosine"), 50, has_deadline=True)
