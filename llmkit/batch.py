"""The contract between data, losses and the training loop: what a batch is and what counts as a target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor, nn

IGNORE_INDEX = -100
"""A target with this id is neither trained nor counted."""

Batch = dict[str, Tensor]
"""Stacked rows. Language models: `input_ids` (B, T) int64 and `targets` (B, T) int64, already shifted, so that
`targets[:, t]` is what the logits at position t must predict. Baselines: `inputs` (B, ...) and `targets` (B,) int64
for classes or (B, K) float32 for numbers."""

LossSum = Callable[[nn.Module, Batch], Tensor]
"""(model, batch) -> () float32: the SUM of the loss over all targets that count; never a mean."""


@runtime_checkable
class MeasuringLoss(Protocol):
    """A loss that measures more than it returns, for the lines of metrics."""

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor: ...

    def take_measures(self) -> dict[str, float]:
        """Sums over the targets that were seen since this was last asked; always under the same names."""
        ...


class Rows(Protocol):
    """Rows that can be stacked by index.

    `lengths`, where a row has one, lets the loop put like with like. A stream has no end that is known: its rows are
    asked for in their own order, 0, 1, 2 ..., and its `__len__` is 0. Two attributes are optional: rows whose `is_flat`
    is true are laid end to end, (1, T), with no padding; `unit` is what one of their targets is called.
    """

    lengths: Sequence[int] | None
    is_stream: bool

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Batch:
        """Stack the rows with these indices, padded to the longest, on the CPU."""
        ...


def count_targets(batch: Batch) -> int:
    """How many targets the loss is a sum over: ids that are not IGNORE_INDEX, or all numbers of a regression."""
    targets = batch["targets"]
    if targets.is_floating_point():
        return targets.numel()
    is_target = targets != IGNORE_INDEX
    # On a CPU numpy counts in a third of the time, which small networks feel.
    return int(np.count_nonzero(is_target.numpy())) if targets.device.type == "cpu" else int(is_target.sum())


def batches_by_length(
    lengths: Sequence[int], *, tokens: int | None, rows: int | None = None, padding: float = 1.0
) -> list[list[int]]:
    """Places in `lengths`, like ones together and the longest first, as batches that are padded to their longest row.

    Args:
        lengths: Of each row.
        tokens: Most positions of a batch, padding included; a longer row stands alone. None: any number.
        rows: Most rows of a batch. None: any number.
        padding: Largest share of a batch's positions that may be padding.

    >>> batches_by_length([3, 9, 4, 5], tokens=12)
    [[1], [3, 2], [0]]
    """
    batches: list[list[int]] = []
    filled = 0
    for place in sorted(range(len(lengths)), key=lambda place: -lengths[place]):
        last = batches[-1] if batches else []
        positions = (len(last) + 1) * lengths[last[0]] if last else 0
        is_wide = tokens is not None and positions > tokens
        is_thin = filled + lengths[place] < (1 - padding) * positions
        if not last or is_wide or is_thin or len(last) == rows:
            batches.append([])
            filled = 0
        batches[-1].append(place)
        filled += lengths[place]
    return batches


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The same batch on `device`."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
