"""`litgpt pretrain`, by its own function: bf16-mixed where the hardware has bf16; it always compiles."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import torch
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from litgpt.pretrain import setup
from setting import (
    BATCH_SIZE,
    HIDDEN_SIZE,
    INTERMEDIATE_SIZE,
    LONG_RUN,
    LR,
    NUM_HEADS,
    NUM_LAYERS,
    SEQ_LEN,
    Clock,
    has_bf16,
)


class Batches(torch.utils.data.IterableDataset):
    """Whole batches. One is asked for when the step before has ended, so asking for it is that step's tick."""

    def __init__(self, clock: Clock, *, is_timed: bool) -> None:
        self.clock = clock
        self.is_timed = is_timed

    def __iter__(self):
        for number, rows in enumerate(self.clock.rows()):
            if number and self.is_timed:
                self.clock.tick()
            yield torch.from_numpy(rows)


class Tokens(DataModule):
    """The benchmark's tokens, as litgpt wants them."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self.clock = clock

    def connect(self, *_, **__) -> None:
        pass

    def train_dataloader(self):
        return torch.utils.data.DataLoader(Batches(self.clock, is_timed=True), batch_size=None)

    def val_dataloader(self):
        return torch.utils.data.DataLoader(Batches(self.clock, is_timed=False), batch_size=None)


def main() -> None:
    """Train until the clock stops it."""
    warnings.simplefilter("ignore")
    clock = Clock.from_arguments()
    config = Config(
        name="llama",
        block_size=SEQ_LEN,
        vocab_size=clock.vocab_size,
        padded_vocab_size=clock.vocab_size,
        n_layer=NUM_LAYERS,
        n_head=NUM_HEADS,
        n_embd=HIDDEN_SIZE,
        intermediate_size=INTERMEDIATE_SIZE,
        rotary_percentage=1.0,
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
    train = TrainArgs(
        save_interval=None,
        log_interval=LONG_RUN,
        global_batch_size=BATCH_SIZE,
        micro_batch_size=BATCH_SIZE,
        max_tokens=LONG_RUN * BATCH_SIZE * SEQ_LEN,
        max_norm=1.0,
        min_lr=LR / 10,
        lr_warmup_steps=10,
        tie_embeddings=True,
    )
    folder = tempfile.mkdtemp()
    setup(
        model_name="llama",
        model_config=config,
        out_dir=Path(folder),
        precision="bf16-mixed" if has_bf16() else "32-true",
        data=Tokens(clock),
        train=train,
        eval=EvalArgs(interval=LONG_RUN, max_iters=1, final_validation=False),
        optimizer={"class_path": "torch.optim.AdamW", "init_args": {"lr": LR, "weight_decay": 0.1}},
        devices=1,
        logger_name="csv",
    )


main()
