"""Noise on the embeddings while a model learns (NEFTune, Jain et al. 2023, arXiv:2310.05914)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from llmkit.losses import body_of, unwrap


def add_noise(model: nn.Module, alpha: float) -> None:
    """Let every forward pass in training mode add evenly drawn noise of alpha / sqrt(length x width) to the embeddings.

    The length is that of the document a position belongs to, so that noise does not depend on what lies beside it.
    An adapter must be there already: PEFT puts a layer of its own in the place of embeddings whose rows it trains.
    """
    positions: list[Tensor | None] = [None]

    def note_positions(body: nn.Module, arguments: Any, options: dict[str, Any]) -> None:
        positions[0] = options.get("position_ids")

    def disturb(layer: nn.Module, arguments: Any, embedded: Tensor) -> Tensor:
        if not layer.training:
            return embedded
        length = lengths_of_rows(arguments[0]) if positions[0] is None else lengths_at(positions[0])
        size = alpha / (length[..., None] * embedded.shape[-1]) ** 0.5
        return embedded + (2 * torch.rand_like(embedded) - 1) * size

    body_of(model).register_forward_pre_hook(note_positions, with_kwargs=True)
    unwrap(model).get_input_embeddings().register_forward_hook(disturb)


def lengths_at(positions: Tensor) -> Tensor:
    """The length of the document at each place, (1, T); `positions` begin again with each document.

    >>> lengths_at(torch.tensor([[0, 1, 2, 0, 1]]))
    tensor([[3, 3, 3, 2, 2]])
    """
    documents = (positions == 0).cumsum(dim=1) - 1
    return documents[0].bincount()[documents]


def lengths_of_rows(input_ids: Tensor) -> Tensor:
    """The length of each padded row, (B, 1), from ids (B, T): padding repeats the last id.

    >>> lengths_of_rows(torch.tensor([[5, 6, 7, 8], [5, 7, 7, 7]]))
    tensor([[4],
            [2]])
    """
    changes = input_ids[:, 1:] != input_ids[:, :-1]
    places = torch.arange(1, input_ids.shape[1], device=input_ids.device)
    return 1 + (changes * places).amax(dim=1, keepdim=True)
