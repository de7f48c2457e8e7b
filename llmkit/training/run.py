"""The run folder: the recipe, the environment, metrics, samples, checkpoints and the result, and who may write to it.

recipe.yaml  environment.json  metrics.jsonl  samples.jsonl  log.txt
checkpoints/step-00000500/   model/   summary.json
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml
from accelerate import Accelerator

import llmkit
from llmkit.console import tee
from llmkit.errors import RunError, UsageError
from llmkit.files import check_output_free, write_file
from llmkit.recipe.load import dump_recipe
from llmkit.recipe.schema import Section
from llmkit.training.job import on_main_process

RECIPE, ENVIRONMENT, METRICS, SAMPLES, SUMMARY, INPUTS = (
    "recipe.yaml",
    "environment.json",
    "metrics.jsonl",
    "samples.jsonl",
    "summary.json",
    "inputs.json",
)
LENGTH_KEYS = ("train.steps", "train.epochs")
"""What `--resume` may change: how long the run is."""


@dataclass
class Run:
    """An open run folder. Every process holds one; the main process alone writes."""

    folder: Path
    is_main: bool
    is_continued: bool = False
    summary: dict[str, Any] | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_finished(self) -> bool:
        """Whether this run came to its end before, and is not to be made longer."""
        return self.summary is not None

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        self.append(METRICS, values)

    def sample(self, values: Mapping[str, Any]) -> None:
        """Append one line to samples.jsonl."""
        self.append(SAMPLES, values)

    def append(self, name: str, values: Mapping[str, Any]) -> None:
        """Append a JSON object to a file of lines."""
        if self.is_main:
            with (self.folder / name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(values, ensure_ascii=False) + "\n")

    def write_json(self, name: str, document: Any) -> None:
        """Write a JSON file into the run, whole or not at all."""
        if self.is_main:
            write_file(self.folder / name, json.dumps(document, ensure_ascii=False, indent=1) + "\n")

    def has_validation(self, step: int) -> bool:
        """Whether the validation of a step is in metrics.jsonl: a run may have been stopped between saving and it."""
        path = self.folder / METRICS
        lines = map(json.loads, path.read_text(encoding="utf-8").splitlines()) if path.exists() else ()
        return any(line["step"] == step and "validation" in line for line in lines)

    def forget_after(self, step: int) -> None:
        """Drop the lines of metrics and samples that a crash left behind the checkpoint of `step`."""
        for name in (METRICS, SAMPLES):
            path = self.folder / name
            if self.is_main and path.exists():
                # Split at line feeds alone: a sample may hold other characters that end lines for Python.
                lines = path.read_bytes().decode("utf-8", errors="replace").split("\n")
                kept = [line for line in lines if is_until(line, step)]
                write_file(path, "".join(f"{line}\n" for line in kept))


def is_until(line: str, step: int) -> bool:
    """Whether a line of metrics is whole and not after `step`."""
    try:
        return bool(json.loads(line)["step"] <= step)
    except (json.JSONDecodeError, KeyError, TypeError):
        return False


@contextmanager
def open_run(
    output: Path,
    recipe: Section,
    accelerator: Accelerator,
    *,
    resume: bool = False,
    inputs: Mapping[str, str] | None = None,
) -> Iterator[Run]:
    """A new run in `output`, or the run that is there if it is the same one.

    The same recipe continues where its newest checkpoint is; a finished run stays as it is. With `resume`, the number
    of steps or epochs may differ too.

    Args:
        output: The run's folder.
        recipe: Fully resolved.
        accelerator: Of this process.
        resume: Continue, even when the length of the run has changed.
        inputs: Name -> content hash of what the run is made from (data, model): it must not have changed either.

    Raises:
        UsageError: The folder holds something else, or a run with another recipe or other inputs.
        RunError: Another process is writing to this run.
    """
    run = Run(output, accelerator.is_main_process, fingerprint=fingerprint_of(accelerator))
    run.settings = {key: str(value) for key, value in flatten(recipe.model_dump(mode="json")).items()}
    lock: list[int] = []

    def prepare() -> tuple[bool, dict[str, Any] | None]:
        continued, summary = prepare_folder(output, recipe, dict(inputs or {}), resume=resume)
        lock.append(lock_folder(output))
        if summary is None:
            # The run is to go on: what an earlier, shorter one came to must not pass for its end.
            (output / SUMMARY).unlink(missing_ok=True)
            write_file(output / RECIPE, dump_recipe(recipe))
            write_file(output / INPUTS, json.dumps(dict(inputs or {}), indent=1) + "\n")
            run.write_json(ENVIRONMENT, describe_environment(run.fingerprint))
        return continued, summary

    run.is_continued, run.summary = on_main_process(accelerator, prepare)
    try:
        with tee(output / "log.txt" if run.is_main else None):
            yield run
    finally:
        for descriptor in lock:
            os.close(descriptor)


def prepare_folder(
    output: Path, recipe: Section, inputs: dict[str, str], *, resume: bool
) -> tuple[bool, dict[str, Any] | None]:
    """Make the folder, or check that its run may be continued: (whether it was there, its summary if it is done)."""
    if not (output / RECIPE).is_file():
        check_output_free(output)
        (output / "checkpoints").mkdir(parents=True, exist_ok=True)
        return False, None
    old = flatten(yaml.safe_load((output / RECIPE).read_text(encoding="utf-8")))
    new = flatten(yaml.safe_load(dump_recipe(recipe)))
    changed = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    lines = [f"{key}: {old.get(key)} -> {new.get(key)}" for key in changed if not (resume and key in LENGTH_KEYS)]
    known = json.loads((output / INPUTS).read_text()) if (output / INPUTS).is_file() else {}
    lines += [
        f"the contents of the {name} have changed" for name, value in inputs.items() if known.get(name, value) != value
    ]
    if lines:
        only_length = not resume and all(key in LENGTH_KEYS for key in changed)
        fix = (
            "add --resume to change the length of the run"
            if only_length
            else "choose another --output, or take the changes back"
        )
        raise UsageError("this folder holds another run:\n    " + "\n    ".join(lines), where=str(output), fix=fix)
    path = output / SUMMARY
    summary = json.loads(path.read_text()) if path.is_file() and not changed else None
    return True, summary


def lock_folder(folder: Path) -> int:
    """Take the run's lock, which the system gives back when the process ends, however it ends."""
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise RunError(
            "another process is writing to this run", where=str(folder), fix="wait for it, or choose another --output"
        ) from error
    return descriptor


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested mappings as dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) and value else {f"{prefix}{key}": value}
    return flat


def fingerprint_of(accelerator: Accelerator) -> dict[str, Any]:
    """All that the last bit of a result depends on besides the recipe and the data."""
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
    }


def describe_environment(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What the run was made with: versions, machine, the command as it was typed."""
    packages = ("transformers", "tokenizers", "accelerate", "peft", "datasets", "numpy", "safetensors")
    return {
        "llmkit": llmkit.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **fingerprint,
        "packages": {name: installed_version(name) for name in packages},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }


def installed_version(package: str) -> str | None:
    """The version of an installed package, without importing it."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None
