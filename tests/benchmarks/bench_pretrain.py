"""Tokens per second of llmkit's training loop beside a plain loop over the same model of transformers, in one run.

    make bench
    python tests/benchmarks/bench_pretrain.py --steps 5 --rounds 1

12 million parameters, context 256, batch 8: some minutes on two cores. Both do the same work: forward, backward,
clipping, AdamW, bf16 arithmetic where the hardware has it. They take turns, and the median over rounds counts, since
one and the same loop varies by a tenth from minute to minute.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from llmkit.batch import Batch
from llmkit.console import format_table, write
from llmkit.device import has_bf16, pick_device
from llmkit.losses import causal_lm_loss_sum
from llmkit.models.causal_lm import build_causal_lm
from llmkit.recipe.schema import ModelSection, PretrainRecipe, TrainSection
from llmkit.tokenizer import train_tokenizer
from llmkit.training.job import start_job
from llmkit.training.loop import train
from llmkit.training.run import open_run

VOCAB_SIZE = 4096
WARM_UP = 3
"""Steps that are not counted: the first ones allocate."""


class RandomRows:
    """Rows of random ids: what is measured does not depend on what is read."""

    def __init__(self, count: int, seq_len: int) -> None:
        self.ids = np.random.default_rng(0).integers(0, VOCAB_SIZE, (count, seq_len + 1))
        self.lengths = None

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices: list[int]) -> Batch:
        """Rows as the loop wants them."""
        ids = torch.from_numpy(self.ids[np.asarray(indices)])
        return {"input_ids": ids[:, :-1], "targets": ids[:, 1:]}


def build_model(section: ModelSection, seq_len: int):
    """The model, with fresh weights."""
    tokenizer = train_tokenizer(["a b c"], vocab_size=260)
    return build_causal_lm(section, vocab_size=VOCAB_SIZE, seq_len=seq_len, tokenizer=tokenizer, seed=0)


def measure_llmkit(section: ModelSection, config: TrainSection) -> float:
    """Tokens per second of `train`, over the steps after the warm-up."""
    model = build_model(section, config.seq_len)
    seen: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        recipe = PretrainRecipe(model=section, train=config)
        accelerator = start_job(config)
        with open_run(Path(folder) / "run", recipe, accelerator) as run:
            run.log = lambda values: seen.append(values.get("tokens_per_second", 0.0))  # type: ignore[method-assign]
            rows = RandomRows(config.steps * config.batch_size, config.seq_len)
            train(
                model,
                rows,
                causal_lm_loss_sum,
                config,
                run,
                accelerator=accelerator,
                save_model=lambda folder, weights: None,
                load_model=lambda folder: None,
            )
    return statistics.median(seen[WARM_UP:])


def measure_plain(section: ModelSection, config: TrainSection) -> float:
    """Tokens per second of the loop that one would write by hand."""
    device = pick_device()
    model = build_model(section, config.seq_len).to(device).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.lr, fused=True)
    rows = RandomRows(config.steps * config.batch_size, config.seq_len)
    speeds = []
    for step in range(config.steps):
        begin = time.perf_counter()
        batch = rows.batch(range(step * config.batch_size, (step + 1) * config.batch_size))
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bf16(device)):
            logits = model(input_ids=batch["input_ids"].to(device)).logits
        loss = torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), batch["targets"].flatten().to(device))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        speeds.append(config.batch_size * config.seq_len / (time.perf_counter() - begin))
    return statistics.median(speeds[WARM_UP:])


def main() -> None:
    """Measure in turn and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    section = ModelSection(num_layers=6, hidden_size=384, num_heads=6)
    config = TrainSection(steps=options.steps + WARM_UP, batch_size=8, seq_len=256, save_every=0, validate_every=0)
    loops = {"llmkit": measure_llmkit, "plain loop": measure_plain}
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for _ in range(options.rounds):
        for name, measure in loops.items():
            speeds[name].append(measure(section, config))
    plain = statistics.median(speeds["plain loop"])
    rows = [
        [
            name,
            f"{statistics.median(found):,.0f}",
            f"{statistics.median(found) / plain:.2f}",
            " ".join(f"{s:,.0f}" for s in found),
        ]
        for name, found in speeds.items()
    ]
    write(format_table(["loop", "tokens per second", "ratio", "rounds"], rows))


if __name__ == "__main__":
    main()
