"""How good predicted classes and numbers are, and the references that keep them honest.

Shapes: N rows, K classes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def classification_metrics(logits: Tensor, targets: Tensor) -> dict[str, float]:
    """Accuracy, macro-F1 and mean log-loss (nats) of logits (N, K) against classes (N,)."""
    matrix = confusion_matrix(logits.argmax(1), targets, num_classes=logits.shape[1])
    loss = F.cross_entropy(logits.float(), targets).item()
    return {"accuracy": accuracy(matrix), "macro_f1": macro_f1(matrix), "loss": loss}


def confusion_matrix(predicted: Tensor, targets: Tensor, *, num_classes: int) -> Tensor:
    """Counts (K, K): row k is what became of the rows whose class is k."""
    return torch.bincount(targets * num_classes + predicted, minlength=num_classes**2).view(num_classes, num_classes)


def accuracy(matrix: Tensor) -> float:
    """The share of rows whose class was found."""
    return matrix.diagonal().sum().item() / matrix.sum().item()


def macro_f1(matrix: Tensor) -> float:
    """The mean of the classes' F1, each class with equal weight, over those that occur among targets or predictions."""
    hits, asked, answered = matrix.diagonal().double(), matrix.sum(1), matrix.sum(0)
    occurs = (asked + answered) > 0
    # F1 = 2 hits / (answered + asked): the harmonic mean of precision and recall, 0 where there is no hit.
    return (2 * hits[occurs] / (asked + answered)[occurs]).mean().item()


def majority_metrics(training_targets: Tensor, targets: Tensor, *, num_classes: int) -> dict[str, float]:
    """What always answering the most frequent class of the training rows gives, with their shares as probabilities."""
    counts = torch.bincount(training_targets, minlength=num_classes).double()
    # One row more per class, so that a class which training lacks does not make the loss infinite.
    logits = (counts + 1).log() - (counts + 1).sum().log()
    return classification_metrics(logits.expand(len(targets), -1), targets)


def number_metrics(predicted: Tensor, targets: Tensor, *, scale: float) -> dict[str, float]:
    """RMSE and MAE of numbers (N, 1); errors times `scale` are in the target's own unit."""
    errors = (predicted - targets).double() * scale
    return {"rmse": errors.square().mean().sqrt().item(), "mae": errors.abs().mean().item()}
