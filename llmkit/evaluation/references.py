"""What needs no network: the references that keep everyone honest.

The most frequent class; logistic regression on words (TF-IDF) or on the columns of a table; ridge regression; the
forecasts that take the future for the past; how often symbols follow each other.

Shapes: N rows, F numbers of a row, K classes or numbers to predict, V symbols.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import pairwise
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from llmkit.evaluation.predictions import majority_logits

STRENGTHS = (0.1, 1.0, 10.0, 100.0)
"""How freely a linear model may fit (C, or 1 / alpha): the best on held-out training rows is taken."""

HELD_OUT = 0.2
"""Share of the training rows by which that is chosen."""

LEAST_PROBABILITY = 1e-6
"""Of a class that training lacks, so that its log-loss is not infinite."""

MOST_TERMS = 1 << 18
"""Words and pairs of words that TF-IDF weighs, the most frequent ones. Ten thousand reviews have half as many; a
hundred thousand articles have millions that occur once, and a weight for each and each class would fill the memory."""

MOST_PAIRS = 1 << 24
"""Pairs of symbols are counted where there can be no more different ones."""


WordsOf = Callable[[str], Sequence[str]]
"""text -> its words."""


class LabelledRows(Protocol):
    """Rows with what is to be predicted, as tensors."""

    inputs: Tensor
    """Tables (N, F); others are not looked at."""
    texts: Sequence[str] | None
    """As they were written: what a network knows of words and where it cuts them is its own affair."""
    targets: Tensor
    """Classes (N,) or numbers (N, K)."""
    references: Mapping[str, Tensor]
    """Name -> forecasts (N, K)."""


Encode = Callable[[LabelledRows, bool], Any]
"""(rows, whether it is to be fitted on them) -> a matrix (N, F), sparse or not."""


@dataclass(frozen=True)
class Reference:
    """What a simple method answers to the test rows.

    Args:
        name: As it is shown.
        outputs: Log-probabilities of classes, or numbers in the network's units: (N, K) float32.
        parameters: Numbers that were fitted.
        seconds: That fitting took.
        predict_seconds: That the answers took.
    """

    name: str
    outputs: Tensor
    parameters: int = 0
    seconds: float = 0.0
    predict_seconds: float = 0.0


def fit_references(
    form: str, training: LabelledRows, rows: LabelledRows, *, num_outputs: int, words_of: WordsOf = str.split
) -> list[Reference]:
    """All references that fit rows of this form, the simplest first; linear ones need scikit-learn.

    Args:
        form: image, table, text or series.
        training: What is fitted on.
        rows: What is answered.
        num_outputs: Classes, or numbers to predict.
        words_of: The words of a text.
    """
    if form == "series":
        return [Reference(name, outputs.float()) for name, outputs in rows.references.items()]
    is_classes = not training.targets.is_floating_point()
    references = [
        most_frequent_class(training.targets, len(rows.targets), num_outputs)
        if is_classes
        else Reference("training mean", torch.zeros_like(rows.targets))  # numbers are seen relative to it
    ]
    if find_spec("sklearn") is None or form not in ("text", "table"):
        return references
    with warnings.catch_warnings():
        # It says that it could be fitted more closely; what it has is what it is measured by.
        warnings.simplefilter("ignore")
        if form == "text":
            encode, name = words_encoder(words_of), "TF-IDF + "
        else:
            encode, name = as_array, ""
        fit = logistic_regression if is_classes else ridge_regression
        return [*references, fit(encode, training, rows, num_outputs, name)]


def most_frequent_class(training_targets: Tensor, count: int, num_classes: int) -> Reference:
    """Always the most frequent class of the training rows, with their shares as probabilities."""
    logits = majority_logits(training_targets, num_classes=num_classes)
    return Reference("majority class", logits.float().expand(count, -1), parameters=num_classes)


def as_array(rows: LabelledRows, is_fitted: bool) -> Any:
    """A table's rows as they are: they have been standardised."""
    return rows.inputs.numpy()


