"""The recipe of `llmkit finetune`: a causal language model that learns from instructions and dialogues."""

from __future__ import annotations

import datetime
from typing import Literal

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

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
    rslora: bool = False
    """Scale by alpha / sqrt(rank): high ranks learn as fast as low ones (Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Learn the length of each weight's columns apart from their direction: a little better at low ranks, slower
    (Liu et al. 2024, arXiv:2402.09353)."""
    b_lr_ratio: PositiveFloat = 1.0
    """Learning rate of the adapters' second matrices as a multiple of lr; 16 is LoRA+ (Hayou et al. 2024,
    arXiv:2402.12354)."""


class PreferenceSection(Section):
    """How pairs of answers are learned from, for task prefer."""

    loss: Literal["dpo", "orpo"] = "dpo"
    """dpo: against the model as it was (Rafailov et al. 2023, arXiv:2305.18290). orpo: beside the likelihood of the
    preferred answer, with no reference (Hong et al. 2024, arXiv:2403.07691)."""
    beta: PositiveFloat = 0.1
    """dpo: how dearly the model pays for leaving the reference. orpo: weight of the preference in the loss."""


class FinetuneModel(Section):
    """The model that is tuned."""

    source: str | None = None
    """Model folder, adapter folder or hub name (--model)."""
    adapter: Literal["merge", "continue"] = "merge"
    """What is done with a source that is an adapter. merge: it is worked into its model, which is kept in RUN/base, and
    that is tuned. continue: this adapter itself is trained on."""


class FinetuneData(Section):
    """Instructions or dialogues."""

    source: str | None = None
    """A file, a folder, `python-docs:instructions`, `python-docs:dialogues` or hf:owner/name (--data)."""
    mix: dict[str, PositiveFloat] = {}
    """In place of source: several of them and their weights in an epoch (`{a.jsonl: 3, b.jsonl: 1}`). The rows of each
    are repeated as often as comes nearest to its weight, a whole number of times: no row is favoured, none is lost."""
    validation: str | Share = 0.02
    """A file of validation rows, or the share of the training file that is held out, chosen by content."""
    columns: dict[str, str] = {}
    """Columns of the data that have another name than the forms know: `{prompt: q, completion: a}`."""
    roles: dict[str, Literal["system", "user", "assistant", "tool"]] = {}
    """Role names of the data that are not known (`bot: assistant`), and what each means."""
    paths: Literal["best", "all"] = "best"
    """Of a tree of messages (OASST): the path of the best ranked answers, or every path; no answer is learned twice."""
    strip: list[str] = []
    """Texts that are taken off the ends of answers, such as a written-out `<|endoftext|>`; how often is counted."""
    train_on: Literal["all", "last", "completion"] = "all"
    """Which answers are learned: all, the last message of the assistant, or all that follows the last question."""
    thinking: Literal["train", "mask", "drop"] = "train"
    """What an answer thinks before it speaks: learned, shown without being learned, or left out."""
    max_length: PositiveInt | None = None
    """Longest row in tokens. None: train.seq_len. Never longer than what the model can take."""
    overlong: Literal["error", "drop", "cut-left", "cut-right"] = "drop"
    """What is done with a longer row; what was dropped or cut is counted and shown. cut-left takes away whole turns
    from the oldest on, then the beginning of the last question; the system message and the answer stay whole."""
    date: datetime.date | None = None
    """The day that chat templates are told which write it, as 2026-03-01. None: the day on which the run began; its
    recipe keeps it, so that rows are the same when it goes on another day."""
    packing: bool = False
    """Pack whole rows into long ones, kept apart; batch_size then counts packed rows; the loss stays the same."""
    sample_prompts: list[str] = []
    """Questions that the model answers during training (sample_every). Empty: the first validation rows' own."""


class FinetuneRecipe(Section):
    """Tune a causal language model on instructions, dialogues, preferences or labelled texts."""

    kind: Literal["finetune"] = "finetune"
    """What this recipe is for."""
    task: Literal["instruct", "prefer", "classify"] = "instruct"
    """Answer as the data does; prefer the better of two answers; or give a text one of the labels of the data."""
    method: Literal["lora", "qlora", "full", "last-layers"] = "lora"
    """Train low-rank adapters, adapters on a model in 4 bits (CUDA, through bitsandbytes), all weights, or those of
    the last layers."""
    last_layers: PositiveInt = 2
    """How many layers are trained, with the final norm, for method last-layers."""
    neftune_alpha: NonNegativeFloat = 0.0
    """Noise on the embeddings while training, alpha / sqrt(row length x width); 5 helps answers of chat models grow
    fuller (Jain et al. 2023, arXiv:2310.05914). 0: none."""
    model: FinetuneModel = FinetuneModel()
    """Where the model comes from."""
    lora: LoraSection = LoraSection()
    """The adapters, for methods lora and qlora."""
    preference: PreferenceSection = PreferenceSection()
    """The loss of task prefer."""
    data: FinetuneData = FinetuneData()
    """Instructions, dialogues, pairs of answers, or labelled texts."""
    forget_check: list[str] = []
    """Evaluation tasks (`llmkit evaluate --list`, or files) that are run before and after: what was forgotten."""
    forget_data: str | None = None
    """File or folder of data sets with the rows of those tasks, as in `llmkit evaluate --data`. None: they come from
    the hub; task files name their own."""
    forget_limit: PositiveInt | None = None
    """Only the first so many rows of each of these tasks. None: all."""
    end_check: NonNegativeInt = 50
    """So many held-out questions are answered at the end, to see how many answers end by themselves; 0: none."""
    train: TrainSection = TrainSection(
        epochs=1,
        lr=1e-3,
        batch_size=16,
        seq_len=1024,
        batch_tokens="auto",
        warmup_steps=20,
        weight_decay=0.0,
        save_every=100,
        validate_every=0,
    )
    """The training loop. Where no lr is named, it is 1e-3 for adapters (5e-4 to classify, 5e-5 to prefer), and a tenth
    of that for weights of the model itself."""
