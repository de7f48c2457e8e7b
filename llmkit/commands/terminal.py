"""Tables on stdout that fit the terminal: columns that matter least go first, then long cells are cut."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from llmkit.console import for_terminal, format_cell, format_table, terminal_width, write

NARROWEST = 10
"""Columns are cut to no fewer characters."""


def write_table(headers: Sequence[str] | None, rows: Sequence[Sequence[object]], spare: Sequence[str] = ()) -> None:
    """Write a table that fits the terminal; whole where there is none. Without headers: the rows alone."""
    width = terminal_width() if sys.stdout.isatty() else None
    cells = [[for_terminal(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    text = fit_table(headers or [""] * len(rows[0]), cells, width=width, spare=spare)
    write_text(text if headers else "\n".join(text.split("\n")[2:]))


def write_text(text: str) -> None:
    """Write text for people to stdout; characters that its encoding lacks are written out: no reason to fail."""
    write(text.encode(encoding(), "backslashreplace").decode(encoding()))


def is_utf8() -> bool:
    """Whether all characters can be written to stdout."""
    return encoding().replace("-", "") == "utf8"


def encoding() -> str:
    """What stdout is written in."""
    return (sys.stdout.encoding or "ascii").lower()


def fit_table(
    headers: Sequence[str], rows: Sequence[Sequence[object]], *, width: int | None, spare: Sequence[str] = ()
) -> str:
    """A table of at most `width` characters (None: as wide as it is).

    Args:
        headers: Of the columns.
        rows: Cells.
        width: Characters of a line.
        spare: Headers of columns that are left out where room is short, the first first.
    """
    table = [list(headers), *([format_cell(cell) for cell in row] for row in rows)]
    if width is None:
        return format_table(table[0], table[1:])
    for name in spare:
        if sum(widths(table)) + 2 * (len(table[0]) - 1) > width:
            place = table[0].index(name)
            table = [row[:place] + row[place + 1 :] for row in table]
    limits = squeeze(widths(table), width - 2 * (len(table[0]) - 1))
    table = [[shorten(cell, limit) for cell, limit in zip(row, limits, strict=True)] for row in table]
    return format_table(table[0], table[1:])


def widths(table: Sequence[Sequence[str]]) -> list[int]:
    """Characters of each column."""
    return [max(map(len, column)) for column in zip(*table, strict=True)]


def squeeze(sizes: Sequence[int], room: int) -> list[int]:
    """Sizes that add up to at most `room`: the largest give way first, and the first of all, the names, last."""
    limits = list(sizes)
    while sum(limits) > room and max(limits) > NARROWEST:
        rest = max(limits[1:], default=0)
        limits[limits.index(rest, 1) if rest > NARROWEST else 0] -= 1
    return limits


def shorten(text: str, limit: int) -> str:
    """At most `limit` characters: the beginning and the end, which tell paths and hashes apart."""
    if len(text) <= limit:
        return text
    head = (limit - 2) // 2
    return f"{text[:head]}..{text[len(text) - (limit - 2 - head) :]}"
