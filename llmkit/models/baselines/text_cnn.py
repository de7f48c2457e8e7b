"""The convolutional network of texts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.models.baselines.spec import ACTIVATIONS, BaselineSpec, WordVectors, real_words
from llmkit.recipe.schema import BaselineModel

PHRASES = (3, 4, 5)
"""How many words the filters of a text CNN span (Kim 2014, arXiv:1408.5882)."""


class TextCNN(nn.Module):
    """A convolutional network for text: filters over 3, 4 and 5 words, and the strongest answer of each over all words.

    A filter learns a kind of phrase ("not very good"); the maximum over time says whether it occurs (Kim 2014).
    Padding is silenced between layers and can never be the maximum, so it changes nothing.
    """

    def __init__(self, section: BaselineModel, spec: BaselineSpec) -> None:
        super().__init__()
        self.embedding = WordVectors(spec.num_words, section)
        width, layers = section.embedding_size, []
        for _ in range(section.num_layers or 1):
            layers.append(PhraseFilters(width, section))
            width = section.hidden_size * len(PHRASES)
        self.layers = nn.ModuleList(layers)
        self.dropout = nn.Dropout(section.dropout)
        self.head = nn.Linear(width, spec.num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Ids (B, T) -> (B, K)."""
        is_word = real_words(inputs)[:, None]  # (B, 1, T)
        found = self.embedding(inputs).transpose(1, 2)  # (B, D, T)
        for layer in self.layers:
            found = layer(found * is_word)
        strongest = found.masked_fill(~is_word, float("-inf")).amax(dim=2)  # (B, 3 D)
        return self.head(self.dropout(strongest))  # type: ignore[no-any-return]


class PhraseFilters(nn.Module):
    """Filters over each number of words in PHRASES, side by side: (B, C, T) -> (B, 3 D, T)."""

    def __init__(self, channels: int, section: BaselineModel) -> None:
        super().__init__()
        # Padding is done by hand: the same answer as padding="same", which copies for an even span.
        self.filters = nn.ModuleList(nn.Conv1d(channels, section.hidden_size, span) for span in PHRASES)
        self.activation = ACTIVATIONS[section.activation]()

    def forward(self, found: Tensor) -> Tensor:
        """A position's answer is about the phrase around it."""
        widest = max(PHRASES)
        padded = F.pad(found, (widest // 2, widest - 1 - widest // 2))
        length = found.shape[2]
        starts = [(widest - span) // 2 for span in PHRASES]
        parts = [
            conv(padded[:, :, start : start + length + span - 1])
            for conv, start, span in zip(self.filters, starts, PHRASES, strict=True)
        ]
        return self.activation(torch.cat(parts, dim=1))  # type: ignore[no-any-return]
