"""From what the model said to numbers: one record per item, and the metrics over them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from llmkit.evaluation.calibration import expected_calibration_error, log_softmax, nats_of_answers
from llmkit.evaluation.statistics import (
    Estimate,
    Interval,
    bootstrap,
    exponential,
    mean,
    mean_of_means,
    ratio,
    scaled,
)


@dataclass(frozen=True)
class ChoiceScore:
    """A choice with its log-likelihood in nats and the sizes that it can be divided by."""

    text: str
    log_likelihood: float
    num_tokens: int
    num_bytes: int
    num_characters: int
    is_greedy: bool
    unconditional: float | None = None
    """Its log-likelihood where nothing is asked, for PMI."""
    calibrated: float | None = None
    """Its log-probability with the prompt's own leaning divided out."""

    @property
    def pmi(self) -> float:
        """How much likelier the question makes it (pointwise mutual information)."""
        return self.log_likelihood - (self.unconditional or 0.0)


@dataclass(frozen=True)
class Item:
    """What became of one example."""

    id: str
    prediction: str | None
    answer: str | None
    correct: bool | None
    choices: tuple[ChoiceScore, ...] = ()
    answer_index: int = -1
    num_words: int = 0
    scores: Mapping[str, float] = field(default_factory=dict)
    """Its own part of each metric that is a mean over items."""
    group: str = ""
    """The part of the task that it belongs to."""
    question_hash: str = ""
    """Tells whether items of equal ids ask the same."""
    prompt: str = ""
    """What the model saw before the answer."""


Metrics = dict[str, Estimate]


def rankings(choices: Sequence[ChoiceScore]) -> dict[str, list[float]]:
    """What each metric chooses by: log-likelihood, or that per byte, per character, per token, or less the prior (PMI).

    In lm-evaluation-harness they are acc, acc_bytes, acc_norm, none, and acc_mutual_info. Bytes and characters choose
    alike where all text is ASCII.
    """
    found = {
        "accuracy": [c.log_likelihood for c in choices],
        "accuracy_bytes": [c.log_likelihood / c.num_bytes for c in choices],
        "accuracy_characters": [c.log_likelihood / c.num_characters for c in choices],
        "accuracy_tokens": [c.log_likelihood / c.num_tokens for c in choices],
    }
    if choices[0].unconditional is not None:
        found["accuracy_pmi"] = [c.pmi for c in choices]
    if choices[0].calibrated is not None:
        found["accuracy_calibrated"] = [c.calibrated or 0.0 for c in choices]
    return found


def choose_by(choices: Sequence[ChoiceScore]) -> dict[str, int]:
    """Number of the choice that each metric takes; the first of equals."""
    return {name: values.index(max(values)) for name, values in rankings(choices).items()}


def choice_scores(choices: Sequence[ChoiceScore], answer: int) -> dict[str, float]:
    """Whether the choice that each metric takes is right."""
    return {name: float(chosen == answer) for name, chosen in choose_by(choices).items()}


def mean_scores(items: Sequence[Item], seed: int = 0) -> Metrics:
    """The mean of each score that the items have."""
    return {name: mean([item.scores[name] for item in items], seed=seed) for name in items[0].scores}


def group_metrics(items: Sequence[Item], name: str, seed: int = 0) -> Metrics:
    """The score `name` within each group, and their mean, in which a small group counts as much as a large one."""
    groups: dict[str, list[float]] = {}
    for item in items:
        groups.setdefault(item.group, []).append(item.scores[name])
    names = sorted(groups)
    found = {f"{name} of {group}": mean(groups[group], seed=seed) for group in names}
    return {f"{name}_macro": mean_of_means([groups[group] for group in names], seed=seed), **found}


def continuation_metrics(items: Sequence[Item], seed: int = 0) -> Metrics:
    """For one continuation only (LAMBADA): is it what the model would say, and how likely is it?"""
    nats = [-item.choices[0].log_likelihood for item in items]
    return {
        "accuracy": mean([item.choices[0].is_greedy for item in items], seed=seed),
        "nats_per_token": ratio(nats, [item.choices[0].num_tokens for item in items], seed=seed),
        "perplexity": exponential(mean(nats, seed=seed)),
    }


def label_metrics(items: Sequence[Item], num_labels: int, seed: int = 0) -> Metrics:
    """Beside the means: macro-F1, Matthews correlation, log-loss and the expected calibration error.

    They are those of the log-likelihoods, and once more those of the calibrated ones where there are some.
    """
    found = mean_scores(items, seed)
    answers = np.array([item.answer_index for item in items])
    ways = {"": np.array([[c.log_likelihood for c in item.choices] for item in items])}
    if items[0].choices[0].calibrated is not None:
        ways["_calibrated"] = np.array([[c.calibrated for c in item.choices] for item in items])
    for suffix, scores in ways.items():
        predicted = scores.argmax(1)
        found |= {f"macro_f1{suffix}": agreement(macro_f1, predicted, answers, num_labels, seed)}
        found |= {f"matthews{suffix}": agreement(matthews, predicted, answers, num_labels, seed)}
        found |= probability_metrics(scores, answers, suffix, seed)
    return found


