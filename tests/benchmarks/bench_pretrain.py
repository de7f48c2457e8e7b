"""Tokens per second of `llmkit pretrain` beside its peers on the same model and the same tokens, in one run.

    python tests/benchmarks/bench_pretrain.py
    python tests/benchmarks/bench_pretrain.py --steps 5 --rounds 1 --vocab-size 4096 --tools llmkit litgpt

The model: a Llama of 6 layers, 384 wide, context 256, batch 8, in bf16 where the hardware has it. The tools take turns,
each in a process of its own; medians over rounds count, since one and the same loop varies by a tenth from minute to
minute. A tool that fails is a line that says why. Three rounds of both vocabularies take some twenty minutes on two
cores. litgpt lives in an environment of its own, .venv-peers, which is made on the first run (or --peers-python).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from llmkit.console import format_table, say, write, write_json

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "peers"))
from setting import BATCH_SIZE, HIDDEN_SIZE, INTERMEDIATE_SIZE, NUM_HEADS, NUM_LAYERS, SEQ_LEN  # noqa: E402

PEERS = HERE.parents[1] / ".venv-peers"
LITGPT = "litgpt==0.5.13"
LONGEST_SECONDS = 900
"""A tool that takes longer is stopped."""


@dataclass(frozen=True)
class Tool:
    """A training tool: its script, its flags, and in words the setting that was found to be its best."""

    script: str
    setting: str
    flags: tuple[str, ...] = ()
    is_foreign: bool = False


TOOLS = {
    "llmkit": Tool("time_llmkit.py", "as it comes"),
    "litgpt": Tool("time_litgpt.py", "bf16-mixed (it always compiles)", is_foreign=True),
    "Trainer": Tool("time_trainer.py", "bf16, fused AdamW, SDPA"),
    "Trainer compiled": Tool("time_trainer.py", "bf16, torch_compile, eager attention", ("compiled",)),
    "plain loop": Tool("time_plain.py", "autocast, fused AdamW, SDPA"),
    "llmkit uncompiled": Tool("time_llmkit.py", "train.compile=false", ("train.compile=false",)),
}


@dataclass
class Result:
    """What the rounds of one tool gave."""

    speeds: list[float] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)
    first_steps: list[float] = field(default_factory=list)
    error: str | None = None


def main() -> None:
    """Measure in turn and print a table for each vocabulary."""
    options = parse_arguments()
    foreign = options.peers_python or peers_python() if "litgpt" in options.tools else None
    idle = Idle()
    with tempfile.TemporaryDirectory() as folder:
        tables = [measure_vocabulary(size, Path(folder), foreign, options) for size in options.vocab_size]
    note = f"other programs took {idle.others():.2f} cores meanwhile"
    if options.json:
        write_json({"tables": tables, "note": note})
    else:
        for table in tables:
            show(table)
        write(note)


def parse_arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each process")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--vocab-size", type=int, nargs="+", default=[4096, 32768])
    parser.add_argument("--tools", nargs="+", choices=TOOLS, default=list(TOOLS), metavar="TOOL", help=", ".join(TOOLS))
    parser.add_argument("--peers-python", help="a Python that has litgpt; without it, .venv-peers is made")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def peers_python() -> str | None:
    """The Python of .venv-peers, which is made if it is not there; None when it cannot be."""
    python, done = PEERS / "bin/python", PEERS / "installed"
    if not done.exists():
        say(f"making {PEERS} with {LITGPT}: some minutes")
        pins = PEERS.with_suffix(".txt")
        # The same torch as ours, and no other that a dependency might like better.
        pins.write_text(f"torch=={version('torch').partition('+')[0]}\nnumpy=={version('numpy')}\n")
        try:
            subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
            pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--constraint", str(pins), "torch", "numpy", LITGPT], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            say(f"litgpt cannot be installed: {error}")
            return None
        finally:
            pins.unlink()
        done.touch()
    return str(python)


def measure_vocabulary(vocab_size: int, folder: Path, foreign: str | None, options: argparse.Namespace) -> dict:
    """All tools, in turn, round after round."""
    data = prepare(vocab_size, folder)
    results = {name: Result() for name in options.tools}
    limits: list[dict[str, float]] = []
    for number in range(options.rounds):
        limits.append(run([sys.executable, str(HERE / "peers/time_matrix.py")], {}))
        for name, result in results.items():
            if result.error is None:
                say(f"vocabulary {vocab_size:,}, round {number + 1} of {options.rounds}: {name}")
                measure(TOOLS[name], result, data, vocab_size, foreign, options.steps)
    limit = {name: max(found.get(name, 0.0) for found in limits) for name in ("auto", "fp32")}
    return {"vocab_size": vocab_size, "matrix_rate": limit, "rows": [*rows_of(results, vocab_size, limit["auto"])]}


def prepare(vocab_size: int, folder: Path) -> Path:
    """Tokens for a vocabulary of this size: the Python documentation that llmkit brings along."""
    tokenizer, data = folder / f"tokenizer-{vocab_size}", folder / f"data-{vocab_size}"
    say(f"vocabulary {vocab_size:,}: preparing tokens")
    llmkit = [sys.executable, "-m", "llmkit"]
    for command in (
        ["tokenizer", "train", "python-docs", "--vocab-size", str(vocab_size), "--output", str(tokenizer)],
        ["data", "prepare", "python-docs", "--tokenizer", str(tokenizer), "--output", str(data)],
    ):
        done = subprocess.run([*llmkit, *command], capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"error: llmkit {' '.join(command[:2])}: {last_line(done.stderr)}")
    return data


def measure(tool: Tool, result: Result, data: Path, vocab_size: int, foreign: str | None, steps: int) -> None:
    """One process of a tool; what came out, or why nothing did, goes into `result`."""
    python = foreign if tool.is_foreign else sys.executable
    if python is None:
        result.error = "it is not installed: --peers-python, or a network to install from"
        return
    arguments = ["--data", str(data), "--vocab-size", str(vocab_size), "--steps", str(steps)]
    command = [python, str(HERE / "peers" / tool.script), *arguments, "--begun", str(time.time()), *tool.flags]
    # Its own cache of compiled code: the first round compiles, the later ones find it.
    cache = data.parent / f"compiled-{vocab_size}-{tool.script}-{'-'.join(tool.flags)}"
    found = run(command, {"TORCHINDUCTOR_CACHE_DIR": str(cache), "TMPDIR": str(data.parent)})
    if "error" in found:
        result.error = str(found["error"])
        return
    result.speeds.append(BATCH_SIZE * SEQ_LEN / statistics.median(found["step_seconds"]))
    result.peaks.append(found["peak_mb"])
    result.first_steps.append(found["first_step_seconds"])


def run(
    command: list[str],
    environment: dict[str, str],
    *,
    stderr: int = subprocess.PIPE,
    longest_seconds: float | None = None,
) -> dict:
    """The JSON object in a command's last line, or `error`."""
    longest = longest_seconds or LONGEST_SECONDS
    merged = {**os.environ, **environment}
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, env=merged, timeout=longest)
    except subprocess.TimeoutExpired:
        return {"error": f"it took more than {longest} s"}
    except OSError as error:
        return {"error": str(error)}
    last = last_line(done.stdout)
    if done.returncode or not last.startswith("{"):
        return {"error": last_line(done.stderr or "") or f"it ended with exit code {done.returncode}"}
    return json.loads(last)


