"""Everything that was measured below some folders: runs, evaluations, and what commands printed with --json."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from llmkit.console import warn
from llmkit.errors import UsageError

LARGEST_DOCUMENT = 32 << 20
"""Bytes. A larger JSON file is data, not a result."""

SKIPPED = {"checkpoints", "model", "evaluations-cache"}


@dataclass(frozen=True)
class RunRecord:
    """A run folder, read."""

    name: str
    path: Path
    recipe: dict[str, Any]
    environment: dict[str, Any]
    steps: list[dict[str, Any]]
    """The lines of metrics.jsonl, one per step."""
    validations: list[dict[str, Any]]
    """Its lines that carry a validation, as {"step", metric ...}."""
    samples: list[dict[str, Any]]
    summary: dict[str, Any]
    """Empty while the run is not finished."""
    results: dict[str, Any]
    """What a baseline came to on its test rows; else empty."""
    inputs: dict[str, Any] = field(default_factory=dict)
    """Name -> content hash of what the run is made from."""
    plan: dict[str, Any] = field(default_factory=dict)
    """What the run was to be, before its first step; empty where that was not written down."""
    ends: dict[str, Any] = field(default_factory=dict)
    """How many answers of a tuned model end by themselves; empty where that was not asked."""
    forgotten: dict[str, Any] = field(default_factory=dict)
    """Tasks that were evaluated before tuning, and after; empty where none was named."""
    problems: list[str] = field(default_factory=list)
    """What of it could not be read, and why."""

    @property
    def kind(self) -> str:
        """The verb that made the run."""
        return str(self.recipe.get("kind", "run"))


@dataclass(frozen=True)
class Evaluation:
    """What `llmkit evaluate` wrote."""

    name: str
    model: str
    results: list[dict[str, Any]]
    environment: dict[str, Any]


@dataclass(frozen=True)
class Answers:
    """What `llmkit generate --json` printed: prompts and completions."""

    name: str
    completions: list[dict[str, Any]]


@dataclass(frozen=True)
class Ladder:
    """What `llmkit scale` found: `document` is its scaling.json."""

    name: str
    document: dict[str, Any]


@dataclass(frozen=True)
class Compared:
    """What `llmkit compare` found: `document` is its comparison.json."""

    name: str
    document: dict[str, Any]
    page: Path | None
    """Its own page; None where that is not there any more."""


@dataclass
class Collection:
    """All that was found, each kind in the order in which it was made."""

    runs: list[RunRecord] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    tokenizers: list[dict[str, Any]] = field(default_factory=list)
    """Documents of `tokenizer evaluate`."""
    answers: list[Answers] = field(default_factory=list)
    ladders: list[Ladder] = field(default_factory=list)
    comparisons: list[Compared] = field(default_factory=list)

    def __bool__(self) -> bool:
        return any(vars(self).values())


def collect(folders: Sequence[Path]) -> Collection:
    """Read all runs and results below some folders.

    Raises:
        UsageError: A folder is not there, or there is nothing to report in any of them.
    """
    collection = Collection()
    for folder in folders:
        if not folder.is_dir():
            raise UsageError(
                "there is no such folder", where=str(folder), fix="name a run, or a folder that holds runs"
            )
        for path in sorted(find_results(folder), key=lambda p: (p.stat().st_mtime_ns, p)):
            add_result(collection, path, folder)
    if not collection:
        names = ", ".join(map(str, folders))
        raise UsageError("there is no run and no result here", where=names, fix="name a folder that a verb wrote to")
    return collection


def find_results(folder: Path) -> Iterator[Path]:
    """Files that results are known by: recipe.yaml of runs, and JSON documents outside of them."""
    for place, folders, files in os.walk(folder):
        here = Path(place)
        if "recipe.yaml" in files and "metrics.jsonl" in files:
            folders[:] = []
            yield here / "recipe.yaml"
            continue
        folders[:] = sorted(f for f in folders if f not in SKIPPED and not f.startswith("."))
        # Model folders, tokenizers and prepared data are full of JSON that is no result.
        if not {"tokenizer_config.json", "config.json", "adapter_config.json", "manifest.json"} & set(files):
            yield from (here / f for f in files if f.endswith(".json") and not f.startswith("."))


def add_result(collection: Collection, path: Path, root: Path) -> None:
    """Put one result where it belongs; JSON of another kind is left out."""
    if path.name == "recipe.yaml":
        run = read_run(path.parent, root)
        for problem in run.problems:
            warn(f"{run.path}: {problem}")
        collection.runs.append(run)
        return
    values = read_document(path)
    name, parent = (place.relative_to(root).as_posix() for place in (path.with_suffix(""), path.parent))
    if isinstance(values.get("results"), list) and "model" in values:
        parent = parent if path.name == "results.json" else name
        environment = values.get("environment") or {}
        collection.evaluations.append(Evaluation(parent, str(values["model"]), values["results"], environment))
    elif isinstance(values.get("tokenizers"), list):
        collection.tokenizers.append(values)
    elif isinstance(values.get("completions"), list):
        collection.answers.append(Answers(name, values["completions"]))
    elif isinstance(values.get("rungs"), list) and isinstance(values.get("curves"), list):
        collection.ladders.append(Ladder(root.resolve().name if parent == "." else parent, values))
    # `evaluate` writes a file of the same name for several models: a list, and so no document here.
    elif path.name == "comparison.json" and isinstance(values.get("methods"), list):
        page = path.with_suffix(".html")
        name = root.resolve().name if parent == "." else parent
        collection.comparisons.append(Compared(name, values, page if page.is_file() else None))


def read_run(folder: Path, root: Path) -> RunRecord:
    """A run folder as it is now; it may still be running, and what cannot be read is among its `problems`."""
    problems: list[str] = []

    def document(name: str, *, is_needed: bool = False) -> dict[str, Any]:
        if not is_needed and not (folder / name).exists():
            return {}
        values, problem = parse_document(folder / name)
        problems.extend([f"{name} {problem}"] if problem else [])
        return values

    def lines_of(name: str) -> list[dict[str, Any]]:
        try:
            return read_lines(folder / name)
        except OSError as error:
            problems.append(f"{name} cannot be read ({error.strerror})")
            return []

    lines = lines_of("metrics.jsonl")
    relative = folder.relative_to(root).as_posix()
    return RunRecord(
        name=folder.resolve().name if relative == "." else relative,
        path=folder,
        recipe=document("recipe.yaml", is_needed=True),
        environment=document("environment.json"),
        steps=[line for line in lines if "loss" in line],
        validations=[
            {"step": n["step"], **{name: value for name, value in n["validation"].items() if value is not None}}
            for n in lines
            if isinstance(n.get("validation"), dict)
        ],
        samples=lines_of("samples.jsonl"),
        summary=document("summary.json"),
        results=document("results.json"),
        inputs=document("inputs.json"),
        plan=document("plan.json"),
        ends=document("ends.json"),
        forgotten=document("forget-check.json"),
        problems=problems,
    )


def parse_document(path: Path) -> tuple[dict[str, Any], str | None]:
    """What a JSON or YAML file holds, and what is wrong with it if it is no mapping that can be read."""
    try:
        text = path.read_text(encoding="utf-8")
        values = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except FileNotFoundError:
        return {}, "is missing"
    except OSError as error:
        return {}, f"cannot be read ({error.strerror})"
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        return {}, f"is not YAML ({line}{error.problem})"
    except (ValueError, yaml.YAMLError) as error:
        return {}, f"cannot be read ({error})"
    return (values, None) if isinstance(values, dict) else ({}, "holds no mapping of names to values")


def read_document(path: Path) -> dict[str, Any]:
    """A JSON object; empty when the file is absent or holds something else."""
    if not path.is_file() or path.stat().st_size > LARGEST_DOCUMENT:
        return {}
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        warn(f"{path} is left out: it is not JSON ({error})")
        return {}
    return values if isinstance(values, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The JSON objects of a file of lines; a line that is still being written is left out."""
    if not path.is_file():
        return []
    found = []
    # At line feeds alone: a sample may hold other characters that end lines for Python.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            values = json.loads(line)
        except ValueError:
            continue
        if isinstance(values, dict) and isinstance(values.get("step"), int):
            found.append(values)
    return found
