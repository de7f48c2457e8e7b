"""Estimates with their uncertainty, and whether two differ."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BOOTSTRAP_DRAWS = 2000

SIGN_DRAWS = 9999

CHUNK = 1 << 22
"""Row numbers that are drawn at once (32 MiB)."""

Labels = NDArray[np.int64]

Seed = int | tuple[int, int]
"""Of one draw, or of one among several that are drawn apart."""

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""Of row numbers (draws, size): a value of each draw."""


class Interval(NamedTuple):
    """A value with its 95% interval; None where one item gives no idea of it."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Estimate:
    """A value, its standard error, and its 95% interval; None where one item gives no idea of them."""

    value: float
    stderr: float | None = None
    low: float | None = None
    high: float | None = None

    def to_json(self) -> dict[str, float | None]:
        """For --json and results.json."""
        return {"value": self.value, "stderr": self.stderr, "low": self.low, "high": self.high}


def mean(values: ArrayLike, *, seed: int = 0) -> Estimate:
    """The mean over items, with the standard error of the mean (sample standard deviation over the root of n)."""
    numbers = np.asarray(values, dtype=np.float64)
    size = len(numbers)
    if size < 2:
        return Estimate(float(numbers.mean()))
    stderr = float(numbers.std(ddof=1) / math.sqrt(size))
    return Estimate(float(numbers.mean()), stderr, *(interval_of_equals(numbers) or interval(numbers, seed=seed)))


def interval_of_equals(values: NDArray[np.float64]) -> tuple[float, float] | None:
    """The 95% interval of a share where all items are right, or all wrong; None for any other values.

    Draws of such items are all alike, as if nothing could be otherwise. The exact interval of Clopper and Pearson ends
    where so many in a row would be seen in 2.5% of cases.
    """
    if values[0] not in (0.0, 1.0) or (values != values[0]).any():
        return None
    chance = float(0.025 ** (1 / len(values)))
    return (chance, 1.0) if values[0] else (0.0, 1 - chance)


def mean_of_means(groups: Sequence[ArrayLike], *, seed: int = 0) -> Estimate:
    """The mean of the means of groups, in which a small group counts as much as a large one.

    The groups are these and no others: only the items within them are a sample, so that these alone are drawn.
    """
    samples = [np.asarray(group, dtype=np.float64) for group in groups]
    value = float(np.mean([sample.mean() for sample in samples]))
    if min(map(len, samples)) < 2:
        return Estimate(value)
    stderr = math.sqrt(sum(sample.var(ddof=1) / len(sample) for sample in samples)) / len(samples)
    draws = np.mean([draw_means(sample, (seed, number)) for number, sample in enumerate(samples)], axis=0)
    return Estimate(value, stderr, *middle(draws))


def ratio(numerators: ArrayLike, denominators: ArrayLike, *, seed: int = 0) -> Estimate:
    """Sum over sum, such as nats per token over documents, with the standard error of a ratio estimator."""
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    size, value = len(above), float(above.sum() / below.sum())
    if size < 2:
        return Estimate(value)
    residuals = above - value * below
    stderr = float(math.sqrt(size / (size - 1) * (residuals**2).sum()) / below.sum())
    draws = resample(lambda rows: above[rows].sum(1) / below[rows].sum(1), size, seed=seed)
    return Estimate(value, stderr, *middle(draws))


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], size: int, *, seed: int = 0) -> Estimate:
    """A statistic of item numbers over all items, with its standard deviation over seeded draws with replacement."""
    value = statistic(np.arange(size))
    if size < 2:
        return Estimate(value)
    draws = resample(lambda rows: np.array([statistic(row) for row in rows]), size, seed=seed)
    return Estimate(value, float(draws.std(ddof=1)), *middle(draws))


def interval(values: ArrayLike, *, seed: int = 0) -> tuple[float, float]:
    """The 95% interval of the mean of `values`, by a seeded percentile bootstrap over items (Efron, 1979)."""
    return middle(draw_means(np.asarray(values, dtype=np.float64), seed))


def draw_means(values: NDArray[np.float64], seed: Seed) -> NDArray[np.float64]:
    """The mean of each of BOOTSTRAP_DRAWS draws with replacement."""
    return resample(lambda rows: values[rows].mean(1), len(values), seed=seed)


def paired_bootstrap(a: ArrayLike, b: ArrayLike, *, weights: ArrayLike | None = None, seed: int = 0) -> Interval:
    """The mean of `b` minus that of `a`, values of the same items, with the interval of this difference.

    Items are drawn, and both values go with an item: what is hard for both does not widen the interval. An item with
    a weight, such as the bytes of a text, counts by it.
    """
    differences = np.asarray(b, dtype=np.float64) - np.asarray(a, dtype=np.float64)
    sizes = np.ones(len(differences)) if weights is None else np.asarray(weights, dtype=np.float64)
    found = ratio(differences * sizes, sizes, seed=seed)
    return Interval(found.value, found.low, found.high)


def sign_flip(differences: ArrayLike, *, seed: int = 0) -> float:
    """Two-sided p-value of the paired randomisation test: how often random signs give a sum as far from 0 (Fisher)."""
    values = np.asarray(differences, dtype=np.float64)
    generator = np.random.default_rng(seed)
    far = abs(values.sum()) * (1 - 1e-12)
    at_once = max(1, CHUNK // len(values))
    count = 0
    for first in range(0, SIGN_DRAWS, at_once):
        signs = generator.integers(0, 2, (min(at_once, SIGN_DRAWS - first), len(values)), dtype=np.int8)
        count += int((np.abs((2.0 * signs - 1.0) @ values) >= far).sum())
    return (count + 1) / (SIGN_DRAWS + 1)


def swaps(difference: Callable[[Labels, Labels], float], a: Labels, b: Labels, *, seed: int = 0) -> float:
    """Two-sided p-value of the paired randomisation test for what is no mean over items (Noreen, 1989).

    It is how often `difference` is as far from 0 when what was said of random items changes sides.

    Args:
        difference: Of what two said to all items.
        a: (N,) what one said.
        b: What the other said.
        seed: Of the items that change sides.
    """
    differing = np.flatnonzero(a != b)
    if not len(differing):
        return 1.0
    generator = np.random.default_rng(seed)
    far = abs(difference(a, b)) * (1 - 1e-12)
    count = 0
    for _ in range(SIGN_DRAWS):
        moved = differing[generator.integers(0, 2, len(differing), dtype=np.int8) == 1]
        one, other = a.copy(), b.copy()
        one[moved], other[moved] = b[moved], a[moved]
        count += abs(difference(one, other)) >= far
    return (count + 1) / (SIGN_DRAWS + 1)


def resample(statistic: Statistic, size: int, *, seed: Seed) -> NDArray[np.float64]:
    """The statistic of BOOTSTRAP_DRAWS draws of `size` rows with replacement."""
    return np.concatenate([statistic(rows) for rows in draw_rows(size, seed)])


def draw_rows(size: int, seed: Seed) -> Iterator[NDArray[np.int64]]:
    """Row numbers (draws, size), a part of the draws at a time."""
    generator = np.random.default_rng(seed)
    at_once = max(1, CHUNK // size)
    for first in range(0, BOOTSTRAP_DRAWS, at_once):
        yield generator.integers(0, size, (min(at_once, BOOTSTRAP_DRAWS - first), size))


def middle(draws: ArrayLike) -> tuple[float, float]:
    """The middle 95% of the draws."""
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), (0.025, 0.975))
    return float(low), float(high)


def mcnemar_exact(only_a: int, only_b: int) -> float:
    """Two-sided p-value of McNemar's exact test: items that only `a`, and that only `b`, got right.

    If both are equally good, each of these items is a fair coin. Items that both got right or wrong say nothing.
    """
    flips, fewer = only_a + only_b, min(only_a, only_b)
    ways = term = 1
    for k in range(fewer):
        term = term * (flips - k) // (k + 1)
        ways += term
    return min(1.0, float(2 * ways / 2**flips))


def mcnemar(a: ArrayLike, b: ArrayLike) -> float:
    """The same of what two got right (N,), item by item."""
    one, other = np.asarray(a, dtype=bool), np.asarray(b, dtype=bool)
    return mcnemar_exact(int((one & ~other).sum()), int((other & ~one).sum()))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, raised so that one below 0.05 among them is false in 5% of cases (Holm, 1979)."""
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def exponential(estimate: Estimate) -> Estimate:
    """E to the power of an estimate; the error to first order."""

    def power(nats: float | None) -> float | None:
        # Nats per word of an untrained model can be beyond what a float holds.
        return None if nats is None else math.exp(min(nats, 700.0))

    value = math.exp(min(estimate.value, 700.0))
    stderr = None if estimate.stderr is None else value * estimate.stderr
    return Estimate(value, stderr, power(estimate.low), power(estimate.high))


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """An estimate in another unit; the factor is positive."""
    rest = (None if n is None else n * factor for n in (estimate.stderr, estimate.low, estimate.high))
    return Estimate(estimate.value * factor, *rest)
