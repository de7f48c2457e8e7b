"""The classical networks: MLP, CNN and RNN, each for the forms of data it is made for.

An MLP joins every input with every unit: right for tables, where columns have no order. A CNN slides small filters
over its input, so what it learns in one place it knows in all: right for pictures, and for phrases or patterns wherever
they stand. An RNN reads step by step and carries a state along: right where order and distance matter.

Shapes: B rows, C channels, H height, W width, T words or points in time, F numbers of a table's row, D hidden size,
K outputs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from llmkit.batch import Rows
from llmkit.errors import ModelError, RecipeError
from llmkit.recipe.schema import BaselineModel

Form = Literal["image", "table", "text", "series"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "sigmoid": nn.Sigmoid,  # squeezes into (0, 1); its slope is at most 1/4, so gradients fade layer by layer
    "tanh": nn.Tanh,  # squeezes into (-1, 1); fades less, as its slope at 0 is 1
    "relu": nn.ReLU,  # passes what is positive: fast, no fading, but a unit that is never positive is dead
    "gelu": nn.GELU,  # a smooth relu: transformers' usual choice
    "silu": nn.SiLU,  # x * sigmoid(x): smooth too, and as good
}

PHRASES = (3, 4, 5)
"""How many words the filters of a text CNN span (Kim 2014, arXiv:1408.5882)."""
CELLS_KEPT = 4
"""A picture is averaged to at most this many cells a side before the last layer."""
INITIAL_SPREAD = 0.1
"""Standard deviation of word vectors before training."""
CONFIG = "config.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class BaselineSpec:
    """What a network must know of its data.

    Args:
        form: image (B, C, H, W) float, table (B, F) float, text (B, T) ids with 0 as padding on the right, or series
            (B, T, C) float.
        input_shape: Of one row, without B; empty for text, whose length varies.
        num_words: Ids there are, for text.
        num_outputs: Classes, or numbers to predict.
    """

    form: Form
    input_shape: tuple[int, ...]
    num_outputs: int
    num_words: int = 0


def build_baseline(section: BaselineModel, spec: BaselineSpec, *, seed: int = 0) -> nn.Module:
    """The network that `section` describes, for data of `spec`: inputs -> (B, K). Its weights are a function of `seed`.

    Raises:
        RecipeError: This kind of network is not made for this form of data.
    """
    if spec.form == "table" and section.kind != "mlp":
        raise RecipeError(
            f"a {section.kind.upper()} needs neighbours or an order, and the columns of a table have neither",
            where="model.kind",
            fix="use --kind mlp",
        )
    if section.num_layers is None:
        is_deep = section.kind != "rnn" and spec.form != "text"
        section = section.model_copy(update={"num_layers": 2 if is_deep else 1})
    kinds: dict[str, type[nn.Module]] = {"mlp": MLP, "cnn": TextCNN if spec.form == "text" else CNN, "rnn": RNN}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return kinds[section.kind](section, spec)


class MLP(nn.Module):
    """A multi-layer perceptron: layers of weights with a non-linearity between them.

    Without the non-linearity any number of layers would be one matrix. Pictures and windows of a series are laid out
    flat: the network does not know which numbers were neighbours. A text is the mean of its words' vectors, whatever
    their order (Iyyer et al. 2015, deep averaging network).
    """

    def __init__(self, section: BaselineModel, spec: BaselineSpec) -> None:
        super().__init__()
        self.embedding = WordVectors(spec.num_words, section) if spec.form == "text" else None
        width = section.embedding_size if spec.form == "text" else prod(spec.input_shape)
        layers: list[nn.Module] = []
        for _ in range(section.num_layers or 1):
            layers += [
                nn.Linear(width, section.hidden_size),
                ACTIVATIONS[section.activation](),
                nn.Dropout(section.dropout),
            ]
            width = section.hidden_size
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(width, spec.num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """(B, ...) -> (B, K)."""
        if self.embedding is not None:
            is_word = real_words(inputs)[..., None]  # (B, T, 1)
            flat = (self.embedding(inputs) * is_word).sum(1) / is_word.sum(1)  # (B, D)
        else:
            flat = inputs.flatten(1)  # (B, F)
        return self.head(self.layers(flat))  # type: ignore[no-any-return]


class CNN(nn.Module):
    """A convolutional network for pictures (2-d) and series (1-d): blocks of filters, each half the size of the last.

    A filter looks at 3 x 3 neighbours (or 3 points in time); after each block a cell stands for twice as wide a part,
    so that deeper filters see larger shapes. Channels double as the size halves.
    """

    def __init__(self, section: BaselineModel, spec: BaselineSpec) -> None:
        super().__init__()
        self.is_series = spec.form == "series"
        channels, *sides = (spec.input_shape[1], spec.input_shape[0]) if self.is_series else spec.input_shape
        blocks: list[nn.Module] = []
        for depth in range(section.num_layers or 1):
            width = section.hidden_size * 2**depth
            pools = min(sides) >= 2
            blocks.append(ConvBlock(channels, width, section, dims=len(sides), pools=pools))
            channels, sides = width, [side // 2 if pools else side for side in sides]
        # Cells are kept apart to the end: where a stroke lies, or how long ago, tells much. Large pictures are pooled.
        kept = sides if self.is_series else [min(side, CELLS_KEPT) for side in sides]
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.Identity() if kept == sides else nn.AdaptiveAvgPool2d((kept[0], kept[1]))
        self.head = nn.Linear(channels * prod(kept), spec.num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Pictures (B, C, H, W) or series (B, T, C) -> (B, K)."""
        planes = inputs.transpose(1, 2) if self.is_series else inputs
        return self.head(self.pool(self.blocks(planes)).flatten(1))  # type: ignore[no-any-return]


