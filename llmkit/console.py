"""The only place that prints. Data goes to stdout; everything for people goes to stderr, from the main process alone.

Colours and moving bars appear on a terminal only; NO_COLOR and TERM=dumb switch them off.
"""

from __future__ import annotations

import json
import math
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

SECONDS_BETWEEN_LINES = 10.0
"""How often progress is told where there is no terminal to draw a bar on."""

COLORS = {"red": 31, "green": 32, "yellow": 33, "blue": 34, "magenta": 35, "cyan": 36, "bold": 1, "dim": 2}


def is_main_process() -> bool:
    """Whether this process is the one that talks: rank 0 of a job, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def has_colors(stream: Any) -> bool:
    """Whether colours may be written to `stream`: a terminal, and nobody said no."""
    return stream.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"


def paint(text: str, *styles: str, stream: Any = None) -> str:
    """`text` in the named styles where `stream` (stderr unless given) can show them, else as it is."""
    if not has_colors(stream or sys.stderr):
        return text
    codes = ";".join(str(COLORS[style]) for style in styles)
    return f"\x1b[{codes}m{text}\x1b[0m"


def write_json(document: Any) -> None:
    """Write one JSON document to stdout. NaN is not JSON and raises."""
    write(json.dumps(document, ensure_ascii=False, allow_nan=False))


def without_nan(document: Any) -> Any:
    """The same with null in place of numbers that are not finite, which JSON has no word for."""
    if isinstance(document, dict):
        return {key: without_nan(value) for key, value in document.items()}
    if isinstance(document, list | tuple):
        return [without_nan(value) for value in document]
    return None if isinstance(document, float) and not math.isfinite(document) else document


def write(text: str, *, end: str = "\n") -> None:
    """Write data to stdout, at once, from the main process alone."""
    if is_main_process():
        sys.stdout.write(text + end)
        sys.stdout.flush()


def say(text: str = "", *, end: str = "\n") -> None:
    """Tell people something on stderr, from the main process alone, and in the log of the run if one is open."""
    if is_main_process():
        # Whoever read stderr may have gone (a closed pipe): that must not end a training.
        with suppress(OSError):
            sys.stderr.write((CLEARED if _bars else "") + text + end)
            sys.stderr.flush()
        if _log:
            # A full disk costs lines of the log, nothing else.
            with suppress(OSError), _log[-1].open("a", encoding="utf-8") as file:
                file.write(re.sub(r"\x1b\[[0-9;]*[mK]", "", text) + end)


def shout(text: str) -> None:
    """Tell people something from whichever process of a job this is."""
    with suppress(OSError):
        sys.stderr.write(f"{text}\n" if is_main_process() else f"rank {os.environ['RANK']}: {text}\n")
        sys.stderr.flush()


_log: list[Path] = []

_bars: list[Progress] = []
"""Those that stand on the terminal now: what is said goes above them."""

CLEARED = "\r\x1b[K"
"""The line of the cursor emptied."""


@contextmanager
def tee(path: Path | None) -> Iterator[None]:
    """Write all that is said inside the block to the end of a file too; None for no file."""
    if path is None:
        yield
        return
    _log.append(path)
    try:
        yield
    finally:
        _log.pop()


CONTROL_CHARACTERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def for_terminal(text: str) -> str:
    """Text with its control characters written out, so that a model cannot steer the terminal."""
    return CONTROL_CHARACTERS.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


def warn(text: str) -> None:
    """Tell people of something that is not as they may think."""
    say(f"{paint('warning:', 'yellow', 'bold')} {text}")


def format_table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table in plain text. Columns whose cells are all numbers (or empty) are aligned to the right."""
    cells = [[format_cell(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(headers), *cells]) for i in range(len(headers))]
    right = [bool(cells) and all(is_number(row[i]) for row in cells) for i in range(len(headers))]

    def line(row: Sequence[str]) -> str:
        aligned = (c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True))
        return "  ".join(aligned).rstrip()

    return "\n".join([line(list(headers)), line(["-" * width for width in widths]), *map(line, cells)])


def format_cell(cell: object) -> str:
    """A cell as text: floats with four significant digits, None as nothing."""
    if cell is None:
        return ""
    return f"{cell:.4g}" if isinstance(cell, float) else str(cell)


def is_number(text: str) -> bool:
    """Whether a cell reads as a number, alone or with a percent sign or thousands' commas."""
    try:
        float(text.rstrip("%").replace(",", "") or "0")
    except ValueError:
        return False
    return True


def format_seconds(seconds: float) -> str:
    """Seconds as people say them: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


class Progress:
    """Progress of a known or unknown number of units: a bar on a terminal, a line every ten seconds elsewhere.

    >>> with Progress("encoding", total=100, unit="documents") as progress:
    ...     progress.update(10, note="loss 2.31")
    """

    def __init__(self, label: str, *, total: int | None = None, unit: str = "", start: int = 0) -> None:
        self.label = label
        self.total = total
        self.unit = unit
        self.done = start
        self.start = start
        self.note: str | Callable[[], str] = ""

    def __enter__(self) -> Progress:
        self.begin = self.last_shown = time.monotonic()
        self.is_live = is_main_process() and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"
        if self.is_live:
            _bars.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        if self.is_live:
            self.draw("")
            _bars.remove(self)

    def update(self, count: int = 1, *, note: str | Callable[[], str] = "") -> None:
        """Add `count` finished units and show where things stand, if it is time to; only then a note is called."""
        self.done += count
        self.note = note or self.note
        now = time.monotonic()
        if now - self.last_shown >= (0.1 if self.is_live else SECONDS_BETWEEN_LINES):
            self.last_shown = now
            show = self.draw if self.is_live else say
            show(self.line(now))

    def draw(self, line: str) -> None:
        """Put a line in the place of the one that stands there; no log has it."""
        with suppress(OSError):
            sys.stderr.write(CLEARED + line)
            sys.stderr.flush()

    def line(self, now: float) -> str:
        """One line: label, bar, count, note, and the time left."""
        elapsed = now - self.begin
        parts = [self.label]
        if self.total:
            share = min(self.done / self.total, 1.0)
            if self.is_live:
                parts.append("━" * round(24 * share) + "╌" * (24 - round(24 * share)))
            parts.append(f"{self.done:,}/{self.total:,} {self.unit}".rstrip())
        else:
            parts.append(f"{self.done:,} {self.unit}".rstrip())
        if self.note:
            parts.append(self.note if isinstance(self.note, str) else self.note())
        new = self.done - self.start
        if self.total and new > 0:
            parts.append(f"{format_seconds(elapsed / new * (self.total - self.done))} left")
        line = "  ".join(parts)
        return line[: terminal_width() - 1] if self.is_live else line


def terminal_width() -> int:
    """Columns of the terminal, 80 where there is none."""
    import shutil

    return shutil.get_terminal_size((80, 24)).columns
