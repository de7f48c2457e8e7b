"""Early stopping: which validation was the best, and whether enough have come after it.

Both are functions of what metrics.jsonl holds, so a run that was killed and resumed stops at the same step.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.distributed.fsdp import FSDPModule

from llmkit.errors import RecipeError
from llmkit.recipe.schema import TrainSection

BEST_BY = ("nats_per_token", "loss", "rmse")
"""The metric of validation by which a checkpoint is the best: the first of these that there is."""

Validations = Mapping[int, Mapping[str, Any]]
"""Step -> what was measured behind it."""


def loss_of(validation: Mapping[str, Any]) -> float:
    """The loss of a validation, by which checkpoints are compared."""
    loss = next((validation[name] for name in BEST_BY if name in validation), None)
    return math.nan if loss is None else float(loss)  # a file of metrics has null for what is not finite


def best_step(validations: Validations) -> int | None:
    """The step with the lowest loss, the earliest of equal ones; None where nothing was measured."""
    losses = {step: loss_of(values) for step, values in validations.items()}
    return min(
        (step for step, loss in losses.items() if not math.isnan(loss)), key=lambda s: (losses[s], s), default=None
    )


def has_waited(validations: Validations, config: TrainSection) -> bool:
    """Whether `patience` validations in a row were no better than the best before them.

    Those that are due count, and not the one at the end of a run that was later made longer.
    """
    due = {step: values for step, values in validations.items() if step % config.validate_every == 0}
    best = best_step(due)
    return best is not None and sum(step > best for step in due) >= config.patience


def check_patience(config: TrainSection, wrapped: nn.Module, *, is_validated: bool) -> None:
    """Raise where a run is to stop early and never could.

    Raises:
        RecipeError: Nothing is measured on the way, or the best weights could not be taken up again.
    """
    if not config.patience:
        return
    where = "train.patience"
    if not is_validated:
        raise RecipeError("there are no validation rows to stop by", where=where, fix="hold some out, or set it to 0")
    if not config.validate_every:
        reason = "it counts validations, and train.validate_every=0 asks for none before the end"
        raise RecipeError(reason, where=where, fix="set train.validate_every, or train.patience=0")
    if isinstance(wrapped, FSDPModule):
        reason = "the weights of an earlier step cannot be taken up again where FSDP has spread them"
        raise RecipeError(reason, where=where, fix="set it to 0 and train.keep_best=1: the best checkpoint stays")
