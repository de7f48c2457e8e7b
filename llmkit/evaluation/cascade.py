"""A cascade: a cheap method answers where it is sure, a dear one the rest.

Shapes: N items, K classes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmkit.evaluation.contest import value_of

NEVER = 2.0
"""A threshold that no probability reaches: everything is handed on."""

MOST_POINTS = 41
"""Of a frontier that is drawn."""


class OperatingPoint(NamedTuple):
    """What a threshold comes to."""

    threshold: float
    """The first method answers where its probability is at least this."""
    share: float
    """Of the items that are handed on."""
    value: float
    """The metric of what both say together."""


def sweep(
    first: ArrayLike, second: ArrayLike, answers: ArrayLike, metric: str, *, most: int | None = None
) -> list[OperatingPoint]:
    """Ways to divide the items (N,) by the first one's confidence, from handing on none to handing on all.

    Args:
        first: Probabilities (N, K) of the cheap method.
        second: Of the dear one.
        answers: The right classes.
        metric: By which a division is judged.
        most: No more divisions than that, evenly; all of them without it.
    """
    one, other, right = (np.asarray(values) for values in (first, second, answers))
    order = np.argsort(one.max(1), kind="stable")
    one, other, right = one[order], other[order], right[order]
    sure, size = one.max(1), len(right)
    # Items of equal confidence stay together.
    cuts = [0, *(k for k in range(1, size) if sure[k - 1] < sure[k]), size]
    if most is not None and len(cuts) > most:
        cuts = [cuts[k] for k in np.linspace(0, len(cuts) - 1, most).round().astype(int)]
    return [
        OperatingPoint(threshold_at(sure, k), k / size, value_of(np.concatenate([other[:k], one[k:]]), right, metric))
        for k in cuts
    ]


def threshold_at(sure: NDArray[np.float64], count: int) -> float:
    """The threshold that hands on the `count` least sure of confidences in rising order."""
    if count == 0:
        return 0.0
    return NEVER if count == len(sure) else float(sure[count - 1] + sure[count]) / 2


def choose_threshold(first: ArrayLike, second: ArrayLike, answers: ArrayLike, metric: str) -> OperatingPoint:
    """The division of the highest metric, the cheapest of equals; for rows that are held out for this."""
    return max(sweep(first, second, answers, metric), key=lambda point: (point.value, -point.share))


def combine(first: ArrayLike, second: ArrayLike, threshold: float) -> NDArray[np.float64]:
    """Probabilities (N, K): the first one's where it is sure, else the second one's."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return np.where(one.max(1, keepdims=True) >= threshold, one, other)
