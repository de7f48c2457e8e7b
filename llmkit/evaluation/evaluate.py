"""One task on one model: examples to answers, answers to metrics."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from accelerate.utils import gather_object

from llmkit.errors import UsageError
from llmkit.evaluation import metrics
from llmkit.evaluation.answering import Work, answer
from llmkit.evaluation.contamination import Overlap
from llmkit.evaluation.fewshot import ShotDrawer
from llmkit.evaluation.metrics import Item, Metrics
from llmkit.evaluation.names import name_in_groups
from llmkit.evaluation.perplexity import compressed_bits_per_byte
from llmkit.evaluation.prompts import text_of_example
from llmkit.evaluation.subject import OnProgress, Setting, Subject
from llmkit.evaluation.task import Example, Task, first_examples

__all__ = ["Setting", "Subject", "TaskResult", "evaluate_task"]

PLAIN = Setting()
"""No shots, all examples."""


@dataclass(frozen=True)
class TaskResult:
    """What a model did on a task with so many shots."""

    task: Task
    setting: Setting
    items: list[Item]
    metrics: Metrics
    chance: float | None
    """What guessing would reach, in accuracy."""
    seconds: float
    num_cut: int
    """Items whose context was longer than the model takes."""
    num_apart: int
    """Continuations that were encoded by themselves."""
    compressors: dict[str, float] | None = None
    """Bits per byte that gzip and xz need for the same texts."""
    overlap: Overlap | None = None
    """What of the task was found in the training data, where that was at hand."""
    clean: Metrics | None = None
    """The metrics of the items of which nothing was found there."""

    @property
    def shots(self) -> int:
        """Solved examples before each question."""
        return self.setting.shots

    @property
    def prompts_hash(self) -> str:
        """Equal where the model was asked the same, to the letter and in the same order."""
        asked = [[item.id, item.question_hash, item.prompt, [c.text for c in item.choices]] for item in self.items]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]

    def chance_of(self, metric: str) -> float | None:
        """What guessing would reach in a metric, where that is known."""
        if self.task.kind not in ("choice", "label"):
            return None
        return metrics.chance_of(metric, [len(item.choices) for item in self.items])

    def to_json(self, items_file: str | None) -> dict[str, Any]:
        """For --json and results.json."""
        return {
            "task": self.task.name,
            "kind": self.task.kind,
            "version": self.task.version,
            "task_hash": self.task.content_hash,
            "prompt": self.task.prompt,
            "prompt_by": None if self.task.kind == "perplexity" else self.task.prompt_by,
            "prompts_hash": self.prompts_hash,
            "shots": self.shots,
            "seed": self.setting.seed,
            "draw": self.setting.draw,
            "limit": self.setting.limit,
            "items": len(self.items),
            "metric": self.task.metric,
            "metrics": {
                name: {**estimate.to_json(), "chance": self.chance_of(name)} for name, estimate in self.metrics.items()
            },
            "chance": self.chance,
            **({"compressors": self.compressors} if self.compressors else {}),
            **({"contamination": self.contamination_json()} if self.overlap else {}),
            "seconds": round(self.seconds, 3),
            "items_file": items_file,
            "cut_contexts": self.num_cut,
            "encoded_apart": self.num_apart,
        }

    def contamination_json(self) -> dict[str, Any]:
        """What was found in the training data, and the scores without it."""
        assert self.overlap is not None
        clean = {name: estimate.to_json() for name, estimate in (self.clean or {}).items()}
        return {**self.overlap.to_json([item.id for item in self.items]), "clean_metrics": clean}


def evaluate_task(
    subject: Subject,
    task: Task,
    setting: Setting = PLAIN,
    *,
    overlap: Overlap | None = None,
    on_progress: OnProgress | None = None,
) -> TaskResult:
    """Run a task. In a job of several processes each takes its share of the examples, and all get the whole result.

    Args:
        subject: The model.
        task: The task.
        setting: How it is asked.
        overlap: What of the task was found in the training data; the rest is measured by itself too.
        on_progress: Told how many examples are done, and of how many.
    """
    begin = time.perf_counter()
    examples = first_examples(task.examples("test"), setting.limit)
    if setting.shots and task.kind == "perplexity":
        raise UsageError(f"{task.name} takes no shots", where="--shots", fix="leave it at 0")
    mine = list(examples[subject.rank :: subject.num_processes])
    on_progress = on_progress or (lambda done, total: None)
    work = Work(subject, task, mine, shot_drawer(task, setting).draw, setting, on_progress)
    items, num_cut, num_apart = answer(work)
    if subject.num_processes > 1:
        order = {example.id: number for number, example in enumerate(examples)}
        items = sorted(gather_object(items), key=lambda item: order[item.id])
        num_cut, num_apart = (sum(gather_object([count])) for count in (num_cut, num_apart))
    clean = [item for item in items if overlap and item.id not in overlap.shares]
    return TaskResult(
        task=task,
        setting=setting,
        items=items,
        metrics=measure(task, items, setting.seed),
        chance=chance_level(task, examples),
        seconds=time.perf_counter() - begin,
        num_cut=num_cut,
        num_apart=num_apart,
        compressors=compress(examples) if task.kind == "perplexity" else None,
        overlap=overlap,
        clean=measure(task, clean, setting.seed) if clean else None,
    )


def shot_drawer(task: Task, setting: Setting) -> ShotDrawer:
    """Draws the shots of a task as the setting wants them; without any its training rows are not read."""
    pool = task.examples("train") if setting.shots else []
    return ShotDrawer(
        pool,
        task.shots,
        num_shots=setting.shots,
        seed=setting.seed,
        draw=setting.draw,
        text_of=partial(text_of_example, task),
    )


def check_shots(task: Task, setting: Setting) -> None:
    """Raise where there are too few rows for the shots: when the task loads, not when its turn comes.

    Raises:
        DataError: It names a row that would have too few.
    """
    drawer = shot_drawer(task, setting)
    firsts = {example.group: example for example in reversed(task.examples("test"))} if setting.shots else {}
    for example in firsts.values():
        drawer.draw(example)


def compress(examples: Sequence[Example]) -> dict[str, float]:
    """What compressors make of the texts that the model predicted, per byte that counts for the model."""
    return compressed_bits_per_byte((example.fields["question"], example.counted_text) for example in examples)


def measure(task: Task, items: Sequence[Item], seed: int) -> Metrics:
    """The metrics of a task's kind."""
    if task.kind == "perplexity":
        return metrics.perplexity_metrics(items, seed)
    if task.kind == "label":
        found = metrics.label_metrics(items, len(task.labels), seed)
    elif task.kind == "choice" and all(len(item.choices) == 1 for item in items):
        found = metrics.continuation_metrics(items, seed)
    else:
        found = metrics.mean_scores(items, seed)
    if not any(item.group for item in items):
        return found
    return {**found, **metrics.group_metrics(items, name_in_groups(task, items[0].scores), seed)}


def chance_level(task: Task, examples: Sequence[Example]) -> float | None:
    """The accuracy of guessing, None where there is nothing to guess among."""
    if task.kind not in ("choice", "label"):
        return None
    return metrics.chance_of("accuracy", [len(example.choices) for example in examples])
