"""Single values of a table: which are missing, which are numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MISSING = {"", "?", "-", "na", "n/a", "nan", "null", "none"}
"""How tables write a value that is not there, in lower case."""
MIN_NUMBERS = 0.95
"""A column is numeric when this share of what stands in it are numbers; the rest counts as missing, and is told."""


def spread_of(values: NDArray[np.floating]) -> float:
    """The standard deviation that numbers are divided by; 1 where they are all the same, but for rounding."""
    spread = float(values.std())
    return spread if spread > 1e-9 * abs(float(values.mean())) else 1.0


def is_missing(value: Any) -> bool:
    """Whether a value is not there: None, NaN, infinity, or one of the ways of writing it."""
    if isinstance(value, float):
        return not math.isfinite(value)
    return value is None or (isinstance(value, str) and value.strip().lower() in MISSING)


def as_number(value: Any) -> float | None:
    """A value as a finite number, or None when it is none."""
    if isinstance(value, (bool, int, float)):
        number = float(value)
    elif isinstance(value, str) and "_" not in value:
        try:
            number = float(value)
        except ValueError:
            return None
    else:
        return None
    return number if math.isfinite(number) else None


def is_numeric(values: Sequence[Any]) -> bool:
    """Whether what stands in a column are numbers, but for a few slips."""
    present = [value for value in values if not is_missing(value)]
    return sum(as_number(value) is not None for value in present) >= MIN_NUMBERS * len(present)
