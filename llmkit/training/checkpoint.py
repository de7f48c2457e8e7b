"""Checkpoints that are whole or absent: written aside, flushed, described by a manifest with checksums, renamed.

A checkpoint holds the weights (a Hugging Face or adapter folder that other tools open), `optimizer.safetensors`, where
there is one the running average of the weights, `state.json` and `manifest.json`. There is no pickle, and no state of
random generators: order, dropout and samples are functions of (seed, step, process).
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.tensor import DTensor

from llmkit.console import warn
from llmkit.files import NUM_THREADS, flush_entry, new_folder, remove_entry, sha256_of
from llmkit.training.disk import retrying
from llmkit.training.job import on_main_process

SaveModel = Callable[[Path, dict[str, Tensor] | None], None]
"""(folder, weights): write the model into an existing empty folder; weights is None when the model holds them."""

MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.safetensors"
AVERAGE = "average.safetensors"
STATE = "state.json"


def save_checkpoint(
    folder: Path,
    step: int,
    *,
    accelerator: Accelerator,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    save_model: SaveModel,
    average: Mapping[str, Tensor] | None = None,
) -> Path:
    """Write `folder/step-NNNNNNNN`; all processes take part, the main one writes.

    Raises:
        RunError: The disk is full, and stayed so. The checkpoints before are as they were.
    """
    moments = optimizer_tensors(model, optimizer)
    weights = whole_weights(model)
    path = step_folder(folder, step)

    def write() -> None:
        remove_litter(folder)
        if path.exists():
            # Made by an earlier try, or by a process that was killed right behind the rename.
            problem = find_damage(path)
            if problem is None:
                return flush_entry(folder)
            set_aside(path, problem)
        with new_folder(path, flush=write_manifest) as aside:
            save_model(aside, weights)
            save_file(moments, aside / OPTIMIZER)
            if average is not None:
                save_file({name: tensor.cpu().contiguous() for name, tensor in average.items()}, aside / AVERAGE)
            (aside / STATE).write_text(json.dumps({"step": step, **state}))
        return None

    # Gathered once, above: what the main process tries again needs none of the others.
    on_main_process(accelerator, lambda: retrying(write, path))
    return path


def step_folder(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return folder / f"step-{step:08d}"


def read_state(path: Path) -> dict[str, Any]:
    """The state of a checkpoint: its step, and what was counted until then."""
    return dict(json.loads((path / STATE).read_text()))


def read_average(path: Path) -> dict[str, Tensor] | None:
    """The running average of the weights in a checkpoint; None where there is none."""
    return load_copy(path / AVERAGE) if (path / AVERAGE).is_file() else None


def restore_from(path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the optimizer's state of a checkpoint back; the weights must be there already."""
    restore_optimizer(model, optimizer, load_copy(path / OPTIMIZER))


