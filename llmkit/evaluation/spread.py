"""How much a score depends on which shots were drawn and how the prompt is worded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmkit.evaluation.evaluate import TaskResult
from llmkit.evaluation.metrics import is_loss


@dataclass(frozen=True)
class Spread:
    """A metric over several draws of shots and wordings of the prompt."""

    task: str
    shots: int
    metric: str
    runs: int
    mean: float
    deviation: float
    """Standard deviation over the runs."""
    worst: float
    best: float
    chance: float | None
    """What guessing would reach, where that is known."""
    clean: float | None
    """The mean over the items that were not found in the training data, where they were looked for."""
    prompts: int
    """How many wordings."""
    draws: int
    """How many draws of shots."""

    def to_json(self) -> dict[str, Any]:
        """For --json and results.json."""
        return asdict(self)


def spreads(results: Sequence[TaskResult]) -> list[Spread]:
    """The spread of every metric of each task and number of shots that was run more than once."""
    groups: dict[tuple[str, int], list[TaskResult]] = {}
    for result in results:
        groups.setdefault((result.task.name, result.shots), []).append(result)
    return [
        spread_of(group, metric)
        for group in groups.values()
        if len({(result.task.prompt, result.setting.draw) for result in group}) > 1
        for metric in group[0].metrics
    ]


def spread_of(results: Sequence[TaskResult], metric: str) -> Spread:
    """The spread of one metric over results of the same task."""
    values = [result.metrics[metric].value for result in results]
    mean = sum(values) / len(values)
    clean = [result.clean[metric].value for result in results if result.clean and metric in result.clean]
    return Spread(
        task=results[0].task.name,
        shots=results[0].shots,
        metric=metric,
        runs=len(values),
        mean=mean,
        deviation=math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1)),
        worst=max(values) if is_loss(metric) else min(values),
        best=min(values) if is_loss(metric) else max(values),
        chance=results[0].chance_of(metric),
        clean=sum(clean) / len(clean) if clean else None,
        prompts=len({result.task.prompt for result in results}),
        draws=len({result.setting.draw for result in results}),
    )
