"""What an evaluation leaves behind: results.json, and what the model said to each item."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import transformers

from llmkit import __version__
from llmkit.evaluation.contamination import Overlap
from llmkit.evaluation.evaluate import Subject, TaskResult
from llmkit.evaluation.metrics import Item
from llmkit.evaluation.spread import spreads
from llmkit.tokenizer import tokenizer_hash


def write_results(
    aside: Path, folder: Path, results: Sequence[TaskResult], *, model: str, environment: Mapping[str, Any]
) -> dict[str, Any]:
    """Write results.json and a file of items per result; give the document for --json.

    Args:
        aside: Where the files are written.
        folder: What that becomes.
        results: In the order in which they are listed.
        model: Its name.
        environment: What else moves the numbers.
    """
    lines = []
    for number, result in enumerate(results):
        name = items_name(result, number, results)
        text = "".join(json.dumps(item_json(item, result.overlap), ensure_ascii=False) + "\n" for item in result.items)
        (aside / name).write_text(text, encoding="utf-8")
        lines.append(result.to_json(str(folder / name)))
    document = {"model": model, "results": lines, "spreads": [spread.to_json() for spread in spreads(results)]}
    full = {**document, "environment": environment}
    (aside / "results.json").write_text(json.dumps(full, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return document


def items_name(result: TaskResult, number: int, results: Sequence[TaskResult]) -> str:
    """The name of a result's file of items: items.jsonl, or where there are several, one that tells them apart."""
    if len(results) == 1:
        return "items.jsonl"
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in result.task.name)
    same = [r for r in results if r.task.name == result.task.name and r.shots == result.shots]
    return f"items-{stem}-{result.shots}shot{f'-{number}' if len(same) > 1 else ''}.jsonl"


def item_json(item: Item, overlap: Overlap | None = None) -> dict[str, Any]:
    """One line of a file of items."""
    share = {} if overlap is None else {"seen_in_training": overlap.shares.get(item.id, 0.0)}
    choices = [{key: value for key, value in asdict(c).items() if value is not None} for c in item.choices]
    return {
        "id": item.id,
        "question_hash": item.question_hash,
        "prompt": item.prompt,
        "prediction": item.prediction,
        "answer": item.answer,
        "correct": item.correct,
        "scores": dict(item.scores),
        "choices": choices,
        **({"group": item.group} if item.group else {}),
        **share,
    }


def describe_environment(subject: Subject, model_hash: str) -> dict[str, Any]:
    """What else moves the numbers."""
    return {
        "model_hash": model_hash,
        "llmkit": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(subject.model.device),
        "dtype": str(subject.model.dtype).removeprefix("torch."),
        "tokenizer": tokenizer_hash(subject.tokenizer),
        "chat_template": subject.chat is not None,
        "chat_day": subject.chat.day if subject.chat else None,
        "max_length": subject.max_length,
        "processes": subject.num_processes,
    }
