"""Files that are whole or absent: written aside, flushed to disk, then renamed to their final name."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmkit.errors import UsageError


def check_output_free(path: Path) -> None:
    """Raise unless `path` is absent or an empty folder: nothing that is already there is ever touched."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        what = "this folder is not empty" if path.is_dir() else "this is a file"
        raise UsageError(
            f"{what}, and nothing already there is overwritten", where=str(path), fix="choose another --output"
        )


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    Raises:
        UsageError: `path` is a file or a folder that is not empty.
    """
    check_output_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        flush_folder(aside)
        # rename replaces an empty folder, and fails on one that filled up in the meantime.
        aside.rename(path)
        flush_entry(path.parent)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def write_file(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all; a file of this name is replaced in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        aside.write_bytes(data.encode() if isinstance(data, str) else data)
        flush_entry(aside)
        aside.replace(path)
        flush_entry(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def flush_folder(folder: Path) -> None:
    """Flush every file below `folder`, and the folders themselves, to disk."""
    for path in [*folder.rglob("*"), folder]:
        flush_entry(path)


def flush_entry(path: Path) -> None:
    """Flush one file's contents, or one folder's names, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's contents, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
