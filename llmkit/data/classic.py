"""The classic sets that come inside scikit-learn: digits (pictures), wine, breast-cancer and diabetes (tables)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmkit.errors import UsageError

CLASSIC_SETS = ("digits", "wine", "breast-cancer", "diabetes")


@dataclass(frozen=True)
class ClassicSet:
    """One set: pictures (N, 1, H, W) or a table (N, columns), and what is to be predicted, class names or numbers."""

    inputs: np.ndarray
    targets: list[Any]
    columns: list[str]


def load_classic(name: str) -> ClassicSet:
    """One of CLASSIC_SETS.

    Raises:
        UsageError: scikit-learn, which brings these sets, is not installed.
    """
    try:
        from sklearn import datasets  # noqa: PLC0415 - an optional extra
    except ImportError as error:
        raise UsageError(
            f"the set {name!r} comes with scikit-learn, which is not installed",
            where="--data",
            fix="pip install 'llmkit[baseline]'",
        ) from error
    loaded = getattr(datasets, f"load_{name.replace('-', '_')}")()
    if name == "digits":
        return ClassicSet(loaded.images[:, None], [str(digit) for digit in loaded.target], [])
    names = getattr(loaded, "target_names", None)
    targets = (
        [float(y) for y in loaded.target]
        if name == "diabetes" or names is None
        else [str(names[k]) for k in loaded.target]
    )
    return ClassicSet(loaded.data, targets, [str(column) for column in loaded.feature_names])
