"""What a tuned model is asked in the end: whether its answers end, and what it could do before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmkit.reporting.collect import RunRecord


@dataclass(frozen=True)
class Change:
    """A metric of a task before and after tuning."""

    task: str
    metric: str
    before: float
    after: float
    lost: int | None
    """Items that only the model as it came got right; None where no item is right or wrong by this metric."""
    gained: int | None
    """Items that only the tuned model got right."""

    @property
    def difference(self) -> float:
        """How far the metric went up."""
        return self.after - self.before


def ends_in_words(run: RunRecord) -> str | None:
    """`48 of 50` answers end by themselves; None where that was not asked."""
    if not run.ends:
        return None
    asked_at = run.ends.get("step")
    # A run that is being made longer is asked again at its new end.
    is_old = asked_at is not None and bool(run.steps) and asked_at != run.steps[-1]["step"]
    return f"{run.ends['ended']:,} of {run.ends['asked']:,}" + (f" (at step {asked_at:,})" if is_old else "")


def changes_of(known: Mapping[str, Any]) -> list[Change]:
    """The metrics that forget-check.json has of both models, by task; none before the run is finished."""
    found = []
    for task, before in known.get("before", {}).items():
        after = known.get("after", {}).get(task, {"metrics": {}})
        for metric in before["metrics"].keys() & after["metrics"].keys():
            old, new = (measured["metrics"][metric]["value"] for measured in (before, after))
            flips = count_flips(before["correct"], after["correct"]) if metric == "accuracy" else (None, None)
            found.append(Change(task, metric, old, new, *flips))
    return sorted(found, key=lambda change: (change.task, change.metric))


def count_flips(before: Sequence[bool | None], after: Sequence[bool | None]) -> tuple[int, int] | tuple[None, None]:
    """How many of the same items were lost, and how many gained; None where not all are right or wrong."""
    if len(before) != len(after) or None in (*before, *after):
        return None, None
    pairs = list(zip(before, after, strict=True))
    return pairs.count((True, False)), pairs.count((False, True))