def last_line(text: str) -> str:
    """The last line that is not empty."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def flops_per_token(vocab_size: int) -> float:
    """Forward and backward: 6 per weight that is multiplied (head included), and causal attention, 6 L D T."""
    block = 4 * HIDDEN_SIZE**2 + 3 * HIDDEN_SIZE * INTERMEDIATE_SIZE
    weights = NUM_LAYERS * block + HIDDEN_SIZE * vocab_size
    return 6.0 * weights + 6.0 * NUM_LAYERS * NUM_HEADS * (HIDDEN_SIZE // NUM_HEADS) * SEQ_LEN


def rows_of(results: dict[str, Result], vocab_size: int, matrix_rate: float):
    """One row per tool; ratios are those of medians."""
    speeds = {name: statistics.median(result.speeds) for name, result in results.items() if result.speeds}
    # Each peer in its best setting: the faster of the two Trainers is what the others are held against.
    trainer = max((speed for name, speed in speeds.items() if name.startswith("Trainer")), default=None)
    for name, result in results.items():
        row = {"tool": name, "setting": TOOLS[name].setting, "error": result.error}
        if name in speeds:
            speed = speeds[name]
            row |= {
                "tokens_per_second": round(speed),
                "rounds": [round(s) for s in result.speeds],
                "of_litgpt": round(speed / speeds["litgpt"], 2) if "litgpt" in speeds else None,
                "of_trainer": round(speed / trainer, 2) if trainer else None,
                "mfu": round(speed * flops_per_token(vocab_size) / matrix_rate, 3) if matrix_rate else None,
                "peak_mb": round(statistics.median(result.peaks)),
                "first_step_seconds": [round(s, 1) for s in result.first_steps],
            }
        yield row


HEADERS = ["tool", "setting", "tokens/s", "of litgpt", "of Trainer", "MFU", "peak MB", "first step, s", "rounds"]


def show(table: dict) -> None:
    """A table for people. The first step is told of the first round, which compiles, and of the last."""
    rates = {name: rate / 1e9 for name, rate in table["matrix_rate"].items()}
    write(
        f"\nvocabulary {table['vocab_size']:,}: {flops_per_token(table['vocab_size']) / 1e6:.1f} MFLOP per token; ",
        end="",
    )
    write(f"best matrix product {rates['auto']:,.0f} GFLOP/s as trained, {rates['fp32']:,.0f} in fp32\n")
    rows = []
    for row in table["rows"]:
        if row["error"]:
            rows.append([row["tool"], f"failed: {row['error']}", *[None] * 7])
            continue
        firsts = row["first_step_seconds"]
        rows.append(
            [
                row["tool"],
                row["setting"],
                f"{row['tokens_per_second']:,}",
                *(row[key] for key in ("of_litgpt", "of_trainer", "mfu")),
                f"{row['peak_mb']:,}",
                " / ".join(f"{s:.1f}" for s in dict.fromkeys([firsts[0], firsts[-1]])),
                " ".join(f"{s:,}" for s in row["rounds"]),
            ]
        )
    write(format_table(HEADERS, rows))


class Idle:
    """Sees how much of the cores other programs take."""

    def __init__(self) -> None:
        self.begin = (time.time(), *self.seconds())

    @staticmethod
    def seconds() -> tuple[float, float]:
        """Seconds of all cores that were used by anything, and by this benchmark."""
        try:
            fields = Path("/proc/stat").read_text().split("\n")[0].split()[1:]
        except OSError:
            return 0.0, 0.0
        user, nice, system, _, _, irq, softirq, *_ = map(int, fields)
        own = os.times()
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK"), sum(own[:4])

    def others(self) -> float:
        """Cores that others took, on average since the beginning."""
        begin, used, own = self.begin
        used_now, own_now = self.seconds()
        return max(0.0, (used_now - used) - (own_now - own)) / (time.time() - begin)


if __name__ == "__main__":
    main()
