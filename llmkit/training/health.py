"""Whether a run is well: losses that are no numbers, and losses that leap."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterable, Sequence
from statistics import median

NUM_LOSSES = 50
"""How many losses a leap is judged by."""

NUM_LOSSES_TOLD = 20

NUM_SPIKES_TOLD = 3
"""Spikes of a run that are all told: small batches of few rows leap again and again."""

HEIGHT_OF_SPIKE = 6.0
"""A loss so many median deviations above the median of the last losses is a spike."""

LEAST_SPIKE, TRIFLE = 0.05, 0.01
"""A spike leaps by at least this share of the median, and by so much: where the losses hardly move, or are next to
nothing since the rows are known by heart, a trifle is many deviations."""


class Losses:
    """The last losses of a run."""

    def __init__(self, values: Iterable[float] = ()) -> None:
        self.values = deque(values, maxlen=NUM_LOSSES)
        self.ordered = sorted(self.values)
        self.num_spikes = 0

    def add(self, loss: float) -> float | None:
        """Take the next loss; the median of those before if it leaps above them, else None."""
        middle = self.median_if_spike(loss)
        self.num_spikes += middle is not None
        if len(self.values) == NUM_LOSSES:
            del self.ordered[bisect_left(self.ordered, self.values[0])]
        self.values.append(loss)
        insort(self.ordered, loss)
        return middle

    @property
    def is_spike_told(self) -> bool:
        """Whether people are told of the newest spike: of the first few, and then of each that doubles their number."""
        return self.num_spikes <= NUM_SPIKES_TOLD or self.num_spikes & (self.num_spikes - 1) == 0

    def median_if_spike(self, loss: float) -> float | None:
        """The median of the last losses if `loss` leaps above it."""
        if len(self.values) < NUM_LOSSES:
            return None
        middle = (self.ordered[(NUM_LOSSES - 1) // 2] + self.ordered[NUM_LOSSES // 2]) / 2
        if not loss > middle + max(TRIFLE, LEAST_SPIKE * abs(middle)):
            return None  # as nearly always, and another median takes longer than all of this
        deviation = median(abs(value - middle) for value in self.values)
        return middle if loss > middle + HEIGHT_OF_SPIKE * deviation else None

    def describe(self) -> str:
        """The last of them, in words."""
        last = list(self.values)[-NUM_LOSSES_TOLD:]
        return "last losses: " + ", ".join(f"{value:.4f}" for value in last) if last else "there was no loss before"


def describe_rows(shares: Sequence[Sequence[int]], losses: Sequence[float]) -> str:
    """The rows of a step, by process, and which process's loss is not finite."""
    if len(shares) == 1:
        return f"rows {list(shares[0])}"
    marks = ["" if math.isfinite(loss) else " (not finite here)" for loss in losses]
    parts = [f"process {rank}: {list(rows)}{marks[rank]}" for rank, rows in enumerate(shares)]
    return f"rows of {'; '.join(parts)}"
