"""What a model has answered so far, on disk: the same command, run again after a kill, asks it for the rest only.

An answer is a pure function of the model and of what it was asked, so it is kept under a hash of the question: order,
batches and number of processes may change in between. A line is written at once and counts when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from llmkit.files import append_line

Answer = list[Any]
"""Of a request: log-likelihood, whether each token was the likeliest, number of tokens. Of a prompt: the text."""


class Journal:
    """The answers in a folder, which is made with the first of them. Each process of a job writes a file of its own.

    Args:
        folder: Named after the model and the tasks, so that nobody else's answers are in it.
        rank: Number of this process.
    """

    def __init__(self, folder: Path, *, rank: int = 0) -> None:
        self.folder = folder
        self.path = folder / f"answers-{rank}.jsonl"
        self.known: dict[str, Answer] = {}
        for path in sorted(folder.glob("answers-*.jsonl")):
            self.known |= dict(read_answers(path))
        if self.path.exists():
            drop_torn_line(self.path)

    def get(self, key: str) -> Answer | None:
        """The answer under this key, if there is one."""
        return self.known.get(key)

    def add(self, answers: Mapping[str, Answer]) -> None:
        """Keep answers, whole or, when the disk is full, not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        append_line(self.path, json.dumps(list(answers.items()), ensure_ascii=False))

    def remove(self) -> None:
        """Delete the folder; for when the results are written."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with suppress(OSError):  # another evaluation's answers are in it
            self.folder.parent.rmdir()


def read_answers(path: Path) -> Iterable[tuple[str, Answer]]:
    """The answers in the whole lines of a file."""
    for line in path.read_bytes().split(b"\n")[:-1]:
        with suppress(ValueError):  # what a disk made of a line when the power went
            yield from json.loads(line)


def drop_torn_line(path: Path) -> None:
    """Take off what a killed process wrote of its last line."""
    data = path.read_bytes()
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        with path.open("r+b") as file:
            file.truncate(whole)


def key_of(*parts: Iterable[int] | str) -> str:
    """The key of ids and texts that a model is asked with."""
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        data = part.encode() if isinstance(part, str) else np.fromiter(part, dtype=np.uint32).tobytes()
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()
