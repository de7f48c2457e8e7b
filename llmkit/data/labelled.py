"""Labelled rows for classical networks: any source to tensors of three splits, with the encoder kept beside the model.

A source becomes one of four forms: image, table, text, series. Each form has an encoder that is fitted on the training
split alone, and everything recognised, filled or left out is told in `notes`.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from llmkit.batch import Batch
from llmkit.data import python_docs
from llmkit.data.classic import CLASSIC_SETS, load_classic
from llmkit.data.documents import read_records
from llmkit.data.images import ImageEncoder
from llmkit.data.recognise import Table, drop_unlabelled, find_target, find_text, read_table, split_of
from llmkit.data.series import SeriesEncoder, fit_series, mackey_glass, read_series
from llmkit.data.tables import TableEncoder, fit_table, read_table_encoder
from llmkit.data.targets import ClassTarget, NumberTarget, Target, fit_classes, fit_number, recognise_task
from llmkit.data.words import WordEncoder, describe_texts, split_words
from llmkit.errors import DataError
from llmkit.recipe.load import did_you_mean
from llmkit.recipe.schema import BaselineData

BUILT_IN = (*CLASSIC_SETS, "mackey-glass", "python-docs:labelled")
SPLITS = ("train", "validation", "test")

Encoder = ImageEncoder | TableEncoder | WordEncoder | SeriesEncoder
Form = Literal["image", "table", "text", "series"]
TaskName = Literal["classification", "regression", "forecast"]


@dataclass
class TensorRows:
    """Rows that lie in memory as tensors: inputs (N, ...), targets (N,) or (N, 1); texts with lengths in words."""

    inputs: Tensor
    targets: Tensor
    lengths: Sequence[int] | None = None
    is_stream: bool = False

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, indices: Sequence[int]) -> Batch:
        """One indexing operation per tensor. Texts are cut to the longest of the batch, and their ids made int64."""
        index = torch.as_tensor(indices, dtype=torch.int64)
        inputs = self.inputs[index]
        if self.lengths is not None:
            inputs = inputs[:, : max(self.lengths[i] for i in index.tolist())].long()
        return {"inputs": inputs, "targets": self.targets[index]}


@dataclass(frozen=True)
class LabelledData:
    """A labelled set, ready to train on: its splits by name, how it was encoded, and what there is to tell about it."""

    source: str
    task: TaskName
    splits: dict[str, TensorRows]
    encoder: Encoder
    target: Target
    notes: list[str]

    @property
    def form(self) -> Form:
        """image, table, text or series."""
        return cast(Form, self.encoder.form)

    @property
    def classes(self) -> list[str]:
        """The names of the classes; none where a number is predicted."""
        return self.target.names if isinstance(self.target, ClassTarget) else []

    @property
    def content_hash(self) -> str:
        """SHA-256 over all that a run is made from: every split's tensors, and the encoding."""
        digest = hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode())
        for rows in self.splits.values():
            for tensor in (rows.inputs, rows.targets):
                digest.update(tensor.contiguous().numpy().data)
        return digest.hexdigest()

    def to_json(self) -> dict[str, Any]:
        """What a trained network needs besides its weights to read new rows and to name what it predicts."""
        return {
            "source": self.source,
            "task": self.task,
            "encoder": self.encoder.to_json(),
            "target": self.target.to_json(),
        }


def read_labelled(data: BaselineData, *, vocab_size: int, max_words: int) -> LabelledData:
    """Read, recognise, split and encode what `data` names.

    Args:
        data: The recipe's section.
        vocab_size: Most words that texts keep apart.
        max_words: Longer texts are cut to their first words.

    Raises:
        DataError: The source holds nothing to learn from as asked; it says what there is.
    """
    source = str(data.source)
    if source == "mackey-glass":
        return encode_series(mackey_glass()[:, None], ["x"], data, [])
    if source == "python-docs:labelled":
        return read_python_docs(data, vocab_size, max_words)
    if source == "digits":
        return read_pictures(data)
    if source in CLASSIC_SETS:
        classic = load_classic(source)
        rows = [dict(zip(classic.columns, row.tolist(), strict=True)) for row in classic.inputs]
        labelled = [{**row, "target": target} for row, target in zip(rows, classic.targets, strict=True)]
        return encode_table(
            Table(labelled, [*classic.columns, "target"], split_by_index(len(rows), data)),
            replace_target(data, "target"),
        )
    check_name(source)
    records = list(read_records(source))
    if not records:
        raise DataError("there are no rows in it", where=source, fix="name a file with a header and rows below it")
    table, notes = read_table(records, data)
    if data.task == "forecast":
        name, series, found = read_series(table.rows, table.names, data.target, where=source)
        return encode_series(series[:, None], [name], data, [*notes, *found])
    labelled_data = (
        encode_text(table, data, vocab_size, max_words) if find_text(table, data) else encode_table(table, data)
    )
    return replace(labelled_data, notes=[*notes, *labelled_data.notes])


