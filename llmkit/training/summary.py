"""What a run came to, and what adds up on the way there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmkit.console import without_nan
from llmkit.training.run import Run


@dataclass(frozen=True)
class TrainSummary:
    """What a run came to."""

    status: str
    step: int
    loss: float
    validation: dict[str, float] | None
    tokens_per_second: float
    seconds: float
    model: Path
    waited_share: float = 0.0
    """Share of this process's time in steps in which it waited for rows."""
    skipped: int = 0
    """Steps that were left out since their loss or gradient was not finite."""
    best_step: int | None = None
    """With `patience`: the step whose weights are the result, since its validation was the best."""

    def to_json(self, run: Run) -> dict[str, Any]:
        """The document that the training verbs print."""
        values = {k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}
        return without_nan({"run": str(run.folder), **values})  # type: ignore[no-any-return]


@dataclass
class Totals:
    """What adds up over a run, and goes on where a checkpoint left off."""

    seconds: float = 0.0
    tokens: int = 0
    loss: float = math.nan
    skipped: int = 0