class ConvBlock(nn.Sequential):
    """Filters, normalisation, non-linearity, pooling, dropout.

    The normalisation is over groups of channels of one row (Wu and He 2018, arXiv:1803.08494), not over the batch: a
    row's result depends on no other row, so the loss does not depend on how a batch is split, and training and testing
    agree.
    """

    def __init__(self, channels: int, width: int, section: BaselineModel, *, dims: int, pools: bool) -> None:
        conv, pool = (nn.Conv1d, nn.MaxPool1d) if dims == 1 else (nn.Conv2d, nn.MaxPool2d)
        num_groups = next(groups for groups in (8, 4, 2, 1) if width % groups == 0)
        super().__init__(
            conv(channels, width, kernel_size=3, padding=1, bias=False),
            nn.GroupNorm(num_groups, width),
            ACTIVATIONS[section.activation](),
            pool(2) if pools else nn.Identity(),
            nn.Dropout(section.dropout),
        )


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


class RNN(nn.Module):
    """A recurrent network (LSTM or GRU): reads one step at a time and carries a state along.

    The gates of the cell decide what to keep and what to forget, so gradients survive many steps. Texts are packed: the
    cell never sees padding, and what it answers does not depend on the other rows. A text's answer is taken from
    the strongest state of each unit over all words, a series' from the last state. A picture is read line by line.
    """

    def __init__(self, section: BaselineModel, spec: BaselineSpec) -> None:
        super().__init__()
        self.form = spec.form
        self.embedding = WordVectors(spec.num_words, section) if spec.form == "text" else None
        cell = {"lstm": nn.LSTM, "gru": nn.GRU}[section.cell]
        num_layers = section.num_layers or 1
        self.cell = cell(
            step_width(section, spec),
            section.hidden_size,
            num_layers,
            batch_first=True,
            dropout=section.dropout if num_layers > 1 else 0.0,
            bidirectional=section.bidirectional,
        )
        self.dropout = nn.Dropout(section.dropout)
        self.head = nn.Linear(section.hidden_size * (2 if section.bidirectional else 1), spec.num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Ids (B, T), series (B, T, C) or pictures (B, C, H, W) -> (B, K)."""
        if self.embedding is not None:
            return self.head(self.dropout(self.read_text(inputs)))  # type: ignore[no-any-return]
        # A line of a picture is a step: (B, H, C * W).
        steps = inputs.transpose(1, 2).flatten(2) if self.form == "image" else inputs
        states, _ = self.cell(steps)  # (B, T, D)
        return self.head(self.dropout(states[:, -1]))  # type: ignore[no-any-return]

    def read_text(self, inputs: Tensor) -> Tensor:
        """Ids (B, T) -> the strongest state of each unit over the words (B, D)."""
        assert self.embedding is not None
        lengths = real_words(inputs).sum(1).cpu()
        packed = pack_padded_sequence(self.embedding(inputs), lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(self.cell(packed)[0], batch_first=True, padding_value=float("-inf"))
        return states.amax(dim=1)


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


def step_width(section: BaselineModel, spec: BaselineSpec) -> int:
    """How many numbers a recurrent cell reads at each step."""
    if spec.form == "text":
        return section.embedding_size
    return spec.input_shape[0] * spec.input_shape[2] if spec.form == "image" else spec.input_shape[1]


def prod(numbers: Any) -> int:
    """The product of whole numbers."""
    product = 1
    for number in numbers:
        product *= int(number)
    return product


def count_parameters(model: nn.Module) -> int:
    """How many numbers are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


@torch.no_grad()
def predict(model: nn.Module, rows: Rows, *, batch_size: int = 256) -> Tensor:
    """What a network answers to every row, in their order: (N, K) float32 on the CPU. Dropout is off."""
    was_training, device = model.training, next(model.parameters()).device
    model.eval()
    # Texts of like length together, so that little is padding.
    lengths = rows.lengths
    order = sorted(range(len(rows)), key=lambda i: lengths[i]) if lengths is not None else list(range(len(rows)))
    parts = [
        model(rows.batch(order[i : i + batch_size])["inputs"].to(device)).float().cpu()
        for i in range(0, len(order), batch_size)
    ]
    model.train(was_training)
    outputs = torch.cat(parts)
    answers = torch.empty_like(outputs)
    answers[torch.tensor(order)] = outputs
    return answers


def save_baseline(
    model: nn.Module, folder: Path, *, section: BaselineModel, spec: BaselineSpec, data: Mapping[str, Any]
) -> None:
    """Write model.safetensors and config.json into `folder`: all that is needed to answer new rows.

    Args:
        model: The network.
        folder: An existing folder.
        section: What it was built from.
        spec: What it was built for.
        data: How rows become tensors and answers become names (JSON).
    """
    save_file(
        {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}, folder / WEIGHTS
    )
    config = {"llmkit": "baseline", "model": section.model_dump(mode="json"), "spec": asdict(spec), "data": dict(data)}
    (folder / CONFIG).write_text(json.dumps(config, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def load_baseline(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """A network from the folder that `save_baseline` wrote, in eval mode on the CPU, and its `data`.

    Raises:
        ModelError: The folder holds no baseline, or one that is not whole.
    """
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        section, stored = BaselineModel(**config["model"]), config["spec"]
        spec = BaselineSpec(**{**stored, "input_shape": tuple(stored["input_shape"])})
        data = dict(config["data"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"this folder holds no baseline ({CONFIG}: {error})",
            where=str(folder),
            fix="name the model folder of a baseline run",
        ) from error
    model = build_baseline(section, spec)
    load_weights(model, folder)
    return model.eval(), data


def load_weights(model: nn.Module, folder: Path) -> None:
    """Read the weights of `folder` into a network of the same shape."""
    try:
        model.load_state_dict(load_file(folder / WEIGHTS), strict=True)
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise ModelError(
            f"these weights do not fit or cannot be read: {reason}",
            where=str(folder / WEIGHTS),
            fix="train the baseline again",
        ) from error
