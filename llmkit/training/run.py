"""The run folder: the recipe, the environment, metrics, samples, checkpoints and the result, and who may write to it.

recipe.yaml  environment.json  metrics.jsonl  samples.jsonl  log.txt
checkpoints/step-00000500/   model/   summary.json
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from accelerate import Accelerator

from llmkit.console import say, tee, without_nan
from llmkit.errors import UsageError
from llmkit.files import append_line, flush_entry, write_file
from llmkit.recipe.load import dump_recipe, flatten
from llmkit.recipe.schema import Section
from llmkit.training.branch import copy_branch, step_of_branch
from llmkit.training.clock import parse_duration
from llmkit.training.disk import retrying
from llmkit.training.environment import describe_environment, fingerprint_of
from llmkit.training.folder import (
    ENVIRONMENT,
    INPUTS,
    METRICS,
    RECIPE,
    SAMPLES,
    SUMMARY,
    free_folder,
    is_run,
    lines_until,
    lock_folder,
    make_folder,
)
from llmkit.training.job import on_main_process
from llmkit.training.processes import watched

LENGTH_KEYS = ("train.steps", "train.epochs")
"""What `--extend` may change: how long the run is."""

KEEPING_KEYS = tuple(
    f"train.{name}" for name in ("save_every", "keep_last", "keep_every", "keep_best", "log_every", "track")
)
"""What may be another from one part of a run to the next: no weight depends on it."""

SPLIT_KEYS = tuple(f"train.{name}" for name in ("micro_batch_size", "batch_tokens", "gradient_checkpointing"))
"""The same, but for the last bit of the weights: what goes through the model at once, and what is kept of it."""

BRANCH = "branch"
"""Name of the input of a run that began at a checkpoint of another one: the folder of that checkpoint."""


@dataclass(frozen=True)
class RunOptions:
    """What the command line says about a run, besides its recipe."""

    resume: bool = False
    extend: bool = False
    fresh: bool = False
    require_exact: bool = False
    time_limit_seconds: float | None = None
    branch: Path | None = None

    @property
    def is_resumed(self) -> bool:
        """Whether the run that is there is to go on."""
        return self.resume or self.extend


def run_options(
    *,
    resume: bool = False,
    extend: bool = False,
    fresh: bool = False,
    time_limit: str | None = None,
    require_exact: bool = False,
    branch: Path | None = None,
) -> RunOptions:
    """The options of the command line, checked.

    Raises:
        UsageError: Two of them contradict each other, or the time limit is no time.
    """
    for is_given, name in ((resume, "--resume"), (extend, "--extend")):
        if fresh and is_given:
            raise UsageError("this continues a run, and --fresh begins one", where=name, fix="leave one of them out")
    seconds = None if time_limit is None else parse_duration(time_limit, where="--time-limit")
    return RunOptions(resume, extend, fresh, require_exact, seconds, branch)


class Changes(NamedTuple):
    """What differs between two recipes of a run, each as `key: old -> new`.

    Attributes:
        length: How long the run is.
        keeping: What is saved, kept and logged.
        split: What the last bit of the result depends on.
    """

    length: Sequence[str] = ()
    keeping: Sequence[str] = ()
    split: Sequence[str] = ()


class Prepared(NamedTuple):
    """What the main process has found or made in the folder of a run.

    Attributes:
        folder: Of the run.
        is_continued: Whether there is something to continue.
        summary: What the run came to, if it is done.
        branch_step: The step that it branched at.
        changes: Of its recipe.
    """

    folder: Path
    is_continued: bool
    summary: dict[str, Any] | None = None
    branch_step: int | None = None
    changes: Changes = Changes()


@dataclass
class Run:
    """An open run folder. Every process holds one; the main process alone writes."""

    folder: Path
    is_main: bool
    is_continued: bool = False
    summary: dict[str, Any] | None = None
    fingerprint: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    options: RunOptions = RunOptions()
    branch_step: int | None = None
    """The step of another run's checkpoint that this run began at."""
    changes: Changes = field(default_factory=Changes)
    """How its recipe differs from that of the part before."""
    documents: dict[str, str] = field(default_factory=dict)
    """Files that say what this run is, and their contents."""
    measured: dict[int, dict[str, Any]] | None = None
    """The validations in metrics.jsonl, once they have been asked for."""

    @property
    def is_finished(self) -> bool:
        """Whether this run came to its end before, and is not to be made longer."""
        return self.summary is not None

    @property
    def checkpoints(self) -> Path:
        """The folder of the checkpoints."""
        return self.folder / "checkpoints"

    def begin(self, step: int, changes: Sequence[str] = ()) -> None:
        """Note that this process goes on at `step`, and how it differs from the one before it."""
        if not self.is_main:
            return
        # The run is to go on: what an earlier, shorter one came to must not pass for its end.
        (self.folder / SUMMARY).unlink(missing_ok=True)
        for name, text in self.documents.items():
            write_file(self.folder / name, text)
        path = self.folder / ENVIRONMENT
        earlier = json.loads(path.read_text()) if path.is_file() else {}
        now = describe_environment(self.fingerprint)
        part = {"step": step, "not_bit_identical": list(changes), **self.fingerprint}
        part |= {key: now[key] for key in ("began", "command")}
        self.write_json(ENVIRONMENT, {**now, "parts": [*earlier.get("parts", []), part]})

    def log(self, values: Mapping[str, Any]) -> None:
        """Append one line to metrics.jsonl."""
        self.append(METRICS, values)
        if self.measured is not None and "validation" in values:
            self.measured[values["step"]] = without_nan(values["validation"])

    def flush_metrics(self) -> None:
        """Bring metrics.jsonl to disk: a checkpoint that outlives a power cut has the lines before it."""
        if self.is_main and (self.folder / METRICS).exists():
            flush_entry(self.folder / METRICS)

    def sample(self, values: Mapping[str, Any]) -> None:
        """Append one line to samples.jsonl."""
        self.append(SAMPLES, values)

    def append(self, name: str, values: Mapping[str, Any]) -> None:
        """Append a JSON object to a file of lines; where the disk is full, wait for room a few times."""
        if self.is_main:
            path, line = self.folder / name, json.dumps(without_nan(values), ensure_ascii=False)
            retrying(lambda: append_line(path, line), path)

    def write_json(self, name: str, document: Any) -> None:
        """Write a JSON file into the run, whole or not at all."""
        if self.is_main:
            path, text = self.folder / name, json.dumps(without_nan(document), ensure_ascii=False, indent=1) + "\n"
            retrying(lambda: write_file(path, text), path)

    def validations(self) -> dict[int, dict[str, Any]]:
        """Step -> the validation of that step, as far as metrics.jsonl goes."""
        if self.measured is None:
            path = self.folder / METRICS
            lines = map(json.loads, path.read_text(encoding="utf-8").split("\n")[:-1]) if path.exists() else ()
            self.measured = {line["step"]: line["validation"] for line in lines if "validation" in line}
        return dict(self.measured)

    def forget_after(self, step: int) -> None:
        """Drop the lines of metrics and samples that a crash left behind the checkpoint of `step`.

        The samples of `step` itself go too: a crash may have cut them off, and they are taken again.
        """
        self.measured = None
        for name, last in ((METRICS, step), (SAMPLES, step - 1)):
            path = self.folder / name
            if self.is_main and path.exists():
                write_file(path, lines_until(path, last))


