"""What readers of data yield."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Document:
    """One text, and where it comes from: `file`, `file:line`, or `python-docs:help/json`."""

    text: str
    source: str


@dataclass(frozen=True)
class Record:
    """One row of a table or of JSON lines, and where it stands: `file:line`."""

    where: str
    values: dict[str, Any]
