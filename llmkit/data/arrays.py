"""Arrays of pictures and tables: idx files, as MNIST has them, and npz files."""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from llmkit.data.decoding import read_bytes
from llmkit.data.file_tree import FileTree
from llmkit.data.pictures import Pictures, describe_resizing, join_pictures
from llmkit.data.splits import split_in_name
from llmkit.data.table import Table, join_tables
from llmkit.errors import DataError

IDX_NAME = re.compile(r"(?P<stem>.*?)[-_.](?P<what>images|labels)[-_.]idx\d[-_.]ubyte(\.gz)?", re.IGNORECASE)
IDX_TYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
INPUTS = ("x", "images", "image", "data", "inputs", "features", "pixels")
TARGETS = ("y", "labels", "label", "targets", "target", "classes")
MOST_CHANNELS = 4


def parse_idx(data: bytes, name: str) -> np.ndarray:
    """The array in an idx file: two zeros, the type, the number of dimensions, their sizes (big-endian), the values.

    Raises:
        DataError: It is none, or not whole.
    """
    if len(data) < 4 or data[:2] != b"\0\0" or data[2] not in IDX_TYPES:
        raise DataError("this is no idx file", where=name, fix="give the files as MNIST has them")
    dtype, dims = np.dtype(IDX_TYPES[data[2]]), data[3]
    begin = 4 + 4 * dims
    shape = struct.unpack(f">{dims}I", data[4:begin]) if len(data) >= begin else ()
    wanted = math.prod(shape) * dtype.itemsize
    if not shape or len(data) - begin != wanted:
        raise DataError(
            f"its head speaks of {'x'.join(map(str, shape)) or 'no'} values, {wanted:,} bytes, and there are "
            f"{max(0, len(data) - begin):,}",
            where=name,
            fix="get the file again: it is not whole",
        )
    values = np.frombuffer(data, dtype, offset=begin).reshape(shape)
    return values.astype(dtype.newbyteorder("="), copy=True)


def read_idx_tree(tree: FileTree, image_size: int | None) -> Pictures:
    """The idx files of a folder or archive: images and labels of the same stem, train-* and t10k-* their splits."""
    found: dict[str, dict[str, str]] = {}
    others = []
    for name in tree.names:
        match = IDX_NAME.fullmatch(name)
        if match:
            found.setdefault(match["stem"], {})[match["what"].lower()] = name
        else:
            others.append(name)
    parts = []
    for stem, pair in found.items():
        if set(pair) != {"images", "labels"}:
            have = next(iter(pair.values()))
            raise DataError(f"{have} has no partner", where=tree.where, fix="keep images and labels side by side")
        pixels = parse_idx(tree.read(pair["images"]), tree.place(pair["images"]))
        labels = parse_idx(tree.read(pair["labels"]), tree.place(pair["labels"]))
        where = tree.place(pair["labels"])
        parts.append(make_pictures(pixels, labels, where, split_in_name(stem), image_size))
    whole = join_pictures(parts, where=tree.where)
    return replace(whole, notes=(*whole.notes, *tree.describe_left_out(others)))


def is_idx(name: str) -> bool:
    """Whether a file is named as idx files of images or labels are."""
    return IDX_NAME.fullmatch(Path(name).name) is not None


def idx_pair(path: str) -> FileTree:
    """The file of images or labels that was named, and its partner beside it."""
    match = IDX_NAME.fullmatch(Path(path).name)
    assert match is not None, "only called for the name of an idx file"
    folder = Path(path).parent
    stem = match["stem"]
    names = sorted(file.name for file in folder.iterdir() if (m := IDX_NAME.fullmatch(file.name)) and m["stem"] == stem)
    return FileTree(str(folder), names, folder, {})


def make_pictures(pixels: np.ndarray, labels: np.ndarray, where: str, split: str, image_size: int | None) -> Pictures:
    """Arrays of pictures in whatever order of axes, and their labels.

    Raises:
        DataError: They do not fit together, or are of no shape that pictures have.
    """
    ordered, told = to_channels_first(pixels, where)
    classes, found = to_labels(labels, where)
    if len(ordered) != len(classes):
        raise DataError(f"{len(classes):,} labels for {len(ordered):,} pictures", where=where, fix="check the files")
    if image_size is not None:
        ordered = resize(ordered, image_size)
    notes = [*told, *found, *describe_resizing(image_size)]
    return Pictures(ordered, classes, [split] * len(classes), tuple(notes))


