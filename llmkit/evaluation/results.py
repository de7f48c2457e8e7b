"""What an evaluation leaves behind: results.json, and what the model said to each item."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from llmkit import __version__
from llmkit.evaluation.evaluate import Subject, TaskResult
from llmkit.evaluation.metrics import Item
from llmkit.files import new_folder
from llmkit.tokenizer import tokenizer_hash


def save_results(folder: Path, results: Sequence[TaskResult], subject: Subject, *, model: str) -> dict[str, Any]:
    """Write results.json and a file of items per result; give the document for --json."""
    with new_folder(folder) as aside:
        lines = []
        for number, result in enumerate(results):
            name = items_name(result, number, results)
            text = "".join(json.dumps(item_json(item), ensure_ascii=False) + "\n" for item in result.items)
            (aside / name).write_text(text, encoding="utf-8")
            lines.append(result.to_json(str(folder / name)))
        document = {"model": model, "results": lines}
        full = {**document, "environment": describe_environment(subject)}
        (aside / "results.json").write_text(json.dumps(full, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return document


def items_name(result: TaskResult, number: int, results: Sequence[TaskResult]) -> str:
    """The name of a result's file of items, with a number where tasks share a name."""
    stem = "".join(c if c.isalnum() or c in "-_." else "-" for c in result.task.name)
    same = [r for r in results if r.task.name == result.task.name and r.shots == result.shots]
    return f"items-{stem}-{result.shots}shot{f'-{number}' if len(same) > 1 else ''}.jsonl"


def item_json(item: Item) -> dict[str, Any]:
    """One line of a file of items."""
    choices = [
        {"text": c.text, "log_likelihood": c.log_likelihood, "num_tokens": c.num_tokens, "num_bytes": c.num_bytes}
        for c in item.choices
    ]
    return {
        "id": item.id,
        "prediction": item.prediction,
        "answer": item.answer,
        "correct": item.correct,
        "choices": choices,
    }


def describe_environment(subject: Subject) -> dict[str, Any]:
    """What else moves the numbers."""
    return {
        "llmkit": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": str(subject.model.device),
        "dtype": str(subject.model.dtype).removeprefix("torch."),
        "tokenizer": tokenizer_hash(subject.tokenizer),
        "max_length": subject.max_length,
        "processes": subject.num_processes,
    }
