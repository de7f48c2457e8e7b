"""Fields of the training section that were said and count for nothing beside what else was said."""

from __future__ import annotations

from llmkit.console import warn
from llmkit.recipe.section import TrainSection

NEEDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "muon_lr": ("optimizer", ("muon",)),
    "beta1": ("optimizer", ("adamw", "muon", "adamw8bit")),
    "beta2": ("optimizer", ("adamw", "muon", "adamw8bit")),
    "decay_share": ("schedule", ("wsd",)),
    "min_lr_ratio": ("schedule", ("cosine", "linear", "wsd")),
    "max_nonfinite": ("on_nonfinite", ("skip",)),
}
"""Fields that count only where another field has one of these values."""


def tell_unused_training(config: TrainSection) -> None:
    """Warn of each field that was changed and is read by nothing."""
    for name, (other, values) in NEEDS.items():
        is_changed = (
            name in config.model_fields_set and getattr(config, name) != type(config).model_fields[name].default
        )
        if is_changed and getattr(config, other) not in values:
            warn(f"train.{name} changes nothing: train.{other} is {getattr(config, other)}")
