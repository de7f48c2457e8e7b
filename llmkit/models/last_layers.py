"""Training only the last layers of a language model, with the norm behind them."""

from __future__ import annotations

from typing import Any

from torch import nn

from llmkit.errors import ModelError
from llmkit.losses import body_of, head_of


def train_last_layers(model: Any, count: int, *, with_embeddings: bool = False) -> Any:
    """Freeze all of `model` but its last layers and what follows them in the body; the same model.

    Args:
        model: A causal language model of transformers.
        count: How many layers learn.
        with_embeddings: The embeddings and the output head learn too: the model does not know all tokens yet.

    Raises:
        ModelError: It has no more layers than that.
    """
    parts = list(body_of(model).children())
    place, layers = next((i, part) for i, part in enumerate(parts) if isinstance(part, nn.ModuleList))
    if count >= len(layers):
        raise ModelError(
            f"the model has {len(layers)} layers, and the last {count} are to be trained",
            where="last_layers",
            fix="ask for fewer, or set method=full",
        )
    model.requires_grad_(False)
    for part in [*layers[-count:], *parts[place + 1 :]]:
        part.requires_grad_(True)
    if with_embeddings:
        model.get_input_embeddings().requires_grad_(True)
        head_of(model).requires_grad_(True)
    return model
