"""A branch: a new run that begins at a checkpoint of another one, say to let the learning rate decay from there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import yaml

from llmkit.console import say
from llmkit.errors import RunError, UsageError
from llmkit.files import full_disk, new_folder, write_file
from llmkit.training.checkpoint import MANIFEST, find_damage
from llmkit.training.folder import METRICS, RECIPE, SAMPLES, lines_until


def step_of_branch(checkpoint: Path | None) -> int | None:
    """The step of a checkpoint folder, as its name says it."""
    match = None if checkpoint is None else re.search(r"step-(\d+)$", str(checkpoint.resolve()))
    return int(match[1]) if match else None


def copy_branch(checkpoint: Path, folder: Path, *, optimizer: str, precision: str) -> None:
    """Copy a checkpoint into a new run, and what the run it comes from measured until then.

    Args:
        checkpoint: A folder RUN/checkpoints/step-NNNNNNNN.
        folder: Of the new run.
        optimizer: Of the new run: the state of another one is of no use to it.
        precision: Of the new run: with pure-bf16 alone, the state has master weights.

    Raises:
        UsageError: This is no checkpoint, or one of another optimizer.
        RunError: The checkpoint is damaged, or goes away while it is copied.
    """
    step = step_of_branch(checkpoint)
    if step is None or not (checkpoint / MANIFEST).is_file():
        fix = "name a folder RUN/checkpoints/step-NNNNNNNN"
        raise UsageError("there is no checkpoint to begin at", where=f"--branch {checkpoint}", fix=fix)
    source = checkpoint.resolve().parent.parent
    check_optimizer(source / RECIPE, optimizer, precision)
    target = folder / "checkpoints" / checkpoint.resolve().name
    shutil.rmtree(target, ignore_errors=True)  # of a start that was cut off here
    with new_folder(target) as aside:
        copy_whole(checkpoint, aside)
    for name in (METRICS, SAMPLES):
        if (source / name).is_file():
            write_file(folder / name, lines_until(source / name, step))
    say(f"beginning at {checkpoint}")


def copy_whole(checkpoint: Path, target: Path) -> None:
    """Copy a checkpoint into an empty folder, and check the copy: the run it belongs to may be deleting the original.

    Raises:
        RunError: The copy is not whole.
    """
    try:
        for path in sorted(path for path in checkpoint.rglob("*") if path.is_file()):
            place = target / path.relative_to(checkpoint)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, place)
        problem = find_damage(target)
    except OSError as error:
        if full_disk(error) is not None:
            raise
        problem = f"{error.filename} cannot be read: {error.strerror}"
    if problem is None:
        return
    if not checkpoint.exists():
        fix = "begin at a newer one, or let its run keep it: train.keep_last, train.keep_every"
        raise RunError("its run has deleted this checkpoint while it was copied", where=str(checkpoint), fix=fix)
    raise RunError(f"this checkpoint is damaged: {problem}", where=str(checkpoint), fix="begin at another one")


def check_optimizer(recipe: Path, optimizer: str, precision: str) -> None:
    """Raise when the run of this recipe had another optimizer, or one with another kind of weights."""
    if not recipe.is_file():
        return
    saved: dict[str, Any] = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    weights = saved.get("train", {}).get("precision", precision)
    if (weights == "pure-bf16") != (precision == "pure-bf16"):
        raise UsageError(
            f"this checkpoint was trained with precision {weights}, and train.precision is {precision}: "
            "only with pure-bf16 has the optimizer weights of its own",
            where="--branch",
            fix=f"set train.precision={weights}; to begin with the weights alone, name the model folder as the model",
        )
    earlier = saved.get("train", {}).get("optimizer", optimizer)
    if earlier != optimizer:
        raise UsageError(
            f"this checkpoint has the state of {earlier}, and train.optimizer is {optimizer}",
            where="--branch",
            fix=f"set train.optimizer={earlier}; to begin with the weights alone, name the model folder as the model",
        )
