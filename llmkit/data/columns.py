"""Single values of a table: which are missing, which are numbers."""

from __future__ import annotations

import math
from typing import Any

MISSING = {"", "?", "-", "na", "n/a", "nan", "null", "none"}
"""How tables write a value that is not there, in lower case."""


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
