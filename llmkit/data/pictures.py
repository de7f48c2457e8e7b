"""Pictures as users have them, decoded once into one array: files by class in a folder or an archive, or in columns.

Shapes: N pictures, C channels, H height, W width.
"""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from llmkit.data.document import Record
from llmkit.data.file_tree import FileTree
from llmkit.data.splits import SPLIT_NAMES, split_in_name
from llmkit.errors import DataError, UsageError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm")
GREY_MODES = {"1", "L", "I", "F", "I;16"}


@dataclass(frozen=True)
class Pictures:
    """Pictures of one size, with their classes.

    Args:
        pixels: (N, C, H, W), uint8 or float.
        labels: The class of each.
        splits: The split that the source names for each, or "".
        notes: What was recognised.
        class_names: What classes that are numbers are called.
    """

    pixels: np.ndarray
    labels: list[Any]
    splits: list[str]
    notes: tuple[str, ...] = ()
    class_names: dict[str, str] = field(default_factory=dict)

    def in_split(self, split: str) -> Pictures:
        """The same, all of them in one split."""
        return replace(self, splits=[split] * len(self.labels))


def join_pictures(parts: Sequence[Pictures], *, where: str) -> Pictures:
    """The pictures of several files in one array.

    Raises:
        DataError: They have different sizes.
    """
    sizes = {part.pixels.shape[1:] for part in parts}
    if len(sizes) > 1:
        shown = " and ".join(sorted("x".join(map(str, size)) for size in sizes))
        raise DataError(f"its splits have pictures of {shown}", where=where, fix="set data.image_size")
    return Pictures(
        np.concatenate([part.pixels for part in parts]),
        [label for part in parts for label in part.labels],
        [split for part in parts for split in part.splits],
        tuple(dict.fromkeys(note for part in parts for note in part.notes)),
        parts[0].class_names,
    )


def load_pillow() -> Any:
    """Pillow's Image module.

    Raises:
        UsageError: It is not installed.
    """
    try:
        from PIL import Image  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise UsageError(
            "picture files are read with Pillow, which is not installed",
            where="--data",
            fix="pip install 'llmkit[baseline]'",
        ) from error
    return Image


def decode_picture(data: bytes, name: str, *, size: tuple[int, int] | None = None) -> np.ndarray:
    """A picture file as (H, W) where it is grey, or (H, W, 3): uint8, upright, on white where it is transparent.

    Args:
        data: The file.
        name: For messages.
        size: (height, width) to scale it to, its middle kept.

    Raises:
        DataError: It is no picture, or a damaged one.
    """
    image_module = load_pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", image_module.DecompressionBombWarning)
            image = image_module.open(io.BytesIO(data))
            if size is not None:
                image.draft(None, (2 * size[1], 2 * size[0]))  # jpeg: decode no finer than is needed
            image.load()
    except (OSError, ValueError, SyntaxError, image_module.DecompressionBombError, Warning) as error:
        # Pillow would name the object in memory that it read from.
        reason = "no known format" if isinstance(error, image_module.UnidentifiedImageError) else error
        raise DataError(f"this picture cannot be read ({reason})", where=name, fix="mend or remove it") from error
    return picture_array(image, size=size)


def picture_array(image: Any, *, size: tuple[int, int] | None = None) -> np.ndarray:
    """A Pillow image as (H, W) or (H, W, 3) uint8."""
    from PIL import ImageOps  # noqa: PLC0415 - its caller has an image, so it is there

    image = ImageOps.exif_transpose(image)
    if image.mode in ("I", "I;16", "F"):
        # 16 bits and more: the highest value is white.
        pixels = np.asarray(image, dtype=np.float64)
        high = 65535.0 if image.mode == "I;16" or pixels.max() > 255 else 255.0
        image = load_pillow().fromarray((pixels / high * 255).clip(0, 255).astype(np.uint8))
    elif image.mode not in GREY_MODES and image.mode != "RGB":
        has_alpha = "A" in image.getbands() or "transparency" in image.info
        if has_alpha:
            layer = image.convert("RGBA")
            image = load_pillow().new("RGBA", layer.size, (255, 255, 255, 255))
            image.alpha_composite(layer)
        image = image.convert("RGB")
    if image.mode == "1":
        image = image.convert("L")
    if size is not None and image.size != (size[1], size[0]):
        image = ImageOps.fit(image, (size[1], size[0]), method=load_pillow().Resampling.BILINEAR)
    return np.asarray(image)


