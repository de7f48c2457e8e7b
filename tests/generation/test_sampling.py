"""Sampling: filters by their definitions, draws by their probabilities, randomness by (seed, row)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmkit.errors import ModelError, UsageError
from llmkit.generation.sampling import SamplingConfig, draw, heat, keep_top_k, keep_top_p, row_generator, sample

floats = st.floats(-20, 20, width=32)
some_logits = st.integers(1, 40).flatmap(lambda size: st.lists(floats, min_size=size, max_size=size))
relaxed = settings(max_examples=60, deadline=None)


def kept(logits):
    """The ids that a filter left, row by row."""
    return [set(row.isfinite().nonzero().flatten().tolist()) for row in logits]


@relaxed
@given(some_logits, st.integers(0, 50))
def test_top_k_keeps_exactly_k_of_the_highest(values, k):
    logits = torch.tensor([values])
    (ids,) = kept(keep_top_k(logits, k))
    assert len(ids) == (min(k, len(values)) if k else len(values))
    lost = [v for i, v in enumerate(values) if i not in ids]
    assert all(values[i] >= max(lost, default=-100) for i in ids)


@relaxed
@given(some_logits, st.floats(0.01, 0.999))
def test_top_p_keeps_the_fewest_tokens_that_hold_the_mass(values, p):
    logits = torch.tensor([values])
    probabilities = logits.double().softmax(-1)[0].tolist()
    (ids,) = kept(keep_top_p(logits, p))
    mass = sum(probabilities[i] for i in ids)
    assert mass >= p - 1e-5
    assert mass - min(probabilities[i] for i in ids) < p + 1e-5
    lost = [q for i, q in enumerate(probabilities) if i not in ids]
    assert min(probabilities[i] for i in ids) >= max(lost, default=0) - 1e-7


def test_top_p_looks_beyond_its_first_tokens_when_the_distribution_is_flat():
    logits = torch.zeros(2, 5000)
    logits[1, 7] = 50.0
    flat, peaked = kept(keep_top_p(logits, 0.5))
    assert len(flat) in (2500, 2501)
    assert peaked == {7}


@relaxed
@given(some_logits, st.floats(0, 1, exclude_max=True))
def test_a_draw_is_where_the_running_sum_passes_the_number(values, uniform):
    probabilities = torch.tensor([values], dtype=torch.float64).softmax(-1)
    (token,) = draw(probabilities, torch.tensor([uniform], dtype=torch.float64)).tolist()
    before = sum(probabilities[0].tolist()[:token])
    assert before <= uniform + 1e-9
    assert before + probabilities[0, token] >= uniform - 1e-9


@pytest.mark.parametrize("uniform", [0.0, 0.5, 1 - 2**-53])
def test_an_impossible_token_is_never_drawn(uniform):
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.75, 0.0]])
    assert draw(probabilities, torch.tensor([uniform], dtype=torch.float64)).item() in (1, 3)


def test_draws_follow_the_probabilities():
    probabilities = torch.tensor([0.5, 0.3, 0.2]).log().expand(20_000, 3)
    ids = sample(probabilities, SamplingConfig(1.0), [row_generator(0, row) for row in range(20_000)])
    shares = ids.bincount(minlength=3) / 20_000
    assert torch.allclose(shares, torch.tensor([0.5, 0.3, 0.2]), atol=0.015)


def test_temperature_zero_takes_the_likeliest_and_no_random_number():
    generator = row_generator(0, 0)
    before = generator.get_state()
    assert sample(torch.tensor([[0.0, 3.0, 1.0]]), SamplingConfig(0.0), [generator]).tolist() == [1]
    assert torch.equal(before, generator.get_state())


def test_a_very_cold_temperature_is_greedy_and_not_a_number_is_never_made():
    logits = torch.tensor([[1000.0, 999.0, -1000.0]])
    assert heat(logits, 1e-40).softmax(-1).tolist() == [[1.0, 0.0, 0.0]]


def test_a_row_does_not_depend_on_the_rows_beside_it():
    logits = torch.randn(5, 100, generator=torch.Generator().manual_seed(0))
    config = SamplingConfig(1.3, top_k=50, top_p=0.9)
    together = sample(logits, config, [row_generator(3, row) for row in range(5)])
    alone = [sample(logits[row : row + 1], config, [row_generator(3, row)]).item() for row in range(5)]
    assert together.tolist() == alone


def test_rows_and_seeds_give_numbers_of_their_own():
    numbers = {torch.rand((), generator=row_generator(seed, row)).item() for seed in range(10) for row in range(10)}
    assert len(numbers) == 100


def test_logits_that_are_no_numbers_are_an_error_that_says_so():
    with pytest.raises(ModelError, match="not a number"):
        sample(torch.tensor([[0.0, float("nan")]]), SamplingConfig(), [row_generator(0, 0)])


@pytest.mark.parametrize(
    ("values", "flag"),
    [
        ((-1.0, 0, 1.0), "--temperature"),
        ((float("nan"), 0, 1.0), "--temperature"),
        ((1.0, -1, 1.0), "--top-k"),
        ((1.0, 0, 0.0), "--top-p"),
    ],
)
def test_a_value_without_meaning_names_its_flag(values, flag):
    with pytest.raises(UsageError) as caught:
        SamplingConfig(*values)
    assert caught.value.where == flag
