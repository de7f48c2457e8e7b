"""The files of a run folder, and how a folder becomes one: found free, made, locked."""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path

from llmkit.console import warn
from llmkit.errors import BlockedError
from llmkit.files import check_output_free

RECIPE, ENVIRONMENT, METRICS, SAMPLES, SUMMARY, INPUTS = (
    "recipe.yaml",
    "environment.json",
    "metrics.jsonl",
    "samples.jsonl",
    "summary.json",
    "inputs.json",
)

LOCK_TRIES = 10


def is_run(folder: Path) -> bool:
    """Whether a folder holds a run: what a run writes, and its recipe, which is written last.

    A recipe alone is the user's own.
    """
    others = (ENVIRONMENT, INPUTS, METRICS, SUMMARY, "checkpoints")
    return (folder / RECIPE).is_file() and any((folder / name).exists() for name in others)


def free_folder(folder: Path) -> Path:
    """`folder`, or where it holds a run already the first of FOLDER-2, FOLDER-3 ... that is free."""
    if not (folder / RECIPE).is_file():
        return folder
    named = folder if folder.name else folder.resolve()
    candidates = (named.with_name(f"{named.name}-{number}") for number in range(2, 10_000))
    return next(path for path in candidates if not path.exists())


def make_folder(folder: Path, branch: Path | None = None) -> int:
    """Make the folder of a new run, and take its lock.

    A folder with a lock and without a recipe is one whose start was cut off, and as free as an empty one.

    Args:
        folder: The recipe is written into it last of all.
        branch: The checkpoint that is copied into it first.

    Raises:
        UsageError: There is something else in it.
        BlockedError: Another process has just made it.
    """
    if not is_cut_off(folder, branch):
        check_output_free(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder)  # before all else: a start that is cut off is told by it
    (folder / "checkpoints").mkdir(exist_ok=True)
    return lock


def is_cut_off(folder: Path, branch: Path | None) -> bool:
    """Whether a start was cut off here, and left nothing that this one would not write again."""
    if not (folder / ".lock").is_file():
        return False
    names = {path.name for path in folder.iterdir() if not path.name.endswith(".tmp")}
    checkpoints = {path.name for path in (folder / "checkpoints").glob("*") if not path.name.endswith(".tmp")}
    copied = set() if branch is None else {branch.resolve().name}
    begun = {".lock", "checkpoints", ENVIRONMENT, INPUTS, *({METRICS, SAMPLES} if copied else ())}
    return names <= begun and checkpoints <= copied


def lock_folder(folder: Path, what: str = "run") -> int:
    """Take the lock of a folder of `what`, which the system gives back when the process ends, however it ends.

    Raises:
        BlockedError: Another process has it.
    """
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
        except BlockingIOError:
            time.sleep(0.02)  # `llmkit run list` holds it for a moment, to see who is writing
        except OSError as error:
            warn(f"{folder}: this file system has no locks ({error.strerror}): see that no other process writes here")
            return descriptor
    os.close(descriptor)
    raise BlockedError(
        f"another process is writing to this {what}", where=str(folder), fix="wait for it, or choose another --output"
    )


def lines_until(path: Path, step: int) -> str:
    """The whole lines of a file of metrics or samples that are not after `step`."""
    # Split at line feeds alone: a sample may hold other characters that end lines for Python.
    lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
    return "".join(f"{line}\n" for line in lines if is_until(line, step))


def is_until(line: str, step: int) -> bool:
    """Whether a line of metrics is whole and not after `step`."""
    try:
        return bool(json.loads(line)["step"] <= step)
    except (json.JSONDecodeError, KeyError, TypeError):
        return False
