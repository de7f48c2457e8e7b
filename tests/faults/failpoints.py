"""Every operation by which a program changes the disk, counted, and one of them made to fail.

`arm` replaces the functions of `os` and `io` through which Python makes, writes, flushes, renames and removes files,
and the two writers that are not Python: safetensors' and tokenizers'. From then on each such operation below `folder`
has a number. At the number that was asked for
- crash: the process ends there; a write has done its first half;
- power: the same, and all that was not flushed is lost;
- full: the disk is full, there and for everything that needs room from then on, and a write has done its half;
- once: the same, but only there.
Each operation that was made is a line of `trace`, so that who counts can see what was reached.
"""

from __future__ import annotations

import builtins
import errno
import io
import json
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CRASHED = 86
"""The exit code of a process that a failpoint ended."""

GROWING = {"make", "create", "write"}
"""Operations that need room."""

STRUCK = "struck"
"""What stands in the trace behind the operation that failed."""


@dataclass
class Failpoints:
    """What is armed. `number` None: only counted."""

    folder: str
    trace: str
    mode: str = "count"
    number: int | None = None
    count: int = 0
    is_full: bool = False
    flushed: dict[int, int] = field(default_factory=dict)
    """inode -> its size when it was last flushed."""

    def __post_init__(self) -> None:
        self.lock = threading.RLock()
        self.trace_file = REAL["os.open"](self.trace, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for path in self.files():  # of earlier programs: safe by now
            self.flushed[os.stat(path).st_ino] = os.stat(path).st_size

    def files(self) -> list[str]:
        """Every file below `folder`."""
        return [os.path.join(folder, name) for folder, _, names in os.walk(self.folder) for name in names]

    def is_below(self, path: str) -> bool:
        """Whether an operation on `path` counts."""
        return path == self.folder or path.startswith(f"{self.folder}/")

    def meet(self, kind: str, path: str, half: Callable[[], object] = lambda: None) -> None:
        """Count an operation that is about to be made; at the chosen one, do what `mode` says, after its `half`."""
        if not self.is_below(path):
            return
        with self.lock:
            self.count += 1
            is_chosen = self.count == self.number
            self.tell({"number": self.count, "kind": kind, "path": path, STRUCK: is_chosen})
            if is_chosen and self.mode in ("crash", "power"):
                half()
                self.crash()
            if is_chosen or (self.is_full and kind in GROWING):
                self.is_full = self.mode == "full"
                half()
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)

    def tell(self, line: dict[str, Any]) -> None:
        """A line of the trace."""
        os.write(self.trace_file, (json.dumps(line) + "\n").encode())

    def crash(self) -> None:
        """End here. Without power, what was written since the last flush is lost."""
        if self.mode == "power":
            for path in self.files():
                status = os.stat(path)
                REAL["os.truncate"](path, min(status.st_size, self.flushed.get(status.st_ino, 0)))
        os._exit(CRASHED)


REAL: dict[str, Callable[..., Any]] = {
    **{f"os.{name}": getattr(os, name) for name in ("open", "fsync", "mkdir", "rename", "replace", "unlink", "remove")},
    **{f"os.{name}": getattr(os, name) for name in ("rmdir", "truncate")},
    "open": builtins.open,
}


def arm(folder: str, trace: str, mode: str = "count", number: int | None = None) -> Failpoints:
    """From now on operations below `folder` count."""
    points = Failpoints(os.path.realpath(folder), trace, mode, number)
    arm_entries(points)
    arm_files(points)
    arm_libraries(points)
    return points


