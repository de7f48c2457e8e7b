"""Time: limits as people type them, and whether what comes next still fits into what is left."""

from __future__ import annotations

import re
import time
from collections import deque
from dataclasses import dataclass, field
from statistics import median

import psutil

from llmkit.errors import UsageError

UNITS = {"d": 86_400, "h": 3600, "m": 60, "s": 1}

SECONDS_TO_LEAVE = 2.0
"""What a process needs to end after its last checkpoint."""

BYTES_PER_SECOND = 200e6
"""At how fast a checkpoint is written, summed and flushed, before one was seen."""


def parse_duration(text: str, *, where: str) -> float:
    """Seconds of a time as people type it.

    >>> parse_duration("1h30m", where="--time-limit")
    5400.0

    Raises:
        UsageError: This is not a time, or it is none at all.
    """
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    units = [unit for _, unit in parts]
    is_whole = "".join(number + unit for number, unit in parts) == text and len(set(units)) == len(units)
    seconds = float(sum(float(number) * UNITS[unit] for number, unit in parts))
    if not is_whole or seconds <= 0:
        raise UsageError(f"{text!r} is not a time", where=where, fix="write 3h55m, 45m, 90s or 2d")
    return seconds


def seconds_since_start() -> float:
    """How long this process has been running, the start of Python and its imports included."""
    return time.time() - float(psutil.Process().create_time())


@dataclass
class Clock:
    """What the parts of a run take, and how much time is left for them.

    `limit_seconds` counts from the start of this process (--time-limit); `deadline_seconds` over all processes that
    worked at this run one after the other, of which the earlier ones took `earlier_seconds`.
    """

    limit_seconds: float | None = None
    deadline_seconds: float | None = None
    earlier_seconds: float = 0.0
    save_seconds: float = 0.0
    look_seconds: float = 0.0
    side_seconds: float = 0.0
    num_steps: int = 0
    steps: deque[float] = field(default_factory=lambda: deque(maxlen=50))

    @property
    def elapsed_seconds(self) -> float:
        """How long all processes have worked at the run."""
        return self.earlier_seconds + seconds_since_start()

    def expect_save(self, num_bytes: int) -> None:
        """Guess what the first checkpoint will take."""
        self.save_seconds = num_bytes / BYTES_PER_SECOND

    def add_step(self, seconds: float) -> None:
        """Note what a step took."""
        self.steps.append(seconds)
        self.num_steps += 1

    def add_save(self, seconds: float) -> None:
        """Note what a checkpoint took."""
        self.save_seconds = max(self.save_seconds, seconds)
        self.side_seconds += seconds

    def add_look(self, seconds: float) -> None:
        """Note what a validation with its samples took."""
        self.look_seconds = max(self.look_seconds, seconds)
        self.side_seconds += seconds

    def is_nearly_over(self, *, saves: bool, looks: bool) -> bool:
        """Whether the step that begins now must be the last: another one and its checkpoint would not fit any more.

        Args:
            saves: A checkpoint is due after the step that begins now.
            looks: A validation or samples are.
        """
        if self.limit_seconds is None:
            return False
        slowest = max(self.steps, default=0.0)
        need = 2 * slowest + (1 + saves) * self.save_seconds + looks * self.look_seconds + SECONDS_TO_LEAVE
        return seconds_since_start() + need > self.limit_seconds

    def steps_until_deadline(self) -> int | None:
        """How many more steps fit before the deadline, with the end of the run; None before a step was seen."""
        if self.deadline_seconds is None or not self.steps:
            return None
        # The end of a run: its last checkpoint, its result, its validation.
        end = 2 * self.save_seconds + self.look_seconds + SECONDS_TO_LEAVE
        left = self.deadline_seconds - self.elapsed_seconds - end
        return max(0, int(left / (median(self.steps) + self.side_seconds / self.num_steps)))
