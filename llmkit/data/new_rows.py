"""New rows for a trained network: read and encoded as its training rows were, from what was stored beside its weights.

`read_new_rows(stored, "new.csv")` reads a file; `encode_new_rows(stored, rows)` takes rows that are there already. What
is missing or was never seen in training is handled as in training, and told in `notes`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmkit.data.arrays import column_names, is_idx, load_inputs, parse_idx, to_channels_first
from llmkit.data.columns import as_number
from llmkit.data.decoding import decode, read_bytes, split_lines
from llmkit.data.delimited import read_grid
from llmkit.data.documents import read_records
from llmkit.data.file_tree import is_archive, open_tree
from llmkit.data.hub import is_hub_name
from llmkit.data.images import ImageEncoder
from llmkit.data.labelled_set import Encoder, RowReading, TensorRows, read_encoder
from llmkit.data.language import SymbolEncoder
from llmkit.data.pictures import decode_picture, is_picture, pictures_of_column
from llmkit.data.records import BadLines, read_json_or_lines
from llmkit.data.saved_set import is_saved
from llmkit.data.season import find_calendar
from llmkit.data.series import SeriesEncoder, order_in_time
from llmkit.data.sources import Source, find_sources, format_of, read_lines
from llmkit.data.table_encoder import CategoricalColumn, TableEncoder, category_of, describe_gaps
from llmkit.data.targets import NumberTarget, Target, read_target
from llmkit.data.words import WordEncoder, describe_texts, split_words
from llmkit.errors import DataError

Stored = Mapping[str, Any]
NewRow = Mapping[str, Any]


@dataclass(frozen=True)
class NewRows:
    """Rows that a network can answer.

    Args:
        rows: Their tensors; the targets are zeros.
        names: What each row is called: `file:line`, or a picture's name.
        raws: The rows as they were read; of pictures nothing.
        answers: The values of the column that is predicted, where the rows have it: raw, as in the source.
        last: The last values seen (N, K), which forecasts are differences from.
        notes: What was filled, unknown, scaled or left out.
    """

    rows: TensorRows
    names: list[str]
    raws: list[NewRow]
    answers: list[Any] | None = None
    last: Tensor | None = None
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Rules:
    """What was stored beside a network, read back."""

    encoder: Encoder
    target: Target
    reading: RowReading

    @property
    def needed(self) -> list[str]:
        """The columns without which nothing can be predicted."""
        if isinstance(self.encoder, TableEncoder):
            return [column.name for column in self.encoder.columns]
        return self.encoder.columns if isinstance(self.encoder, SeriesEncoder) else self.reading.texts


def read_rules(stored: Stored) -> Rules:
    """What `LabelledData.to_json` gave."""
    return Rules(read_encoder(stored["encoder"]), read_target(stored["target"]), RowReading(**stored["reading"]))


def read_new_rows(stored: Stored, source: str, *, encoding: str | None = None) -> NewRows:
    """The rows of a file, a folder of pictures, or standard input (`-`).

    Args:
        stored: What `LabelledData.to_json` gave: the `data` of a saved baseline.
        source: csv, tsv, jsonl, json, parquet, plain text, pictures, or what else the network was trained on.
        encoding: Of texts; as in training where not given.

    Raises:
        DataError: A column that the network needs is not there, or nothing can be read.
    """
    rules = read_rules(stored)
    if isinstance(rules.encoder, ImageEncoder):
        return encode_pictures(rules.encoder, *read_pictures(rules.encoder, source))
    encoding = encoding or rules.reading.encoding
    if isinstance(rules.encoder, SymbolEncoder):
        text = decode(read_bytes(source), source, encoding)
        return encode_prompts(rules.encoder, split_lines(text) or [""])
    named, notes = read_rows(rules, source, encoding)
    rows = encode_new_rows(stored, [row for _, row in named], names=[name for name, _ in named])
    return NewRows(rows.rows, rows.names, rows.raws, rows.answers, rows.last, [*notes, *rows.notes])


def encode_new_rows(stored: Stored, raws: Sequence[Any], *, names: Sequence[str] | None = None) -> NewRows:
    """Rows that are there already: mappings by column, texts, or pictures as bytes of a file or arrays (H, W[, 3]).

    For a series the rows are points in time, of which the last `look_back` make one window.
    """
    rules = read_rules(stored)
    called = list(names) if names is not None else [f"row {i}" for i in range(1, len(raws) + 1)]
    if not raws:
        raise DataError("there are no rows", where="input", fix="give at least one row")
    if isinstance(rules.encoder, ImageEncoder):
        size = (rules.encoder.height, rules.encoder.width)
        arrays = [
            decode_picture(raw, name, size=size) if isinstance(raw, bytes) else np.asarray(raw)
            for raw, name in zip(raws, called, strict=True)
        ]
        return encode_pictures(rules.encoder, called, arrays, [])
    if isinstance(rules.encoder, SymbolEncoder):
        return encode_prompts(rules.encoder, [str(raw) for raw in raws])
    texts = rules.reading.texts
    rows = [raw if isinstance(raw, Mapping) else {(texts or ["text"])[0]: raw} for raw in raws]
    check_columns(rules, rows)
    if isinstance(rules.encoder, SeriesEncoder):
        return encode_window(rules, rows, called)
    target = rules.reading.targets[0]
    answers = [row.get(target) for row in rows] if any(target in row for row in rows) else None
    if isinstance(rules.encoder, TableEncoder):
        inputs, notes = rules.encoder.encode(rows), describe_new_table(rules.encoder, rows)
        return NewRows(TensorRows(inputs, no_targets(rows)), called, rows, answers, notes=notes)
    words = [split_words("\n".join(str(row[name]) for name in texts if row.get(name) is not None)) for row in rows]
    ids, lengths = rules.encoder.encode_words(words)
    notes = describe_new_texts(rules.encoder, words)
    return NewRows(TensorRows(ids, no_targets(rows), lengths.tolist()), called, rows, answers, notes=notes)


def no_targets(rows: Sequence[Any]) -> Tensor:
    """In the place of targets that nobody knows."""
    return torch.zeros(len(rows), dtype=torch.int64)


def check_columns(rules: Rules, rows: Sequence[NewRow]) -> None:
    """Raise where a column that the network needs is in no row."""
    there = {name for row in rows for name in row}
    missing = [name for name in rules.needed if name not in there]
    if missing:
        raise DataError(
            f"columns that the network was trained on are not there: {', '.join(missing)}",
            where="input",
            fix=f"give rows with these columns; there are: {', '.join(sorted(map(str, there))) or 'none'}",
        )


def describe_new_table(encoder: TableEncoder, rows: Sequence[NewRow]) -> list[str]:
    """Gaps and categories that training did not have."""
    notes = describe_gaps(encoder.columns, rows)
    for column in encoder.columns:
        if isinstance(column, CategoricalColumn):
            known = set(column.categories)
            new = [value for row in rows if (value := category_of(row.get(column.name))) not in known]
            if new:
                notes.append(f"{column.name}: {len(new):,} values are new ({new[0]!r}), read as none of those known")
    return notes


def describe_new_texts(encoder: WordEncoder, words: Sequence[list[str]]) -> list[str]:
    """How much of texts is not read or not known."""
    unknown, total = encoder.count_unknown(words)
    told = [f"{unknown:,} of {total:,} words are not known and share one vector"] if unknown else []
    return [*told, *describe_texts(encoder, words)[1:]]


def read_rows(rules: Rules, source: str, encoding: str) -> tuple[list[tuple[str, NewRow]], list[str]]:
    """Rows with their places: of tables and JSON by column, of plain text one text a line."""
    if is_npz(source):
        return read_rows_of_arrays(source), []
    form = None if source == "-" else format_of(Path(source))
    if is_opened_by_library(source):
        return [(record.where, record.values) for record in read_records(source)], []
    content, name = read_bytes(source), "stdin" if source == "-" else source
    if form in {"jsonl", "json"} or (form not in {"csv", "tsv"} and content.lstrip()[:1] in (b"{", b"[")):
        lines = read_lines(io.BytesIO(content), name)
        records = read_json_or_lines(lines, Source(name, form if form == "json" else "jsonl"))
        return [(record.where, record.values) for record in records], []
    text = decode(content, name, encoding)
    is_text = isinstance(rules.encoder, WordEncoder)
    named = {cell.strip() for cell in next(csv.reader([text.split("\n", 1)[0]]), [])}
    if is_text and form not in {"csv", "tsv"} and not named & set(rules.reading.texts):
        filled = [(i, line) for i, line in enumerate(split_lines(text), start=1) if line.strip()]
        return [(f"{name}:{i}", {rules.reading.texts[0]: line}) for i, line in filled], []
    return read_new_table(rules, text, name, is_tsv=form == "tsv")


def read_rows_of_arrays(source: str) -> list[tuple[str, NewRow]]:
    """The rows (N, F) of an npz file, their columns called as in training."""
    found: list[tuple[str, NewRow]] = []
    arrays = load_inputs(source)
    for name, array in arrays.items():
        if array.ndim != 2:
            shape = "x".join(map(str, array.shape))
            fix = "give (N, F), the columns as training had them"
            raise DataError(f"an array of {shape} holds no rows of a table", where=source, fix=fix)
        columns, place = column_names(array.shape[1]), place_in(source, name, arrays)
        rows = array.tolist()
        found += [(f"{place}:{i}", dict(zip(columns, row, strict=True))) for i, row in enumerate(rows, start=1)]
    return found


def read_new_table(rules: Rules, text: str, name: str, *, is_tsv: bool) -> tuple[list[tuple[str, NewRow]], list[str]]:
    """Rows of csv or tsv: by the names in the first line, or where it has none in the order of training."""
    grid = read_grid(text, name, is_tsv=is_tsv)
    if not grid.rows:
        raise DataError("there are no rows in it", where=name, fix="give a file with rows")
    reading, first = rules.reading, [cell.strip() for cell in grid.rows[0]]
    notes = list(grid.notes)
    if reading.has_names and set(rules.needed) <= set(first):
        columns, body = first, list(zip(grid.lines, grid.rows, strict=True))[1:]
    else:
        columns, body = columns_by_place(rules, len(first), name), list(zip(grid.lines, grid.rows, strict=True))
        notes.append(f"no header: the columns are taken for {', '.join(columns[:6])}{' ...' * (len(columns) > 6)}")
    bad = BadLines(name)
    for line, row in body:
        if len(row) != len(columns):
            bad.add(line, f"{len(row)} fields, and there are {len(columns)} columns")
    bad.check()
    return [(f"{name}:{line}", dict(zip(columns, row, strict=True))) for line, row in body], notes


def columns_by_place(rules: Rules, width: int, name: str) -> list[str]:
    """The columns of rows without names: all of the training file's, or all but those that are predicted.

    Raises:
        DataError: There are as many as neither.
    """
    columns = rules.reading.columns
    others = [column for column in columns if column not in rules.reading.targets]
    for wanted in (columns, others, rules.needed):
        if width == len(wanted):
            return list(wanted)
    raise DataError(
        f"its first line does not name the columns {', '.join(rules.needed[:8])}, and it has {width} fields",
        where=f"{name}:1",
        fix=f"name the columns, or give the {len(others)} columns of the training file in its order",
    )


def read_pictures(encoder: ImageEncoder, source: str) -> tuple[list[str], list[np.ndarray], list[str]]:
    """Names and arrays (H, W) or (H, W, 3) of pictures: files, a folder, an archive, idx or npz arrays, stdin."""
    size = (encoder.height, encoder.width)
    if is_npz(source) or is_idx(source):
        return read_arrays(source)
    if is_opened_by_library(source):
        return pictures_of_column(list(read_records(source)), source, size)
    if Path(source).is_dir() or is_archive(source):
        tree = open_tree(source)
        files = {name: tree.read(name) for name in tree.names if is_picture(name)}
        left = tree.describe_left_out([name for name in tree.names if not is_picture(name)])
        if not files:
            raise DataError("there is no picture in it", where=source, fix="give .png or .jpg files")
    else:
        names = ["-"] if source == "-" else [str(found.path) for found in find_sources([source])]
        files, left = {("stdin" if name == "-" else name): read_bytes(name) for name in names}, []
    arrays_of_files = [decode_picture(data, name) for name, data in files.items()]
    others = sum(array.shape[:2] != size for array in arrays_of_files)
    if others:
        fitted = [decode_picture(data, name, size=size) for name, data in files.items()]
        scaled = f"{others:,} of {len(files):,} pictures are scaled to {size[1]} x {size[0]}, their middle kept"
        return list(files), fitted, [*left, scaled]
    return list(files), arrays_of_files, left


def is_opened_by_library(source: str) -> bool:
    """Whether rows are read by a library that knows their types: parquet, and what `datasets` has."""
    return format_of(Path(source)) == "parquet" or is_hub_name(source) or is_saved(source)


def read_arrays(source: str) -> tuple[list[str], list[np.ndarray], list[str]]:
    """The pictures of an npz or idx file, by their places in its arrays."""
    arrays = load_inputs(source) if is_npz(source) else {"": parse_idx(read_bytes(source), source)}
    names: list[str] = []
    pictures: list[np.ndarray] = []
    notes: list[str] = []
    for name, array in arrays.items():
        ordered, told = to_channels_first(array, source)
        pictures += [picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0) for picture in ordered]
        names += [f"{place_in(source, name, arrays)}:{i}" for i in range(1, len(ordered) + 1)]
        notes += told
    return names, pictures, notes


def place_in(source: str, name: str, arrays: Mapping[str, np.ndarray]) -> str:
    """A file, and which of its arrays where there are several."""
    return f"{source}:{name}" if len(arrays) > 1 else source


def is_npz(source: str) -> bool:
    """Whether a name is that of a file of arrays."""
    return source.lower().endswith(".npz")


def encode_pictures(
    encoder: ImageEncoder, names: Sequence[str], arrays: Sequence[np.ndarray], notes: Sequence[str]
) -> NewRows:
    """Pictures of the network's size as a batch; grey becomes colour and colour grey where the network has the other.

    Raises:
        DataError: A picture of another size.
    """
    planes, turned = [], 0
    for name, array in zip(names, arrays, strict=True):
        if array.shape[:2] != (encoder.height, encoder.width):
            raise DataError(
                f"this picture has {array.shape[1]} x {array.shape[0]}, the network takes "
                f"{encoder.width} x {encoder.height}",
                where=name,
                fix="scale it",
            )
        channels = 1 if array.ndim == 2 else array.shape[2]
        turned += channels != encoder.channels
        planes.append(to_channels(array, encoder.channels))
    told = f"{turned:,} pictures are turned into {'grey' if encoder.channels == 1 else 'colour'}"
    inputs = torch.from_numpy(np.stack(planes))
    rows = TensorRows(inputs, no_targets(planes), scaling=encoder.scaling)
    return NewRows(rows, list(names), [{} for _ in names], notes=[*notes, *([told] if turned else [])])


def to_channels(array: np.ndarray, channels: int) -> np.ndarray:
    """(H, W) or (H, W, C) as (channels, H, W): grey is the weighted mean that Pillow takes, too."""
    if array.ndim == 2:
        return np.repeat(array[None], channels, axis=0)
    if channels == 1:
        grey: np.ndarray = np.round(array[:, :, :3] @ np.array([0.299, 0.587, 0.114]))
        return grey.astype(array.dtype)[None]
    return np.ascontiguousarray(array[:, :, :channels].transpose(2, 0, 1))


def encode_prompts(encoder: SymbolEncoder, texts: Sequence[str]) -> NewRows:
    """Beginnings of texts, one row each, to be continued."""
    rows = [encoder.prompt(text)[0] for text in texts]
    inputs = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    unknown = sum(text.count(sign) for text in texts for sign in set(text) if encoder.ids_of(sign) == [2])
    notes = [f"{unknown:,} characters are not known"] if unknown else []
    names = [f"line {i}" for i in range(1, len(texts) + 1)]
    raws: list[NewRow] = [{"text": text} for text in texts]
    return NewRows(TensorRows(inputs, no_targets(texts), list(map(len, rows))), names, raws, notes=notes)


def encode_window(rules: Rules, rows: Sequence[NewRow], names: Sequence[str]) -> NewRows:
    """The last window of a series, from which the value after the rows is forecast; gaps take the value before them.

    Raises:
        DataError: There are fewer rows than the network looks back.
    """
    encoder = rules.encoder
    assert isinstance(encoder, SeriesEncoder), "only called for series"
    others = [(name, [row.get(name) for row in rows]) for name in rows[0] if name not in encoder.columns]
    order, _ = order_in_time(find_calendar(others), len(rows), "input")
    if len(rows) < encoder.look_back:
        raise DataError(
            f"{len(rows)} rows are too few: the network looks back over {encoder.look_back}",
            where="input",
            fix="give more rows of the past",
        )
    columns, notes = [], []
    for name in encoder.columns:
        values, gaps = fill_window([as_number(rows[i].get(name)) for i in order], encoder.look_back, name)
        columns.append(values)
        notes += [f"{name}: {gaps:,} gaps take the value before them"] if gaps else []
    window = np.array(columns).T  # (L, C)
    chosen = [encoder.columns.index(name) for name in rules.reading.targets]
    last = torch.from_numpy(window[-1:, chosen])
    left = len(rows) - encoder.look_back
    notes += [f"{left:,} rows before the last {encoder.look_back} are not looked at"] if left else []
    row = TensorRows(encoder.encode(window), torch.zeros(1, len(chosen)))
    name = f"{encoder.horizon} after {names[order[-1]]}"
    known = last if isinstance(rules.target, NumberTarget) and rules.target.base == "last" else None
    return NewRows(row, [name], [rows[order[-1]]], last=known, notes=notes)


def fill_window(numbers: Sequence[float | None], look_back: int, name: str) -> tuple[list[float], int]:
    """The last numbers of a column, each gap with the value before it."""
    last, filled = None, []
    for number in numbers:
        last = last if number is None else number
        filled.append(last)
    window = filled[-look_back:]
    complete = [number for number in window if number is not None]
    if len(complete) < look_back:
        raise DataError(f"the column {name!r} begins with a gap", where="input", fix="give rows from before the gap")
    return complete, sum(number is None for number in numbers[-look_back:])
