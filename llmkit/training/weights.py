"""What happens to a model's tensors around a step: gathered to be looked at, put back after what was only tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule


@contextmanager
def gathered(wrapped: nn.Module) -> Iterator[None]:
    """Within the block the model inside may be called by itself, which FSDP would not gather its outer weights for."""
    if not isinstance(wrapped, FSDPModule):
        yield
        return
    wrapped.unshard()
    try:
        yield
    finally:
        wrapped.reshard()


def copy_buffers(model: nn.Module) -> dict[str, Tensor]:
    """What a forward pass may change besides gradients: the running statistics of batch normalisation."""
    return {name: buffer.clone() for name, buffer in model.named_buffers()}


@torch.no_grad()
def put_back(model: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Undo what a forward pass did to the buffers."""
    for name, buffer in model.named_buffers():
        if name in kept:
            buffer.copy_(kept[name])
