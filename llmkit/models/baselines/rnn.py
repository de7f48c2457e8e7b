"""The recurrent networks: RNN, LSTM and GRU."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from llmkit.models.baselines.spec import BaselineSpec, WordVectors, real_words
from llmkit.recipe.schema import BaselineModel

CELLS: dict[str, Callable[..., nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}


class RNN(nn.Module):
    """A recurrent network: reads one step at a time and carries a state along.

    The plain cell (Elman 1990) makes its state anew at each step, and what it saw fades within some ten of them. The
    gates of an LSTM (Hochreiter and Schmidhuber 1997) or a GRU (Cho et al. 2014) decide what to keep and what to
    forget, so gradients survive many steps. Texts are packed: the cell never sees padding, and what it answers does not
    depend on the other rows. A text's answer is taken from the strongest state of each unit over all words, a series'
    from the state at its end (and, read backwards, at its beginning). A picture is read line by line.
    """

    def __init__(self, section: BaselineModel, spec: BaselineSpec) -> None:
        super().__init__()
        self.form = spec.form
        self.embedding = WordVectors(spec.num_words, section) if spec.form == "text" else None
        self.cell = make_cell(section, step_width(section, spec), is_bidirectional=section.bidirectional)
        self.dropout = nn.Dropout(section.dropout)
        self.head = nn.Linear(section.hidden_size * (2 if section.bidirectional else 1), spec.num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Ids (B, T), series (B, T, C) or pictures (B, C, H, W) -> (B, K)."""
        if self.embedding is not None:
            return self.head(self.dropout(self.read_text(inputs)))  # type: ignore[no-any-return]
        # A line of a picture is a step: (B, H, C * W).
        steps = inputs.transpose(1, 2).flatten(2) if self.form == "image" else inputs
        _, last = self.cell(steps)
        states = last[0] if isinstance(last, tuple) else last  # (layers * directions, B, D)
        ends = states[-2:] if self.cell.bidirectional else states[-1:]
        return self.head(self.dropout(ends.transpose(0, 1).flatten(1)))  # type: ignore[no-any-return]

    def read_text(self, inputs: Tensor) -> Tensor:
        """Ids (B, T) -> the strongest state of each unit over the words (B, D)."""
        assert self.embedding is not None
        lengths = real_words(inputs).sum(1).cpu()
        packed = pack_padded_sequence(self.embedding(inputs), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.cell(packed)[0], batch_first=True, padding_value=float("-inf"))
        return states.amax(dim=1)


def make_cell(section: BaselineModel, width: int, *, is_bidirectional: bool) -> nn.RNNBase:
    """The recurrent layers: (B, T, width) -> states (B, T, D)."""
    num_layers = section.num_layers or 1
    dropout = section.dropout if num_layers > 1 else 0.0
    make = CELLS[section.cell]
    cell = make(
        width, section.hidden_size, num_layers, batch_first=True, dropout=dropout, bidirectional=is_bidirectional
    )
    if section.cell == "lstm":
        open_forget_gates(cell)
    return cell


@torch.no_grad()
def open_forget_gates(cell: nn.RNNBase) -> None:
    """Begin with gates that keep: a bias of 1 in all (Jozefowicz et al. 2015). Else the state halves at every step."""
    size = cell.hidden_size
    for name, parameter in cell.named_parameters():
        if "bias_ih" in name:  # in the order of torch: input, forget, cell, output
            parameter[size : 2 * size].fill_(1.0)


def step_width(section: BaselineModel, spec: BaselineSpec) -> int:
    """How many numbers a recurrent cell reads at each step."""
    if spec.form == "text":
        return section.embedding_size
    return spec.input_shape[0] * spec.input_shape[2] if spec.form == "image" else spec.input_shape[1]
