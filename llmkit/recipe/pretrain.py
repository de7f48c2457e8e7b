"""The recipe of `llmkit pretrain`: a causal language model from scratch."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import PositiveFloat, PositiveInt

from llmkit.recipe.section import Section, TrainSection


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
