"""Checkpoints that are whole or absent: written aside, flushed, described by a manifest with checksums, renamed.

A checkpoint holds the weights (a Hugging Face or adapter folder that other tools open), `optimizer.safetensors`,
`state.json` and `manifest.json`. There is no pickle, and no state of random generators: order, dropout and samples are
functions of (seed, step, process).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
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

from llmkit.console import say, warn
from llmkit.files import flush_folder, new_folder, sha256_of

SaveModel = Callable[[Path, dict[str, Tensor] | None], None]
"""(folder, weights): write the model into an existing empty folder; weights is None when the model holds them."""

MANIFEST = "manifest.json"
OPTIMIZER = "optimizer.safetensors"
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
) -> Path:
    """Write `folder/step-NNNNNNNN`; all processes take part, the main one writes."""
    moments = optimizer_tensors(model, optimizer)
    weights = whole_weights(model)
    path = folder / f"step-{step:08d}"
    if accelerator.is_main_process:
        if path.exists():  # left by a run that was taken up again from an earlier step
            shutil.rmtree(path)
        with new_folder(path) as aside:
            save_model(aside, weights)
            save_file(moments, aside / OPTIMIZER)
            (aside / STATE).write_text(json.dumps({"step": step, **state}))
            write_manifest(aside)
    accelerator.wait_for_everyone()
    return path


def read_state(path: Path) -> dict[str, Any]:
    """The state of a checkpoint: its step, and what was counted until then."""
    return dict(json.loads((path / STATE).read_text()))


def restore_from(path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the optimizer's state of a checkpoint back; the weights must be there already."""
    restore_optimizer(model, optimizer, load_file(path / OPTIMIZER))


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole; damaged ones are named and set aside, never deleted."""
    for path in sorted(folder.glob("step-*"), reverse=True):
        problem = find_damage(path)
        if problem is None:
            return path
        aside = free_name(path.with_name(f"damaged-{path.name}"))
        warn(f"checkpoint {path} is damaged ({problem}): set aside as {aside.name}")
        path.rename(aside)
    return None


def free_name(path: Path) -> Path:
    """`path`, or `path` with the first number behind it that nothing has yet."""
    candidates = (path if n == 0 else path.with_name(f"{path.name}-{n}") for n in range(10_000))
    return next(p for p in candidates if not p.exists())


def prune_checkpoints(folder: Path, *, keep_last: int) -> None:
    """Delete all but the newest checkpoints, and what a crash inside a save left."""
    for path in sorted(folder.glob("step-*"))[:-keep_last]:
        # Renamed first: a half-deleted folder must not pass for a checkpoint.
        doomed = path.rename(path.with_name(f".{path.name}.tmp"))
        shutil.rmtree(doomed)
    for path in folder.glob(".*.tmp"):
        shutil.rmtree(path)


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
    """Describe every file of `folder` by size and SHA-256, and the description itself too."""
    files = {
        str(p.relative_to(folder)): {"size": p.stat().st_size, "sha256": sha256_of(p)}
        for p in sorted(folder.rglob("*"))
        if p.is_file() and p.name != MANIFEST
    }
    (folder / MANIFEST).write_text(json.dumps({"files": files, "sha256": digest(files)}, indent=1))
    flush_folder(folder)


def find_damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, in a few words; None when every byte is as it was written."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        files = manifest["files"]
        if set(manifest) != {"files", "sha256"} or manifest["sha256"] != digest(files):
            return f"{MANIFEST} does not match its own checksum"
        for name, entry in files.items():
            path = folder / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != entry["size"]:
                return f"{name} has {path.stat().st_size} bytes, not {entry['size']}"
            if sha256_of(path) != entry["sha256"]:
                return f"{name} does not match its checksum"
    except FileNotFoundError as error:
        return f"{Path(str(error.filename)).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} cannot be read"
    return None


def digest(files: Any) -> str:
    """A checksum of the manifest's own contents."""
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def describe_resume(path: Path, state: Mapping[str, Any], fingerprint: Mapping[str, Any]) -> None:
    """Say where a run continues, and whether it will be the same run to the last bit."""
    saved = state.get("fingerprint", {})
    changed = [f"{k} was {saved.get(k)}, is {v}" for k, v in fingerprint.items() if saved.get(k) != v]
    say(f"continuing from {path}")
    if changed:
        warn(f"continues, not bit-identical: {'; '.join(changed)}")


def remove_folder(folder: Path) -> None:
    """Delete a folder that nothing needs any more, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)
