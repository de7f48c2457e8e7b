"""What is trained in a given time follows published rules."""

from __future__ import annotations

import math

import pytest

from llmkit.models.budget import MOST_LR, pick_batch_tokens, pick_lr, pick_parameters


def test_without_end_of_text_there_are_twenty_tokens_for_each_parameter():
    # Chinchilla: 5.76e23 FLOPs went into 70e9 parameters and 1.4e12 tokens.
    parameters = pick_parameters(5.76e23, math.inf)
    assert parameters == pytest.approx(70e9, rel=0.02)
    assert 5.76e23 / (6 * parameters**2) == pytest.approx(20)


def test_where_that_would_be_more_than_sixteen_epochs_the_model_is_larger():
    # 1e15 FLOPs: 2.9e6 parameters and 58e6 tokens, which are 58 epochs of a million.
    parameters = pick_parameters(1e15, 3e6)
    assert parameters == pytest.approx(1e15 / (6 * 16 * 3e6))
    assert parameters > math.sqrt(1e15 / 120)


def test_a_short_text_is_rather_read_more_often_than_learned_by_heart():
    parameters = pick_parameters(1e15, 1e4)
    assert 1e15 / (6 * parameters**2) == pytest.approx(4)


def test_the_model_fits_into_memory_and_is_no_toy():
    assert pick_parameters(1e20, math.inf, most=1e7) == 1e7
    assert pick_parameters(1e9, math.inf) == 3e5


def test_learning_rate_and_batch_follow_the_flops():
    # 0.3118 x 10^(-20 x 0.125) and 0.2920 x 10^(20 x 0.3271), by hand.
    assert pick_lr(1e20) == pytest.approx(0.3118 * 10**-2.5, rel=0.01)
    assert pick_batch_tokens(1e20) == pytest.approx(0.2920 * 10**6.542)
    assert pick_lr(1e17) > pick_lr(1e20)


def test_far_below_the_runs_that_the_rule_was_found_with_the_rate_grows_no_more():
    # 90,000 parameters on 20 tokens each: the rule alone would give 0.3118 x (6 x 90e3 x 1.8e6)^-0.125 = 0.0099.
    assert pick_lr(6 * 90e3 * 1.8e6) == MOST_LR
    assert pick_lr(1e13) == MOST_LR
