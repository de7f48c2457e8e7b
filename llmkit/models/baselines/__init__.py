"""The classical networks: MLP, CNN and RNN, each for the forms of data it is made for.

An MLP joins every input with every unit: right for tables, where columns have no order. A CNN slides small filters
over its input, so what it learns in one place it knows in all: right for pictures, and for phrases or patterns wherever
they stand. An RNN reads step by step and carries a state along: right where order and distance matter.

Shapes: B rows, C channels, H height, W width, T words or points in time, F numbers of a table's row, D hidden size,
K outputs, V symbols of a language.
"""

from llmkit.models.baselines.build import build_baseline, count_parameters
from llmkit.models.baselines.folder import load_baseline, load_weights, save_baseline
from llmkit.models.baselines.predict import Language, measure_language, predict
from llmkit.models.baselines.spec import ACTIVATIONS, BaselineSpec, Form

__all__ = [
    "ACTIVATIONS",
    "BaselineSpec",
    "Form",
    "Language",
    "build_baseline",
    "count_parameters",
    "load_baseline",
    "load_weights",
    "measure_language",
    "predict",
    "save_baseline",
]
