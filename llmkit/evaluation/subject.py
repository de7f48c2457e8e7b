"""What is evaluated, and how it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmkit.evaluation.journal import Journal
from llmkit.evaluation.prompts import Chat


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and on what: a model in eval mode on its device."""

    model: Any
    tokenizer: Any
    max_length: int | None
    """Longest sequence, None for any."""
    batch_tokens: int | None = None
    """Positions per forward; None for what suits the device."""
    rank: int = 0
    num_processes: int = 1
    chat: Chat | None = None
    """How it is asked through its chat template; None for plain text."""
    journal: Journal | None = None
    """What it has answered already."""


@dataclass(frozen=True)
class Setting:
    """How a task is asked."""

    shots: int = 0
    """Solved examples before each question."""
    seed: int = 0
    """Draws the shots, and the intervals."""
    draw: int = 0
    """Another number gives other shots."""
    limit: int | None = None
    """Only the first so many examples."""
    calibrate: bool = False
    """Score the labels behind texts that say nothing too, and divide that leaning out."""
    pmi: bool = False
    """Score the choices behind no question too, and subtract that."""


OnProgress = Callable[[int, int], None]
"""Told how many examples are done, and of how many: first of all how many were done before, and then examples' worth
of work, in which a long one counts for more."""