def load_copy(path: Path) -> dict[str, Tensor]:
    """The tensors of a file, in memory of their own.

    As safetensors gives them they are the file itself: it would keep its place on the disk after it was deleted, and
    what happened to it later would happen to the training.
    """
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def checkpoints_in(folder: Path) -> dict[int, Path]:
    """Steps and their checkpoints, from the oldest to the newest."""
    found = ((re.fullmatch(r"step-(\d+)", path.name), path) for path in folder.glob("step-*"))
    return dict(sorted((int(match[1]), path) for match, path in found if match))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are named and set aside, never deleted."""
    remove_litter(folder)
    for path in reversed(checkpoints_in(folder).values()):
        problem = find_damage(path)
        if problem is None:
            return path
        set_aside(path, problem)
    return None


def set_aside(path: Path, problem: str) -> None:
    """Tell of a damaged checkpoint, and keep it under a name that no run takes for one."""
    aside = free_name(path.with_name(f"damaged-{path.name}"))
    warn(f"checkpoint {path} is damaged ({problem}): set aside as {aside.name}")
    path.rename(aside)
    flush_entry(path.parent)


def free_name(path: Path) -> Path:
    """`path`, or `path` with the first number behind it that nothing has yet."""
    candidates = (path if n == 0 else path.with_name(f"{path.name}-{n}") for n in range(10_000))
    return next(p for p in candidates if not p.exists())


def prune_checkpoints(
    folder: Path,
    *,
    keep_last: int,
    keep_every: int = 0,
    keep_best: int = 0,
    best: Mapping[int, float] | None = None,
) -> None:
    """Delete the checkpoints that nothing asks for, and what a crash inside a save left.

    Args:
        folder: Of the checkpoints.
        keep_last: The newest so many stay.
        keep_every: Those of each so many steps stay; 0: none.
        keep_best: So many with the lowest validation loss stay.
        best: step -> validation loss, where there is one.
    """
    found, losses = checkpoints_in(folder), best or {}
    measured = sorted((losses[step], step) for step in found if not math.isnan(losses.get(step, math.nan)))
    kept = {*list(found)[-keep_last:], *(step for _, step in measured[:keep_best])}
    doomed = [path for step, path in found.items() if step not in kept and (not keep_every or step % keep_every)]
    try:
        # Renamed first: a half-deleted folder must not pass for a checkpoint.
        for path in doomed:
            path.rename(path.with_name(f".{path.name}.tmp"))
    except OSError as error:
        warn(f"an old checkpoint could not be deleted: {error}")
    remove_litter(folder)


def remove_litter(folder: Path) -> None:
    """Delete what a save or a deletion that was killed has left; what cannot go now goes with the next save."""
    try:
        for path in folder.glob(".*.tmp"):
            remove_entry(path)
    except OSError as error:  # no reason to end a training
        warn(f"what was left of a checkpoint could not be deleted: {error}")


def whole_weights(wrapped: nn.Module) -> dict[str, Tensor] | None:
    """The weights of the model inside `SummedLoss`, gathered on the main process where FSDP has spread them; else None.

    All processes must call this.
    """
    if not any(isinstance(p, DTensor) for p in wrapped.parameters()):
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    state: Any = get_model_state_dict(wrapped, options=options)
    return {name.removeprefix("model."): tensor for name, tensor in state.items()}


def optimizer_tensors(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The optimizer's state, gathered whole on the main process, as `parameter|name` -> tensor."""
    options = StateDictOptions(full_state_dict=True, cpu_offload=True)
    # Processes other than the main one get an empty dictionary.
    state: Any = get_optimizer_state_dict(model, unwrapped(optimizer), options=options).get("state", {})
    tensors = {f"{p}|{n}": v for p, values in state.items() for n, v in values.items()}
    return {name: torch.as_tensor(value).contiguous() for name, value in tensors.items()}


def restore_optimizer(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    inner = unwrapped(optimizer)
    # Asked for in shards, since only the groups are wanted: nothing is gathered.
    whole: Any = get_optimizer_state_dict(model, inner)
    state: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        parameter, _, kind = name.rpartition("|")
        state.setdefault(parameter, {})[kind] = tensor
    whole["state"] = state
    set_optimizer_state_dict(model, inner, whole, options=StateDictOptions(full_state_dict=True))


def unwrapped(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimizer inside Accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)  # type: ignore[no-any-return]


def write_manifest(folder: Path) -> None:
    """Bring every file of `folder` to disk, and describe it by size and SHA-256, and the description itself too."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        # The disk works while the sums are made, from what is still in memory.
        flushes = [pool.submit(flush_entry, path) for path in paths]
        sums = list(pool.map(sha256_of, paths))
        for flush in flushes:
            flush.result()
    files = {
        str(path.relative_to(folder)): {"size": path.stat().st_size, "sha256": digest}
        for path, digest in zip(paths, sums, strict=True)
    }
    (folder / MANIFEST).write_text(render_manifest(files))
    flush_entry(folder / MANIFEST)
    for path in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        flush_entry(path)


def render_manifest(files: Any) -> str:
    """The manifest's text, which ends with a checksum of the rest."""
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()
    return json.dumps({"files": files, "sha256": digest}, indent=1)


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None when every byte is as it was written."""
    try:
        text = (folder / MANIFEST).read_text()
        files = json.loads(text)["files"]
        # Written again from what was read, it must be the same text: no change of a single bit escapes this.
        if text != render_manifest(files):
            return f"{MANIFEST} does not match its own checksum"
        with ThreadPoolExecutor(NUM_THREADS) as pool:
            problems = pool.map(find_damage_of_file, (folder / name for name in files), files.values())
            return next((problem for problem in problems if problem), None)
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return f"{MANIFEST} cannot be read"


def find_damage_of_file(path: Path, entry: Mapping[str, Any]) -> str | None:
    """What is wrong with one file; None when it is as it was written."""
    try:
        if not path.is_file():
            return f"{path.name} is missing"
        if path.stat().st_size != entry["size"]:
            return f"{path.name} has {path.stat().st_size} bytes, not {entry['size']}"
        return None if sha256_of(path) == entry["sha256"] else f"{path.name} does not match its checksum"
    except OSError as error:  # a sector that can no longer be read
        return f"{path.name} cannot be read: {error.strerror}"
