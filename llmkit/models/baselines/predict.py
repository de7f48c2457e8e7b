"""What a trained network answers, in the order of the rows, and what a language model makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.batch import IGNORE_INDEX, Batch, Rows, to_device

LANGUAGE_BATCH = 64
"""Rows of a language model that go through at once: each has logits at every position."""


@torch.no_grad()
def predict(model: nn.Module, rows: Rows, *, batch_size: int = 256) -> Tensor:
    """What a network answers to every row, in their order: (N, K) float32 on the CPU. Dropout is off."""
    parts, order = [], []
    for indices, batch in batches_of(model, rows, batch_size):
        parts.append(model(batch["inputs"]).float().cpu())
        order += indices
    outputs = torch.cat(parts)
    answers = torch.empty_like(outputs)
    answers[torch.tensor(order)] = outputs
    return answers


class Language(NamedTuple):
    """What a language model makes of rows: nats (N,) over their targets, how many targets (N,), how many were found."""

    nats: Tensor
    num_targets: Tensor
    num_found: Tensor


@torch.no_grad()
def measure_language(model: nn.Module, rows: Rows, *, batch_size: int = LANGUAGE_BATCH) -> Language:
    """The log-loss of every row under a language model, in their order, float64."""
    nats, counts, found = (torch.zeros(len(rows), dtype=torch.float64) for _ in range(3))
    for indices, batch in batches_of(model, rows, batch_size):
        logits, targets = model(batch["inputs"]).float(), batch["targets"]
        losses = F.cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORE_INDEX, reduction="none")
        place = torch.tensor(indices)
        nats[place] = losses.cpu().double().sum(1)
        counts[place] = (targets != IGNORE_INDEX).sum(1).cpu().double()
        found[place] = (logits.argmax(2) == targets).sum(1).cpu().double()
    return Language(nats, counts, found)


def batches_of(model: nn.Module, rows: Rows, size: int) -> Iterator[tuple[list[int], Batch]]:
    """All rows on the model's device, with their numbers; the model is in eval mode meanwhile."""
    was_training, device, lengths = model.training, next(model.parameters()).device, rows.lengths
    model.eval()
    try:
        # Texts of like length together, so that little is padding.
        order = sorted(range(len(rows)), key=lambda i: lengths[i]) if lengths is not None else list(range(len(rows)))
        for start in range(0, len(order), size):
            indices = order[start : start + size]
            yield indices, to_device(rows.batch(indices), device)
    finally:
        model.train(was_training)
