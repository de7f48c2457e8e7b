"""Room on the disk: asked for before the first step, waited for when it runs out in the middle of a run."""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from torch import nn

from llmkit.console import format_seconds, warn
from llmkit.errors import BlockedError
from llmkit.files import bytes_below, full_disk
from llmkit.recipe.schema import TrainSection

T = TypeVar("T")

WAITS = (1.0, 5.0, 20.0)
"""Seconds before each new try on a full disk: time for another program's files to go."""


def retrying(action: Callable[[], T], path: Path) -> T:
    """What `action` returns; where the disk is full, it is tried again a few times.

    `action` must leave nothing behind when it fails.

    Raises:
        BlockedError: The disk stayed full.
    """
    for seconds in (*WAITS, None):
        try:
            return action()
        except OSError as error:
            if full_disk(error) is None:
                raise
            problem = f"{error.strerror}, and {describe_bytes(free_bytes(path))} are free"
            if seconds is None:
                fix = "make room, then run the same command again: it goes on from the newest checkpoint"
                raise BlockedError(problem, where=str(path), fix=fix) from error
        warn(f"{path}: {problem}; trying again in {format_seconds(seconds)}")
        time.sleep(seconds)
    raise AssertionError("the last try returns or raises")


def check_space(folder: Path, model: nn.Module, config: TrainSection, *, num_steps: int) -> None:
    """Raise when the checkpoints and the result of a run will not fit on the disk of its folder.

    Args:
        folder: Of the run; what its checkpoints take already is not asked for again.
        model: What is trained, wrapped or not.
        config: Which checkpoints are kept.
        num_steps: Of the whole run.

    Raises:
        BlockedError: With the sizes, and what to change.
    """
    weights, state = weight_bytes(model, config), optimizer_bytes(model, config)
    saves, staying = count_checkpoints(config, num_steps)
    # The newest checkpoint is written before the oldest goes, and the result when the last one has gone.
    most = max(min(saves, staying + 1) * (weights + state), staying * (weights + state) + weights)
    needed, free = most - bytes_below(folder / "checkpoints"), free_bytes(folder)
    if needed <= free:
        return
    raise BlockedError(
        f"checkpoints of {describe_bytes(weights + state)}, of which {staying} stay, and a result of "
        f"{describe_bytes(weights)} need {describe_bytes(needed)}; {describe_bytes(free)} are free",
        where=str(folder),
        fix="choose an --output on a larger disk, make room, or keep fewer (train.keep_last, keep_every, keep_best)",
    )


def count_checkpoints(config: TrainSection, num_steps: int) -> tuple[int, int]:
    """How many checkpoints a run writes, and how many of them are there at its end."""
    saves = math.ceil(num_steps / config.save_every) if config.save_every else 1
    every = math.lcm(config.save_every, config.keep_every)  # 0 where one of them is
    return saves, min(saves, config.keep_last + config.keep_best + (num_steps // every if every else 0))


def weight_bytes(model: nn.Module, config: TrainSection) -> int:
    """Bytes of the weights that are saved, and of their running average: an adapter's alone, where there is one."""
    trained = [p for p in model.parameters() if p.requires_grad]
    is_adapter = any(hasattr(m, "peft_config") for m in model.modules())
    saved = trained if is_adapter else [*model.parameters(), *model.buffers()]
    average = sum(4 * p.numel() for p in trained) if config.ema_decay else 0
    return sum(t.numel() * t.element_size() for t in saved) + average


def optimizer_bytes(model: nn.Module, config: TrainSection) -> int:
    """Bytes of the optimizer's state, to a few in a hundred."""
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    total = 0
    for parameter in model.parameters():
        if not parameter.requires_grad:
            continue
        size, is_matrix = parameter.numel(), parameter.ndim >= 2
        if config.optimizer == "adafactor":  # a row and a column for each matrix
            total += 4 * (size // parameter.shape[-1] + size // parameter.shape[-2] if is_matrix else size)
        elif config.optimizer == "adamw8bit":
            total += 2 * size
        else:
            is_muon = config.optimizer == "muon" and parameter.ndim == 2 and parameter not in embeddings
            total += 4 * size if is_muon else 8 * size
        total += 4 * size if config.precision == "pure-bf16" else 0  # master weights
    return total


def free_bytes(path: Path) -> int:
    """Bytes that this user may still write to the disk of `path`, which need not exist yet."""
    return shutil.disk_usage(next(p for p in [path, *path.absolute().parents] if p.exists())).free


def describe_bytes(count: int) -> str:
    """Bytes as people say them: 2.3 GB, 41 MB."""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{max(count, 0) / 1000:.0f} kB"
