"""What the classical networks learn from: rows as tensors in three splits, and how they were encoded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from llmkit.batch import Batch
from llmkit.data.images import ImageEncoder, standardise
from llmkit.data.language import SymbolEncoder
from llmkit.data.series import SeriesEncoder
from llmkit.data.splits import SPLITS, share_of
from llmkit.data.table_encoder import TableEncoder, read_table_encoder
from llmkit.data.targets import ClassTarget, NumberTarget, Target
from llmkit.data.words import WordEncoder
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData

Encoder = ImageEncoder | TableEncoder | WordEncoder | SeriesEncoder | SymbolEncoder
Form = Literal["image", "table", "text", "series", "language"]
Value = TypeVar("Value")
TaskName = Literal["classification", "regression", "forecast", "language"]


@dataclass
class TensorRows:
    """Rows that lie in memory as tensors.

    Args:
        inputs: (N, ...) as the network takes them; pictures as they were read, (N, C, H, W); a language's ids (N, T).
        targets: (N,) classes, (N, K) numbers, or the ids (N, T) that follow.
        lengths: Of each row, of texts in words and of a language in symbols.
        is_stream: Never: these rows have an end.
        scaling: What `batch` standardises pictures by, (gain, shift).
        references: Name -> what a simple forecast answers in the network's place, (N, K).
        num_bytes: Bytes of UTF-8 that a language's targets stand for.
        texts: Of texts what was written, for what reads it in another way than the network.
    """

    inputs: Tensor
    targets: Tensor
    lengths: Sequence[int] | None = None
    is_stream: bool = False
    scaling: tuple[Tensor, Tensor] | None = None
    references: Mapping[str, Tensor] = field(default_factory=dict)
    num_bytes: int | None = None
    texts: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Sequence[int]) -> Batch:
        """One copying operation per tensor. Texts are cut to the longest of the batch, and ids made int64."""
        index = torch.from_numpy(np.array(indices, dtype=np.int64))  # several times as fast as torch reads a list
        # It copies whole rows, where self.inputs[index] goes from number to number: 3 to 15 times as fast.
        inputs, targets = self.inputs.index_select(0, index), self.targets.index_select(0, index)
        if self.scaling is not None:
            inputs = standardise(inputs, self.scaling)
        if self.lengths is not None:
            longest = max(self.lengths[i] for i in index.tolist())
            inputs = inputs[:, :longest].long()
            if targets.ndim == 2 and not targets.is_floating_point():
                targets = targets[:, :longest].long()
        return {"inputs": inputs, "targets": targets}

    def part(self, index: Tensor | slice) -> TensorRows:
        """Some of the rows; a slice takes no memory."""
        places = index if isinstance(index, slice) else index.tolist()

        def of(values: Sequence[Value] | None) -> Sequence[Value] | None:
            if values is None:
                return None
            return values[places] if isinstance(places, slice) else [values[i] for i in places]

        return TensorRows(
            self.inputs[index],
            self.targets[index],
            of(self.lengths),
            scaling=self.scaling,
            references={name: values[index] for name, values in self.references.items()},
            texts=of(self.texts),
        )


@dataclass(frozen=True)
class RowReading:
    """How new rows are to be read as the training rows were.

    Args:
        columns: All columns of a table, in their order; none of other forms.
        texts: The columns of text, joined in this order.
        targets: The columns that were predicted.
        has_names: The files' first line named the columns.
        encoding: Of texts.
        class_names: What the labels of the source are called.
    """

    columns: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    has_names: bool = True
    encoding: str = "utf-8"
    class_names: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelledData:
    """A labelled set, ready to train on: its splits by name, how it was encoded, and what there is to tell about it."""

    source: str
    task: TaskName
    splits: dict[str, TensorRows]
    encoder: Encoder
    target: Target
    notes: list[str]
    reading: RowReading = RowReading()

    @property
    def form(self) -> Form:
        """image, table, text, series or language."""
        return cast(Form, self.encoder.form)

    @property
    def classes(self) -> list[str]:
        """The names of the classes; none where a number or a symbol is predicted."""
        return self.target.names if isinstance(self.target, ClassTarget) else []

    @property
    def class_counts(self) -> Tensor:
        """(K,) int64: how many training rows each class has."""
        return torch.bincount(self.splits["train"].targets, minlength=len(self.classes))

    @property
    def num_outputs(self) -> int:
        """How many numbers the network gives: classes, numbers to predict, or symbols."""
        if isinstance(self.target, ClassTarget):
            return len(self.target.names)
        return len(self.target.names) if isinstance(self.target, NumberTarget) else self.target.num_symbols

    @property
    def content_hash(self) -> str:
        """SHA-256 over all that a run is made from: every split's tensors, and the encoding."""
        digest = hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode())
        for rows in self.splits.values():
            inputs = rows.inputs
            # Of windows that overlap, each look_back-th and the last hold every value.
            parts = [inputs] if inputs.is_contiguous() else [inputs[:: inputs.shape[1]], inputs[-1:]]
            for tensor in (*parts, rows.targets):
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """What a trained network needs besides its weights to read new rows and to name what it predicts."""
        return {
            "source": self.source,
            "task": self.task,
            "encoder": self.encoder.to_json(),
            "target": self.target.to_json(),
            "reading": asdict(self.reading),
        }


def cut_splits(rows: TensorRows, splits: Sequence[str], data: BaselineData) -> dict[str, TensorRows]:
    """Each split's rows. One that was asked for and has none is an error."""
    parts = {}
    names = np.array(splits)
    for split in SPLITS:
        index = torch.from_numpy(np.flatnonzero(names == split))
        check_split(split, len(index), len(splits), data)
        is_stretch = len(index) > 0 and int(index[-1] - index[0]) == len(index) - 1
        parts[split] = rows.part(slice(int(index[0]), int(index[-1]) + 1) if is_stretch else index)
    return parts


def check_split(split: str, count: int, total: int, data: BaselineData) -> None:
    """Raise where a split that was asked for has no row."""
    share = {"train": 1.0, "validation": data.validation, "test": data.test}[split]
    if count == 0 and (isinstance(share, str) or share_of(share) > 0):
        raise DataError(
            f"none of the {total} rows is in the {split} split",
            where=str(data.source),
            fix="give more rows, or change data.validation and data.test",
        )


def read_encoder(stored: Mapping[str, Any]) -> Encoder:
    """An encoder from what its `to_json` gave."""
    values = dict(stored)
    form = values.pop("form")
    if form == "table":
        return read_table_encoder(values)
    kinds: dict[str, type[ImageEncoder | WordEncoder | SeriesEncoder | SymbolEncoder]] = {
        "image": ImageEncoder,
        "text": WordEncoder,
        "series": SeriesEncoder,
        "language": SymbolEncoder,
    }
    return kinds[form](**values)
