import math

import numpy as np
import pytest

from llmkit.evaluation import statistics
from llmkit.evaluation.statistics import holm, interval, mcnemar_exact, mean, paired_bootstrap, ratio


def test_mcnemar_is_the_chance_of_coins_at_least_as_uneven():
    # 1 head of 4 coins or fewer: (1 + 4) / 16; both ways: 10 / 16.
    assert mcnemar_exact(1, 3) == pytest.approx(10 / 16)
    assert mcnemar_exact(3, 1) == mcnemar_exact(1, 3)
    assert mcnemar_exact(0, 0) == mcnemar_exact(5, 5) == 1.0
    assert mcnemar_exact(0, 2000) == pytest.approx(2.0**-1999, rel=1e-6, abs=0)


@pytest.mark.parametrize("counts", [(0, 1), (2, 9), (40, 61), (3000, 3150)])
def test_mcnemar_equals_the_binomial_test_of_scipy(counts):
    scipy_stats = pytest.importorskip("scipy.stats")
    assert mcnemar_exact(*counts) == pytest.approx(scipy_stats.binomtest(counts[0], sum(counts)).pvalue, rel=1e-9)


def test_holm_raises_the_least_most_and_keeps_the_order():
    # least first: 0.01 * 3, then 0.02 * 2 = 0.04, then 0.03 * 1, which may not fall below 0.04.
    assert holm([0.03, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_the_interval_of_a_mean_equals_that_of_scipy():
    scipy_stats = pytest.importorskip("scipy.stats")
    values = np.random.default_rng(1).normal(size=150)
    theirs = scipy_stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20000, rng=0)
    found = interval(values, seed=0)
    assert found == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)


def test_intervals_are_a_function_of_the_seed():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert interval(values, seed=1) == interval(values, seed=1)
    assert interval(np.arange(9.0), seed=1) != interval(np.arange(9.0), seed=2)
    assert interval([1.0, 1.0], seed=0) == (1.0, 1.0)


def test_draws_do_not_depend_on_how_many_are_made_at_once(monkeypatch):
    values = np.arange(50.0)
    whole = interval(values, seed=3)
    monkeypatch.setattr(statistics, "CHUNK", 700)
    assert interval(values, seed=3) == whole


def test_a_paired_difference_is_surer_than_two_scores_apart():
    generator = np.random.default_rng(0)
    a = (generator.random(300) < 0.6).astype(float)
    b = a.copy()
    b[np.flatnonzero(a == 0)[:15]] = 1.0
    found = paired_bootstrap(a, b, seed=0)
    assert found.value == pytest.approx(0.05)
    assert found.low > 0
    assert interval(b)[0] < interval(a)[1], "the intervals of both scores overlap"


def test_a_paired_difference_equals_the_paired_bootstrap_of_scipy():
    scipy_stats = pytest.importorskip("scipy.stats")
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=120), generator.normal(0.2, size=120)
    theirs = scipy_stats.bootstrap(
        (a, b),
        lambda x, y, axis: np.mean(y - x, axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=20000,
        rng=0,
    )
    assert paired_bootstrap(a, b, seed=0)[1:] == pytest.approx(tuple(theirs.confidence_interval), abs=0.02)


def test_the_mean_of_groups_is_as_sure_as_the_items_within_them_make_it():
    generator = np.random.default_rng(0)
    large, small = generator.normal(size=400), generator.normal(3, size=100)
    found = statistics.mean_of_means([large, small])
    assert found.value == pytest.approx((large.mean() + small.mean()) / 2)
    assert found.stderr == pytest.approx(math.sqrt(1 / 400 + 1 / 100) / 2, rel=0.1)
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.stderr, rel=0.1)
    # Groups of one size are drawn apart: the same rows of both would make the interval too wide.
    twice = statistics.mean_of_means([small, small])
    assert twice.high - twice.low == pytest.approx((mean(small).high - mean(small).low) / math.sqrt(2), rel=0.1)
    assert statistics.mean_of_means([large, [1.0]]).low is None


@pytest.mark.parametrize("size", [2, 8, 300])
def test_all_right_or_all_wrong_leaves_room_for_others_as_scipy_has_it(size):
    scipy_stats = pytest.importorskip("scipy.stats")
    for share in (0, 1):
        exact = scipy_stats.binomtest(share * size, size).proportion_ci(method="exact")
        found = mean([share] * size)
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high))
        assert (found.value, found.stderr) == (share, 0)
    assert mean([0.5] * size).low == 0.5


def test_one_item_gives_no_idea_of_the_uncertainty():
    for found in (mean([1]), ratio([1], [2]), statistics.bootstrap(lambda rows: 0.5, 1)):
        assert (found.stderr, found.low, found.high) == (None, None, None)


def test_the_interval_of_a_ratio_holds_the_ratio_and_is_about_four_errors_wide():
    generator = np.random.default_rng(0)
    sizes = generator.integers(1, 30, 400)
    found = ratio(sizes * 2.0 + generator.normal(size=400), sizes)
    assert found.low < found.value < found.high
    assert found.high - found.low == pytest.approx(2 * 1.96 * found.stderr, rel=0.15)


def test_powers_and_units_carry_the_interval_with_them():
    found = statistics.exponential(statistics.Estimate(1.0, 0.1, 0.5, 2.0))
    assert (found.value, found.stderr, found.low, found.high) == pytest.approx(
        (math.e, math.e / 10, math.exp(0.5), math.exp(2))
    )
    assert statistics.scaled(statistics.Estimate(1.0, 0.1, 0.5, 2.0), 2) == statistics.Estimate(2.0, 0.2, 1.0, 4.0)
    assert math.isfinite(statistics.exponential(statistics.Estimate(1e6)).value)
