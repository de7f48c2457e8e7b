"""One task on one model: examples to requests, requests to scores, scores to metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from accelerate.utils import gather_object

from llmkit.errors import UsageError
from llmkit.evaluation import metrics
from llmkit.evaluation.encoding import beginning_ids, encode_pairs
from llmkit.evaluation.fewshot import ShotDrawer
from llmkit.evaluation.metrics import ChoiceScore, Item, Metrics
from llmkit.evaluation.perplexity import compressed_bits_per_byte, rolling_windows
from llmkit.evaluation.prompts import render_context, render_pairs
from llmkit.evaluation.scoring import Score, score_continuations
from llmkit.evaluation.task import Example, Task
from llmkit.evaluation.tree import Request
from llmkit.generation.generate import Completion, generate_ids
from llmkit.generation.sampling import SamplingConfig
from llmkit.tokenizer import encode_texts, end_of_document_id, stop_ids


@dataclass(frozen=True)
class Subject:
    """What is evaluated, and on what: a model in eval mode on its device."""

    model: Any
    tokenizer: Any
    max_length: int | None
    """Longest sequence, None for any."""
    batch_tokens: int | None = None
    """Positions per forward; None for what suits the device."""
    rank: int = 0
    num_processes: int = 1


@dataclass(frozen=True)
class TaskResult:
    """What a model did on a task with so many shots."""

    task: Task
    shots: int
    items: list[Item]
    metrics: Metrics
    chance: float | None
    """What guessing would reach, in the metric of the task."""
    seconds: float
    num_cut: int
    num_apart: int
    seed: int
    compressors: dict[str, float] | None = None
    """Bits per byte that gzip and xz need for the same texts."""

    def to_json(self, items_file: str | None) -> dict[str, Any]:
        """For --json and results.json."""
        return {
            "task": self.task.name,
            "kind": self.task.kind,
            "shots": self.shots,
            "items": len(self.items),
            "metrics": {name: estimate.to_json() for name, estimate in self.metrics.items()},
            "chance": self.chance,
            **({"compressors": self.compressors} if self.compressors else {}),
            "seconds": round(self.seconds, 3),
            "items_file": items_file,
            "version": self.task.version,
            "task_hash": self.task.content_hash,
            "seed": self.seed,
            "cut_contexts": self.num_cut,
            "encoded_apart": self.num_apart,
        }


OnProgress = Callable[[int, int], None]
"""Told how many requests are done, and of how many."""

LONGEST_WINDOW = 1024
"""Tokens per window of a text, for models that nothing limits."""

SHOWN_TEXT = 200
"""Characters of a text that its record keeps."""

GENERATED_AT_ONCE = 256
"""Answers between two signs of progress."""

Answered = tuple[list[Item], int, int]
"""This process's items, contexts cut, continuations encoded apart."""


def evaluate_task(
    subject: Subject,
    task: Task,
    *,
    shots: int = 0,
    seed: int = 0,
    limit: int | None = None,
    on_progress: OnProgress | None = None,
) -> TaskResult:
    """Run a task. In a job of several processes each takes its share of the examples, and all get the whole result.

    Args:
        subject: The model.
        task: The task.
        shots: Solved examples before each question.
        seed: Draws the shots.
        limit: Only the first so many examples.
        on_progress: Told how many requests are done, and of how many.
    """
    begin = time.perf_counter()
    examples = task.examples("test")[:limit]
    if shots and task.kind == "perplexity":
        raise UsageError(f"{task.name} takes no shots", where="--shots", fix="leave it at 0")
    drawer = ShotDrawer(task.examples("train") if shots else [], task.shots, num_shots=shots, seed=seed)
    mine = list(examples[subject.rank :: subject.num_processes])
    answer = {"generate": answer_freely, "perplexity": predict_texts}.get(task.kind, choose)
    items, num_cut, num_apart = answer(subject, task, mine, drawer, on_progress or (lambda done, total: None))
    if subject.num_processes > 1:
        order = {example.id: number for number, example in enumerate(examples)}
        items = sorted(gather_object(items), key=lambda item: order[item.id])
        num_cut, num_apart = (sum(gather_object([count])) for count in (num_cut, num_apart))
    return TaskResult(
        task=task,
        shots=shots,
        items=items,
        metrics=measure(task, items, seed),
        chance=chance_level(task, examples),
        seconds=time.perf_counter() - begin,
        num_cut=num_cut,
        num_apart=num_apart,
        seed=seed,
        compressors=compress(examples) if task.kind == "perplexity" else None,
    )


def compress(examples: Sequence[Example]) -> dict[str, float]:
    """What compressors make of the texts that the model predicted."""
    return compressed_bits_per_byte(example.fields["question"] for example in examples)


def measure(task: Task, items: Sequence[Item], seed: int) -> Metrics:
    """The metrics of a task's kind."""
    if task.kind == "perplexity":
        return metrics.perplexity_metrics(items)
    if task.kind == "generate":
        return metrics.generate_metrics(items)
    if task.kind == "label":
        return metrics.label_metrics(items, len(task.labels), seed)
    if all(len(item.choices) == 1 for item in items):
        return metrics.continuation_metrics(items)
    return metrics.choice_metrics(items)


