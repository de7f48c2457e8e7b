"""What the parts of a recipe have in common, and the section on training that every recipe has."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Memory = Annotated[float, Field(ge=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class TrainSection(Section):
    """How the one training loop runs."""

    steps: PositiveInt | None = None
    """Optimizer steps. Exactly one of steps and epochs is used; steps wins when both are given by a default."""
    epochs: PositiveFloat | None = None
    """Passes over the training rows, when steps is not given."""
    batch_size: PositiveInt = 16
    """Rows per optimizer step over all devices. The loss does not depend on how it is split."""
    micro_batch_size: PositiveInt | Literal["auto"] | None = None
    """Rows per forward on one device; less memory when smaller, the same result. None: batch_size over the devices.
    auto: as many as fit into memory."""
    batch_tokens: PositiveInt | Literal["auto"] | None = None
    """Positions per forward on one device, for rows of different lengths: rows of a step go together as long as they
    hold no more. With micro_batch_size too, both bounds hold. auto: what suits the device. None: rows alone count."""
    seq_len: PositiveInt = 256
    """Positions per row. Attention costs grow with it; longer texts are seen whole."""
    optimizer: Literal["adamw", "muon", "adafactor", "adamw8bit"] = "adamw"
    """adamw. muon: for matrices, with AdamW for all else: fewer steps to the same loss, each some tenths dearer.
    adafactor: less memory. adamw8bit: AdamW with states of 8 bits, through bitsandbytes."""
    muon_lr: PositiveFloat = 0.02
    """Highest learning rate of matrices under Muon; everything else follows lr."""
    lr: PositiveFloat = 3e-3
    """Highest learning rate. Larger models want smaller ones."""
    schedule: Literal["cosine", "linear", "constant", "wsd", "inverse_sqrt"] = "cosine"
    """How lr falls after the warm-up: along a cosine, along a line, not at all, not before the last decay_share of
    the steps (wsd: warm-up, stable, decay), or with the inverse square root of the step."""
    warmup_steps: NonNegativeInt = 50
    """Optimizer steps over which lr rises linearly from 0. Raise it when the loss spikes early. With cosine and linear
    it takes at most half of the run."""
    warmup_share: Share | None = None
    """The warm-up as a share of all steps, in place of warmup_steps."""
    decay_share: Share = 0.2
    """Share of the steps over which lr falls at the end (wsd)."""
    min_lr_ratio: Share = 0.1
    """lr at the last step as a share of the highest (cosine, linear and wsd)."""
    weight_decay: NonNegativeFloat = 0.1
    """Decay of matrices in AdamW; norms, biases and embeddings have none."""
    beta1: Memory = 0.9
    """AdamW's memory of the gradient."""
    beta2: Memory = 0.95
    """AdamW's memory of the squared gradient."""
    max_grad_norm: NonNegativeFloat = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are (the norm is logged either way)."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    """Share of each target's probability that is spread evenly over the vocabulary, or over the classes."""
    z_loss: NonNegativeFloat = 0.0
    """Weight of the squared logarithm of the softmax's denominator: 1e-4 keeps the logits of large models small."""
    ema_decay: Memory = 0.0
    """Memory of a running average of the weights, which is then validated, sampled and kept as the result; 0: none.
    0.999 averages over the last thousand steps."""
    on_nonfinite: Literal["error", "skip"] = "error"
    """When a loss or a gradient is not finite: stop before the update, or leave the step out, counted and shown."""
    max_nonfinite: PositiveInt = 10
    """With on_nonfinite skip: stop after this many steps that were left out."""
    seed: Seed = 0
    """Fixes initial weights, order of rows (a stream keeps its own), dropout and samples."""
    precision: Literal["auto", "fp32", "bf16", "pure-bf16"] = "auto"
    """fp32, or bf16 arithmetic with fp32 weights. auto: bf16 where the hardware has it. pure-bf16: weights and
    gradients in bf16 too, with fp32 master weights in the optimizer."""
    attention: Literal["auto", "sdpa", "eager", "products", "flash_attention_2", "flex_attention"] = "auto"
    """How attention is computed; the result is the same to rounding. auto: what is fastest for device and length;
    flex_attention, for long rows of documents on a GPU, only where it is named."""
    compile: Literal["auto"] | bool = "auto"
    """Compile the model with torch.compile: up to a minute at the start, faster steps from then on. auto: where the
    run is long enough to win that time back."""
    gradient_checkpointing: bool = False
    """Compute activations again in the backward pass: far less memory, a third more time."""
    save_every: NonNegativeInt = 250
    """Steps between checkpoints; 0 saves only at the end."""
    keep_last: PositiveInt = 2
    """How many checkpoints stay; older ones go after a newer one is safe on disk."""
    keep_every: NonNegativeInt = 0
    """Checkpoints of every so many steps stay for good, besides; 0: none."""
    keep_best: NonNegativeInt = 0
    """So many checkpoints with the lowest validation loss stay, besides."""
    validate_every: NonNegativeInt = 250
    """Steps between validations; 0 validates only at the end."""
    patience: NonNegativeInt = 0
    """Stop after so many validations in a row that were no better than the best, and keep the weights of the best as
    the result; 0: train to the end, and keep the last."""
    sample_every: NonNegativeInt = 0
    """Steps between sample texts (pretrain and finetune); 0 takes none."""
    log_every: PositiveInt = 1
    """Steps between lines of metrics.jsonl."""
    track: list[Literal["tensorboard", "wandb", "trackio"]] = []
    """Trackers that get the metrics besides metrics.jsonl. One that fails never stops a run."""
