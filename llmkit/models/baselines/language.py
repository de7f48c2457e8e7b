"""Small language models: one that reads step by step and one that looks back at all before, held side by side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.models.baselines.rnn import make_cell
from llmkit.models.baselines.spec import ACTIVATIONS, BaselineSpec
from llmkit.recipe.schema import BaselineModel


class RecurrentLanguageModel(nn.Module):
    """What comes next, from a state that has read all before (Mikolov et al. 2010).

    Padding stands on the right, where nothing that counts has yet to be read: it changes nothing.
    """

    def __init__(self, section: BaselineModel, spec: BaselineSpec) -> None:
        super().__init__()
        self.embedding = nn.Sequential(
            nn.Embedding(spec.num_words, section.embedding_size), nn.Dropout(section.dropout)
        )
        self.cell = make_cell(section, section.embedding_size, is_bidirectional=False)
        self.dropout = nn.Dropout(section.dropout)
        self.head = nn.Linear(section.hidden_size, spec.num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Ids (B, T) -> logits of the next id at every position (B, T, V)."""
        states, _ = self.cell(self.embedding(inputs))
        return self.head(self.dropout(states))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """What comes next, from looking back at all before (Vaswani et al. 2017, arXiv:1706.03762).

    Normalisation in front of each part, positions that are learnt: the form of GPT-2.
    """

    def __init__(self, section: BaselineModel, spec: BaselineSpec) -> None:
        super().__init__()
        size = section.hidden_size
        self.words = nn.Embedding(spec.num_words, size)
        self.positions = nn.Embedding(spec.max_length, size)
        for table in (self.words, self.positions):
            nn.init.normal_(table.weight, std=0.02)
        self.dropout = nn.Dropout(section.dropout)
        self.blocks = nn.Sequential(*(TransformerBlock(section) for _ in range(section.num_layers or 1)))
        self.norm = nn.LayerNorm(size)
        self.head = nn.Linear(size, spec.num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Ids (B, T) -> logits of the next id at every position (B, T, V)."""
        places = torch.arange(inputs.shape[1], device=inputs.device)
        states = self.dropout(self.words(inputs) + self.positions(places))
        return self.head(self.norm(self.blocks(states)))  # type: ignore[no-any-return]


class TransformerBlock(nn.Module):
    """Attention to what came before, then a small MLP at each position; both add to their input."""

    def __init__(self, section: BaselineModel) -> None:
        super().__init__()
        size = section.hidden_size
        self.num_heads = section.num_heads
        self.norm_1, self.norm_2 = nn.LayerNorm(size), nn.LayerNorm(size)
        self.queries_keys_values = nn.Linear(size, 3 * size)
        self.out = nn.Linear(size, size)
        self.mlp = nn.Sequential(
            nn.Linear(size, 4 * size), ACTIVATIONS[section.activation](), nn.Linear(4 * size, size)
        )
        self.dropout = nn.Dropout(section.dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        states = states + self.dropout(self.attend(self.norm_1(states)))
        return states + self.dropout(self.mlp(self.norm_2(states)))  # type: ignore[no-any-return]

    def attend(self, states: Tensor) -> Tensor:
        """What each position takes from those before it and from itself."""
        rows, length, size = states.shape
        parts = self.queries_keys_values(states).view(rows, length, 3, self.num_heads, size // self.num_heads)
        queries, keys, values = parts.permute(2, 0, 3, 1, 4)  # (B, heads, T, D / heads) each
        found = F.scaled_dot_product_attention(queries, keys, values, is_causal=True)
        return self.out(found.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