@contextmanager
def open_run(
    output: Path,
    recipe: Section,
    accelerator: Accelerator,
    *,
    options: RunOptions = RunOptions(),
    inputs: Mapping[str, str] | None = None,
) -> Iterator[Run]:
    """A new run in `output`, or the run that is there if it is the same one.

    The same recipe continues where its newest checkpoint is; a finished run stays as it is. What no weight depends on
    may differ, and with `--extend` the number of steps or epochs; with `--fresh`, a run that is there stays, and a new
    one begins beside it.

    Args:
        output: The run's folder.
        recipe: Fully resolved.
        accelerator: Of this process.
        options: Of the command line.
        inputs: Name -> content hash of what the run is made from (data, model): it must not have changed either.

    Raises:
        UsageError: The folder holds something else, or a run with another recipe or other inputs.
        RunError: Another process is writing to this run, or another process of this job was lost.
    """
    run = Run(output, accelerator.is_main_process, fingerprint=fingerprint_of(accelerator), options=options)
    run.settings = {key: str(value) for key, value in flatten(recipe.model_dump(mode="json")).items()}
    given = dict(inputs or {})
    if options.branch is not None:
        given[BRANCH] = str(options.branch.resolve())
    run.documents = {INPUTS: json.dumps(given, indent=1) + "\n", RECIPE: dump_recipe(recipe)}
    lock: list[int] = []
    with watched(), ExitStack() as stack:
        stack.callback(lambda: list(map(os.close, lock)))
        prepared = on_main_process(accelerator, lambda: prepare_folder(run, given, lock))
        run.folder, run.is_continued, run.summary, run.branch_step, run.changes = prepared
        stack.enter_context(tee(run.folder / "log.txt" if run.is_main else None))
        if run.folder != output:
            say(f"{output} holds a run: the new one begins in {run.folder}")
        yield run


