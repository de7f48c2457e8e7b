"""How many steps a run has. With a deadline that is found out on the way, so that it ends on time."""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmkit.errors import UsageError
from llmkit.recipe.schema import TrainSection

TOLERANCE = 0.02
"""A settled length is cut when the run would be late by more than this share of its steps."""


@dataclass
class Length:
    """The number of steps of a run.

    A run with a deadline stays at its highest learning rate until the time that is left is what the decay needs
    (`decay_share` of all steps, with schedule wsd). Only then is its length settled: the learning rate of each step
    is still a function of the step and the number of steps alone.
    """

    config: TrainSection
    planned: int
    """By the recipe."""
    has_deadline: bool = False
    settled: int | None = None

    def __post_init__(self) -> None:
        falls = {"cosine", "linear"}
        if self.has_deadline and (self.config.schedule in falls or self.config.steps is None):
            raise UsageError(
                "a run that is to end on time must be free to choose its steps on the way",
                where="--minutes",
                fix="set train.schedule to wsd, constant or inverse_sqrt, and train.steps",
            )
        self.expected = self.settled or self.planned
        self.decay_share = self.config.decay_share if self.config.schedule == "wsd" else 0.0

    def propose(self, step: int, steps_left: int | None) -> int:
        """The number of steps as it looks before `step`; 0 when the recipe alone decides.

        Args:
            step: Counted from 0.
            steps_left: How many steps fit before the deadline, this one included; None when that is not known yet.
        """
        if not self.has_deadline:
            return 0
        if steps_left is not None:
            self.expected = step + max(1, steps_left)
        if self.settled is None:
            if steps_left is None or step < self.expected - round(self.decay_share * self.expected):
                # Far enough that this step is before the decay.
                return max(self.planned, math.ceil((step + 2) / max(0.01, 1 - self.decay_share)) + 1)
            self.settled = self.expected
        elif steps_left is not None and self.expected < self.settled * (1 - TOLERANCE):
            self.settled = self.expected
        self.expected = self.settled
        return self.settled
