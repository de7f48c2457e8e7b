"""What `llmkit verify` looks at: a model with rows to learn from, as the training verbs would put them together."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator
    from torch import Tensor

    from llmkit.batch import LossSum, Rows
    from llmkit.data.messages import Dialogue
    from llmkit.recipe.schema import Section, TrainSection

State = Literal["pass", "fail", "not applicable"]

NUM_ROWS = 8
"""Rows that the checks of training see."""
NOISE = 0.02
"""What is added to trained weights, as a share of their size, so that they are no more what they were at the start."""


class CheckOutcome(NamedTuple):
    """What a check found: a number, and how large it may be."""

    state: State
    value: float | None = None
    tolerance: float | None = None
    note: str = ""


def at_most(value: float, tolerance: float, note: str = "") -> CheckOutcome:
    """Passes where a number is no larger than it may be; a number that is none fails."""
    return CheckOutcome("pass" if value <= tolerance else "fail", value, tolerance, note)


def worst(values: Iterable[float]) -> float:
    """The largest of some numbers; one that is no number is worse than all, and `max` may pass it by."""
    return max(values, key=lambda value: math.inf if math.isnan(value) else value)


def not_applicable(note: str) -> CheckOutcome:
    """There is nothing to check."""
    return CheckOutcome("not applicable", note=note)


@dataclass
class Trainee:
    """A model at its start, with what training does to it.

    Attributes:
        model: What is trained; put back to its start by `reset`.
        rows: A few rows of the user's own data.
        loss_sum: What is learned.
        save: Writes the model into a folder.
        load: Reads such a folder back into the model.
        settings: The recipe, its training section made small.
        is_fresh: Whether its weights are random.
        has_adapter: Whether what is trained is an adapter that changes nothing yet.
    """

    model: Any
    rows: Rows
    loss_sum: LossSum
    save: Callable[[Path, dict[str, Any] | None], None]
    load: Callable[[Path], None]
    settings: Any
    is_fresh: bool = False
    has_adapter: bool = False
    start: dict[str, Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.weights()

    def trained(self) -> dict[str, Any]:
        """The parameters that are trained, by name."""
        return {name: p for name, p in self.model.named_parameters() if p.requires_grad}

    def reset(self) -> None:
        """Make the model what it was at the start."""
        import torch

        with torch.no_grad():
            for name, tensor in self.changing().items():
                tensor.copy_(self.start[name])
                tensor.grad = None

    def disturb(self) -> None:
        """Move every trained weight a little, as training would."""
        import torch

        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for parameter in self.trained().values():
                noise = torch.randn(parameter.shape, generator=generator).to(parameter)
                parameter += NOISE * noise * (parameter.abs().mean() + NOISE)

    def changing(self) -> dict[str, Any]:
        """What training may change: the trained parameters, and what a model counts as it goes along."""
        return {**self.trained(), **dict(self.model.named_buffers())}

    def weights(self) -> dict[str, Tensor]:
        """Copies of all that training may change, as it is now."""
        return {name: tensor.detach().clone() for name, tensor in self.changing().items()}

    @property
    def plain_loss(self) -> LossSum:
        """The loss without what a recipe adds to it: smoothing, a price of large logits, weights of classes."""
        return self.loss_sum.func if isinstance(self.loss_sum, partial) else self.loss_sum

    @property
    def config(self) -> TrainSection:
        """How it is trained."""
        section: TrainSection = self.settings.train
        return section

    @property
    def is_language_model(self) -> bool:
        """Whether it gives logits of next tokens."""
        return getattr(self.settings, "task", "instruct") != "classify" and hasattr(self.model, "config")


@dataclass
class Case:
    """All that is checked.

    Attributes:
        subject: As it was named.
        kind: pretrain, finetune, baseline or model.
        accelerator: Of this process.
        trainee: What a recipe would train; None where a model alone was named.
        answerer: The language model that answers, in eval mode; None for baselines and classifiers.
        open_saved: Loads a saved model anew, as every verb would; None where that takes more than its folder.
        tokenizer: Of both.
        texts: A few rows of ids to try models on.
        dialogues: What the model is tuned on, or a few that every chat model can render; none where nothing is said.
        supervised: Ids and targets of the training rows, where a recipe has dialogues.
        may_cut: Whether the recipe lets rows lose their end.
        packs: Whether the recipe lays several documents into one row.
        folders: What has checksums, or must load.
        notes: What was made smaller.
        hashes: Of what was verified.
    """

    subject: str
    kind: str
    accelerator: Accelerator
    trainee: Trainee | None = None
    answerer: Any = None
    open_saved: Callable[[Path], Any] | None = None
    tokenizer: Any = None
    texts: list[list[int]] = field(default_factory=list)
    dialogues: Sequence[Dialogue] = ()
    supervised: Sequence[tuple[Any, Any]] = ()
    may_cut: bool = False
    packs: bool = False
    folders: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)


def apart(one: Tensor, two: Tensor) -> float:
    """The largest difference of two tensors, as a share of the largest number."""
    if one.shape != two.shape:
        return float("inf")
    return float((one - two).abs().max() / one.abs().max().clamp(min=1e-12))


def device_of(model: Any) -> torch.device:
    """Where a model is."""
    device: torch.device = next(model.parameters()).device
    return device


class FewRows:
    """Some rows of a set, in the place of all of them."""

    is_stream: bool = False

    def __init__(self, rows: Rows, indices: Sequence[int]) -> None:
        self.inner = rows
        self.indices = list(indices)
        self.lengths: Sequence[int] | None = None if rows.lengths is None else [rows.lengths[i] for i in indices]
        self.is_flat = getattr(rows, "is_flat", False)

    def __len__(self) -> int:
        return len(self.indices)

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """Stack them as the set itself would."""
        return self.inner.batch([self.indices[i] for i in indices])


class HeldRows:
    """Rows of a stream, which gives each but once, kept to be asked for again."""

    is_stream: bool = False
    lengths: Sequence[int] | None = None

    def __init__(self, rows: Rows, count: int) -> None:
        self.held = rows.batch(range(count))

    def __len__(self) -> int:
        return len(self.held["targets"])

    def batch(self, indices: Sequence[int]) -> dict[str, torch.Tensor]:
        """The rows with these indices."""
        return {name: tensor[list(indices)] for name, tensor in self.held.items()}


def few(rows: Rows, count: int = NUM_ROWS) -> Rows:
    """Some rows: of those that differ in length, short ones that are not all alike."""
    if rows.is_stream:
        return HeldRows(rows, count)
    if rows.lengths is None:
        return FewRows(rows, range(min(count, len(rows))))
    lengths = rows.lengths
    order = sorted(range(len(rows)), key=lambda i: lengths[i])
    half = order[: max(count, len(order) // 4)]
    step = max(1, len(half) // count)
    return FewRows(rows, half[::step][:count])


def small(train: Section, **fields: Any) -> Any:
    """A training section for a few steps in fp32, uncompiled; what it says else stays."""
    steps = {"steps": 4, "epochs": None, "batch_size": 4, "micro_batch_size": 2, "batch_tokens": None}
    engine = {"precision": "fp32", "compile": False, "attention": "auto", "gradient_checkpointing": False}
    often = {"save_every": 2, "validate_every": 0, "sample_every": 0, "warmup_steps": 1, "warmup_share": None}
    kept = {"keep_last": 2, "keep_every": 0, "keep_best": 0, "patience": 0, "on_nonfinite": "error", "track": []}
    return train.model_copy(update={**steps, **engine, **often, **kept, **fields})
