"""The fit of scaling laws: a known law is found again, published points too, and bad points are called so."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmkit.evaluation.scaling_law import Law, LossPoint, cheapest, doubts_about, fit_law, why_no_law

CHINCHILLA = Law(1.69, (406.4, 410.7), (0.34, 0.28))
"""Hoffmann et al. 2022, equation 10."""
GRID = [(n, d) for n in (1e6, 4e6, 16e6, 64e6) for d in (2e7, 8e7, 32e7)]
BOTH = ("parameters", "tokens")
SMALL = Law(1.5, (30.0,), (0.25,))
SIZES = [5e5 * 2**i for i in range(6)]

CEREBRAS = {2.6e18: 2.608, 1.3e19: 2.349, 6.1e19: 2.181, 2.8e20: 1.997, 1.1e21: 1.834, 6.3e21: 1.704, 2.3e22: 1.572}
"""Training FLOPs and loss on the test split of the Pile of the seven Cerebras-GPT models, 111M to 13B parameters, as
in the table that was published with the paper (Dey et al. 2023, arXiv:2304.03208)."""


def points_of(law, settings, noise=0.0, seed=1):
    drawn = np.random.default_rng(seed).standard_normal(len(settings))
    return [LossPoint(dials, law.loss(dials) * math.exp(noise * z)) for dials, z in zip(settings, drawn, strict=True)]


def ladder(losses):
    return [LossPoint((size,), loss) for size, loss in zip(SIZES, losses, strict=False)]


def test_the_law_of_chinchilla_gives_its_loss():
    # 1.69 + 406.4 / (70e9)^0.34 + 410.7 / (1.4e12)^0.28 = 1.69 + 0.0838 + 0.1637
    assert CHINCHILLA.loss((70e9, 1.4e12)) == pytest.approx(1.9375, abs=1e-3)


def test_a_known_law_of_two_dials_is_found_again():
    fit = fit_law(points_of(CHINCHILLA, GRID), BOTH, resamples=2)
    assert fit.law.floor == pytest.approx(1.69, rel=1e-5)
    assert fit.law.coefficients == pytest.approx((406.4, 410.7), rel=1e-4)
    assert fit.law.exponents == pytest.approx((0.34, 0.28), rel=1e-5)
    assert fit.noise < 1e-8


def test_a_known_law_of_one_dial_is_found_again_from_four_points():
    fit = fit_law(points_of(SMALL, [(x,) for x in SIZES[:4]]), ("parameters",), resamples=2)
    assert (fit.law.floor, *fit.law.coefficients, *fit.law.exponents) == pytest.approx((1.5, 30.0, 0.25), rel=1e-4)


def test_one_run_that_went_wrong_does_not_bend_the_law():
    points = points_of(CHINCHILLA, GRID)
    points[5] = LossPoint(points[5].dials, points[5].loss * 1.2)
    fit = fit_law(points, BOTH, resamples=2)
    assert fit.law.exponents == pytest.approx((0.34, 0.28), rel=0.01)


def test_intervals_of_noisy_points_hold_the_truth_as_often_as_they_say():
    # Twelve ladders of six models: of 95% intervals, no more than two miss (2% of all luck would do that).
    held = 0
    for seed in range(12):
        fit = fit_law(points_of(SMALL, [(x,) for x in SIZES], 0.003, seed), ("parameters",), resamples=30)
        truth = points_of(SMALL, [(3.2e7,)], 0.003, seed + 100)[0].loss
        found = fit.predict((3.2e7,))
        held += found.low <= truth <= found.high
    assert held >= 10


def test_the_same_seed_gives_the_same_interval_and_the_law_is_surer_than_a_single_run():
    points = points_of(SMALL, [(x,) for x in SIZES], 0.003)
    one, two = (fit_law(points, ("parameters",), seed=3, resamples=120) for _ in range(2))
    found = one.predict((3e6,))
    assert found == two.predict((3e6,))
    low, high = one.band((3e6,))
    assert found.low < low < found.loss < high < found.high


def test_points_that_lie_on_a_law_by_luck_are_not_believed_to_the_last_digit():
    found = fit_law(points_of(SMALL, [(x,) for x in SIZES[:4]]), ("parameters",), resamples=40).predict((8e6,))
    assert 0.004 < (found.high - found.low) / found.loss < 0.1


def test_a_floor_that_cannot_be_told_from_nothing_has_an_interval_all_the_same():
    fit = fit_law(ladder([5.54, 5.02, 4.80, 4.53, 4.2]), ("parameters",), resamples=30)
    low, high = fit.floor_interval()
    assert low < 1e-3
    assert high > 0.5


def test_six_published_models_predict_the_seventh():
    *known, (flops, loss) = CEREBRAS.items()
    fit = fit_law([LossPoint((x,), y) for x, y in known], ("FLOPs",), resamples=100)
    found = fit.predict((flops,))
    assert found.low < loss < found.high
    assert found.loss == pytest.approx(loss, rel=0.025)
    # The paper's own law is (f / 5.984e22)^-0.0737 + 0.5066.
    low, high = fit.exponent_interval(0)
    assert low < 0.0737 < high
    assert doubts_about(fit, (flops,)) == []


def test_too_few_points_and_too_few_settings_are_told():
    assert "3 points are too few for 3 unknowns" in why_no_law(ladder([3.0, 2.8, 2.7]), ("parameters",))[0]
    assert why_no_law(ladder([3.0, 2.8, 2.7, 2.6]), ("parameters",)) == []
    grid = [LossPoint((n, d), 3.0) for n in SIZES[:4] for d in (2e6, 8e6)]
    assert why_no_law(grid, BOTH) == ["2 different tokens say nothing about an exponent: it takes 3"]
    assert why_no_law([*ladder([3.0, 2.8, 2.7]), LossPoint((9e6,), math.nan)], ("parameters",))


def test_a_loss_that_rises_is_a_doubt():
    fit = fit_law(ladder([3.4, 3.2, 3.1, 3.15, 2.9]), ("parameters",), resamples=10)
    assert "the loss rises from 3.1000 to 3.1500 between 2,000,000 and 4,000,000 parameters" in doubts_about(
        fit, (16e6,)
    )


def test_points_that_show_no_gain_are_a_doubt():
    fit = fit_law(ladder([3.002, 2.999, 3.001, 2.998, 3.0]), ("parameters",), resamples=60)
    assert any("as wide as all that the ladder gained" in doubt for doubt in doubts_about(fit, (16e6,)))


def test_an_exponent_at_its_bound_is_a_doubt():
    line = fit_law(ladder([5.0 - 0.1 * math.log(x) for x in SIZES[:5]]), ("parameters",), resamples=10)
    assert line.law.exponents[0] < 0.1
    drop = fit_law(ladder([9.0, 3.0, 2.9999, 2.9999, 2.9999]), ("parameters",), resamples=10)
    assert any("one drop" in doubt for doubt in doubts_about(drop, (16e6,)))


def test_the_cheapest_model_for_a_budget_is_where_no_other_is_better():
    parameters, tokens = cheapest(CHINCHILLA, 1e18)
    assert 6 * parameters * tokens == pytest.approx(1e18)
    best = CHINCHILLA.loss((parameters, tokens))
    for factor in (0.5, 0.9, 1.1, 2.0):
        assert CHINCHILLA.loss((parameters * factor, tokens / factor)) > best


@pytest.mark.parametrize("coefficients", [(1e-20, 1e20), (1e20, 1e-20)])
def test_the_cheapest_model_where_exponents_are_small_is_a_number_still(coefficients):
    parameters, tokens = cheapest(Law(1.7, coefficients, (0.02, 0.02)), 6e12)
    assert parameters >= 1
    assert parameters * tokens == pytest.approx(1e12)


def test_the_law_speaks_of_what_lies_near_its_points_alone():
    fit = fit_law(points_of(SMALL, [(x,) for x in SIZES]), ("parameters",), resamples=2)
    assert fit.reaches((SIZES[-1] * 3,))
    assert not fit.reaches((SIZES[-1] * 5,))
    assert not fit.reaches((SIZES[0] / 2,))
