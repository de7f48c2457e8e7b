"""Whether a model's confidence is what it is worth, and what takes a prompt's own leaning out of it.

Shapes: N items, K classes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15
"""Equal parts of confidence, in every figure and every drawing."""

FEWEST_TO_LEAN = 20
LEANING, LEANING_BY = 0.9, 0.2
"""Of so many items or more: from which share of all answers one label is told, and how far above its true share."""


def expected_calibration_error(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> float:
    """How far confidence is from accuracy, on average over items (Guo et al., 2017).

    Args:
        confidence: (N,) the probability of the class that was chosen.
        correct: (N,) whether it was the right one.
        bins: Equal parts of 0 to 1; a bin's upper edge belongs to it.
    """
    sure, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    numbers = np.clip(np.ceil(sure * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(numbers, weights=sure - right, minlength=bins)
    return float(np.abs(gaps).sum() / len(sure))


def log_loss(probabilities: ArrayLike, answers: ArrayLike) -> float:
    """Mean nats of the right classes (N,) under probabilities (N, K)."""
    return float(nats_of_answers(probabilities, answers).mean())


def nats_of_answers(probabilities: ArrayLike, answers: ArrayLike) -> NDArray[np.float64]:
    """(N,) nats of the right class of each item; a probability of zero counts as the least step of a float from 1."""
    chances = np.asarray(probabilities, dtype=np.float64)
    right = np.asarray(answers, dtype=np.int64)
    return -np.log(np.maximum(chances[np.arange(len(right)), right], np.finfo(np.float64).eps))


def log_softmax(log_likelihoods: ArrayLike) -> NDArray[np.float64]:
    """Log-probabilities (N, K) of classes from their log-likelihoods, which need not add up to anything."""
    scores = np.asarray(log_likelihoods, dtype=np.float64)
    shifted = scores - scores.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)), dtype=np.float64)


class Leaning(NamedTuple):
    """A label that is said far more often than it is right; shares of the items."""

    label: str
    said: float
    right: float

    def in_words(self, *, can_calibrate: bool) -> str:
        """What was said, what is true, and what could be done about it."""
        fix = "; --calibrate divides out what the prompt leans to" if can_calibrate else ""
        return f"{self.said:.0%} of its answers are {self.label!r}, and {self.right:.0%} of the rows{fix}"


def leaning(predictions: Sequence[str], answers: Sequence[str]) -> Leaning | None:
    """The label that nearly all predictions are although the answers are spread; None where they do not lean so.

    A prompt can make a model say one label to everything: its accuracy is then the share of that label.
    """
    if len(predictions) < FEWEST_TO_LEAN:
        return None
    label, count = Counter(predictions).most_common(1)[0]
    said, right = count / len(predictions), answers.count(label) / len(answers)
    return Leaning(label, said, right) if said >= LEANING and said - right >= LEANING_BY else None


def contextual_calibration(log_likelihoods: ArrayLike, content_free: ArrayLike) -> NDArray[np.float64]:
    """Log-probabilities (N, K) with the prompt's own leaning divided out (Zhao et al., 2021).

    Args:
        log_likelihoods: (N, K) of the items' labels.
        content_free: (M, K) of the same labels where the text says nothing, such as "N/A"; the M are averaged.
    """
    leaning = log_softmax(content_free)
    prior = np.logaddexp.reduce(leaning, axis=0) - np.log(len(leaning))
    return log_softmax(log_softmax(log_likelihoods) - prior)
