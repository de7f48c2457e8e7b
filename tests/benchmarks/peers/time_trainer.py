"""The Trainer of transformers: bf16 where the hardware has it, fused AdamW (its default), no logging, no workers.

With the flag `compiled`: its torch_compile, and eager attention for the compiler to fuse.
"""

from __future__ import annotations

import tempfile

import torch
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
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)


class Rows(torch.utils.data.IterableDataset):
    """Rows as the Trainer wants them; the model shifts its labels itself."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def __iter__(self):
        for row in self.clock.rows(1):
            yield {"input_ids": row[0, :-1], "labels": row[0, :-1]}


class Ticks(TrainerCallback):
    """Lets the clock tick at the end of each step."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_end(self, *_, **__) -> None:
        self.clock.tick()


def main() -> None:
    """Train until the clock stops it."""
    clock = Clock.from_arguments()
    is_compiled = "compiled" in clock.flags
    config = LlamaConfig(
        vocab_size=clock.vocab_size,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=INTERMEDIATE_SIZE,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=NUM_HEADS,
        num_key_value_heads=NUM_HEADS,
        max_position_embeddings=SEQ_LEN,
        tie_word_embeddings=True,
        attn_implementation="eager" if is_compiled else "sdpa",
    )
    folder = tempfile.mkdtemp()
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=LONG_RUN,
        per_device_train_batch_size=BATCH_SIZE,
        learning_rate=LR,
        weight_decay=0.1,
        max_grad_norm=1.0,
        use_cpu=not torch.cuda.is_available(),
        bf16=has_bf16(),
        torch_compile=is_compiled,
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_num_workers=0,
    )
    trainer = Trainer(
        model=LlamaForCausalLM(config),
        args=arguments,
        train_dataset=Rows(clock),
        data_collator=default_data_collator,
        callbacks=[Ticks(clock)],
    )
    trainer.train()


main()
