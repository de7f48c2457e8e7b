"""llmkit on a file of prompts: seconds from prompts to metrics, and how many tokens went through the model."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from llmkit.commands.evaluation_job import load_subject
from llmkit.console import write_json
from llmkit.device import measure_matrix_rate, wait_for
from llmkit.evaluation import scoring
from llmkit.evaluation.encoding import encode_pairs
from llmkit.evaluation.evaluate import evaluate_task
from llmkit.evaluation.prompts import render_pairs
from llmkit.evaluation.task import Example, Task
from llmkit.evaluation.tree import common_length


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    for name in ("--model", "--prompts", "--dtype"):
        parser.add_argument(name, required=True)
    options = parser.parse_args()
    task = read_task(Path(options.prompts))
    begin = time.perf_counter()
    subject = load_subject(options.model, options.dtype, None, tasks=[task])
    loaded = time.perf_counter() - begin
    counts = count_work()
    begin, worked = time.perf_counter(), time.process_time()
    result = evaluate_task(subject, task)
    wait_for(subject.model.device)
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - worked
    pairs = [pair for example in task.examples("test") for pair in render_pairs(task, example, [])]
    requests = encode_pairs(subject.tokenizer, pairs, subject.max_length).requests
    head = subject.model.get_output_embeddings().weight.numel()
    body = subject.model.num_parameters() - head
    flops = 2 * (counts["tokens"] * body + counts["scored"] * head)
    write_json(
        {
            "seconds": seconds,
            "cpu_seconds": cpu_seconds,
            "load_seconds": loaded,
            "accuracy": result.metrics["accuracy"].value,
            "scores": [[choice.log_likelihood for choice in item.choices] for item in result.items],
            "computed_tokens": counts["tokens"],
            "fewest_tokens": fewest([request.context + request.continuation[:-1] for request in requests]),
            "separate_tokens": sum(len(r.context) + len(r.continuation) - 1 for r in requests),
            "of_matrix_limit": flops / seconds / measure_matrix_rate(subject.model.device, subject.model.dtype),
        }
    )


def read_task(path: Path) -> Task:
    """The rows as a task whose prompts stand in the file."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    examples = [
        Example(str(n), f"{path}:{n + 1}", {"question": row["prompt"]}, tuple(row["choices"]), row["answer"])
        for n, row in enumerate(rows)
    ]
    return Task("hellaswag", "choice", lambda split: examples)


def count_work() -> dict[str, int]:
    """Tokens that go through the model, padding included, and positions whose logits are made; counted from now on."""
    counts = {"tokens": 0, "scored": 0}
    stack_groups, prefill = scoring.stack_groups, scoring.prefill

    def stack_counted(*arguments):
        stacked = stack_groups(*arguments)
        counts["tokens"] += stacked.ids.numel()
        counts["scored"] += len(stacked.rows)
        return stacked

    def prefill_counted(model, beginnings):
        counts["tokens"] += len(beginnings) * max(map(len, beginnings))
        return prefill(model, beginnings)

    scoring.stack_groups, scoring.prefill = stack_counted, prefill_counted
    return counts


def fewest(sequences: list[tuple[int, ...]]) -> int:
    """Tokens of a tree in which everything shared is there once."""
    total, previous = 0, ()
    for sequence in sorted(sequences):
        total += len(sequence) - common_length(sequence, previous)
        previous = sequence
    return total


if __name__ == "__main__":
    main()
