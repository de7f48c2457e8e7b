"""The recipe of `llmkit finetune`: a causal language model that learns from instructions and dialogues."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat, PositiveInt

from llmkit.recipe.section import Section, Share, TrainSection


class LoraSection(Section):
    """Low-rank adapters (Hu et al. 2021, arXiv:2106.09685), through PEFT."""

    rank: PositiveInt = 16
    """Rank of the update of each matrix. More can learn more, and weighs more."""
    alpha: PositiveFloat = 32.0
    """The update is scaled by alpha / rank."""
    dropout: Share = 0.0
    """Dropout before the adapter."""
    targets: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get an adapter, or all linear layers but the output head."""


class FinetuneModel(Section):
    """The model that is tuned."""

    source: str | None = None
    """Model folder or hub name (--model); an adapter is merged first."""


class FinetuneData(Section):
    """Instructions or dialogues."""

    source: str | None = None
    """A file, a folder, `python-docs:instructions`, `python-docs:dialogues` or hf:owner/name (--data)."""
    validation: str | Share = 0.02
    """A file of validation rows, or the share of the training file that is held out, chosen by content."""
    max_length: PositiveInt | None = None
    """Longest row in tokens. None: train.seq_len. Never longer than what the model can take."""
    overlong: Literal["error", "drop", "cut-right"] = "drop"
    """What is done with a longer row; what was dropped or cut is counted and shown."""
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = {}
    """Role names of the data that are not known (`bot: assistant`), and what each means."""
    sample_prompts: list[str] = []
    """Questions that the model answers during training (sample_every). Empty: the first validation rows' own."""


class FinetuneRecipe(Section):
    """Tune a causal language model on instructions or dialogues."""

    kind: Literal["finetune"] = "finetune"
    """What this recipe is for."""
    method: Literal["lora", "full"] = "lora"
    """Train low-rank adapters, or all weights."""
    model: FinetuneModel = FinetuneModel()
    """Where the model comes from."""
    lora: LoraSection = LoraSection()
    """The adapters, for method lora."""
    data: FinetuneData = FinetuneData()
    """Instructions or dialogues."""
    train: TrainSection = TrainSection(
        epochs=1,
        lr=1e-3,
        batch_size=16,
        seq_len=1024,
        micro_batch_size=4,
        warmup_steps=20,
        weight_decay=0.0,
        save_every=0,
        validate_every=0,
    )
    """The training loop."""