def chance_level(task: Task, examples: Sequence[Example]) -> float | None:
    """The accuracy of guessing, None where there is nothing to guess among."""
    if task.kind not in ("choice", "label") or any(len(example.choices) < 2 for example in examples):
        return None
    return sum(1 / len(example.choices) for example in examples) / len(examples)


def choose(
    subject: Subject, task: Task, examples: Sequence[Example], drawer: ShotDrawer, on_progress: OnProgress
) -> Answered:
    """The log-likelihood of every choice of every example."""
    groups = [render_pairs(task, example, drawer.draw(example)) for example in examples]
    encoded = encode_pairs(subject.tokenizer, [pair for group in groups for pair in group], subject.max_length)
    scores = iter(score(subject, encoded.requests, on_progress))
    items = []
    for example, group in zip(examples, groups, strict=True):
        texts = zip(example.choices, group, strict=True)
        choices = tuple(
            choice_score(text, pair.continuation.removeprefix(task.delimiter), next(scores)) for text, pair in texts
        )
        items.append(choice_item(example, choices))
    return items, encoded.num_cut, encoded.num_apart


def score(subject: Subject, requests: Sequence[Request], on_progress: OnProgress) -> list[Score]:
    """The scores of requests, with progress told in requests."""
    done = 0

    def on_scored(count: int) -> None:
        nonlocal done
        done += count
        on_progress(done, len(requests))

    return score_continuations(subject.model, requests, batch_tokens=subject.batch_tokens, on_scored=on_scored)


def choice_score(text: str, scored: str, found: Score) -> ChoiceScore:
    """A choice with its score. Its bytes are those of what was scored, the delimiter apart, as in lm-eval."""
    return ChoiceScore(text, found.log_likelihood, found.num_tokens, len(scored.encode()), found.is_greedy)


def choice_item(example: Example, choices: tuple[ChoiceScore, ...]) -> Item:
    """What was chosen: the likeliest; a single continuation is chosen if the model would have said it."""
    if len(choices) == 1:
        prediction = choices[0].text if choices[0].is_greedy else None
        return Item(example.id, prediction, choices[0].text, choices[0].is_greedy, choices, 0)
    best = metrics.best_choice(choices)
    return Item(
        example.id, choices[best].text, example.choices[example.answer], best == example.answer, choices, example.answer
    )


def answer_freely(
    subject: Subject, task: Task, examples: Sequence[Example], drawer: ShotDrawer, on_progress: OnProgress
) -> Answered:
    """The likeliest answer of the model to every example, word by word."""
    contexts = [render_context(task, example, drawer.draw(example)) for example in examples]
    start = beginning_ids(subject.tokenizer) or ([] if all(contexts) else [end_of_document_id(subject.tokenizer)])
    prompts = [[*start, *ids] for ids in encode_texts(subject.tokenizer, contexts)]
    room = max((len(prompt) for prompt in prompts), default=0)
    if subject.max_length is not None:
        room = max(subject.max_length - task.max_new_tokens, 1)
    completions: list[Completion] = []
    for first in range(0, len(prompts), GENERATED_AT_ONCE):
        completions += generate_ids(
            subject.model,
            [prompt[-room:] for prompt in prompts[first : first + GENERATED_AT_ONCE]],
            sampling=SamplingConfig(),
            max_new_tokens=task.max_new_tokens,
            stop_ids=stop_ids(subject.tokenizer),
            tokenizer=subject.tokenizer,
            stop_strings=task.stop,
        )
        on_progress(len(completions), len(prompts))
    items = [free_item(example, found.text.strip()) for example, found in zip(examples, completions, strict=True)]
    return items, sum(len(prompt) > room for prompt in prompts), 0


def free_item(example: Example, text: str) -> Item:
    """An answer that was written; correct if it equals an accepted one in normal form."""
    is_right = bool(metrics.score_answer(text, example.references)["exact_match"])
    return Item(example.id, text, example.solution, is_right, references=example.references)


def predict_texts(
    subject: Subject, task: Task, examples: Sequence[Example], drawer: ShotDrawer, on_progress: OnProgress
) -> Answered:
    """The log-likelihood of every text, in windows of the longest sequence the model takes."""
    texts = [example.fields["question"] for example in examples]
    prefix = (beginning_ids(subject.tokenizer) or [end_of_document_id(subject.tokenizer)])[0]
    windows = [
        list(rolling_windows(ids, prefix, subject.max_length or LONGEST_WINDOW))
        for ids in encode_texts(subject.tokenizer, texts)
    ]
    requests = [Request(tuple(context), tuple(rest)) for parts in windows for context, rest in parts]
    scores = iter(score(subject, requests, on_progress))
    items = [
        text_item(example, [next(scores) for _ in parts]) for example, parts in zip(examples, windows, strict=True)
    ]
    return items, 0, 0


def text_item(example: Example, scores: Sequence[Score]) -> Item:
    """A text with the sum over its windows."""
    text = example.fields["question"]
    total = ChoiceScore(
        text=text if len(text) <= SHOWN_TEXT else text[:SHOWN_TEXT] + "…",
        log_likelihood=sum(found.log_likelihood for found in scores),
        num_tokens=sum(found.num_tokens for found in scores),
        num_bytes=len(text.encode()),
        is_greedy=False,
    )
    return Item(example.id, None, None, None, (total,), num_words=len(text.split()))