def words_encoder(words_of: WordsOf) -> Encode:
    """Single words and pairs of words, weighted by how rare they are."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # noqa: PLC0415 - an optional extra

    def terms_of(text: str) -> list[str]:
        words = words_of(text)
        # Where no text has a word there is still something to weigh.
        return [*words, *(f"{a} {b}" for a, b in pairwise(words))] or [""]

    vectorizer = TfidfVectorizer(analyzer=terms_of, sublinear_tf=True, max_features=MOST_TERMS)

    def encode(rows: LabelledRows, is_fitted: bool) -> Any:
        assert rows.texts is not None, "only called for texts"
        return vectorizer.fit_transform(rows.texts) if is_fitted else vectorizer.transform(rows.texts)

    return encode


def logistic_regression(
    encode: Encode, training: LabelledRows, rows: LabelledRows, num_classes: int, name: str
) -> Reference:
    """A linear border between classes, as strict as suits rows that were held out."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415 - an optional extra

    begin = time.perf_counter()
    matrix, classes = encode(training, True), training.targets.numpy()

    def fit(strength: float, index: np.ndarray) -> Any:
        return LogisticRegression(C=strength, tol=1e-3, max_iter=1000).fit(matrix[index], classes[index])

    def error(model: Any, index: np.ndarray) -> float:
        return -float(
            np.log(probabilities(model, matrix[index], num_classes)[range(len(index)), classes[index]]).mean()
        )

    model = fit_best(fit, error, len(classes), is_possible=lambda index: len(set(classes[index])) > 1)
    fitted = time.perf_counter()
    outputs = torch.from_numpy(np.log(probabilities(model, encode(rows, False), num_classes))).float()
    size = int(model.coef_.size + model.intercept_.size)
    return Reference(f"{name}logistic regression", outputs, size, fitted - begin, time.perf_counter() - fitted)


def probabilities(model: Any, matrix: Any, num_classes: int) -> np.ndarray:
    """(N, K) of all classes; one that training lacks has next to none."""
    found = np.full((matrix.shape[0], num_classes), LEAST_PROBABILITY)
    found[:, model.classes_] = np.maximum(model.predict_proba(matrix), LEAST_PROBABILITY)
    return np.asarray(found / found.sum(1, keepdims=True))


def ridge_regression(
    encode: Encode, training: LabelledRows, rows: LabelledRows, num_outputs: int, name: str
) -> Reference:
    """A linear function with small weights, as small as suits rows that were held out."""
    from sklearn.linear_model import Ridge  # noqa: PLC0415 - an optional extra

    begin = time.perf_counter()
    matrix, numbers = encode(training, True), training.targets.numpy()

    def fit(strength: float, index: np.ndarray) -> Any:
        return Ridge(alpha=1 / strength).fit(matrix[index], numbers[index])

    def error(model: Any, index: np.ndarray) -> float:
        return float(np.square(model.predict(matrix[index]).reshape(-1, num_outputs) - numbers[index]).mean())

    model = fit_best(fit, error, len(numbers))
    fitted = time.perf_counter()
    outputs = torch.from_numpy(model.predict(encode(rows, False)).reshape(-1, num_outputs)).float()
    size = int(np.size(model.coef_) + np.size(model.intercept_))
    return Reference(f"{name}ridge regression", outputs, size, fitted - begin, time.perf_counter() - fitted)


def fit_best(
    fit: Callable[[float, np.ndarray], Any],
    error: Callable[[Any, np.ndarray], float],
    count: int,
    *,
    is_possible: Callable[[np.ndarray], bool] = lambda index: True,
) -> Any:
    """A model of the strength that errs least on held-out training rows, fitted on all of them."""
    order = np.random.default_rng(0).permutation(count)
    held, kept = np.split(order, [math.ceil(HELD_OUT * count)])
    if len(kept) == 0 or not is_possible(kept):
        return fit(1.0, order)
    best = min(STRENGTHS, key=lambda strength: error(fit(strength, kept), held))
    return fit(best, order)


@dataclass(frozen=True)
class LanguageReference:
    """What counting symbols gives: nats over all targets."""

    name: str
    nats: float
    parameters: int


def count_symbols(training: LabelledRows, rows: LabelledRows, *, num_symbols: int) -> list[LanguageReference]:
    """How often each symbol occurs, and how often it follows the one before it.

    Pairs are mixed with single symbols by how often their first one was seen (Witten and Bell 1991).
    """
    before, after = (pairs[training.targets >= 0].long() for pairs in (training.inputs, training.targets))
    single = torch.bincount(after, minlength=num_symbols).double() + 1
    shares = single / single.sum()
    given, wanted = (pairs[rows.targets >= 0].long() for pairs in (rows.inputs, rows.targets))
    found = [LanguageReference("frequency of symbols", -float(shares[wanted].log().sum()), num_symbols)]
    if num_symbols**2 > MOST_PAIRS:
        return found
    table = torch.bincount(before * num_symbols + after, minlength=num_symbols**2).view(num_symbols, -1).double()
    seen, kinds = table.sum(1), (table > 0).sum(1)
    # A symbol that was never followed by another leaves it to the single ones.
    mixed = (table[given, wanted] + kinds[given].clamp(min=1) * shares[wanted]) / (seen + kinds.clamp(min=1))[given]
    return [*found, LanguageReference("frequency of pairs", -float(mixed.log().sum()), int((table > 0).sum()))]
