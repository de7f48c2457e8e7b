"""Files that are whole or absent: written aside, flushed to disk, then renamed to their final name.

What a killed process left aside, `.NAME.PID.tmp`, is removed by the next one that writes NAME. A lock tells it from
what is still being written: the system takes locks back from a process that ends, however it ends.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from llmkit.errors import UsageError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the system says when there is no room: on the disk, in the user's share of it, in one file."""

NUM_THREADS = 8
"""Files that are flushed or summed at a time: a disk does many at once in the time of one."""


def check_output_free(path: Path) -> None:
    """Raise unless `path` is absent or an empty folder: nothing that is already there is ever touched."""
    if path.is_dir() and not any(path.iterdir()):
        return
    if path.exists():
        what = "this folder is not empty" if path.is_dir() else "this is a file"
        raise UsageError(
            f"{what}, and nothing already there is overwritten", where=str(path), fix="choose another --output"
        )


def flush_folder(folder: Path) -> None:
    """Flush every file below `folder`, and the folders themselves, to disk."""
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        list(pool.map(flush_entry, [*folder.rglob("*"), folder]))


@contextmanager
def new_folder(path: Path, *, flush: Callable[[Path], None] = flush_folder) -> Iterator[Path]:
    """A temporary folder beside `path` that becomes `path` when the block ends well, and vanishes when it does not.

    Args:
        path: Its parents are made where they are missing.
        flush: Called with the temporary folder before it is renamed; brings all of it to disk.

    Raises:
        UsageError: `path` is a file or a folder that is not empty.
        OSError: The disk is full, whatever the library that wrote into the folder makes of that.
    """
    check_output_free(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    aside = aside_of(path)
    aside.mkdir()
    try:
        with locked(aside):
            yield aside
            share_files(aside)
            flush(aside)
            # rename replaces an empty folder, and fails on one that filled up in the meantime.
            aside.rename(path)
            flush_entry(path.parent)
    except BaseException as error:
        shutil.rmtree(aside, ignore_errors=True)
        number = full_disk(error)
        if number is None or isinstance(error, OSError):
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


def write_file(path: Path, data: str | bytes) -> None:
    """Write a file whole or not at all; a file of this name is replaced in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path)
    aside = aside_of(path)
    try:
        aside.touch()
        with locked(aside):
            aside.write_bytes(data.encode() if isinstance(data, str) else data)
            flush_entry(aside)
            aside.replace(path)
            flush_entry(path.parent)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def append_line(path: Path, line: str) -> None:
    """Add a line to the end of a file whole or, when the disk is full, not at all."""
    data = f"{line}\n".encode()
    with path.open("ab", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        try:
            if (file.write(data) or 0) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        except OSError:
            file.truncate(size)
            raise


def aside_of(path: Path) -> Path:
    """Where this process writes what is to become `path`."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def remove_leftovers(path: Path) -> None:
    """Delete what processes that were killed wrote aside for `path`."""
    pattern = re.compile(rf"\.{re.escape(path.name)}\.\d+\.tmp")
    for left in [p for p in path.parent.iterdir() if pattern.fullmatch(p.name)]:
        if not is_held(left):
            remove_entry(left)


def remove_entry(path: Path) -> None:
    """Delete a file or a whole folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Within the block, and as long as this process lives, `path` is told from what a killed process left."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks: then nothing is ever taken for left
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Whether a process holds the lock of `path`; where the file system has no locks, one might."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder; a run that goes on may be deleting them."""
    total = 0
    for place, _, files in os.walk(folder):
        for name in files:
            with suppress(FileNotFoundError):
                total += (Path(place) / name).stat().st_size
    return total


def share_files(folder: Path) -> None:
    """Let the files below `folder` be read by whom the folder lets in: safetensors writes for its owner's eyes only."""
    mode = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(mode)


def full_disk(error: BaseException) -> int | None:
    """The number of the error by which the system said that there is no room; None when `error` means something else.

    What is written in Rust (safetensors, tokenizers) tells the number in its text alone.
    """
    if isinstance(error, OSError):
        return error.errno if error.errno in FULL else None
    found = re.search(r"\(os error (\d+)\)", str(error))
    return int(found[1]) if found and int(found[1]) in FULL else None


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
