"""How good predicted classes and numbers are, and the references that keep them honest.

Shapes: N rows, K classes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from llmkit.evaluation.calibration import BINS
from llmkit.evaluation.metrics import macro_f1


def classification_metrics(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Accuracy, macro-F1 and mean log-loss (nats) of logits (N, K) against classes (N,)."""
    predicted = logits.argmax(1)
    matrix = confusion_matrix(predicted, targets, num_classes=logits.shape[1])
    found = macro_f1(predicted.cpu().numpy(), targets.cpu().numpy(), logits.shape[1])
    loss = F.cross_entropy(logits.float(), targets).item()
    return {"accuracy": accuracy(matrix), "macro_f1": found, "loss": loss}


def confusion_matrix(predicted: Tensor, targets: Tensor, *, num_classes: int) -> Tensor:
    """Counts (K, K): row k is what became of the rows whose class is k."""
    return torch.bincount(targets * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def accuracy(matrix: Tensor) -> float:
    """The share of rows whose class was found."""
    return matrix.diagonal().sum().item() / matrix.sum().item()


def majority_logits(training_targets: Tensor, *, num_classes: int) -> Tensor:
    """Log-probabilities (K,) of the classes by their shares of the training rows."""
    counts = torch.bincount(training_targets, minlength=num_classes).double()
    # One row more per class, so that a class which training lacks does not make the loss infinite.
    return (counts + 1).log() - (counts + 1).sum().log()


def majority_metrics(training_targets: Tensor, targets: Tensor, *, num_classes: int) -> dict[str, float]:
    """What always answering the most frequent class of the training rows gives, with their shares as probabilities."""
    return classification_metrics(
        majority_logits(training_targets, num_classes=num_classes).expand(len(targets), -1), targets
    )


@dataclass(frozen=True)
class ClassFigures:
    """How well one class is found."""

    name: str
    rows: int
    precision: float
    recall: float
    f1: float


def class_figures(matrix: Tensor, names: Sequence[str]) -> list[ClassFigures]:
    """Precision, recall and F1 of each class; 0 where nothing was found."""
    hits, asked, answered = (x.double() for x in (matrix.diagonal(), matrix.sum(1), matrix.sum(0)))
    precision, recall = hits / answered.clamp(min=1), hits / asked.clamp(min=1)
    f1 = 2 * hits / (asked + answered).clamp(min=1)
    columns = zip(names, asked.int().tolist(), precision.tolist(), recall.tolist(), f1.tolist(), strict=True)
    return [ClassFigures(*column) for column in columns]


class Bin(NamedTuple):
    """Rows whose class was predicted with about the same confidence."""

    confidence: float
    accuracy: float
    rows: int


def reliability(logits: Tensor, targets: Tensor, *, num_bins: int = BINS) -> list[Bin]:
    """Mean confidence and accuracy by confidence, empty bins left out: equal in a calibrated network."""
    confidence, predicted = logits.double().softmax(1).max(1)
    place = (confidence * num_bins).ceil().long().clamp(1, num_bins) - 1
    bins = []
    for number in range(num_bins):
        chosen = place == number
        if chosen.any():
            right = (predicted == targets)[chosen].double().mean().item()
            bins.append(Bin(confidence[chosen].mean().item(), right, int(chosen.sum())))
    return bins


class WorstError(NamedTuple):
    """A row that was taken for another class with confidence."""

    row: int
    answer: int
    predicted: int
    probability: float


def worst_errors(logits: Tensor, targets: Tensor, *, most: int) -> list[WorstError]:
    """The wrong answers that the network was surest of, the surest first."""
    confidence, predicted = logits.double().softmax(1).max(1)
    wrong = (predicted != targets).nonzero().flatten()
    order = wrong[confidence[wrong].argsort(descending=True, stable=True)][:most].tolist()
    return [WorstError(i, int(targets[i]), int(predicted[i]), float(confidence[i])) for i in order]


def number_metrics(predicted: Tensor, targets: Tensor, *, scales: Sequence[float]) -> dict[str, float]:
    """RMSE and MAE of numbers (N, K); errors times their scale are in the target's own unit.

    Several numbers need not have a common unit: then errors are counted in scales.
    """
    errors = (predicted - targets).double()
    if len(scales) == 1:
        errors = errors * scales[0]
    return {"rmse": errors.square().mean().sqrt().item(), "mae": errors.abs().mean().item()}


def language_metrics(nats: float, num_targets: float, num_found: float | None, num_bytes: int) -> dict[str, float]:
    """Nats per symbol, bits per byte, and the share of symbols that were the likeliest."""
    found = {} if num_found is None else {"accuracy": num_found / num_targets}
    return {"bits_per_byte": nats / math.log(2) / num_bytes, **found, "loss": nats / num_targets}
