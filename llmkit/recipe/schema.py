"""The typed form of a recipe: every field is read by something, and carries its meaning and its unit."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

Share = Annotated[float, Field(ge=0.0, le=1.0)]
Memory = Annotated[float, Field(ge=0.0, lt=1.0)]


class Section(BaseModel):
    """A part of a recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, protected_namespaces=())


class ModelSection(Section):
    """A causal language model built from scratch: any architecture of transformers, by name and sizes."""

    source: str | None = None
    """Model folder or hub name to go on training (--model), in place of a model with random weights."""
    size: str | None = None
    """One dial in place of the sizes below, in parameters: 10m, 1.5b. Depth, width and heads follow in proportion."""
    type: str = "llama"
    """Architecture, as transformers names it: llama, gpt2, qwen3, mistral, ... Any causal language model will do."""
    config: str | None = None
    """A transformers config.json, or a folder that holds one, to build the model from instead of `type` and sizes."""
    num_layers: PositiveInt = 6
    """Transformer blocks. Quality grows with depth and width; time per step grows with both."""
    hidden_size: PositiveInt = 256
    """Width of the residual stream. A multiple of num_heads."""
    num_heads: PositiveInt = 4
    """Attention heads. hidden_size / num_heads is the head's width: 64 is common, 32 serves small models."""
    num_kv_heads: PositiveInt | None = None
    """Heads of keys and values (grouped-query attention). None: as many as num_heads."""
    intermediate_size: PositiveInt | None = None
    """Width of the feed-forward layer. None: 8/3 of hidden_size for gated layers (llama and its kin), else 4 times."""
    tie_embeddings: bool = True
    """Share the matrix of input embeddings with the output head: fewer parameters, better small models."""
    overrides: dict[str, Any] = {}
    """Other fields of the architecture's transformers configuration, by its own names. An unknown name is an error."""


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
    """Optimizer steps over which lr rises linearly from 0. Raise it when the loss spikes early."""
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
    """Share of each target's probability that is spread evenly over the vocabulary (language models)."""
    z_loss: NonNegativeFloat = 0.0
    """Weight of the squared logarithm of the softmax's denominator: 1e-4 keeps the logits of large models small."""
    ema_decay: Memory = 0.0
    """Memory of a running average of the weights, which is then validated, sampled and kept as the result; 0: none.
    0.999 averages over the last thousand steps."""
    on_nonfinite: Literal["error", "skip"] = "error"
    """When a loss or a gradient is not finite: stop before the update, or leave the step out, counted and shown."""
    max_nonfinite: PositiveInt = 10
    """With on_nonfinite skip: stop after this many steps that were left out."""
    seed: NonNegativeInt = 0
    """Fixes initial weights, order of rows, dropout and samples."""
    precision: Literal["auto", "fp32", "bf16", "pure-bf16"] = "auto"
    """fp32, or bf16 arithmetic with fp32 weights. auto: bf16 where the hardware has it. pure-bf16: weights and
    gradients in bf16 too, with fp32 master weights in the optimizer."""
    attention: Literal["auto", "sdpa", "eager", "products", "flash_attention_2", "flex_attention"] = "auto"
    """How attention is computed; the result is the same to rounding. auto: what is fastest for device and length."""
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
    sample_every: NonNegativeInt = 0
    """Steps between sample texts (pretrain and finetune); 0 takes none."""
    log_every: PositiveInt = 1
    """Steps between lines of metrics.jsonl."""
    track: list[Literal["tensorboard", "wandb", "trackio"]] = []
    """Trackers that get the metrics besides metrics.jsonl. One that fails never stops a run."""


