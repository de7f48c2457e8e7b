"""Noise on the embeddings while a model learns (NEFTune, Jain et al. 2023, arXiv:2310.05914)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmkit.losses import body_of, unwrap


def add_noise(model: nn.Module, alpha: float) -> None:
    """Let every forward pass in training mode add evenly drawn noise of alpha / sqrt(length x width) to the embeddings.

    The length is that of the document a position belongs to, so that noise does not depend on what lies beside it.
    """
    lengths: list[Tensor | None] = [None]

    def note_lengths(body: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        positions = options.get("position_ids")
        lengths[0] = None if positions is None else lengths_at(positions)

    def disturb(layer: nn.Module, arguments: Any, embedded: Tensor) -> Tensor:
        if not layer.training:
            return embedded
        length = embedded.shape[1] if lengths[0] is None else lengths[0][..., None]
        size = alpha / (length * embedded.shape[-1]) ** 0.5
        return embedded + (2 * torch.rand_like(embedded) - 1) * size

    body_of(model).register_forward_pre_hook(note_lengths, with_kwargs=True)
    unwrap(model).get_input_embeddings().register_forward_hook(disturb)


def lengths_at(positions: Tensor) -> Tensor:
    """The length of the document at each place, (1, T); `positions` begin again with each document.

    >>> lengths_at(torch.tensor([[0, 1, 2, 0, 1]]))
    tensor([[3, 3, 3, 2, 2]])
    """
    documents = (positions == 0).cumsum(dim=1) - 1
    return documents[0].bincount()[documents]
