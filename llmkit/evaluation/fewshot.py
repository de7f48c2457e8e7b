"""Which solved examples precede a question: a pure function of the seed and the question."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence

from llmkit.errors import DataError
from llmkit.evaluation.task import Example, ShotOrder


class ShotDrawer:
    """Draws shots from a pool, never the question itself.

    fixed: the first rows of the pool, the same for all questions. random: others for each question. balanced: the same
    for all, as many of each answer as can be.
    """

    def __init__(self, pool: Sequence[Example], order: ShotOrder, *, num_shots: int, seed: int) -> None:
        self.num_shots = num_shots
        self.seed = seed
        self.order = order
        self.pool = balance(pool, seed) if order == "balanced" else list(pool)

    def draw(self, question: Example) -> list[Example]:
        """The shots before this question.

        Raises:
            DataError: The pool is too small.
        """
        if not self.num_shots:
            return []
        order = self.shuffled(question) if self.order == "random" else self.pool
        shots = []
        for candidate in order:
            if not is_same(candidate, question):
                shots.append(candidate)
            if len(shots) == self.num_shots:
                return shots
        found = f"{len(shots)} rows for {self.num_shots} shots"
        raise DataError(
            f"there are only {found}", where=question.where, fix="ask for fewer --shots, or give a training file"
        )

    def shuffled(self, question: Example) -> list[Example]:
        """Enough of the pool in an order of the question's own."""
        generator = random.Random(f"{self.seed}/{question.id}")
        return generator.sample(self.pool, min(self.num_shots * 2 + 8, len(self.pool)))


def is_same(candidate: Example, question: Example) -> bool:
    """Whether both ask the same, be it in other rows."""
    return candidate.where == question.where or (candidate.fields, candidate.choices) == (
        question.fields,
        question.choices,
    )


def balance(pool: Sequence[Example], seed: int) -> list[Example]:
    """The pool reordered: a row of each answer in turn, both rows and answers shuffled by the seed."""
    generator = random.Random(f"{seed}/balanced")
    by_answer: dict[str, list[Example]] = defaultdict(list)
    for example in generator.sample(pool, len(pool)):
        by_answer[example.solution].append(example)
    answers = sorted(by_answer)
    ordered = []
    while any(by_answer.values()):
        generator.shuffle(answers)
        ordered += [by_answer[answer].pop() for answer in answers if by_answer[answer]]
    return ordered