class PretrainData(Section):
    """What a model is pretrained on."""

    source: str | None = None
    """Folder that `llmkit data prepare` wrote (--data); with `stream`, files or hf:owner/name."""
    mix: dict[str, PositiveFloat] = {}
    """In place of source: prepared folders and their weights (`{web: 3, code: 1}`), all of one tokenizer."""
    stream: bool = False
    """Read and tokenize `source` while training, for text larger than the disk. Needs train.steps and `tokenizer`."""
    tokenizer: str | None = None
    """With stream: tokenizer folder or hub name. None: the tokenizer of model.source."""
    text_column: str | None = None
    """With stream: column that holds the text. None: found by its name."""
    document_mask: bool = False
    """Keep documents that share a row apart: none sees another, and positions start again with each."""
    validation_tokens: PositiveInt = 200_000
    """At most this many tokens of the validation split are used, whole documents from its beginning."""
    sample_prompts: list[str] = ["", "def ", "The "]
    """Beginnings of the sample texts that sample_every takes."""


class PretrainRecipe(Section):
    """Train a causal language model from scratch."""

    kind: Literal["pretrain"] = "pretrain"
    """What this recipe is for."""
    model: ModelSection = ModelSection()
    """The model's architecture."""
    data: PretrainData = PretrainData()
    """Prepared tokens."""
    train: TrainSection = TrainSection(steps=1000, sample_every=250)
    """The training loop."""


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


class BaselineModel(Section):
    """A small classical network."""

    kind: Literal["mlp", "cnn", "rnn"] = "mlp"
    """MLP: flat numbers. CNN: neighbourhoods in pictures, texts and series. RNN: order in texts and series (--kind)."""
    hidden_size: PositiveInt = 64
    """Units per layer (MLP, RNN) or channels of the first block (CNN)."""
    num_layers: PositiveInt | None = None
    """Hidden layers (MLP), blocks (CNN), stacked cells (RNN). None: 2, but 1 for an RNN and for texts."""
    activation: Literal["sigmoid", "tanh", "relu", "gelu", "silu"] = "relu"
    """The non-linearity between layers of MLP and CNN."""
    cell: Literal["lstm", "gru"] = "lstm"
    """The recurrent cell of an RNN."""
    bidirectional: bool = False
    """Let an RNN read from both ends: better for texts, at twice the work."""
    dropout: Share = 0.2
    """Share of units that are silent in each training step."""
    embedding_size: PositiveInt = 64
    """Width of the word vectors of text models."""
    vocab_size: PositiveInt = 8192
    """Most words that text models know, by frequency in the training split; the rest share one vector."""


class BaselineData(Section):
    """A labelled set or a series."""

    source: str | None = None
    """digits, wine, breast-cancer, diabetes, mackey-glass, python-docs:labelled, or a file of rows (--data)."""
    task: Literal["auto", "classification", "regression", "forecast"] = "auto"
    """auto: by the target's values; a series is asked for by `forecast`."""
    target: str | None = None
    """Column to predict. None: label, target, class or y, whichever is there, else the last column."""
    text: str | None = None
    """Column with text, for text classification. None: text, sentence or document, or a column of long texts."""
    leave_out: list[str] = []
    """Columns of a table that the network must not see."""
    look_back: PositiveInt = 32
    """Forecasting: past values the network sees."""
    horizon: PositiveInt = 1
    """Forecasting: how many steps ahead the predicted value lies."""
    validation: Share = 0.1
    """Share of the rows that is held out for validation; series hold out a stretch of time."""
    test: Share = 0.2
    """Share of the rows that is held out for the final figure; series hold out their end."""


class BaselineRecipe(Section):
    """Train an MLP, a CNN or an RNN."""

    kind: Literal["baseline"] = "baseline"
    """What this recipe is for."""
    model: BaselineModel = BaselineModel()
    """The network."""
    data: BaselineData = BaselineData()
    """What it learns from."""
    train: TrainSection = TrainSection(
        steps=500,
        lr=3e-3,
        batch_size=64,
        warmup_steps=20,
        weight_decay=0.1,
        precision="fp32",
        save_every=0,
        validate_every=100,
    )
    """The training loop. seq_len is the most words of a text that are read; tokens_per_second counts rows."""


Recipe = PretrainRecipe | FinetuneRecipe | BaselineRecipe

RECIPES: dict[str, type[Section]] = {"pretrain": PretrainRecipe, "finetune": FinetuneRecipe, "baseline": BaselineRecipe}
"""The recipe of each training verb, by its `kind`."""
