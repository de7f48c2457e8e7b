"""Evaluating a model: its tasks one after the other, in this process's place of the job."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.commands.tasks import PERPLEXITY, make_chat
from llmkit.commands.training_data import Share, look_for_items
from llmkit.console import Progress, say

if TYPE_CHECKING:
    from llmkit.evaluation.contamination import Overlap
    from llmkit.evaluation.evaluate import Setting, Subject, TaskResult
    from llmkit.evaluation.journal import Journal
    from llmkit.evaluation.task import Task

UNFINISHED = ".unfinished"
"""Beside the output folder: what evaluations that were stopped have answered."""


@dataclass(frozen=True)
class EvaluationPlan:
    """What each model is to do."""

    tasks: Sequence[Task]
    counts: Sequence[int]
    """Numbers of shots."""
    setting: Setting
    """What is the same for every number and draw of them."""
    draws: int = 1
    dtype: str = "auto"
    batch_tokens: int | None = None
    chat: str | None = None
    """Where the shots stand in a dialogue: `turns` of their own, or `one`; None for plain text."""

    def runs(self) -> Iterator[tuple[Task, Setting]]:
        """Each task with each number of shots and each draw of them."""
        for task in self.tasks:
            for count in self.counts if task.kind != PERPLEXITY else [0]:
                for draw in range(self.draws if count else 1):
                    yield task, replace(self.setting, shots=count, draw=draw)

    def metrics(self, *, is_compared: bool) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """By task: the metrics it will have, of one model or of a difference; and those of them without interval."""
        from llmkit.evaluation.names import compared_names, metric_names, names_without_interval

        names_of = compared_names if is_compared else metric_names
        names = {task.name: names_of(task, self.setting) for task in self.tasks}
        bare = {task.name: names_without_interval(task, self.setting, names[task.name]) for task in self.tasks}
        return names, bare


@dataclass(frozen=True)
class Evaluated:
    """What one model did."""

    model: str
    results: list[TaskResult]
    environment: dict[str, Any]
    journal: Journal


def evaluate_model(model: str, plan: EvaluationPlan, folder: Path, train_data: Sequence[str]) -> Evaluated:
    """All tasks on one model."""
    from llmkit.evaluation.results import describe_environment
    from llmkit.models.vocabulary import content_hash

    _, *place = join_job()
    overlaps = look_for_items(plan.tasks, model, train_data, plan.setting.limit, Share(*place))
    model_hash = content_hash(model)
    journal = open_journal(folder, plan, model_hash)
    subject = load_subject(model, plan.dtype, plan.batch_tokens, chat=plan.chat, tasks=plan.tasks, journal=journal)
    results = [run_task(subject, task, setting, overlaps.get(task.name)) for task, setting in plan.runs()]
    return Evaluated(model, results, describe_environment(subject, model_hash), journal)


def open_journal(folder: Path, plan: EvaluationPlan, model_hash: str) -> Journal:
    """The answers that this model gave before the same command was stopped, if it was. They lie beside the output."""
    from llmkit.device import pick_device, pick_dtype
    from llmkit.evaluation.journal import Journal

    said = [
        model_hash,
        str(pick_dtype(plan.dtype, pick_device())),
        plan.chat,
        [[task.content_hash, asdict(setting)] for task, setting in plan.runs()],
    ]
    name = hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]
    journal = Journal(folder.parent / UNFINISHED / name, rank=int(os.environ.get("RANK", "0")))
    if journal.known:
        say(f"going on where this command stopped: {len(journal.known):,} answers are there already")
    return journal


def load_subject(
    model: str,
    dtype: str,
    batch_tokens: int | None,
    *,
    chat: str | None = None,
    tasks: Sequence[Task] = (),
    journal: Journal | None = None,
) -> Subject:
    """The model on its device, in this process's place of the job; `tasks` are checked before it is loaded."""
    from llmkit.device import pick_device, pick_dtype
    from llmkit.evaluation.answering import check_task
    from llmkit.evaluation.evaluate import Subject
    from llmkit.generation.decode import longest_sequence
    from llmkit.machine import keep_freed_memory
    from llmkit.models.causal_lm import load_causal_lm
    from llmkit.tokenizer import load_tokenizer

    keep_freed_memory()
    device, rank, num_processes = join_job()
    tokenizer = load_tokenizer(model)
    asked = make_chat(tokenizer, is_one_turn=chat == "one") if chat else None
    for task in tasks:
        check_task(tokenizer, task, asked)
    device = device or pick_device()
    loaded = load_causal_lm(model, dtype=pick_dtype(dtype, device)).to(device).eval()
    return Subject(
        model=loaded,
        tokenizer=tokenizer,
        max_length=longest_sequence(loaded),
        batch_tokens=batch_tokens,
        rank=rank,
        num_processes=num_processes,
        chat=asked,
        journal=journal,
    )


def join_job() -> tuple[Any, int, int]:
    """(device, rank, number of processes); alone there is no device to be given."""
    from llmkit.training.job import check_processes

    check_processes()
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return None, 0, 1
    from accelerate import PartialState

    from llmkit.device import pick_device

    state = PartialState(cpu=pick_device().type == "cpu")
    return state.device, state.process_index, state.num_processes


def run_task(subject: Subject, task: Task, setting: Setting, overlap: Overlap | None = None) -> TaskResult:
    """One task, asked as the setting wants it, with a bar."""
    from llmkit.evaluation.evaluate import evaluate_task

    label = f"{task.name}, {setting.shots} shots" if setting.shots else task.name
    with Progress(label, unit="rows") as progress:
        begin = time.monotonic()

        def on_progress(done: int, total: int) -> None:
            if progress.total is None:
                # What is there already was answered by an earlier command, and says nothing of how fast this one is.
                progress.total, progress.done, progress.start = total, done, done
            rate = (done - progress.start) / max(time.monotonic() - begin, 1e-9)
            progress.update(done - progress.done, note=f"{rate:.1f} rows/s")

        return evaluate_task(subject, task, setting, overlap=overlap, on_progress=on_progress)
