"""Runs as people ask for them: which there are, how far each one is, and what tells them apart."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmkit.errors import UsageError
from llmkit.files import bytes_below, is_held
from llmkit.recipe.load import flatten
from llmkit.recipe.schema import RECIPES
from llmkit.reporting.collect import RunRecord, read_run
from llmkit.reporting.curves import elapsed, running_mean
from llmkit.reporting.figures import LOWER_IS_BETTER, model_name, primary
from llmkit.reporting.plots import short
from llmkit.reporting.tuning import changes_of

NOT_RUNS = {"checkpoints", "model", "evaluations-cache", "__pycache__", "node_modules"}
"""Folders in which no run is looked for."""

UNREADABLE = "unreadable"


def find_runs(folder: Path) -> Iterator[Path]:
    """The folders of all runs at and below a folder, also of those that have only begun or lack their recipe."""
    for place, folders, _ in os.walk(folder):
        if is_run(Path(place)):
            folders[:] = []
            yield Path(place)
        else:
            folders[:] = sorted(f for f in folders if f not in NOT_RUNS and not f.startswith("."))


def is_run(folder: Path) -> bool:
    """Whether a training verb has written here. A recipe alone is no run, nor is a start that was cut off before it."""
    has = {name: (folder / name).exists() for name in ("recipe.yaml", "metrics.jsonl", "checkpoints", ".lock")}
    return (has["recipe.yaml"] and sum(has.values()) > 1) or (has["metrics.jsonl"] and has["checkpoints"])


def open_record(folder: Path) -> RunRecord:
    """Read a run.

    Raises:
        UsageError: There is none in this folder.
    """
    if not is_run(folder):
        message = "there is no run in this folder" if folder.is_dir() else "there is no such folder"
        raise UsageError(message, where=str(folder), fix="name the folder of a run; `llmkit run list` shows them")
    return read_run(folder, folder)


def named_records(folders: Sequence[Path]) -> dict[str, RunRecord]:
    """Runs by the shortest names that tell them apart.

    Raises:
        UsageError: One is none, or is named twice.
    """
    places = [folder.resolve() for folder in folders]
    if len(set(places)) < len(places):
        twice = next(folder for folder, place in zip(folders, places, strict=True) if places.count(place) > 1)
        raise UsageError("this run is named twice", where=str(twice), fix="name each run once")
    depth = next(n for n in range(1, 100) if len({place.parts[-n:] for place in places}) == len(places))
    return {"/".join(p.parts[-depth:]): open_record(f) for f, p in zip(folders, places, strict=True)}


def describe_run(run: RunRecord) -> dict[str, Any]:
    """What is to be known of a run at one glance."""
    last = run.steps[-1] if run.steps else {}
    done = checkpoint_steps(run.path)
    step = max([*done, run.steps[-1]["step"] if run.steps else 0])
    return {
        "run": str(run.path) if run.path.name else run.name,
        "kind": run.kind if run.recipe else None,
        "model": describe_model(run),
        "status": status_of(run),
        "step": step,
        "steps": planned_steps(run),
        "loss": last.get("loss"),
        "validation": {k: v for k, v in run.validations[-1].items() if k != "step"} if run.validations else None,
        "seconds": run.summary.get("seconds") or elapsed(run),
        "changed": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(last_change(run.path))),
        "problems": run.problems,
    }


def status_of(run: RunRecord) -> str:
    """`running`, `finished`, `stopped` (with a checkpoint of its last step), `failed`, `new`, or `unreadable`.

    What a run knows of itself is never asked: after a crash nobody could have written it down.
    """
    # The system drops the lock when the process that holds it ends, however it ends.
    if is_held(run.path / ".lock"):
        return "running"
    if not run.recipe:
        return UNREADABLE
    if run.summary:
        return str(run.summary.get("status", "finished"))
    last = run.steps[-1]["step"] if run.steps else 0
    saved = max(checkpoint_steps(run.path), default=0)
    if not last and not saved:
        return "new"
    return "stopped" if saved >= last else "failed"


def checkpoint_steps(folder: Path) -> list[int]:
    """The steps of a run's checkpoints, in order."""
    names = (path.name.removeprefix("step-") for path in (folder / "checkpoints").glob("step-*"))
    return sorted(int(name) for name in names if name.isdecimal())


def planned_steps(run: RunRecord) -> int | None:
    """How many steps the run is to have; None where only its epochs are known."""
    if run.summary.get("status") == "finished":
        return run.summary.get("step")
    return run.plan.get("steps") or section(run.recipe, "train").get("steps")


def describe_model(run: RunRecord) -> str | None:
    """The model in two words: what it is, and its size."""
    model = section(run.recipe, "model")
    if run.kind == "baseline":
        name, size = str(model.get("kind", "")), str(model.get("hidden_size", ""))
    elif model.get("source"):
        name, size = model_name(str(model["source"])), str(run.recipe.get("method", ""))
    else:
        sizes = [model.get("num_layers"), model.get("hidden_size")]
        name = model_name(str(model["config"])) if model.get("config") else str(model.get("type", ""))
        size = model.get("size") or ("x".join(map(str, sizes)) if all(sizes) and not model.get("config") else "")
    parameters = run.plan.get("parameters")
    count = short(float(f"{parameters:.3g}")) if isinstance(parameters, int) else ""
    return " ".join(filter(None, (name, size, count))) or None


