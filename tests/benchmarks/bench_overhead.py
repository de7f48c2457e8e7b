"""What `llmkit pretrain` takes beside its steps: the start, lines of metrics, the bar, and waiting for rows.

    python tests/benchmarks/bench_overhead.py
    python tests/benchmarks/bench_overhead.py --steps 10 --rounds 1

The real command on prepared tokens, on a terminal (a pseudo-terminal: the bar is drawn). Targets: lines and bar below
1% of a step, waiting for rows below 0.5%. The toy shows the fixed cost, since its steps take some milliseconds.
"""

from __future__ import annotations

import argparse
import os
import pty
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench_pretrain import HERE, prepare, run

from llmkit.console import format_table, say, write, write_json

TOY = ("model.num_layers=2", "model.hidden_size=64", "model.num_heads=2", "model.intermediate_size=192")
MODELS = {
    "12M, compiled": ("train.compile=true",),
    "12M": ("train.compile=false",),
    "toy": (*TOY, "train.seq_len=128", "train.compile=false"),
}
"""Name -> what is set beyond the benchmark's model."""

MILLISECONDS = {
    "step": "step_seconds",
    "with lines and bar": "told_seconds",
    "without": "untold_seconds",
    "lines": "lines_seconds",
    "bar": "bar_seconds",
    "rows": "rows_seconds",
}
"""Column -> what the command reported, in seconds."""


def main() -> None:
    """Measure each model in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60, help="timed steps of each process, half of them untold")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS), metavar="MODEL")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found: dict[str, list[dict]] = {name: [] for name in options.models}
    with tempfile.TemporaryDirectory() as folder:
        data = prepare(4096, Path(folder))
        for number in range(options.rounds):
            for name, results in found.items():
                say(f"round {number + 1} of {options.rounds}: {name}")
                results.append(measure(data, options.steps, MODELS[name]))
    if options.json:
        write_json(found)
    else:
        show(found)


def measure(data: Path, steps: int, flags: tuple[str, ...]) -> dict:
    """One process of the command, its stderr a terminal."""
    arguments = ["--data", str(data), "--vocab-size", "4096", "--steps", str(steps), "--begun", str(time.time())]
    command = [sys.executable, str(HERE / "peers/time_overhead.py"), *arguments, *flags]
    shown, terminal = pty.openpty()
    said: list[bytes] = []
    reader = threading.Thread(target=read_all, args=(shown, said), daemon=True)
    reader.start()
    environment = {
        "TMPDIR": str(data.parent),
        "TORCHINDUCTOR_CACHE_DIR": str(data.parent / "compiled"),
        "TERM": "xterm",
    }
    found = run(command, environment, stderr=terminal)
    os.close(terminal)
    reader.join(timeout=10)
    os.close(shown)
    if "error" in found:
        lines = b"".join(said).decode(errors="replace").splitlines()
        found["error"] = next((line.strip() for line in reversed(lines) if line.strip()), found["error"])
    return found


def read_all(shown: int, said: list[bytes]) -> None:
    """Take what is drawn, as a terminal would; a terminal that is closed ends in an error."""
    try:
        while piece := os.read(shown, 1 << 16):
            said.append(piece)
    except OSError:
        return


def show(found: dict[str, list[dict]]) -> None:
    """Medians over rounds, in milliseconds, and shares of a step."""
    rows, starts = [], []
    for name, results in found.items():
        good = [result for result in results if "error" not in result]
        if not good:
            write(f"{name} failed: {results[0]['error']}")
            continue
        medians = {key: statistics.median(result[key] for result in good) for key in good[0]}
        step = medians["step_seconds"]
        told = (medians["lines_seconds"] + medians["bar_seconds"]) / step
        shares = [f"{100 * told:.2f}%", f"{100 * medians['rows_seconds'] / step:.2f}%"]
        rows.append([name, *(f"{1000 * medians[key]:.3f}" for key in MILLISECONDS.values()), *shares])
        firsts = [result["first_step_seconds"] for result in good]
        starts.append([name, f"{firsts[0]:.1f}", f"{statistics.median(firsts[1:] or firsts):.1f}"])
    write("milliseconds per step\n")
    write(format_table(["model", *MILLISECONDS, "lines and bar", "rows"], rows))
    write("\nfrom the command to the end of the first step, s\n")
    write(format_table(["model", "first round", "later"], starts))


if __name__ == "__main__":
    main()