def prepare_folder(run: Run, given: dict[str, str], lock: list[int]) -> Prepared:
    """Make the folder, or check that its run may be continued."""
    options, folder = run.options, free_folder(run.folder) if run.options.fresh else run.folder
    if not is_run(folder):
        if options.is_resumed:
            raise UsageError(
                "there is no run to continue",
                where=str(folder),
                fix="name the folder of a run (--output), or begin one",
            )
        lock.append(make_folder(folder, options.branch))
        if options.branch is not None:
            optimizer, precision = run.settings["train.optimizer"], run.settings["train.precision"]
            copy_branch(options.branch, folder, optimizer=optimizer, precision=precision)
        write_file(folder / ENVIRONMENT, json.dumps(describe_environment(run.fingerprint), indent=1) + "\n")
        for name, text in run.documents.items():  # the recipe last: a folder with a recipe is a run
            write_file(folder / name, text)
        return Prepared(folder, options.branch is not None, None, step_of_branch(options.branch))
    lock.append(lock_folder(folder))
    known = json.loads((folder / INPUTS).read_text()) if (folder / INPUTS).is_file() else {}
    changes = check_same(run, folder, known, given)
    if BRANCH in known:
        run.documents[INPUTS] = json.dumps({**given, BRANCH: known[BRANCH]}, indent=1) + "\n"
    path = folder / SUMMARY
    summary = json.loads(path.read_text()) if path.is_file() and not changes.length else None
    return Prepared(folder, True, summary, step_of_branch(Path(known[BRANCH]) if BRANCH in known else None), changes)


def check_same(run: Run, folder: Path, known: Mapping[str, str], given: Mapping[str, str]) -> Changes:
    """Raise unless the run in `folder` is the one that is asked for; in what its recipe differs all the same.

    Raises:
        UsageError: With all that differs.
    """
    old = flatten(yaml.safe_load((folder / RECIPE).read_text(encoding="utf-8")))
    new = flatten(yaml.safe_load(run.documents[RECIPE]))
    extend = run.options.extend
    changed = {
        key: f"{key}: {old.get(key)} -> {new.get(key)}" for key in {**old, **new} if old.get(key) != new.get(key)
    }
    free = (*KEEPING_KEYS, *SPLIT_KEYS)
    refused = [key for key in changed if key not in free and not (extend and key in LENGTH_KEYS)]
    lines = [changed[key] for key in refused]
    lines += [
        f"the contents of the {name} have changed"
        for name, value in given.items()
        if name != BRANCH and known.get(name, value) != value
    ]
    if BRANCH in given and known.get(BRANCH) != given[BRANCH]:
        lines.append(f"it began at {known.get(BRANCH, 'step 0')}, not at {given[BRANCH]}")
    if lines:
        only_length = not extend and all(key in LENGTH_KEYS for key in refused)
        fix = (
            "add --extend to change the length of the run"
            if only_length and len(lines) == len(refused)
            else "add --fresh to begin a new run beside it, choose another --output, or take the changes back"
        )
        raise UsageError("this folder holds another run:\n    " + "\n    ".join(lines), where=str(folder), fix=fix)
    kinds = (LENGTH_KEYS, KEEPING_KEYS, SPLIT_KEYS)
    return Changes(*([line for key, line in changed.items() if key in keys] for keys in kinds))
