"""Samples per second of small networks: llmkit's loop beside a loop written by hand and Lightning's Trainer.

    python tests/benchmarks/bench_baseline.py
    python tests/benchmarks/bench_baseline.py --steps 100 --rounds 1 --models mlp --tools llmkit plain

An MLP and a CNN for pictures of 28 x 28, a GRU over 32 steps; batches of 64, one thread. Networks this small are bound
by what is done around their arithmetic. The loop by hand is the limit (target: 0.9 of it). The tools take turns, each
in a process of its own; of rounds the median counts. Lightning comes with litgpt's
environment, .venv-peers (see bench_pretrain.py), or --peers-python.
"""

from __future__ import annotations

import argparse
import statistics
import sys

from bench_pretrain import HERE, peers_python, run

from llmkit.console import format_table, say, write, write_json

TOOLS = ("llmkit", "plain", "lightning")
MODELS = ("mlp", "cnn", "gru")
BATCH_SIZE = 64


def main() -> None:
    """Measure in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=600, help="timed steps of each process")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS, metavar="MODEL", help=", ".join(MODELS))
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=TOOLS, metavar="TOOL", help=", ".join(TOOLS))
    parser.add_argument("--peers-python", help="a Python that has lightning; without it, .venv-peers is made")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    foreign = options.peers_python or (peers_python() if "lightning" in options.tools else None)
    found = {model: {tool: [] for tool in options.tools} for model in options.models}
    for number in range(options.rounds):
        for model, tools in found.items():
            for tool, results in tools.items():
                say(f"round {number + 1} of {options.rounds}: {model}, {tool}")
                results.append(measure(tool, model, foreign, options.steps))
    rows = [row for model, tools in found.items() for row in rows_of(model, tools)]
    if options.json:
        write_json({"rows": rows})
    else:
        show(rows)


def measure(tool: str, model: str, foreign: str | None, steps: int) -> dict:
    """One process of a tool."""
    python = foreign if tool == "lightning" else sys.executable
    if python is None:
        return {"error": "it is not installed: --peers-python, or a network to install from"}
    command = [python, str(HERE / "peers" / "time_baseline.py"), tool, model, "--steps", str(steps)]
    return run(command, {"OMP_NUM_THREADS": "1"})


def rows_of(model: str, tools: dict[str, list[dict]]) -> list[dict]:
    """One row per tool, with its share of the loop by hand."""
    speeds = {
        tool: [BATCH_SIZE * result["steps"] / result["seconds"] for result in results if "error" not in result]
        for tool, results in tools.items()
    }
    medians = {tool: statistics.median(found) for tool, found in speeds.items() if found}
    rows = []
    for tool, results in tools.items():
        row = {"model": model, "tool": tool, "error": next((r["error"] for r in results if "error" in r), None)}
        if tool in medians:
            limit = medians.get("plain")
            row |= {
                "samples_per_second": round(medians[tool]),
                "of_plain": round(medians[tool] / limit, 3) if limit else None,
                "rounds": [round(speed) for speed in speeds[tool]],
            }
        rows.append(row)
    return rows


def show(rows: list[dict]) -> None:
    """A table for people."""
    cells = [
        [row["model"], row["tool"], f"failed: {row['error']}", None, None]
        if "samples_per_second" not in row
        else [
            row["model"],
            row["tool"],
            f"{row['samples_per_second']:,}",
            row["of_plain"],
            " ".join(f"{speed:,}" for speed in row["rounds"]),
        ]
        for row in rows
    ]
    write(format_table(["model", "tool", "samples/s", "of plain", "rounds"], cells))


if __name__ == "__main__":
    main()
