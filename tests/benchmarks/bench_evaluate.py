"""Rows per second of `llmkit evaluate` beside lm-evaluation-harness: the same prompts, the same model, one run.

    python tests/benchmarks/bench_evaluate.py --model SmolLM2-135M --data hellaswag.jsonl
    python tests/benchmarks/bench_evaluate.py --model M --data hellaswag.jsonl --rows 24 --rounds 1 --dtypes fp32

HellaSwag, in any form that `llmkit evaluate --task hellaswag --data` reads: zero-shot, with five solved examples that
all rows share, and with five of its own before each row. The prompts are written out once, and both tools are given
the same text. The tools take turns, each in a process of its own; the median of the rounds counts. Loading the model
and making the task is timed apart; for lm-evaluation-harness only its `loglikelihood` is timed, at the batch size that
is fastest on the first rows; for llmkit all from prompts to metrics. Where other programs run beside, the ratio of CPU
times with OMP_NUM_THREADS=1 says more than that of the clock. Where lm_eval cannot be imported, .venv-peers gets it (or
--peers-python).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from bench_pretrain import HERE, PEERS, Idle, peers_python, run

from llmkit.console import format_table, say, write, write_json

LM_EVAL = "lm-eval==0.4.13"
SHOTS = 5
MODES = {"0 shots": "none", "5 shared shots": "shared", "5 own shots": "own"}
BATCH_SIZES = {"cpu": (1, 8, 32), "cuda": (16, 64, 256)}
LONGEST_SECONDS = 7200
"""A tool that takes longer is stopped: of 200 rows with five shots lm-evaluation-harness needs a quarter of an hour and
more on two cores."""

PROBED_ROWS = 4
"""Rows on which batch sizes are tried."""


def main() -> None:
    """Measure in turn and print a table."""
    options = parse_arguments()
    python = options.peers_python or lm_eval_python()
    idle = Idle()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        files = write_prompts(options, Path(folder))
        for dtype in options.dtypes:
            for mode in options.modes:
                say(f"{dtype}, {mode}")
                rows.append({"dtype": dtype, "mode": mode, **measure(files[mode], dtype, python, options)})
    note = f"other programs took {idle.others():.2f} cores meanwhile"
    if options.json:
        write_json({"rows": rows, "note": note})
    else:
        show(rows)
        write(note)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of the model", required=True)
    parser.add_argument("--data", help="file or folder with HellaSwag", required=True)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--dtypes", nargs="+", choices=["fp32", "bf16"], default=["fp32", "bf16"])
    parser.add_argument("--peers-python", help="a Python that has lm_eval; without it, .venv-peers is made")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def lm_eval_python() -> str | None:
    """This Python where it has lm_eval, else that of .venv-peers, which gets it; None when it cannot be had."""
    if importlib.util.find_spec("lm_eval"):
        return sys.executable
    python = peers_python()
    done = PEERS / "installed-lm-eval"
    if python and not done.exists():
        # The same transformers as ours: what is compared are the tools.
        pins = [f"{name}=={version(name)}" for name in ("transformers", "datasets")]
        command = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", LM_EVAL, *pins]
        if subprocess.run(command).returncode:
            say(f"{LM_EVAL} cannot be installed")
            return None
        done.touch()
    return python


def write_prompts(options: argparse.Namespace, folder: Path) -> dict[str, Path]:
    """A file of {prompt, choices, answer} for each mode: rows from the beginning, shots from the end."""
    from llmkit.commands.tasks import Flags, open_tasks
    from llmkit.evaluation.prompts import render_context

    (task,) = open_tasks("hellaswag", Flags(), [options.data])
    examples = task.examples("test")
    pool = examples[max(options.rows, len(examples) // 2) :]
    if len(pool) < SHOTS:
        sys.exit(f"error: {options.data} has {len(examples)} rows: too few for {options.rows} and the shots")
    files = {}
    for mode in options.modes:
        lines = []
        for example in examples[: options.rows]:
            own = random.Random(example.id).sample(pool, SHOTS)
            shots = {"none": [], "shared": pool[:SHOTS], "own": own}[MODES[mode]]
            prompt = render_context(task, example, shots)
            lines.append(json.dumps({"prompt": prompt, "choices": example.choices, "answer": example.answer}))
        files[mode] = folder / f"{MODES[mode]}.jsonl"
        files[mode].write_text("\n".join(lines) + "\n", encoding="utf-8")
    return files


def measure(prompts: Path, dtype: str, python: str | None, options: argparse.Namespace) -> dict:
    """Both tools on one file of prompts, in turn."""
    ours = [sys.executable, str(HERE / "peers/time_llmkit_evaluate.py")]
    theirs = [python or "", str(HERE / "peers/time_lm_eval.py")]
    arguments = ["--model", options.model, "--prompts", str(prompts), "--dtype", dtype]
    sizes = BATCH_SIZES["cuda" if has_cuda() else "cpu"]
    clock = "seconds" if has_cuda() else "cpu_seconds"
    probes = {
        size: run([*theirs, *arguments, "--rows", str(PROBED_ROWS), "--batch-size", str(size)], {}) for size in sizes
    }
    works = {size: found[clock] for size, found in probes.items() if clock in found}
    if not works:
        return {"error": f"lm-eval: {next(iter(probes.values()))['error']}"}
    best = min(works, key=works.__getitem__)
    rounds = []
    for number in range(options.rounds):
        say(f"  round {number + 1} of {options.rounds}, lm-eval with batch size {best}")
        commands = ([*ours, *arguments], [*theirs, *arguments, "--batch-size", str(best)])
        rounds.append(tuple(run(command, {}, longest_seconds=LONGEST_SECONDS) for command in commands))
    for found in (tool for pair in rounds for tool in pair):
        if "error" in found:
            return {"error": str(found["error"])}
    return summarise(rounds, best)


def has_cuda() -> bool:
    """Whether the tools will run on a GPU."""
    import torch

    return torch.cuda.is_available()


def summarise(rounds: Sequence[tuple[dict, dict]], batch_size: int) -> dict:
    """Medians, and what the tools agree on."""
    ours, theirs = rounds[0]
    pairs = list(zip(flat(ours["scores"]), flat(theirs["scores"]), strict=True))
    seconds, cpu_seconds = (
        [statistics.median(pair[tool][clock] for pair in rounds) for tool in (0, 1)]
        for clock in ("seconds", "cpu_seconds")
    )
    return {
        "rows": len(ours["scores"]),
        "llmkit_seconds": seconds[0],
        "lm_eval_seconds": seconds[1],
        "times_faster": round(seconds[1] / seconds[0], 2),
        "times_by_cpu": round(cpu_seconds[1] / cpu_seconds[0], 2),
        "rounds": [[pair[tool]["seconds"] for pair in rounds] for tool in (0, 1)],
        "cpu_rounds": [[pair[tool]["cpu_seconds"] for pair in rounds] for tool in (0, 1)],
        "load_seconds": [statistics.median(pair[tool]["load_seconds"] for pair in rounds) for tool in (0, 1)],
        "lm_eval_batch_size": batch_size,
        "accuracy": [ours["accuracy"], theirs["accuracy"]],
        "largest_difference": max(abs(a - b) for a, b in pairs),
        "tokens": {name: ours[f"{name}_tokens"] for name in ("computed", "fewest", "separate")},
        "of_matrix_limit": statistics.median(pair[0]["of_matrix_limit"] for pair in rounds),
    }


def flat(scores: Sequence[Sequence[float]]) -> Iterator[float]:
    """All log-likelihoods, row by row."""
    return (value for row in scores for value in row)


def show(rows: Sequence[dict]) -> None:
    """A table for people."""
    headers = [
        "dtype",
        "prompts",
        "llmkit, s",
        "lm-eval, s",
        "times",
        "by CPU time",
        "load, s",
        "accuracy",
        "differ by",
        "computed / fewest",
        "of limit",
    ]
    table = []
    for row in rows:
        if "error" in row:
            table.append([row["dtype"], row["mode"], f"failed: {row['error']}", *[None] * 8])
            continue
        tokens = row["tokens"]
        table.append(
            [
                row["dtype"],
                row["mode"],
                f"{row['llmkit_seconds']:.1f}",
                f"{row['lm_eval_seconds']:.1f} ({row['lm_eval_batch_size']})",
                row["times_faster"],
                row["times_by_cpu"],
                " / ".join(f"{seconds:.1f}" for seconds in row["load_seconds"]),
                " / ".join(f"{value:.3f}" for value in row["accuracy"]),
                f"{row['largest_difference']:.1e}",
                f"{tokens['computed']:,} / {tokens['fewest']:,} (apart {tokens['separate']:,})",
                f"{row['of_matrix_limit']:.0%}",
            ]
        )
    write(format_table(headers, table))


if __name__ == "__main__":
    main()