def check_name(source: str) -> None:
    """Raise where a name is nearly that of a built-in set, and no file."""
    hint = did_you_mean(source, BUILT_IN)
    if hint and source.replace("-", "").isalpha() and not Path(source).exists():
        raise DataError("there is no such file, and no built-in set of this name", where=source, fix=hint)


def replace_target(data: BaselineData, name: str) -> BaselineData:
    """The section with this target where none was named."""
    return data if data.target else data.model_copy(update={"target": name})


def split_by_index(count: int, data: BaselineData) -> list[str]:
    """The splits of a built-in set's rows, by a hash of their numbers."""
    return [split_of(f"row {i}", data) for i in range(count)]


def encode_table(table: Table, data: BaselineData) -> LabelledData:
    """A table of numbers and categories as one vector per row."""
    where, name = str(data.source), find_target(table, data)
    table, notes = drop_unlabelled(table, name, where)
    names = [column for column in table.names if column not in (name, *data.leave_out)]
    task, target, told = fit_target(table, name, data)
    encoder, found = fit_table(table.rows, [table.rows[i] for i in table.part("train")], names, where=where)
    rows = TensorRows(encoder.encode(table.rows), target.encode(table.column(name)))
    return LabelledData(where, task, cut_splits(rows, table.splits, data), encoder, target, [told, *found, *notes])


def encode_text(table: Table, data: BaselineData, vocab_size: int, max_words: int) -> LabelledData:
    """A table with a column of text as ids of words; the split is decided by the text alone."""
    where, name, text_name = str(data.source), find_target(table, data), find_text(table, data)
    assert text_name is not None, "only called where there is text"
    table, notes = drop_unlabelled(table, name, where)
    texts = [str(value or "") for value in table.column(text_name)]
    splits = table.splits if where == "python-docs:labelled" else [split_of(text, data) for text in texts]
    table = Table(table.rows, table.names, splits)
    task, target, told = fit_target(table, name, data)
    words = [split_words(text) for text in texts]
    encoder = WordEncoder.fit((words[i] for i in table.part("train")), vocab_size=vocab_size, max_words=max_words)
    ids, lengths = encoder.encode_words(words)
    rows = TensorRows(ids, target.encode(table.column(name)), lengths.tolist())
    unused = [column for column in table.names if column not in (name, text_name)]
    notes = [f"text: column {text_name}", told, *describe_texts(encoder, words), *notes]
    notes += [f"not used: {', '.join(unused)}"] if unused else []
    return LabelledData(where, task, cut_splits(rows, table.splits, data), encoder, target, notes)


def encode_series(series: np.ndarray, columns: list[str], data: BaselineData, notes: list[str]) -> LabelledData:
    """A series (T, C) as windows; the target is the last channel's value `horizon` steps later. The end is the test."""
    length, first = len(series), data.look_back + data.horizon - 1
    test_start = length - round(length * data.test)
    train_end = test_start - round(length * data.validation)
    if train_end - first < 2:
        raise DataError(
            f"{length} values are too few for windows of {data.look_back} and a horizon of {data.horizon}",
            where=str(data.source),
            fix="make data.look_back smaller",
        )
    encoder = fit_series(series, columns, look_back=data.look_back, horizon=data.horizon, train_end=train_end)
    inputs = encoder.encode(series[: length - data.horizon])
    last, future = (
        torch.from_numpy(series[data.look_back - 1 : length - data.horizon, -1]),
        torch.from_numpy(series[first:, -1]),
    )
    changes = (future - last)[: train_end - first]
    scale = float(changes.square().mean().sqrt()) or 1.0
    target = NumberTarget("last", 0.0, scale)
    rows = TensorRows(inputs, target.encode(future, last))
    # Row i is about the value at time first + i.
    splits = ["train" if t < train_end else "validation" if t < test_start else "test" for t in range(first, length)]
    told = f"forecast: the value {data.horizon} steps ahead from the last {data.look_back}; the end of time is the test"
    return LabelledData(str(data.source), "forecast", cut_splits(rows, splits, data), encoder, target, [*notes, told])