Agreement = Callable[[NDArray[np.int64], NDArray[np.int64], int], float]


def agreement(
    measure: Agreement, predicted: NDArray[np.int64], answers: NDArray[np.int64], num_labels: int, seed: int
) -> Estimate:
    """A measure of how predictions and answers agree, with its uncertainty."""
    return bootstrap(lambda rows: measure(predicted[rows], answers[rows], num_labels), len(answers), seed=seed)


def probability_metrics(
    scores: NDArray[np.float64], answers: NDArray[np.int64], suffix: str, seed: int
) -> dict[str, Estimate]:
    """Log-loss and expected calibration error of log-likelihoods (N, K)."""
    chances = np.exp(log_softmax(scores))
    sure, right = chances.max(1), chances.argmax(1) == answers
    error = bootstrap(lambda rows: expected_calibration_error(sure[rows], right[rows]), len(answers), seed=seed)
    # Draws with replacement are further from their accuracy than the items are: no interval comes of them.
    return {
        f"log_loss{suffix}": mean(nats_of_answers(chances, answers), seed=seed),
        f"calibration_error{suffix}": Estimate(error.value, error.stderr),
    }


def macro_f1(predicted: NDArray[np.int64], answers: NDArray[np.int64], num_labels: int) -> float:
    """Mean F1 over the labels that occur among answers or predictions (as scikit-learn)."""
    right = np.bincount(answers[predicted == answers], minlength=num_labels)
    total = np.bincount(answers, minlength=num_labels) + np.bincount(predicted, minlength=num_labels)
    return float(np.mean(2 * right[total > 0] / total[total > 0]))


def matthews(predicted: NDArray[np.int64], answers: NDArray[np.int64], num_labels: int) -> float:
    """Matthews correlation, for any number of labels (Gorodkin, 2004); 0 where one side is always the same."""
    size, right = len(answers), float((predicted == answers).sum())
    said = np.bincount(predicted, minlength=num_labels).astype(np.float64)
    true = np.bincount(answers, minlength=num_labels).astype(np.float64)
    spread = (size**2 - (said**2).sum()) * (size**2 - (true**2).sum())
    return float((right * size - (said * true).sum()) / math.sqrt(spread)) if spread else 0.0


MEASURES: dict[str, Agreement] = {"macro_f1": macro_f1, "matthews": matthews}
"""What is no mean over items."""


def paired_agreement(
    measure: Agreement,
    a: NDArray[np.int64],
    b: NDArray[np.int64],
    answers: NDArray[np.int64],
    num_labels: int,
    *,
    seed: int = 0,
) -> Interval:
    """A measure of the predictions `b` minus that of `a`, over the same draws of items."""

    def difference(rows: NDArray[np.int64]) -> float:
        right = answers[rows]
        return measure(b[rows], right, num_labels) - measure(a[rows], right, num_labels)

    found = bootstrap(difference, len(answers), seed=seed)
    return Interval(found.value, found.low, found.high)


def perplexity_metrics(items: Sequence[Item], seed: int = 0) -> Metrics:
    """Over all tokens, bytes and words of the texts."""
    nats = [-item.choices[0].log_likelihood for item in items]
    per_token = ratio(nats, [item.choices[0].num_tokens for item in items], seed=seed)
    per_byte = ratio(nats, [item.choices[0].num_bytes for item in items], seed=seed)
    per_word = ratio(nats, [max(item.num_words, 1) for item in items], seed=seed)
    return {
        "bits_per_byte": scaled(per_byte, 1 / math.log(2)),
        "nats_per_token": per_token,
        "perplexity": exponential(per_token),
        "word_perplexity": exponential(per_word),
        "byte_perplexity": exponential(per_byte),
    }


def is_loss(metric: str) -> bool:
    """Whether less is better."""
    return metric.startswith(
        ("bits_per_byte", "nats", "log_loss", "perplexity", "word_perplexity", "byte_perplexity", "calibration_error")
    )


def chance_of(metric: str, num_choices: Sequence[int]) -> float | None:
    """What guessing among so many choices per item would reach in a metric, where that is known."""
    if not num_choices or min(num_choices) < 2:
        return None
    if metric.startswith("accuracy") and " of " not in metric:
        return sum(1 / count for count in num_choices) / len(num_choices)
    if metric.startswith("log_loss"):
        return sum(math.log(count) for count in num_choices) / len(num_choices)
    return 0.0 if metric.startswith("matthews") else None
