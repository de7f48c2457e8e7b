"""The typed form of a recipe: every field is read by something, and carries its meaning and its unit."""

from __future__ import annotations

from llmkit.recipe.baseline import BaselineData, BaselineModel, BaselineRecipe
from llmkit.recipe.finetune import FinetuneData, FinetuneModel, FinetuneRecipe, LoraSection, PreferenceSection
from llmkit.recipe.pretrain import ModelSection, PretrainData, PretrainRecipe
from llmkit.recipe.section import Section, TrainSection

__all__ = [
    "RECIPES",
    "BaselineData",
    "BaselineModel",
    "BaselineRecipe",
    "FinetuneData",
    "FinetuneModel",
    "FinetuneRecipe",
    "LoraSection",
    "ModelSection",
    "PreferenceSection",
    "PretrainData",
    "PretrainRecipe",
    "Recipe",
    "Section",
    "TrainSection",
]

Recipe = PretrainRecipe | FinetuneRecipe | BaselineRecipe

RECIPES: dict[str, type[Section]] = {"pretrain": PretrainRecipe, "finetune": FinetuneRecipe, "baseline": BaselineRecipe}
"""The recipe of each training verb, by its `kind`."""
