"""A branch: a new run that begins at a checkpoint of another one, say to let the learning rate decay from there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from llmkit.console import say
from llmkit.errors import RunError, UsageError
from llmkit.files import new_folder, write_file
from llmkit.training.checkpoint import MANIFEST, find_damage
from llmkit.training.folder import METRICS, RECIPE, SAMPLES, lines_until


def step_of_branch(checkpoint: Path | None) -> int | None:
    """The step of a checkpoint folder, as its name says it."""
    match = None if checkpoint is None else re.search(r"step-(\d+)$", str(checkpoint.resolve()))
    return int(match[1]) if match else None


def copy_branch(checkpoint: Path, folder: Path, *, optimizer: str) -> None:
    """Copy a checkpoint into a new run, and what the run it comes from measured until then.

    Args:
        checkpoint: A folder RUN/checkpoints/step-NNNNNNNN.
        folder: Of the new run.
        optimizer: Of the new run: the state of another one is of no use to it.

    Raises:
        UsageError: This is no checkpoint, or one of another optimizer.
        RunError: The checkpoint is damaged.
    """
    step = step_of_branch(checkpoint)
    if step is None or not (checkpoint / MANIFEST).is_file():
        fix = "name a folder RUN/checkpoints/step-NNNNNNNN"
        raise UsageError("there is no checkpoint to begin at", where=f"--branch {checkpoint}", fix=fix)
    problem = find_damage(checkpoint)
    if problem is not None:
        raise RunError(f"this checkpoint is damaged: {problem}", where=str(checkpoint), fix="begin at another one")
    source = checkpoint.resolve().parent.parent
    check_optimizer(source / RECIPE, optimizer)
    target = folder / "checkpoints" / checkpoint.resolve().name
    shutil.rmtree(target, ignore_errors=True)  # of a start that was cut off here
    with new_folder(target) as aside:
        shutil.copytree(checkpoint, aside, dirs_exist_ok=True)
    for name in (METRICS, SAMPLES):
        if (source / name).is_file():
            write_file(folder / name, lines_until(source / name, step))
    say(f"beginning at {checkpoint}")


def check_optimizer(recipe: Path, optimizer: str) -> None:
    """Raise when the run of this recipe had another optimizer."""
    if not recipe.is_file():
        return
    saved: dict[str, Any] = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    earlier = saved.get("train", {}).get("optimizer", optimizer)
    if earlier != optimizer:
        raise UsageError(
            f"this checkpoint has the state of {earlier}, and train.optimizer is {optimizer}",
            where="--branch",
            fix=f"set train.optimizer={earlier}; to begin with the weights alone, name the model folder as the model",
        )
