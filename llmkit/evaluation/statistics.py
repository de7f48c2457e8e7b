"""Estimates with their uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class Estimate:
    """A value and its standard error; None where one item gives no idea of it."""

    value: float
    stderr: float | None

    def to_json(self) -> dict[str, float | None]:
        """For --json and results.json."""
        return {"value": self.value, "stderr": self.stderr}


def mean(values: Sequence[float] | NDArray[np.floating]) -> Estimate:
    """The mean over items, with the standard error of the mean (sample standard deviation over the root of n)."""
    numbers = np.asarray(values, dtype=np.float64)
    size = len(numbers)
    stderr = float(numbers.std(ddof=1) / math.sqrt(size)) if size > 1 else None
    return Estimate(float(numbers.mean()), stderr)


def ratio(numerators: Sequence[float], denominators: Sequence[float]) -> Estimate:
    """Sum over sum, such as nats per token over documents, with the standard error of a ratio estimator."""
    above, below = np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)
    size, value = len(above), float(above.sum() / below.sum())
    if size < 2:
        return Estimate(value, None)
    residuals = above - value * below
    return Estimate(value, float(math.sqrt(size / (size - 1) * (residuals**2).sum()) / below.sum()))


def bootstrap(statistic: Callable[[NDArray[np.int64]], float], size: int, *, seed: int) -> Estimate:
    """A statistic of item numbers over all items, with its standard deviation over seeded draws with replacement."""
    value = statistic(np.arange(size))
    if size < 2:
        return Estimate(value, None)
    generator = np.random.default_rng(seed)
    draws = [statistic(generator.integers(0, size, size)) for _ in range(BOOTSTRAP_DRAWS)]
    return Estimate(value, float(np.std(draws, ddof=1)))


def exponential(estimate: Estimate) -> Estimate:
    """E to the power of an estimate; the error to first order."""
    # Nats per word of an untrained model can be beyond what a float holds.
    value = math.exp(min(estimate.value, 700.0))
    return Estimate(value, None if estimate.stderr is None else value * estimate.stderr)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    """An estimate in another unit."""
    return Estimate(estimate.value * factor, None if estimate.stderr is None else estimate.stderr * factor)