def to_channels_first(pixels: np.ndarray, where: str) -> tuple[np.ndarray, list[str]]:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W), uint8 or float32."""
    shape = "x".join(map(str, pixels.shape))
    if pixels.ndim == 3:
        ordered = pixels[:, None]
    elif pixels.ndim == 4 and pixels.shape[-1] <= MOST_CHANNELS:
        ordered = np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))
    elif pixels.ndim == 4 and pixels.shape[1] <= MOST_CHANNELS:
        ordered = pixels
    else:
        fix = "give (N, H, W), (N, H, W, C) or (N, C, H, W)"
        raise DataError(f"an array of {shape} holds no pictures", where=where, fix=fix)
    if ordered.dtype != np.uint8 and np.issubdtype(ordered.dtype, np.integer) and ordered.min() >= 0:
        ordered = ordered.astype(np.uint8) if ordered.max() <= 255 else ordered
    if ordered.dtype != np.uint8:
        ordered = ordered.astype(np.float32)
        check_finite(ordered, where)
    is_turned = pixels.ndim == 4 and pixels.shape[-1] <= MOST_CHANNELS
    return ordered, [f"array of {shape}: the last axis is that of the channels"] if is_turned else []


def check_finite(values: np.ndarray, where: str) -> None:
    """Raise for NaN and infinity, which no network learns from."""
    if not np.isfinite(values).all():
        raise DataError("it holds values that are no numbers (NaN or infinity)", where=where, fix="mend the array")


def to_labels(labels: np.ndarray, where: str) -> tuple[list[Any], list[str]]:
    """Labels (N,) or (N, 1), or one column per class (N, K), as a list."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim == 1:
        return labels.tolist(), []
    is_one_hot = labels.ndim == 2 and np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()
    if not is_one_hot:
        shape = "x".join(map(str, labels.shape))
        raise DataError(f"an array of {shape} holds no labels", where=where, fix="give one label per row: (N,)")
    return labels.argmax(1).tolist(), [f"labels: one column per class, {labels.shape[1]} of them"]


def resize(pixels: np.ndarray, size: int) -> np.ndarray:
    """(N, C, H, W) -> (N, C, size, size): the middle square, scaled smoothly."""
    height, width = pixels.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    middle = torch.from_numpy(np.ascontiguousarray(pixels[:, :, top : top + side, left : left + side])).float()
    scaled = F.interpolate(middle, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return scaled.round().clamp(0, 255).byte().numpy() if pixels.dtype == np.uint8 else scaled.numpy()


def read_npz(path: str, image_size: int | None) -> Pictures | Table:
    """The arrays x and y of an npz file, or x_train, y_train, x_test ...: pictures, or the rows of a table.

    Raises:
        DataError: It holds Python objects, which are never loaded, or no arrays of such names.
    """
    arrays = load_npz(path)
    pairs = pair_arrays(arrays, path)
    pictures, tables = [], []
    for split, (x, y) in pairs.items():
        if x.ndim == 2:
            tables.append(make_table(x, y, path, split))
        else:
            pictures.append(make_pictures(x, y, path, split, image_size))
    if pictures and tables:
        raise DataError("some of its arrays are pictures, some tables", where=path, fix="give one of them")
    return join_pictures(pictures, where=path) if pictures else join_tables(tables, where=path)


def load_npz(path: str) -> dict[str, np.ndarray]:
    """The arrays of a npz file by name."""
    try:
        with np.load(io.BytesIO(read_bytes_of_zip(path)), allow_pickle=False) as loaded:
            return {name: loaded[name] for name in loaded.files}
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        if "allow_pickle" in str(error):
            message = "it holds Python objects, which are never loaded: they can run code"
            raise DataError(message, where=path, fix="save plain numbers: np.savez(FILE, x=x, y=y)") from error
        raise DataError(f"this is no npz file that can be read ({error})", where=path, fix="get it again") from error


def read_bytes_of_zip(path: str) -> bytes:
    """The bytes of a file that is an archive itself, as they are."""
    return Path(path).read_bytes() if Path(path).is_file() else read_bytes(path)


def pair_arrays(arrays: Mapping[str, np.ndarray], path: str) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Split -> (inputs, targets), by their names: x and y, train_images and train_labels, x_test and y_test ..."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, array in arrays.items():
        kind = kind_of_array(name)
        if kind:
            found.setdefault(split_in_name(name), {})[kind] = array
    whole = {split: (pair["x"], pair["y"]) for split, pair in found.items() if len(pair) == 2}
    if not whole or len(whole) < len(found):
        raise DataError(
            f"it is not plain which arrays belong together: {', '.join(arrays)}",
            where=path,
            fix="name them x and y, or x_train, y_train, x_test, y_test",
        )
    return whole


def kind_of_array(name: str) -> str:
    """What an array holds by its name: x, y, or "" for something else.

    >>> kind_of_array("train_images"), kind_of_array("y_test"), kind_of_array("mean")
    ('x', 'y', '')
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    return "x" if any(word in INPUTS for word in words) else "y" if any(word in TARGETS for word in words) else ""


def load_inputs(path: str) -> dict[str, np.ndarray]:
    """The arrays of an npz file that hold what a network reads, by name.

    Raises:
        DataError: None has such a name.
    """
    arrays = load_npz(path)
    found = {name: array for name, array in arrays.items() if kind_of_array(name) == "x"}
    if not found:
        fix = "name the array x"
        raise DataError(f"none of its arrays is to be read by its name: {', '.join(arrays)}", where=path, fix=fix)
    return found


def column_names(count: int) -> list[str]:
    """What the columns of an array (N, F) are called."""
    return [f"x{i}" for i in range(1, count + 1)]


def make_table(x: np.ndarray, y: np.ndarray, path: str, split: str) -> Table:
    """Rows of numbers (N, F) with their targets as a table."""
    labels, notes = to_labels(y, path)
    if len(labels) != len(x):
        raise DataError(f"{len(labels):,} targets for {len(x):,} rows", where=path, fix="check the arrays")
    names = column_names(x.shape[1])
    rows = [{**dict(zip(names, row, strict=True)), "y": label} for row, label in zip(x.tolist(), labels, strict=True)]
    return Table(rows, [*names, "y"], [split] * len(rows), target="y", notes=tuple(notes))
