"""A running average of the weights: smoother than the last step's, and often better on held-out data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

NUM_UPDATES = "num_updates"
"""Name of the count of updates among the tensors of a checkpoint."""


class WeightAverage:
    """An exponential moving average, in fp32, of all parameters of `model` that are trained.

    It starts as a copy. After n updates it keeps min(decay, (1 + n) / (10 + n)) of itself: while it is young it forgets
    faster, else the random weights of the start would stay in it for long. Make it when FSDP has spread the parameters,
    whose shards it then holds.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.averages = {name: p.detach().to(torch.float32, copy=True) for name, p in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights that a step has left."""
        self.num_updates += 1
        kept = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        for average, weight in self.pairs():
            average.lerp_(weight.float(), 1 - kept)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the model has the averaged weights. Enter it while FSDP holds its weights in shards."""
        kept = [self.swap_in(average, weight) for average, weight in self.pairs()]
        try:
            yield
        finally:
            for (average, weight), own in zip(self.pairs(), kept, strict=True):
                self.swap_out(average, weight, own)

    @torch.no_grad()
    def swap_in(self, average: Tensor, weight: Tensor) -> Tensor | None:
        """Put the average into a parameter: in exchange for its values if they are in fp32, else these are returned."""
        own = weight.detach().clone()
        weight.copy_(average)
        if own.dtype != average.dtype:
            return own
        average.copy_(own)
        return None

    @torch.no_grad()
    def swap_out(self, average: Tensor, weight: Tensor, own: Tensor | None) -> None:
        """Undo `swap_in`, to the last bit."""
        if own is None:
            self.swap_in(average, weight)
        else:
            weight.copy_(own)

    def tensors(self) -> dict[str, Tensor]:
        """The averages, whole, and the number of updates, for a file; all processes must call this.

        What FSDP has spread is gathered on the main process; the others get an empty dictionary.
        """
        whole = {name: gathered_on_main(average) for name, average in self.averages.items()}
        present = {name: tensor for name, tensor in whole.items() if tensor is not None}
        return {**present, NUM_UPDATES: torch.tensor(self.num_updates)} if present else {}

    @torch.no_grad()
    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `tensors` gave, to the last bit."""
        self.num_updates = int(tensors[NUM_UPDATES])
        for name, average in self.averages.items():
            saved = tensors[name].to(average.device)
            if isinstance(average, DTensor):
                # Every process has read the file: each takes its own part.
                saved = distribute_tensor(saved, average.device_mesh, average.placements, src_data_rank=None)
            average.copy_(saved)

    def pairs(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Each average with its parameter."""
        return zip(self.averages.values(), self.weights.values(), strict=True)


def gathered_on_main(tensor: Tensor) -> Tensor | None:
    """The tensor itself, or, of one that FSDP has spread, the whole: in main memory, and only on the main process."""
    if not isinstance(tensor, DTensor):
        return tensor
    whole = tensor.full_tensor()
    return whole.cpu() if torch.distributed.get_rank() == 0 else None
