"""What checkpoints cost: seconds to save and to load beside the disk's own speed, and beside the training itself.

    python tests/benchmarks/bench_checkpoint.py
    python tests/benchmarks/bench_checkpoint.py --gigabytes 0.2 --steps 20 --every 10 --rounds 1

The disk's own speed is that of one file of as many random bytes, written and flushed, then read when it is no longer in
memory. The training is that of the recipe laptop/pretrain-python, with a checkpoint every 50 steps and without, in
turn; both write one at their end. Some minutes on two cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch import nn

from llmkit.batch import Batch
from llmkit.console import format_table, write
from llmkit.files import flush_entry
from llmkit.losses import causal_lm_loss_sum
from llmkit.models.causal_lm import build_causal_lm, save_causal_lm
from llmkit.recipe.load import load_recipe
from llmkit.recipe.schema import PretrainRecipe
from llmkit.tokenizer import train_tokenizer
from llmkit.training import keeping
from llmkit.training.checkpoint import newest_checkpoint, restore_from, save_checkpoint
from llmkit.training.job import start_job
from llmkit.training.loop import train
from llmkit.training.run import open_run
from llmkit.training.step import plan_steps

WIDTH = 4096
VOCAB_SIZE = 4096


def seconds_of(action: Callable[[], object]) -> float:
    """How long something takes."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def measure_saving(folder: Path, gigabytes: float, accelerator: Accelerator) -> list[tuple[str, float, float]]:
    """(what, seconds, gigabytes per second) of saving and loading, and of the disk itself."""
    model = nn.ModuleList(nn.Linear(WIDTH, 1024, bias=False) for _ in range(round(gigabytes * 1e9 / 12 / WIDTH / 1024)))
    optimizer = torch.optim.AdamW(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter)
    optimizer.step()
    size = sum(12 * p.numel() for p in model.parameters()) / 1e9
    options = {"accelerator": accelerator, "model": model, "optimizer": optimizer, "state": {}}

    def save_model(path: Path, weights: object) -> None:
        save_file(model.state_dict(), path / "model.safetensors")

    def load() -> None:
        path = newest_checkpoint(folder / "checkpoints")
        assert path is not None
        model.load_state_dict(load_file(path / "model.safetensors"))
        restore_from(path, model=model, optimizer=optimizer)

    plain = folder / "plain"
    seconds = {"write and flush one file": seconds_of(lambda: write_plain(plain, size))}
    seconds["save a checkpoint"] = seconds_of(
        lambda: save_checkpoint(folder / "checkpoints", 1, save_model=save_model, **options)  # type: ignore[arg-type]
    )
    forget(folder)
    seconds["read one file"] = seconds_of(lambda: read_plain(plain))
    forget(folder)
    seconds["verify and load a checkpoint"] = seconds_of(load)
    return [(what, taken, size / taken) for what, taken in seconds.items()]


def write_plain(path: Path, gigabytes: float) -> None:
    """Random bytes, flushed to disk."""
    block = os.urandom(1 << 20)
    with path.open("wb") as file:
        for _ in range(round(gigabytes * 1e9) >> 20):
            file.write(block)
    flush_entry(path)


def read_plain(path: Path) -> None:
    """All bytes of a file."""
    with path.open("rb", buffering=0) as file:
        while file.read(1 << 20):
            pass


def forget(folder: Path) -> None:
    """Take the files below a folder out of the memory in which the system keeps them."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class RandomRows:
    """Rows of random ids: what is measured does not depend on what is read."""

    lengths = None
    is_stream = False

    def __init__(self, count: int, seq_len: int) -> None:
        self.ids = torch.randint(VOCAB_SIZE, (count, seq_len + 1), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: list[int]) -> Batch:
        """Rows as the loop wants them."""
        ids = self.ids[indices]
        return {"input_ids": ids[:, :-1], "targets": ids[:, 1:]}


def read_recipe(steps: int, every: int) -> PretrainRecipe:
    """The laptop's recipe, with a checkpoint every so many steps and nothing else beside the steps."""
    fields = {"steps": steps, "save_every": every, "validate_every": 0, "sample_every": 0, "warmup_steps": 1}
    return load_recipe(PretrainRecipe, "laptop/pretrain-python", [f"train.{k}={v}" for k, v in fields.items()])


def measure_training(folder: Path, recipe: PretrainRecipe, accelerator: Accelerator) -> tuple[float, float]:
    """Seconds of a run, and how many of them went into its checkpoints."""
    tokenizer = train_tokenizer(["a b c"], vocab_size=260)
    config = recipe.train
    model = build_causal_lm(
        recipe.model, vocab_size=VOCAB_SIZE, seq_len=config.seq_len, tokenizer=tokenizer, seed=config.seed
    )
    saving: list[float] = []

    def timed_save(*arguments: object, **options: object) -> None:
        saving.append(seconds_of(lambda: save_checkpoint(*arguments, **options)))  # type: ignore[arg-type]

    keeping.checkpoints.save_checkpoint, before = timed_save, save_checkpoint  # type: ignore[assignment]
    try:
        with open_run(folder / "run", recipe, accelerator) as run:
            seconds = seconds_of(
                lambda: train(
                    model,
                    RandomRows(plan_steps(config, 1) * config.batch_size, config.seq_len),
                    causal_lm_loss_sum,
                    config,
                    run,
                    accelerator=accelerator,
                    save_model=lambda path, weights: save_causal_lm(model, tokenizer, path, weights),
                    load_model=lambda path: None,
                )
            )
    finally:
        keeping.checkpoints.save_checkpoint = before
    return seconds, sum(saving[:-1])  # a run without checkpoints writes the last one too


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=1.0)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--every", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="On the disk that is to be measured.")
    options = parser.parse_args()
    accelerator = start_job(read_recipe(options.steps, 0).train)
    found: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        rows = measure_saving(Path(name), options.gigabytes, accelerator)
        write(format_table(["what", "seconds", "GB/s"], [(what, f"{s:.2f}", f"{gb:.2f}") for what, s, gb in rows]))
    for _ in range(options.rounds):
        for name, every in (("without", 0), (f"every {options.every} steps", options.every)):
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                recipe = read_recipe(options.steps, every)
                found.setdefault(name, []).append(measure_training(Path(folder), recipe, accelerator))
    plain = statistics.median(seconds for seconds, _ in found["without"])
    table = []
    for name, rounds in found.items():
        seconds = statistics.median(seconds for seconds, _ in rounds)
        saving = statistics.median(saved / total for total, saved in rounds)
        table.append([name, f"{seconds:.1f}", f"{seconds / plain - 1:+.1%}", f"{saving:.2%}"])
    write("")
    write(format_table(["checkpoints", f"seconds of {options.steps} steps", "longer", "share spent saving"], table))


if __name__ == "__main__":
    main()
