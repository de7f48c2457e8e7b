"""A cascade: a cheap method answers where it is sure, a dear one the rest.

Shapes: N items, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

NEVER = 2.0
"""A threshold that no probability reaches: everything is handed on."""

MOST_POINTS = 41


class Point(NamedTuple):
    """What a threshold comes to."""

    threshold: float
    """The first method answers where its probability is at least this."""
    share: float
    """Of the items that are handed on."""
    accuracy: float


def sweep(first: ArrayLike, second: ArrayLike, answers: ArrayLike) -> list[Point]:
    """Every way to divide the items (N,) by the first one's confidence, from handing on none to handing on all."""
    one, other, right = np.asarray(first), np.asarray(second), np.asarray(answers)
    sure = one.max(1)
    order = np.argsort(sure, kind="stable")
    sure, size = sure[order], len(right)
    kept, handed = ((chances.argmax(1) == right)[order] for chances in (one, other))
    # Right with k handed on: the second one's among the k least sure, and the first one's among the rest.
    hits = np.concatenate([[0], np.cumsum(handed)]) + kept.sum() - np.concatenate([[0], np.cumsum(kept)])
    # Items of equal confidence stay together.
    cuts = [0, *(k for k in range(1, size) if sure[k - 1] < sure[k]), size]
    return [Point(threshold_at(sure, k), k / size, float(hits[k] / size)) for k in cuts]


def threshold_at(sure: NDArray[np.float64], count: int) -> float:
    """The threshold that hands on the `count` least sure of confidences in rising order."""
    if count == 0:
        return 0.0
    return NEVER if count == len(sure) else float(sure[count - 1] + sure[count]) / 2


def choose_threshold(first: ArrayLike, second: ArrayLike, answers: ArrayLike) -> Point:
    """The division with the most right answers, the cheapest of equals; for rows that are held out for this."""
    return max(sweep(first, second, answers), key=lambda point: (point.accuracy, -point.share))


def combine(first: ArrayLike, second: ArrayLike, threshold: float) -> NDArray[np.float64]:
    """Probabilities (N, K): the first one's where it is sure, else the second one's."""
    one, other = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    return np.where(one.max(1, keepdims=True) >= threshold, one, other)


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most MOST_POINTS of them, evenly, the first and the last among them."""
    if len(points) <= MOST_POINTS:
        return list(points)
    return [points[round(i * (len(points) - 1) / (MOST_POINTS - 1))] for i in range(MOST_POINTS)]
