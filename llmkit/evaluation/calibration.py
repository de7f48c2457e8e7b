"""Whether a model's confidence is what it is worth, and what takes a prompt's own leaning out of it.

Shapes: N items, K classes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

BINS = 15
"""Equal parts of confidence, in every figure and every drawing."""


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


def contextual_calibration(log_likelihoods: ArrayLike, content_free: ArrayLike) -> NDArray[np.float64]:
    """Log-probabilities (N, K) with the prompt's own leaning divided out (Zhao et al., 2021).

    Args:
        log_likelihoods: (N, K) of the items' labels.
        content_free: (M, K) of the same labels where the text says nothing, such as "N/A"; the M are averaged.
    """
    leaning = log_softmax(content_free)
    prior = np.logaddexp.reduce(leaning, axis=0) - np.log(len(leaning))
    return log_softmax(log_softmax(log_likelihoods) - prior)
