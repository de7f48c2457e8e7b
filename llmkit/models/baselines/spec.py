"""What all classical networks share: what they know of their data, their non-linearities, their word vectors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from llmkit.recipe.schema import BaselineModel

Form = Literal["image", "table", "text", "series", "language"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,  # squeezes into (0, 1); its slope is at most 1/4, so gradients fade layer by layer
    "tanh": nn.Tanh,  # squeezes into (-1, 1); fades less, as its slope at 0 is 1
    "relu": nn.ReLU,  # passes what is positive: fast, no fading, but a unit that is never positive is dead
    "leaky_relu": nn.LeakyReLU,  # lets a hundredth of what is negative through: no unit dies
    "gelu": nn.GELU,  # a smooth relu: transformers' usual choice
    "silu": nn.SiLU,  # x * sigmoid(x): smooth too, and as good
}

INITIAL_SPREAD = 0.1
"""Standard deviation of word vectors before training."""


@dataclass(frozen=True)
class BaselineSpec:
    """What a network must know of its data.

    Args:
        form: image (B, C, H, W) float, table (B, F) float, text (B, T) ids with 0 as padding on the right, series
            (B, T, C) float, or language (B, T) ids whose next one is to be predicted at every position.
        input_shape: Of one row, without B; empty for text and language, whose length varies.
        num_outputs: Classes, numbers to predict, or symbols of a language.
        num_words: Ids there are, for text and language.
        max_length: Most ids of a row, for language.
    """

    form: Form
    input_shape: tuple[int, ...]
    num_outputs: int
    num_words: int = 0
    max_length: int = 0


class WordVectors(nn.Sequential):
    """One trained vector per word, with dropout: (B, T) -> (B, T, D). Padding is the vector 0."""

    def __init__(self, num_words: int, section: BaselineModel) -> None:
        words = nn.Embedding(num_words, section.embedding_size, padding_idx=0)
        # Small at first: what a rare word says shall be what was learnt about it, and not the noise it began with.
        with torch.no_grad():
            words.weight.mul_(INITIAL_SPREAD)
        super().__init__(words, nn.Dropout(section.dropout))


def real_words(inputs: Tensor) -> Tensor:
    """Which ids (B, T) are words and not padding: bool."""
    return inputs != 0


def prod(numbers: Iterable[int]) -> int:
    """The product of whole numbers."""
    product = 1
    for number in numbers:
        product *= number
    return product
