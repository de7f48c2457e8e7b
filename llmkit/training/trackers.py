"""Trackers (TensorBoard, Weights & Biases, Trackio) through Accelerate, as guests: one that fails never stops a run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from accelerate import Accelerator
from accelerate.tracking import GeneralTracker, filter_trackers

from llmkit.console import warn
from llmkit.recipe.schema import TrainSection
from llmkit.training.run import Run

PROJECT = "llmkit"
"""Under which Weights & Biases and Trackio list runs."""

FOLDER = "tracking"
"""Of TensorBoard's files, in the run."""


@contextmanager
def trackers(accelerator: Accelerator, config: TrainSection, run: Run) -> Iterator[None]:
    """Within the block, what is logged goes to the trackers of the recipe too."""
    started: list[GeneralTracker] = []
    for name in dict.fromkeys(config.track):
        with guest(name, "could not start"):
            started += start_tracker(accelerator, name, run)
    accelerator.trackers = started
    yield
    for tracker in accelerator.trackers:
        with guest(tracker.name, "could not finish"):
            tracker.finish()


def start_tracker(accelerator: Accelerator, name: str, run: Run) -> list[GeneralTracker]:
    """Start one alone: of several, Accelerate starts none behind the first that fails."""
    label = run.folder.resolve().name
    manners = {"wandb": {"name": label, "dir": str(run.folder)}, "trackio": {"name": label}}
    accelerator.project_configuration.set_directories(str(run.folder))
    accelerator.log_with, accelerator.trackers = filter_trackers([name], str(run.folder)), []
    project = FOLDER if name == "tensorboard" else PROJECT
    accelerator.init_trackers(project, config=dict(run.settings), init_kwargs=manners)
    return list(accelerator.trackers)


def track(accelerator: Accelerator, values: Mapping[str, Any]) -> None:
    """Hand one line of metrics to the trackers; one that fails gets no other."""
    if not accelerator.trackers:
        return
    numbers = {k: v for k, v in values.items() if isinstance(v, int | float) and k != "step"}
    numbers |= {f"validation/{k}": v for k, v in values.get("validation", {}).items() if isinstance(v, int | float)}
    accelerator.trackers = [t for t in accelerator.trackers if takes(t, numbers, values["step"])]


def takes(tracker: GeneralTracker, numbers: Mapping[str, Any], step: int) -> bool:
    """Hand the numbers to a tracker; whether it took them."""
    with guest(tracker.name, "failed and gets no more"):
        tracker.log(dict(numbers), step=step)
        return True
    return False


@contextmanager
def guest(name: str, what: str) -> Iterator[None]:
    """Whatever a tracker raises becomes a warning."""
    try:
        yield
    except Exception as error:
        warn(f"the tracker {name} {what}: {error}")
