"""Data sets that the library `datasets` has saved in a folder (`save_to_disk`), with their splits."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmkit.data.document import Record
from llmkit.errors import DataError

SPLITS = "dataset_dict.json"
OF_ONE = ("dataset_info.json", "state.json")


def is_saved(source: str) -> bool:
    """Whether a folder holds such a set."""
    folder = Path(source)
    return (folder / SPLITS).is_file() or all((folder / name).is_file() for name in OF_ONE)


def folders_of_splits(source: str) -> dict[str, str]:
    """Split -> its folder, which is such a set itself; nothing for one without splits."""
    path = Path(source) / SPLITS
    if not path.is_file():
        return {}
    try:
        return {str(name): str(Path(source) / name) for name in json.loads(path.read_text(encoding="utf-8"))["splits"]}
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(str(path), error) from error


def read_saved(source: str) -> Iterator[Record]:
    """The rows of a set; of one with splits those of its `train`, or of the only one.

    Raises:
        DataError: It is not whole, or it is not plain which split is meant.
    """
    splits = folders_of_splits(source)
    if splits and "train" not in splits and len(splits) > 1:
        fix = f"name the folder of one: {', '.join(splits.values())}"
        raise DataError("there is no split 'train'", where=source, fix=fix)
    folder = splits.get("train", next(iter(splits.values()), source))
    rows = open_saved(folder)
    if not len(rows):
        raise DataError("there is no row in it", where=folder, fix="name a set with rows")
    for number, values in enumerate(rows, 1):
        yield Record(f"{folder}:{number}", dict(values))


def open_saved(folder: str) -> Any:
    """One split as `datasets` opens it."""
    import datasets  # noqa: PLC0415 - takes a second to import, and is needed for such folders alone

    try:
        return datasets.load_from_disk(folder)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise damaged(folder, error) from error


def damaged(where: str, error: Exception) -> DataError:
    """What to say of a set that cannot be opened."""
    first_line = str(error).strip().partition("\n")[0] or type(error).__name__
    return DataError(f"this data set cannot be opened ({first_line})", where=where, fix="save it again")
