"""TRL's SFTTrainer with LoRA through PEFT, bf16 where the hardware has it, and otherwise what the flags say."""

from __future__ import annotations

import json
import tempfile
import time
import warnings

import torch
from datasets import Dataset
from peft import LoraConfig
from setting import has_bf16, peak_mb, report
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer
from tune_setting import ALPHA, BATCH_SIZE, LR, MAX_LENGTH, RANK, SEED, parse_arguments, read_rows


class Span(TrainerCallback):
    """The time from the beginning of the first step to the end of the last."""

    begin = end = 0.0

    def on_train_begin(self, *_, **__) -> None:
        self.begin = time.perf_counter()

    def on_step_end(self, *_, **__) -> None:
        self.end = time.perf_counter()


class TimedTrainer(SFTTrainer):
    """Notes how long its preparation of the rows takes."""

    prepare_seconds = 0.0

    def _prepare_dataset(self, *arguments, **options):
        begin = time.perf_counter()
        found = super()._prepare_dataset(*arguments, **options)
        self.prepare_seconds += time.perf_counter() - begin
        return found


def main() -> None:
    """Train one epoch, or only make ready for it."""
    warnings.simplefilter("ignore")
    options = parse_arguments()
    flags = {key: json.loads(value) if value in ("true", "false") else value for key, value in split(options.flags)}
    rows = Dataset.from_list(read_rows(options.data))
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_length=MAX_LENGTH,
        per_device_train_batch_size=BATCH_SIZE,
        num_train_epochs=1,
        learning_rate=LR,
        use_cpu=not torch.cuda.is_available(),
        bf16=has_bf16(),
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=SEED,
        **flags,
    )
    span = Span()
    trainer = TimedTrainer(
        model=AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32),
        args=settings,
        train_dataset=rows,
        processing_class=AutoTokenizer.from_pretrained(options.model),
        peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"),
        callbacks=[span],
    )
    if options.job == "prepare":
        report(rows=len(rows), seconds=trainer.prepare_seconds)
    tokens = sum(len(ids) for ids in trainer.train_dataset["input_ids"])
    trainer.train()
    report(tokens=tokens, seconds=span.end - span.begin, peak_mb=peak_mb())


def split(flags: list[str]) -> list[list[str]]:
    """KEY=VALUE as pairs."""
    return [flag.split("=", 1) for flag in flags]


main()
