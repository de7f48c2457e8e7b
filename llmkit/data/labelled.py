"""Labelled rows for classical networks: any source to tensors of three splits, with the encoder kept beside the model.

A source becomes one of five forms: image, table, text, series, language. Each form has an encoder that is fitted on the
training split alone, and everything recognised, filled or left out is told in `notes`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmkit.data import python_docs
from llmkit.data.classic import CLASSIC_SETS, load_classic
from llmkit.data.forecast import encode_mackey_glass, encode_series
from llmkit.data.images import ImageEncoder
from llmkit.data.labelled_set import LabelledData, RowReading, TaskName, TensorRows, cut_splits, read_encoder
from llmkit.data.open_source import open_source
from llmkit.data.pictures import Pictures
from llmkit.data.splits import SPLITS, assign_splits, content_of
from llmkit.data.stretches import encode_language
from llmkit.data.table import Table, check_column, drop_unlabelled, find_target, find_texts
from llmkit.data.table_encoder import fit_table
from llmkit.data.targets import ClassTarget, NumberTarget, class_name, fit_classes, fit_number, recognise_task
from llmkit.data.words import WordEncoder, describe_texts, split_words
from llmkit.errors import DataError
from llmkit.recipe.load import did_you_mean
from llmkit.recipe.schema import BaselineData

__all__ = ["BUILT_IN", "SPLITS", "LabelledData", "TensorRows", "encode_rows", "read_encoder", "read_labelled"]

PYTHON_DOCS = "python-docs:labelled"
BUILT_IN = (*CLASSIC_SETS, "mackey-glass", PYTHON_DOCS)
MOST_CLASSES_SHOWN = 12
UNBALANCED = 3
"""The largest class is this many times the smallest: told, as accuracy says little then."""


def read_labelled(data: BaselineData, *, vocab_size: int, max_words: int) -> LabelledData:
    """Read, recognise, split and encode what `data` names.

    Args:
        data: The recipe's section.
        vocab_size: Most words that texts keep apart.
        max_words: Longer texts are cut to their first words; rows of a language are as many symbols long.

    Raises:
        DataError: The source holds nothing to learn from as asked; it says what there is.
    """
    source = str(data.source)
    if data.task == "language":
        return encode_language(data, max_length=max_words)
    if source == "mackey-glass":
        return encode_mackey_glass(data)
    found = built_in(source, data)
    if found is None:
        check_name(source)
        found = open_source(data)
    if isinstance(found, Pictures):
        return encode_pictures(found, data)
    if data.task == "forecast":
        return encode_series(found, data)
    return encode_rows(found, data, vocab_size=vocab_size, max_words=max_words)


def encode_rows(table: Table, data: BaselineData, *, vocab_size: int, max_words: int) -> LabelledData:
    """A table as texts where it has columns of text, and else as numbers and categories."""
    for name in data.leave_out:
        check_column(name, table, str(data.source))
    target = find_target(table, data)
    texts = find_texts(table, data, target)
    if texts:
        return encode_text(table, target, texts, data, vocab_size=vocab_size, max_words=max_words)
    return encode_table(table, target, data)


def check_name(source: str) -> None:
    """Raise where a name is nearly that of a built-in set, and no file."""
    hint = did_you_mean(source, BUILT_IN)
    if hint and source.replace("-", "").isalpha() and not Path(source).exists():
        raise DataError("there is no such file, and no built-in set of this name", where=source, fix=hint)


def built_in(source: str, data: BaselineData) -> Table | Pictures | None:
    """A set that comes with Python or scikit-learn; None for any other source."""
    if source == PYTHON_DOCS:
        rows = [(row, split) for split in SPLITS for row in python_docs.labelled(split)]
        splits = [split for _, split in rows]
        return Table([row for row, _ in rows], ["text", "label"], splits, target="label", texts=("text",))
    if source not in CLASSIC_SETS:
        return None
    classic = load_classic(source)
    if source == "digits":
        # Brightness from 0 to 16.
        return Pictures(classic.inputs.astype(np.uint8), classic.targets, [""] * len(classic.targets))
    names = [*classic.columns, "target"]
    values = [[*row.tolist(), target] for row, target in zip(classic.inputs, classic.targets, strict=True)]
    return Table([dict(zip(names, row, strict=True)) for row in values], names, [""] * len(values), target="target")


def encode_table(table: Table, name: str, data: BaselineData) -> LabelledData:
    """A table as one vector per row; the columns that the network sees, and the target, decide the split."""
    where = str(data.source)
    task = task_of(table, name, data)
    table, notes = drop_unlabelled(table, name, where, is_number=task == "regression")
    names = [column for column in table.names if column not in (name, *data.leave_out)]
    # What the network does not see must not tell rows apart: with another number in front they are still the same.
    seen = [name, *(column.name for column in fit_table(table.rows, table.rows, names, where=where)[0].columns)]
    contents = [content_of({column: row.get(column) for column in seen}) for row in table.rows]
    repeated = len(contents) - len(set(contents))
    notes += [f"{repeated:,} rows repeat another one; equal rows are in the same split"] if repeated else []
    splits, told_splits = assign_splits(contents, table.splits, data)
    table = replace(table, splits=splits)
    target, values, told = fit_target(table, name, task, data)
    encoder, found = fit_table(table.rows, [table.rows[i] for i in table.part("train")], names, where=where)
    rows = TensorRows(encoder.encode(table.rows), target.encode(values))
    notes = [*table.notes, *told, *found, *notes, *told_splits]
    parts = cut_splits(rows, splits, data)
    return LabelledData(where, task, parts, encoder, target, notes, reading_of(table, [], name, data))


def encode_text(
    table: Table, name: str, columns: Sequence[str], data: BaselineData, *, vocab_size: int, max_words: int
) -> LabelledData:
    """A table with columns of text as ids of words; the split is decided by the text alone."""
    where = str(data.source)
    task = task_of(table, name, data)
    table, notes = drop_unlabelled(table, name, where, is_number=task == "regression")
    texts = [join_texts(row, columns) for row in table.rows]
    repeated = len(texts) - len(set(texts))
    notes += [f"{repeated:,} texts repeat another one; equal texts are in the same split"] if repeated else []
    splits, told_splits = assign_splits(texts, table.splits, data)
    table = replace(table, splits=splits)
    target, values, told = fit_target(table, name, task, data)
    words = [split_words(text) for text in texts]
    encoder = WordEncoder.fit((words[i] for i in table.part("train")), vocab_size=vocab_size, max_words=max_words)
    ids, lengths = encoder.encode_words(words)
    rows = TensorRows(ids, target.encode(values), lengths.tolist(), texts=texts)
    shown = f"column {columns[0]}" if len(columns) == 1 else f"columns {', '.join(columns)}, joined"
    unused = [column for column in table.names if column not in (name, *columns)]
    notes = [*table.notes, f"text: {shown}", *told, *describe_texts(encoder, words), *notes, *told_splits]
    notes += [f"not used: {', '.join(unused)}"] if unused else []
    reading = reading_of(table, columns, name, data)
    return LabelledData(where, task, cut_splits(rows, splits, data), encoder, target, notes, reading)


def join_texts(row: Mapping[str, Any], columns: Sequence[str]) -> str:
    """The text of a row: its columns of text in a row, a line each."""
    return "\n".join(str(row[column]) for column in columns if row.get(column) is not None)


def reading_of(table: Table, texts: Sequence[str], target: str, data: BaselineData) -> RowReading:
    """How new rows are to be read."""
    return RowReading(list(table.names), list(texts), [target], table.has_names, data.encoding, dict(table.class_names))


def encode_pictures(pictures: Pictures, data: BaselineData) -> LabelledData:
    """Pictures as they are, standardised batch by batch; equal pictures are in the same split."""
    where = str(data.source)
    if data.task in ("forecast", "regression"):
        fix = "leave data.task out"
        raise DataError(f"pictures are told apart by class; data.task is {data.task}", where=where, fix=fix)
    contents = [picture.tobytes() for picture in pictures.pixels]
    splits, notes = assign_splits(contents, pictures.splits, data)
    is_training = np.array([split == "train" for split in splits])
    if not is_training.any():
        raise DataError("none of the pictures is in the train split", where=where, fix="make data.test smaller")
    encoder = ImageEncoder.fit(pictures.pixels[is_training])
    labels = [pictures.class_names.get(class_name(label), label) for label in pictures.labels]
    target = fit_classes(labels, where=where)
    pixels = pictures.pixels if pictures.pixels.flags.writeable else pictures.pixels.copy()
    rows = TensorRows(torch.from_numpy(pixels), target.encode(labels), scaling=encoder.scaling)
    plural = "channel" if encoder.channels == 1 else "channels"
    notes = [
        f"pictures of {encoder.width} x {encoder.height} with {encoder.channels} {plural}",
        *pictures.notes,
        *describe_classes(labels, target, splits),
        *notes,
    ]
    reading = RowReading(class_names=dict(pictures.class_names))
    return LabelledData(where, "classification", cut_splits(rows, splits, data), encoder, target, notes, reading)


def task_of(table: Table, name: str, data: BaselineData) -> TaskName:
    """Whether a class or a number is predicted: as asked, or by the values."""
    if table.class_names or data.task not in ("auto", "classification", "regression"):
        return "classification"
    return recognise_task(table.column(name)) if data.task == "auto" else data.task


def fit_target(
    table: Table, name: str, task: TaskName, data: BaselineData
) -> tuple[ClassTarget | NumberTarget, list[Any], list[str]]:
    """The target fitted, the values that it encodes, and both told."""
    values, where = table.column(name), str(data.source)
    training = [values[i] for i in table.part("train")]
    if not training:
        fix = "give more rows, or change data.validation and data.test"
        raise DataError(f"none of the {len(values)} rows is in the train split", where=where, fix=fix)
    if task == "regression":
        number = fit_number(values, training, name=name, where=where)
        told = f"a number (mean {number.mean:.4g}, spread {number.scale:.4g} over the training rows)"
        return number, values, [f"target: {name}, {told}"]
    named = [table.class_names.get(class_name(value), value) for value in values]
    classes = fit_classes(named, where=where)
    first, *rest = describe_classes(named, classes, table.splits)
    return classes, named, [f"target: {name}, {first}", *rest]


def describe_classes(values: Sequence[Any], target: ClassTarget, splits: Sequence[str]) -> list[str]:
    """How many rows each class has; classes that training never sees, and classes of very different sizes."""
    ids = target.encode(values).tolist()
    counts = Counter(ids)
    training = Counter(k for k, split in zip(ids, splits, strict=True) if split == "train")
    shown = [f"{name} ({counts[k]:,})" for k, name in enumerate(target.names)]
    more = f" and {len(shown) - MOST_CLASSES_SHOWN} more" if len(shown) > MOST_CLASSES_SHOWN else ""
    text = f"{len(shown)} classes: {', '.join(shown[:MOST_CLASSES_SHOWN])}{more}"
    unseen = [name for k, name in enumerate(target.names) if k not in training]
    notes = [text + (f"; not in the training rows: {', '.join(unseen)}" if unseen else "")]
    (most, highest), (least, lowest) = training.most_common()[0], training.most_common()[-1]
    if highest >= UNBALANCED * lowest:
        names = target.names
        notes.append(
            f"unbalanced: of the training rows {highest:,} are {names[most]}, {lowest:,} are {names[least]}; "
            "look at macro-F1; if the rare ones matter: --set loss.class_weights=balanced"
        )
    return notes
