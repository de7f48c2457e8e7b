"""Useful tokens per second and memory of `llmkit finetune` beside TRL's SFTTrainer: LoRA on the same rows, in one run.

    python tests/benchmarks/bench_finetune.py --model smollm2 --data alpaca.json
    python tests/benchmarks/bench_finetune.py --model smollm2 --data alpaca.json --rows 24 --rounds 1 --tools llmkit TRL

The model: SmolLM2-135M-Instruct or another with a chat template, a folder or a hub name. The data: rows of instruction,
input, output. LoRA of rank 16 on all linear layers, bf16 where the hardware has it, rows of at most 512 tokens, 8 of
them to a step, one epoch over the first --rows; the loss on answers alone. Useful tokens are those of the rows as they
are trained, without padding, over the time of the whole epoch. The tools take turns, each in a process of its own;
medians over rounds count. Preparation, rows to ids, is timed over the first --prepare-rows rows. TRL lives in an
environment of its own, .venv-peers, which is made on the first run (or --peers-python). Three rounds of 48 rows take
some twenty-five minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from bench_pretrain import PEERS, Idle, run

from llmkit.console import format_table, say, write, write_json

HERE = Path(__file__).resolve().parent
TRL = "trl==1.16.0"


@dataclass(frozen=True)
class Tool:
    """A tuning tool: its script, its flags, and its setting in words."""

    script: str
    setting: str
    flags: tuple[str, ...] = ()
    is_foreign: bool = True


TOOLS = {
    "llmkit": Tool("tune_llmkit.py", "as it comes", is_foreign=False),
    "llmkit packed": Tool("tune_llmkit.py", "data.packing=true", ("data.packing=true",), is_foreign=False),
    "TRL": Tool("tune_trl.py", "its defaults, bf16 (padded, gradient checkpointing)"),
    "TRL fast": Tool("tune_trl.py", "gradient checkpointing off", ("gradient_checkpointing=false",)),
    "TRL packed": Tool("tune_trl.py", "packing (bfd)", ("packing=true",)),
    "TRL wrapped": Tool(
        "tune_trl.py",
        "packing (wrapped: documents are cut and see each other), gradient checkpointing off",
        ("packing=true", "packing_strategy=wrapped", "gradient_checkpointing=false"),
    ),
}


@dataclass
class Result:
    """What the rounds of one tool gave."""

    speeds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    prepared: list[float] = field(default_factory=list)
    tokens: int = 0
    error: str | None = None


def main() -> None:
    """Measure in turn and print a table."""
    options = parse_arguments()
    foreign = options.peers_python or (peers_python() if any(TOOLS[t].is_foreign for t in options.tools) else None)
    results, idle = {name: Result() for name in options.tools}, Idle()
    with tempfile.TemporaryDirectory() as folder:
        few, many = (cut(options.data, count, Path(folder)) for count in (options.rows, options.prepare_rows))
        for number in range(options.rounds):
            for name, result in results.items():
                if result.error is None:
                    say(f"round {number + 1} of {options.rounds}: {name}")
                    measure(TOOLS[name], result, options.model, few, many, foreign)
    rows, note = list(rows_of(results)), f"other programs took {idle.others():.2f} cores meanwhile"
    if options.json:
        write_json({"model": options.model, "rows": options.rows, "tools": rows, "note": note})
        return
    show(rows)
    write(note)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="folder or hub name of a model with a chat template")
    parser.add_argument("--data", type=Path, required=True, help="JSON or JSON lines with instruction, input, output")
    parser.add_argument("--rows", type=int, default=48, help="rows of the epoch that is trained")
    parser.add_argument("--prepare-rows", type=int, default=1000, help="rows whose preparation is timed")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS), metavar="TOOL", help=", ".join(TOOLS))
    parser.add_argument("--peers-python", help="a Python that has TRL and PEFT; without it, .venv-peers is made")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def peers_python() -> str | None:
    """The Python of .venv-peers with TRL in it; None when it cannot be installed."""
    python, done, pins = PEERS / "bin/python", PEERS / "installed-trl", PEERS.with_suffix(".txt")
    if done.exists():
        return str(python)
    say(f"making {PEERS} with {TRL}: some minutes")
    # The same torch as ours, and no other that a dependency might like better.
    pins.write_text(f"torch=={version('torch').partition('+')[0]}\nnumpy=={version('numpy')}\n")
    try:
        if not python.exists():
            subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "--constraint", str(pins), "torch", "numpy", "peft", TRL], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        say(f"TRL cannot be installed: {error}")
        return None
    finally:
        pins.unlink()
    done.touch()
    return str(python)


def cut(path: Path, count: int, folder: Path) -> Path:
    """The first rows of the data, as JSON lines that every tool is given."""
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines()]
    target = folder / f"rows-{count}.jsonl"
    target.write_text("".join(json.dumps(row) + "\n" for row in rows[:count]), encoding="utf-8")
    return target


def measure(tool: Tool, result: Result, model: str, few: Path, many: Path, foreign: str | None) -> None:
    """One process of a tool that trains, and one that prepares; what came out goes into `result`."""
    python = foreign if tool.is_foreign else sys.executable
    if python is None:
        result.error = "it is not installed: --peers-python, or a network to install from"
        return
    script = str(HERE / "peers" / tool.script)
    for job, data in (("train", few), ("prepare", many)):
        flags = [word for flag in tool.flags for word in ("--set", flag)]
        found = run([python, script, job, "--model", model, "--data", str(data), *flags], {})
        if "error" in found:
            result.error = str(found["error"])
            return
        if job == "train":
            result.tokens = found["tokens"]
            result.speeds.append(found["tokens"] / found["seconds"])
            result.peaks.append(found["peak_mb"])
        else:
            result.prepared.append(found["rows"] / found["seconds"])


def rows_of(results: dict[str, Result]):
    """One row per tool; ratios are those of medians, to TRL's defaults and to the best of its settings."""
    speeds = {name: statistics.median(r.speeds) for name, r in results.items() if r.speeds and r.error is None}
    best = max((speed for name, speed in speeds.items() if name.startswith("TRL")), default=None)
    default = speeds.get("TRL")
    memory = statistics.median(results["TRL"].peaks) if "TRL" in speeds else None
    for name, result in results.items():
        row = {"tool": name, "setting": TOOLS[name].setting, "error": result.error}
        if name in speeds:
            peak = statistics.median(result.peaks)
            row |= {
                "tokens_per_second": round(speeds[name], 1),
                "rounds": [round(speed, 1) for speed in result.speeds],
                "tokens": result.tokens,
                "of_default": round(speeds[name] / default, 2) if default else None,
                "of_best": round(speeds[name] / best, 2) if best else None,
                "peak_mb": round(peak),
                "memory_of_default": round(peak / memory, 2) if memory else None,
                "prepared_rows_per_second": round(statistics.median(result.prepared)),
            }
        yield row


HEADERS = [
    "tool",
    "setting",
    "useful tokens/s",
    "of TRL",
    "of its best",
    "peak MB",
    "of TRL",
    "rows/s prepared",
    "rounds",
]


def show(rows: list[dict]) -> None:
    """The table for people."""
    lines = []
    for row in rows:
        if row["error"]:
            lines.append([row["tool"], f"failed: {row['error']}", *[None] * 7])
            continue
        keys = (
            "tokens_per_second",
            "of_default",
            "of_best",
            "peak_mb",
            "memory_of_default",
            "prepared_rows_per_second",
        )
        lines.append([row["tool"], row["setting"], *(row[key] for key in keys), " ".join(map(str, row["rounds"]))])
    write(format_table(HEADERS, lines))


if __name__ == "__main__":
    main()
