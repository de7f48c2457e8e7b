"""From what the model said to numbers: one record per item, and the metrics over them."""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmkit.evaluation.statistics import Estimate, bootstrap, exponential, mean, ratio, scaled


@dataclass(frozen=True)
class ChoiceScore:
    """A choice with its log-likelihood in nats and the sizes that it can be divided by."""

    text: str
    log_likelihood: float
    num_tokens: int
    num_bytes: int
    is_greedy: bool


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
    references: tuple[str, ...] = ()


Metrics = dict[str, Estimate]


def choice_metrics(items: Sequence[Item]) -> Metrics:
    """Accuracy by the likeliest choice; likeliest per byte (lm-evaluation-harness: acc_norm); likeliest per token."""
    sizes = {"accuracy": None, "accuracy_bytes": "num_bytes", "accuracy_tokens": "num_tokens"}
    return {
        name: mean([best_choice(item.choices, size) == item.answer_index for item in items])
        for name, size in sizes.items()
    }


def best_choice(choices: Sequence[ChoiceScore], divide_by: str | None = None) -> int:
    """Number of the choice with the highest log-likelihood, divided by its size if asked; the first of equals."""
    values = [c.log_likelihood / (getattr(c, divide_by) if divide_by else 1) for c in choices]
    return values.index(max(values))


def continuation_metrics(items: Sequence[Item]) -> Metrics:
    """For one continuation only (LAMBADA): is it what the model would say, and how likely is it?"""
    nats = [-item.choices[0].log_likelihood for item in items]
    return {
        "accuracy": mean([item.choices[0].is_greedy for item in items]),
        "nats_per_token": ratio(nats, [item.choices[0].num_tokens for item in items]),
        "perplexity": exponential(mean(nats)),
    }


def label_metrics(items: Sequence[Item], num_labels: int, seed: int) -> Metrics:
    """Those of choices, and macro-F1: the F1 of each label that occurs, averaged."""
    predicted = np.array([best_choice(item.choices) for item in items])
    answers = np.array([item.answer_index for item in items])

    def score(indices: NDArray[np.int64]) -> float:
        return macro_f1(predicted[indices], answers[indices], num_labels)

    return {**choice_metrics(items), "macro_f1": bootstrap(score, len(items), seed=seed)}


def macro_f1(predicted: NDArray[np.int64], answers: NDArray[np.int64], num_labels: int) -> float:
    """Mean F1 over the labels that occur among answers or predictions (as scikit-learn)."""
    right = np.bincount(answers[predicted == answers], minlength=num_labels)
    total = np.bincount(answers, minlength=num_labels) + np.bincount(predicted, minlength=num_labels)
    return float(np.mean(2 * right[total > 0] / total[total > 0]))


def perplexity_metrics(items: Sequence[Item]) -> Metrics:
    """Over all tokens, bytes and words of the texts."""
    nats = [-item.choices[0].log_likelihood for item in items]
    per_token = ratio(nats, [item.choices[0].num_tokens for item in items])
    per_byte = ratio(nats, [item.choices[0].num_bytes for item in items])
    per_word = ratio(nats, [max(item.num_words, 1) for item in items])
    return {
        "bits_per_byte": scaled(per_byte, 1 / math.log(2)),
        "nats_per_token": per_token,
        "perplexity": exponential(per_token),
        "word_perplexity": exponential(per_word),
    }


def generate_metrics(items: Sequence[Item]) -> Metrics:
    """Exact match after normalisation, whether an accepted answer is contained, and F1 over words (as SQuAD)."""
    scores = [score_answer(item.prediction or "", item.references) for item in items]
    return {name: mean([score[name] for score in scores]) for name in ("exact_match", "contains", "f1")}


def score_answer(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """exact_match, contains and f1 against the best of the accepted answers."""
    said = normalise(prediction)
    accepted = [normalise(reference) for reference in references]
    return {
        "exact_match": float(any(is_same(prediction, reference) for reference in references)),
        "contains": float(any(f" {reference} " in f" {said} " for reference in accepted if reference)),
        "f1": max((word_f1(said, reference) for reference in accepted), default=0.0),
    }


def is_same(prediction: str, reference: str) -> bool:
    """Whether two answers are the same: as numbers where the reference is one, else in their normal form."""
    number = as_number(reference)
    if number is not None:
        return as_number(prediction) == number
    wanted = normalise(reference)
    # An answer such as "A" or "-" has no normal form: nothing must not pass for it.
    return normalise(prediction) == wanted if wanted else prediction.strip().lower() == reference.strip().lower()


def as_number(text: str) -> float | None:
    """The number that a text is, thousands' commas and a currency sign apart."""
    try:
        return float(text.strip().strip("$.").replace(",", ""))
    except ValueError:
        return None


def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, without punctuation and articles, single spaces."""
    text = "".join(letter for letter in text.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def word_f1(prediction: str, reference: str) -> float:
    """F1 over the bags of words of two normalised texts."""
    said, wanted = prediction.split(), reference.split()
    if not said or not wanted:
        return float(said == wanted)
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 2 * shared / (len(said) + len(wanted))