def section(recipe: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A section of a recipe; empty where it is something else."""
    values = recipe.get(name)
    return values if isinstance(values, dict) else {}


def last_change(folder: Path) -> float:
    """When the run was last written to, in seconds since 1970."""
    names = ("metrics.jsonl", "summary.json", "recipe.yaml", ".")
    return max((folder / name).stat().st_mtime for name in names if (folder / name).exists())


def list_checkpoints(folder: Path) -> list[dict[str, Any]]:
    """A run's checkpoints by step: their bytes, and whether the sizes of their files are right (`state`)."""
    found = []
    for path in sorted((folder / "checkpoints").glob("*")):
        if not path.is_dir():
            continue
        if path.name.startswith("step-"):
            state = size_problem(path) or "whole"
        else:
            state = "left by a save that was broken off" if path.name.startswith(".") else "set aside"
        found.append({"name": path.name, "bytes": bytes_below(path), "state": state})
    return found


def size_problem(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint as far as the names and the sizes of its files tell; None: nothing."""
    try:
        files = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))["files"]
        for name, about in files.items():
            if not (checkpoint / name).is_file():
                return f"{name} is missing"
            if (checkpoint / name).stat().st_size != about["size"]:
                return f"{name} has another size"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return "manifest.json cannot be read"
    return None


def changed_fields(run: RunRecord) -> dict[str, Any]:
    """The fields of the recipe that are not at the default of their kind."""
    fields = flatten(run.recipe)
    if run.kind not in RECIPES:
        return fields
    defaults = flatten(RECIPES[run.kind]().model_dump(mode="json"))
    return {key: value for key, value in fields.items() if key not in defaults or defaults[key] != value}


def differences(values: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Field -> name -> value, for the fields in which the named mappings differ; a field that one lacks is absent.

    An empty mapping (what it stood in was not there) is left out.
    """
    flat = {name: flatten(tree) for name, tree in values.items() if tree}
    keys = dict.fromkeys(key for fields in flat.values() for key in fields)
    found = {key: {name: fields[key] for name, fields in flat.items() if key in fields} for key in keys}
    return {
        key: by_name
        for key, by_name in found.items()
        if len(by_name) < len(flat) or len(set(map(repr, by_name.values()))) > 1
    }


def environment_differences(runs: Mapping[str, RunRecord]) -> dict[str, dict[str, Any]]:
    """The versions and properties of the machine in which runs differ."""
    # When and by which command a run and its parts began always differs; what was said stands in the recipe.
    own = ("command", "began", "parts")
    facts = {n: {k: v for k, v in run.environment.items() if k not in own} for n, run in runs.items()}
    return differences(facts)


def recipe_differences(runs: Mapping[str, RunRecord]) -> dict[str, dict[str, Any]]:
    """The fields in which recipes differ, and the hashes of what the runs are made from.

    Of recipes of several kinds, only the fields that all of them have are compared.
    """
    readable = {name: run for name, run in runs.items() if run.recipe}
    contents = {
        name: {f"contents of the {k}": str(v)[:12] for k, v in run.inputs.items()} for name, run in runs.items()
    }
    found = differences({name: {**run.recipe, **contents[name]} for name, run in readable.items()})
    if len({run.kind for run in readable.values()}) == 1:
        return found
    return {key: by_name for key, by_name in found.items() if len(by_name) == len(readable)}


def results_of(run: RunRecord) -> dict[str, Any]:
    """What a run came to: how far and how fast, training loss (running mean), last and best validation, test.

    Of a tuned model also the share of answers that end, and the change in other tasks.
    """
    about, last, mean = describe_run(run), run.steps[-1] if run.steps else {}, running_mean(run)
    found = {
        "status": about["status"],
        "steps": about["step"],
        "tokens": last.get("tokens") if run.kind != "baseline" else None,
        "parameters": run.plan.get("parameters"),
        "seconds": about["seconds"],
        "tokens_per_second": run.summary.get("tokens_per_second"),
        "training_loss": mean[-1][1] if mean else None,
        "validation": about["validation"],
        "best": best_validation(run),
        "test": run.results.get("test"),
        "answers_that_end": run.ends.get("rate"),
        "change": task_changes(run) or None,
    }
    return {key: value for key, value in found.items() if value is not None}


def task_changes(run: RunRecord) -> dict[str, dict[str, float]]:
    """Task -> metric -> how far it went up by tuning."""
    found: dict[str, dict[str, float]] = {}
    for change in changes_of(run.forgotten):
        found.setdefault(change.task, {})[change.metric] = change.difference
    return found


def best_validation(run: RunRecord) -> dict[str, Any] | None:
    """The best value of the metric that stands for validations, and its step."""
    name = primary(run.validations[-1]) if run.validations else None
    if name is None:
        return None
    choose = min if name in LOWER_IS_BETTER else max
    best = choose((line for line in run.validations if name in line), key=lambda line: line[name])
    return {name: best[name], "step": best["step"]}
