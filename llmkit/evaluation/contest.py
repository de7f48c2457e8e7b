"""Methods of every kind on the same items: the figures of each, how far it is from the best, what only one gets right.

Shapes: N items, K classes; where items have fewer choices than K, the rest have probability 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from llmkit.evaluation.calibration import expected_calibration_error, log_loss
from llmkit.evaluation.metrics import MEASURES, paired_agreement
from llmkit.evaluation.predictions import Bin, confusion_matrix, reliability
from llmkit.evaluation.statistics import (
    Estimate,
    Interval,
    Labels,
    bootstrap,
    holm,
    mcnemar,
    mean,
    paired_bootstrap,
    swaps,
)

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Standing:
    """What a method comes to, and how far it is from the best."""

    method: str
    metric: Estimate
    accuracy: Estimate
    log_loss: float
    calibration_error: float
    difference: Interval
    """Its metric minus that of the best, over the same items."""
    p_value: float
    """Of `paired_test` against the best; 1 for the best itself."""
    p_holm: float
    """The same, corrected for the number of methods that are compared."""
    confusion: list[list[int]]
    """Row k: what the items of class k were taken for."""
    reliability: list[Bin]

    def to_json(self) -> dict[str, Any]:
        """For --json and comparison.json."""
        return {
            "metric": self.metric.to_json(),
            "accuracy": self.accuracy.to_json(),
            "log_loss": self.log_loss,
            "calibration_error": self.calibration_error,
            "difference": self.difference._asdict(),
            "p_value": self.p_value,
            "p_holm": self.p_holm,
            "confusion_matrix": self.confusion,
            "reliability": [found._asdict() for found in self.reliability],
        }


def measure(probabilities: ArrayLike, answers: ArrayLike, metric: str, *, seed: int = 0) -> Estimate:
    """A metric of probabilities (N, K) against classes (N,): accuracy unless it is one of MEASURES."""
    chances, right = np.asarray(probabilities), np.asarray(answers, dtype=np.int64)
    predicted = chances.argmax(1)
    if metric not in MEASURES:
        return mean(predicted == right, seed=seed)
    compute, size = MEASURES[metric], chances.shape[1]
    return bootstrap(lambda rows: compute(predicted[rows], right[rows], size), len(right), seed=seed)


def value_of(probabilities: ArrayLike, answers: ArrayLike, metric: str) -> float:
    """The same without its interval, which costs two thousand draws."""
    chances, right = np.asarray(probabilities), np.asarray(answers, dtype=np.int64)
    predicted = chances.argmax(1)
    if metric not in MEASURES:
        return float((predicted == right).mean())
    return MEASURES[metric](predicted, right, chances.shape[1])


def judge(entries: Mapping[str, ArrayLike], answers: ArrayLike, *, metric: str, seed: int = 0) -> list[Standing]:
    """The methods in their order, each beside the best of them; the first of equals is the best.

    Args:
        entries: Method -> probabilities (N, K).
        answers: The right classes (N,).
        metric: By which the best is found.
        seed: Of the intervals.
    """
    right = np.asarray(answers, dtype=np.int64)
    found = {name: np.asarray(chances, dtype=np.float64) for name, chances in entries.items()}
    metrics = {name: measure(chances, right, metric, seed=seed) for name, chances in found.items()}
    best = max(metrics, key=lambda name: metrics[name].value)
    correct = {name: chances.argmax(1) == right for name, chances in found.items()}
    others = [name for name in found if name != best]
    p_values = {name: p_value(found[best], found[name], right, metric, seed=seed) for name in others}
    corrected = dict(zip(others, holm([p_values[name] for name in others]), strict=True))
    return [
        Standing(
            method=name,
            metric=metrics[name],
            accuracy=mean(correct[name], seed=seed),
            log_loss=log_loss(chances, right),
            calibration_error=expected_calibration_error(chances.max(1), correct[name]),
            difference=difference(found[best], chances, right, metric, seed=seed),
            p_value=p_values.get(name, 1.0),
            p_holm=corrected.get(name, 1.0),
            confusion=confusion(chances, right),
            reliability=reliability(as_logits(chances), torch.from_numpy(right)),
        )
        for name, chances in found.items()
    ]


def difference(best: Numbers, other: Numbers, right: NDArray[np.int64], metric: str, *, seed: int) -> Interval:
    """The metric of `other` minus that of `best`, over the same draws of items."""
    a, b = best.argmax(1), other.argmax(1)
    if metric not in MEASURES:
        return paired_bootstrap(a == right, b == right, seed=seed)
    return paired_agreement(MEASURES[metric], a, b, right, best.shape[1], seed=seed)


def paired_test(metric: str) -> str:
    """What tells whether two methods differ in a metric."""
    return "a paired randomisation test" if metric in MEASURES else "McNemar's exact test"


def p_value(best: Numbers, other: Numbers, right: NDArray[np.int64], metric: str, *, seed: int) -> float:
    """Of a difference as large as that if both were equally good.

    In a metric of all items together they may differ though they are right as often: then what the two said of random
    items changes sides.
    """
    a, b = best.argmax(1), other.argmax(1)
    if metric not in MEASURES:
        return mcnemar(a == right, b == right)
    compute, size = MEASURES[metric], best.shape[1]

    def gap(one: Labels, two: Labels) -> float:
        return compute(two, right, size) - compute(one, right, size)

    return swaps(gap, a, b, seed=seed)


def as_logits(probabilities: Numbers) -> torch.Tensor:
    """Log-probabilities as a tensor."""
    return torch.from_numpy(np.log(np.maximum(probabilities, np.finfo(np.float64).tiny)))


def confusion(probabilities: Numbers, right: NDArray[np.int64]) -> list[list[int]]:
    """Counts (K, K): row k is what became of the items of class k."""
    predicted, size = torch.from_numpy(probabilities.argmax(1)), probabilities.shape[1]
    matrix: list[list[int]] = confusion_matrix(predicted, torch.from_numpy(right), num_classes=size).tolist()
    return matrix


def only_one_right(entries: Mapping[str, ArrayLike], answers: Sequence[int]) -> dict[str, list[int]]:
    """Method -> numbers of the items that it alone gets right; nothing where there is one method."""
    if len(entries) < 2:
        return {}
    right = np.stack([np.asarray(chances).argmax(1) == np.asarray(answers) for chances in entries.values()])
    alone = right & (right.sum(0) == 1)
    return {name: np.flatnonzero(alone[row]).tolist() for row, name in enumerate(entries)}
