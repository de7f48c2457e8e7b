"""What an evaluation is made of: a task, its examples, and how a row of data becomes an example."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, Protocol

Kind = Literal["choice", "label", "generate", "perplexity"]
ShotOrder = Literal["fixed", "random", "balanced"]
Split = Literal["test", "train"]


class Row(Protocol):
    """One row of data, and where it stands (`file:line`)."""

    @property
    def where(self) -> str: ...
    @property
    def values(self) -> Mapping[str, Any]: ...


ReadRows = Callable[[str], Iterable[Row]]
"""Reads the rows of a file, or of whatever else a name stands for. Commands pass it in."""


@dataclass(frozen=True)
class Example:
    """One question with its answer, or one text."""

    id: str
    where: str
    """`file:line`, for errors."""
    fields: Mapping[str, str]
    """What the {names} of the prompt stand for."""
    choices: tuple[str, ...] = ()
    """The texts to choose from."""
    answer: int = -1
    """Which of the choices is right."""
    references: tuple[str, ...] = ()
    """Accepted answers, the first of which is shown in shots."""
    continuation: str | None = None
    """Where choices stand in the prompt as {choice}, as in WinoGrande: the text whose likelihood is compared."""

    @property
    def solution(self) -> str:
        """The right answer as text."""
        if self.references:
            return self.references[0]
        return self.choices[self.answer] if self.choices else ""


@dataclass(frozen=True)
class Task:
    """An evaluation set with its prompt and its metric."""

    name: str
    kind: Kind
    load: Callable[[Split], Sequence[Example]] = field(repr=False, compare=False)
    """The examples of a split; the training split, where there is one, gives the shots."""
    version: int = 1
    prompt: str = "{question}"
    """What precedes the answer; {names} are columns of the row, or question and choice."""
    delimiter: str = " "
    """Between prompt and answer."""
    separator: str = "\n\n"
    """Between shots."""
    shots: ShotOrder = "fixed"
    labels: tuple[str, ...] = ()
    """All labels, for kind label."""
    stop: tuple[str, ...] = ("\n",)
    """Where a generated answer ends."""
    max_new_tokens: int = 64
    notes: tuple[str, ...] = ()
    """What was recognised in the data, for people."""

    def examples(self, split: Split) -> Sequence[Example]:
        """The examples of a split."""
        return self.load(split)

    @property
    def content_hash(self) -> str:
        """A hash of everything that moves the numbers, the data apart."""
        settings = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in {"load", "notes"}}
        return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def metric(self) -> str:
        """The metric that stands for the task."""
        return {"choice": "accuracy", "label": "accuracy", "generate": "exact_match", "perplexity": "bits_per_byte"}[
            self.kind
        ]
