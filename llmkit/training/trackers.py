"""Trackers (TensorBoard, Weights & Biases, Trackio) through Accelerate, as guests: one that fails never stops a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import filter_trackers

from llmkit.console import warn
from llmkit.recipe.schema import TrainSection
from llmkit.training.run import Run


@contextmanager
def trackers(accelerator: Accelerator, config: TrainSection, run: Run) -> Iterator[None]:
    """Within the block, what is logged goes to the trackers of the recipe too. TensorBoard's files lie in the run."""
    if not config.track:
        yield
        return
    with guest("could not start"):
        accelerator.project_configuration.set_directories(str(run.folder))
        accelerator.log_with = filter_trackers(list(config.track), str(run.folder))
        accelerator.init_trackers("tracking", config=dict(run.settings))
    yield
    with guest("could not finish"):
        accelerator.end_training()


def track(accelerator: Accelerator, values: Mapping[str, Any]) -> None:
    """Hand one line of metrics to the trackers."""
    if not accelerator.trackers:
        return
    numbers = {k: v for k, v in values.items() if isinstance(v, int | float) and k != "step"}
    numbers |= {f"validation/{k}": v for k, v in values.get("validation", {}).items() if isinstance(v, int | float)}
    with guest("failed"):
        accelerator.log(numbers, step=values["step"])


@contextmanager
def guest(what: str) -> Iterator[None]:
    """Whatever a tracker raises becomes a warning."""
    try:
        yield
    except Exception as error:
        warn(f"a tracker {what}: {error}")
