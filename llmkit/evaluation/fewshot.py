"""Which solved examples precede a question: a pure function of the seed and the question."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from llmkit.errors import DataError
from llmkit.evaluation.task import Example, ShotOrder


class ShotDrawer:
    """Draws shots from a pool, never the question itself, nor one that asks the same.

    fixed: the first rows of the pool, the same for all questions. random: others for each question. balanced: the same
    for all, as many of each answer as can be. A question that belongs to a group has shots of its group.

    Args:
        pool: Solved examples.
        order: Which of them.
        num_shots: How many precede a question.
        seed: Of what is drawn.
        draw: Another number gives other shots in every order; 0 leaves fixed at the first rows.
        text_of: What an example asks, as the model sees it; without it all its fields count.
    """

    def __init__(
        self,
        pool: Sequence[Example],
        order: ShotOrder,
        *,
        num_shots: int,
        seed: int,
        draw: int = 0,
        text_of: Callable[[Example], str] | None = None,
    ) -> None:
        self.num_shots = num_shots
        self.seed = f"{seed}/{draw}" if draw else str(seed)
        self.order = order
        self.text_of = text_of or (lambda example: repr((example.fields, example.choices)))
        self.pools: dict[str, list[Example]] = defaultdict(list)
        for example in pool:
            self.pools[example.group].append(example)
        if order == "balanced":
            self.pools = {group: balance(members, self.seed) for group, members in self.pools.items()}
        elif order == "fixed" and draw:
            for members in self.pools.values():
                random.Random(f"{self.seed}/fixed").shuffle(members)

    def draw(self, question: Example) -> list[Example]:
        """The shots before this question.

        Raises:
            DataError: The pool is too small.
        """
        if not self.num_shots:
            return []
        pool = self.pools.get(question.group, [])
        asked = self.asked(question)
        shots = []
        for candidate in self.shuffled(pool, question) if self.order == "random" else pool:
            if candidate.where != question.where and self.asked(candidate) != asked:
                shots.append(candidate)
            if len(shots) == self.num_shots:
                return shots
        found = f"{len(shots)} rows for {self.num_shots} shots"
        raise DataError(
            f"there are only {found}", where=question.where, fix="ask for fewer --shots, or give a training file"
        )

    def asked(self, example: Example) -> list[str]:
        """What an example asks, as words: white space makes no other question."""
        return self.text_of(example).split()

    def shuffled(self, pool: Sequence[Example], question: Example) -> Iterator[Example]:
        """The pool in an order of the question's own, as far as it is asked for."""
        generator = random.Random(f"{self.seed}/{question.id}")
        seen: set[int] = set()
        while len(seen) < len(pool):
            number = generator.randrange(len(pool))
            if number not in seen:
                seen.add(number)
                yield pool[number]


def balance(pool: Sequence[Example], seed: str) -> list[Example]:
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
