"""How good methods are with so many labelled examples, and from which number on which of them is best."""

from __future__ import annotations

import math
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple


class CurvePoint(NamedTuple):
    """A method with so many labelled examples."""

    examples: int
    value: float
    """The mean over the draws."""
    low: float
    high: float
    """The worst and the best draw."""
    draws: int


class Stretch(NamedTuple):
    """Numbers of examples over which one method is best."""

    method: str
    start: int
    """The number of examples from which on it is best; 0 for the first."""
    is_clear: bool
    """Whether its draws and those of the method before it do not overlap at the measured point where it begins."""


def nested_order(classes: Sequence[int], *, seed: int, draw: int = 0) -> list[int]:
    """Numbers of all rows, shuffled, a row of each class in turn: the first n rows are those of n labelled examples.

    What fewer examples hold, more hold too. Classes that run out leave the rest to the others.
    """
    generator = random.Random(f"nested/{seed}/{draw}")
    rows = list(range(len(classes)))
    generator.shuffle(rows)
    by_class: dict[int, list[int]] = defaultdict(list)
    for row in rows:
        by_class[classes[row]].append(row)
    order: list[int] = []
    turn = sorted(by_class)
    while turn:
        generator.shuffle(turn)
        order += [by_class[name].pop() for name in turn]
        turn = [name for name in sorted(turn) if by_class[name]]
    return order


def point(examples: int, values: Sequence[float]) -> CurvePoint:
    """The draws of one number of examples."""
    return CurvePoint(examples, math.fsum(values) / len(values), min(values), max(values), len(values))


def standing(points: Sequence[CurvePoint], examples: int) -> CurvePoint | None:
    """A method with so many examples at hand; None where it needs more.

    Between two numbers that were measured it is on straight lines over the logarithm of 1 + examples. Of more than it
    was measured with it uses none: it stays what it was with the most.
    """
    before = [found for found in points if found.examples <= examples]
    after = [found for found in points if found.examples >= examples]
    if not before:
        return None
    low, high = before[-1], after[0] if after else before[-1]
    if low.examples == high.examples:
        return low._replace(examples=examples)
    place = (math.log1p(examples) - math.log1p(low.examples)) / (math.log1p(high.examples) - math.log1p(low.examples))

    def between(start: float, end: float) -> float:
        return start + place * (end - start)

    return CurvePoint(
        examples, between(low.value, high.value), between(low.low, high.low), between(low.high, high.high), low.draws
    )


def stretches(curves: Mapping[str, Sequence[CurvePoint]]) -> list[Stretch]:
    """Who is best from which number of examples on; curves cross where the lines of `standing` do."""
    counts = sorted({found.examples for points in curves.values() for found in points})
    at = {n: {name: found for name, points in curves.items() if (found := standing(points, n))} for n in counts}
    best = [max(at[n], key=lambda method: at[n][method].value) for n in counts]
    parts = [Stretch(best[0], 0, True)]
    for (before, old), (after, new) in pairwise(zip(counts, best, strict=True)):
        if new != old:
            is_clear = at[after][old].high < at[after][new].low
            parts.append(Stretch(new, crossing(at[before], at[after], old, new), is_clear))
    return parts


def crossing(before: Mapping[str, CurvePoint], after: Mapping[str, CurvePoint], old: str, new: str) -> int:
    """The number of examples at which `new` overtakes `old` between two measured ones."""
    low, high = before[old].examples, after[new].examples
    if new not in before:
        return high
    lead, gain = (points[old].value - points[new].value for points in (before, after))
    start, end = math.log1p(low), math.log1p(high)
    return max(1, round(math.expm1(start + lead / (lead - gain) * (end - start))))


def in_words(parts: Sequence[Stretch], names: Mapping[str, str]) -> str:
    """The stretches as a sentence.

    >>> in_words([Stretch("few-shot", 0, True), Stretch("cnn", 180, True)], {"few-shot": "8-shot", "cnn": "CNN"})
    'below 180 examples 8-shot is best, above it CNN'
    """
    names = {part.method: names.get(part.method, part.method) for part in parts}
    if len(parts) == 1:
        return f"{names[parts[0].method]} is best with any number of examples that was measured"
    text = f"below {parts[1].start:,} examples {names[parts[0].method]} is best"
    for number, part in enumerate(parts[1:], start=1):
        last = number == len(parts) - 1
        until = "" if last else f" up to {parts[number + 1].start:,}"
        doubt = "" if part.is_clear else " (within the spread of the draws)"
        text += (
            f", above it {names[part.method]}{until}{doubt}"
            if number == 1
            else f", then {names[part.method]}{until}{doubt}"
        )
    return text