def arm_entries(points: Failpoints) -> None:
    """Folders, names, flushes."""
    for name, kind in (("mkdir", "make"), ("unlink", "remove"), ("remove", "remove"), ("rmdir", "remove")):

        def change(path: Any, *arguments: Any, _name: str = name, _kind: str = kind, **options: Any) -> Any:
            full = full_path(path, options.get("dir_fd"))
            if os.path.lexists(full) != (_kind == "make"):  # else nothing would change
                points.meet(_kind, full)
            return REAL[f"os.{_name}"](path, *arguments, **options)

        setattr(os, name, change)
    for name in ("rename", "replace"):

        def move(source: Any, target: Any, _name: str = name, **options: Any) -> Any:
            points.meet("rename", full_path(target))
            return REAL[f"os.{_name}"](source, target, **options)

        setattr(os, name, move)

    def flush(descriptor: int) -> None:
        points.meet("flush", os.readlink(f"/proc/self/fd/{descriptor}"))
        REAL["os.fsync"](descriptor)
        status = os.fstat(descriptor)
        points.flushed[status.st_ino] = status.st_size

    def open_descriptor(path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        if flags & os.O_CREAT:
            points.meet("create", full_path(path, options.get("dir_fd")))
        return REAL["os.open"](path, flags, *arguments, **options)

    os.fsync, os.open = flush, open_descriptor


def arm_files(points: Failpoints) -> None:
    """What `open` gives for writing."""

    class WatchedFile(io.FileIO):
        def write(self, data: Any) -> int:
            view = memoryview(data).cast("B")
            real = super().write
            points.meet("write", os.path.realpath(self.name), lambda: real(view[: len(view) // 2]))
            return real(view)

        def truncate(self, size: int | None = None) -> int:
            points.meet("truncate", os.path.realpath(self.name))
            return super().truncate(size)

    def open_file(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
        if isinstance(file, int) or not set(mode) & set("wax+") or not points.is_below(full_path(file)):
            return REAL["open"](file, mode, buffering, *arguments, **options)
        points.meet("create", full_path(file))
        raw = WatchedFile(os.fspath(file), mode.replace("b", "").replace("t", ""))
        if buffering == 0:
            return raw
        buffered = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
        if "b" in mode:
            return buffered
        names = ("encoding", "errors", "newline")
        return io.TextIOWrapper(buffered, **{**dict(zip(names, arguments, strict=False)), **options})

    builtins.open = io.open = open_file


def arm_libraries(points: Failpoints) -> None:
    """The writers in Rust, whose single writes nobody sees: one operation each, which may stop halfway."""
    import safetensors.torch
    from safetensors import SafetensorError
    from transformers import PreTrainedTokenizerFast

    def watch(path: str, write: Callable[[], Any], error: type[Exception]) -> Any:
        def half() -> None:
            write()
            REAL["os.truncate"](path, os.path.getsize(path) // 2)

        try:
            points.meet("write", path, half)
        except OSError as full:
            raise error(f"I/O error: {full.strerror} (os error {full.errno})") from None
        return write()

    write_tensors, write_tokenizer = safetensors.torch.serialize_file, PreTrainedTokenizerFast._save_pretrained

    def serialize_file(tensors: Any, filename: Any, **options: Any) -> Any:
        return watch(full_path(filename), lambda: write_tensors(tensors, filename, **options), SafetensorError)

    def save_tokenizer(self: Any, save_directory: Any, *arguments: Any, **options: Any) -> Any:
        path = full_path(Path(save_directory) / "tokenizer.json")
        return watch(path, lambda: write_tokenizer(self, save_directory, *arguments, **options), Exception)

    safetensors.torch.serialize_file = serialize_file
    PreTrainedTokenizerFast._save_pretrained = save_tokenizer


def read_trace(path: Path) -> list[dict[str, Any]]:
    """The operations that a program has made: {"number", "kind", "path", "struck"}."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def full_path(path: Any, folder: int | None = None) -> str:
    """An absolute path of what an operation was given; `folder` is the descriptor of the folder it lies in."""
    path = os.fsdecode(path)
    if folder is not None:
        path = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), path)
    return os.path.join(os.path.realpath(os.path.dirname(path) or "."), os.path.basename(path))