def png_of(pixels: np.ndarray) -> bytes:
    """A picture (C, H, W) as a PNG file; numbers that are no bytes are spread from black to white."""
    if pixels.dtype != np.uint8 or pixels.max() < 64:
        low, high = float(pixels.min()), float(pixels.max())
        pixels = ((pixels.astype(np.float64) - low) / ((high - low) or 1.0) * 255).round().astype(np.uint8)
    pixels = pixels if len(pixels) in (1, 3) else pixels[:1]
    channels, height, width = pixels.shape
    lines = b"".join(b"\0" + line.tobytes() for line in pixels.transpose(1, 2, 0))

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2 if channels == 3 else 0, 0, 0, 0)
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(lines)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def stack_pictures(named: Iterable[tuple[str, np.ndarray]], *, where: str) -> np.ndarray:
    """Pictures (H, W) or (H, W, 3) as one (N, C, H, W); grey ones become colour where there is any in colour.

    Raises:
        DataError: Two of them have different sizes.
    """
    names, arrays = zip(*named, strict=True)
    sizes = Counter(array.shape[:2] for array in arrays)
    if len(sizes) > 1:
        (usual, _), (other, _) = sizes.most_common(2)
        odd = next(name for name, array in zip(names, arrays, strict=True) if array.shape[:2] == other)
        smallest = min(min(size) for size in sizes)
        raise DataError(
            f"pictures of {len(sizes)} sizes: most have {usual[1]} x {usual[0]}, {odd} has {other[1]} x {other[0]}",
            where=where,
            fix=f"set data.image_size={smallest}, say: all are scaled to it, and their middle kept",
        )
    has_colour = any(array.ndim == 3 for array in arrays)
    if not has_colour:
        return np.stack(arrays)[:, None]
    colour = [array if array.ndim == 3 else np.repeat(array[:, :, None], 3, axis=2) for array in arrays]
    return np.ascontiguousarray(np.stack(colour).transpose(0, 3, 1, 2))


def is_picture(name: str) -> bool:
    """Whether a file's name ends like a picture."""
    return name.lower().endswith(ENDINGS)


def read_picture_tree(tree: FileTree, image_size: int | None) -> Pictures:
    """The pictures of a folder or archive: the folder they lie in is their class, one named train or test their split.

    Raises:
        DataError: There are pictures outside of any class, or of several sizes and none was asked for.
    """
    names = [name for name in tree.names if is_picture(name)]
    places = [class_and_split(name) for name in names]
    loose = next((name for name, (label, _) in zip(names, places, strict=True) if not label), None)
    if loose is not None:
        raise DataError(
            "this picture lies in no folder of a class",
            where=tree.place(loose),
            fix="put each class into a folder of its name: cats/1.png, dogs/2.png; or train/cats/1.png",
        )
    size = (image_size, image_size) if image_size else None
    arrays = ((tree.place(name), decode_picture(tree.read(name), tree.place(name), size=size)) for name in names)
    pixels = stack_pictures(arrays, where=tree.where)
    notes = [*tree.describe_left_out([name for name in tree.names if not is_picture(name)])]
    notes += describe_resizing(image_size)
    return Pictures(pixels, [label for label, _ in places], [split for _, split in places], tuple(notes))


def describe_resizing(image_size: int | None) -> list[str]:
    """That pictures were scaled, where they were asked to be."""
    if image_size is None:
        return []
    return [
        f"pictures scaled to {image_size} x {image_size}, the middle of those that are not square (data.image_size)"
    ]


def class_and_split(name: str) -> tuple[str, str]:
    """(class, split) by the folders of a picture or text.

    >>> class_and_split("cifar10/train/cat/1.png"), class_and_split("cats/1.png")
    (('cat', 'train'), ('cats', ''))
    """
    folders = PurePosixPath(name).parts[:-1]
    split = next((split_in_name(folder) for folder in folders if folder.lower() in SPLIT_NAMES), "")
    label = folders[-1] if folders and folders[-1].lower() not in SPLIT_NAMES else ""
    return label, split


def find_picture_column(records: Sequence[Record]) -> str | None:
    """The column whose values are pictures: bytes of a file, or images that a library has decoded."""
    values = records[0].values
    return next((name for name, value in values.items() if is_picture_value(value)), None)


def is_picture_value(value: Any) -> bool:
    """Whether a value is a picture: {"bytes": ..., "path": ...}, bytes of a file, or a Pillow image."""
    if isinstance(value, dict):
        return set(value) == {"bytes", "path"} and isinstance(value["bytes"], bytes)
    return hasattr(value, "getbands") or (isinstance(value, bytes) and len(value) > 20)


def picture_of_value(value: Any, name: str, size: tuple[int, int] | None) -> np.ndarray:
    """The picture that a value of a column is."""
    data = value["bytes"] if isinstance(value, dict) else value
    if isinstance(data, bytes):
        return decode_picture(data, name, size=size)
    if not hasattr(data, "getbands"):
        raise DataError("there is no picture in this row", where=name, fix="mend or remove the row")
    return picture_array(data, size=size)


def pictures_of_column(
    records: Sequence[Record], where: str, size: tuple[int, int]
) -> tuple[list[str], list[np.ndarray], list[str]]:
    """Names and arrays (H, W) or (H, W, 3) of the pictures in a column of rows, scaled to a size, and what is to tell.

    Raises:
        DataError: No column holds any.
    """
    column = find_picture_column(records)
    if column is None:
        fix = f"give rows with pictures; columns: {', '.join(records[0].values)}"
        raise DataError("none of its columns holds pictures", where=where, fix=fix)
    arrays = [picture_of_value(record.values.get(column), record.where, None) for record in records]
    others = [i for i, array in enumerate(arrays) if array.shape[:2] != size]
    for i in others:
        arrays[i] = picture_of_value(records[i].values.get(column), records[i].where, size)
    scaled = f"{len(others):,} of {len(arrays):,} pictures are scaled to {size[1]} x {size[0]}, their middle kept"
    return [record.where for record in records], arrays, [scaled] if others else []