def read_pictures(data: BaselineData) -> LabelledData:
    """The handwritten digits, 8 by 8."""
    classic = load_classic(str(data.source))
    splits = split_by_index(len(classic.inputs), data)
    training = np.array([split == "train" for split in splits])
    encoder = ImageEncoder.fit(classic.inputs[training])
    target = fit_classes(classic.targets, where=str(data.source))
    rows = TensorRows(encoder.encode(classic.inputs), target.encode(classic.targets))
    notes = [
        f"pictures of {encoder.width} x {encoder.height} with {encoder.channels} channel",
        describe_classes(classic.targets, target, splits),
    ]
    return LabelledData(str(data.source), "classification", cut_splits(rows, splits, data), encoder, target, notes)


def read_python_docs(data: BaselineData, vocab_size: int, max_words: int) -> LabelledData:
    """The documentation of Python's own library, by package; split by document where it is made."""
    rows, splits = [], []
    for split in SPLITS:
        found = list(python_docs.labelled(split))
        rows += found
        splits += [split] * len(found)
    named = data.model_copy(update={"target": "label", "text": "text"})
    return encode_text(Table(rows, ["text", "label"], splits), named, vocab_size, max_words)


def fit_target(table: Table, name: str, data: BaselineData) -> tuple[TaskName, Target, str]:
    """Whether the target is a class or a number, fitted, and told in a sentence."""
    values, where = table.column(name), str(data.source)
    task = recognise_task(values) if data.task == "auto" else data.task
    if task == "regression":
        training = [values[i] for i in table.part("train")]
        check_split("train", training, where)
        number = fit_number(values, training, where=where)
        return (
            task,
            number,
            f"target: {name}, a number (mean {number.mean:.4g}, spread {number.scale:.4g} over the training rows)",
        )
    classes = fit_classes(values, where=where)
    return task, classes, f"target: {name}, {describe_classes(values, classes, table.splits)}"


def describe_classes(values: Sequence[Any], target: ClassTarget, splits: Sequence[str]) -> str:
    """How many rows each class has; classes that training never sees are pointed out."""
    counts = Counter(target.encode(values).tolist())
    seen = set(target.encode([value for value, split in zip(values, splits, strict=True) if split == "train"]).tolist())
    shown = [f"{name} ({counts[k]:,})" for k, name in enumerate(target.names)]
    unseen = [name for k, name in enumerate(target.names) if k not in seen]
    text = f"{len(shown)} classes: {', '.join(shown[:12])}" + (
        f" and {len(shown) - 12} more" if len(shown) > 12 else ""
    )
    return text + (f"; not in the training rows: {', '.join(unseen)}" if unseen else "")


def cut_splits(rows: TensorRows, splits: Sequence[str], data: BaselineData) -> dict[str, TensorRows]:
    """Each split's rows. One that was asked for and has none is an error."""
    parts = {}
    for split, wanted in zip(SPLITS, (1.0, data.validation, data.test), strict=True):
        index = torch.tensor([i for i, name in enumerate(splits) if name == split], dtype=torch.int64)
        if wanted:
            check_split(split, index.tolist(), str(data.source), len(splits))
        lengths = None if rows.lengths is None else [rows.lengths[i] for i in index.tolist()]
        parts[split] = TensorRows(rows.inputs[index], rows.targets[index], lengths)
    return parts


def check_split(split: str, rows: Sequence[Any], where: str, total: int | None = None) -> None:
    """Raise where a split that was asked for has no row."""
    if len(rows) == 0:
        count = "the rows" if total is None else f"the {total} rows"
        raise DataError(
            f"none of {count} is in the {split} split",
            where=where,
            fix="give more rows, or change data.validation and data.test",
        )


def read_encoder(stored: Mapping[str, Any]) -> Encoder:
    """An encoder from what its `to_json` gave."""
    values = dict(stored)
    form = values.pop("form")
    if form == "table":
        return read_table_encoder(values)
    kinds: dict[str, type[ImageEncoder | WordEncoder | SeriesEncoder]] = {
        "image": ImageEncoder,
        "text": WordEncoder,
        "series": SeriesEncoder,
    }
    return kinds[form](**values)
