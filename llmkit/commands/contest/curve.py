"""`llmkit compare --curve`: each method with few and with many labelled examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmkit.commands.contest.language import check_stop
from llmkit.commands.contest.rows import Contest, refusal
from llmkit.commands.contest.run import RUNS, UNFINISHED, answer_with, outcome_of
from llmkit.commands.contest.settings import ASKED, Asked, Job, make_method, parse_methods
from llmkit.commands.contest.store import Result, forget_unfinished
from llmkit.console import say
from llmkit.errors import BlockedError, LlmkitError, StoppedError, UsageError

if TYPE_CHECKING:
    from llmkit.evaluation.label_efficiency import CurvePoint

ALL = "all"
AND_SO_ON = "..."
FEWEST = {"majority": 1, "few-shot": 1}
"""Labelled examples that a method needs: the others learn to tell two classes apart."""


@dataclass(frozen=True)
class Curve:
    """What is drawn: each of the methods with each number of labelled examples, so often."""

    counts: list[int]
    methods: tuple[str, ...]
    draws: int


def plan_curve(counts: str | None, methods: str | None, draws: int, contest: Contest, asked: Asked) -> Curve | None:
    """What the command line wants drawn; None where it wants no curve.

    Raises:
        UsageError: Methods are named without numbers of examples, or such as are not compared.
    """
    if counts is None:
        if methods is not None:
            fix = "add --curve 0,1,2,4,...,all, or leave it out"
            raise UsageError("there is no curve to draw", where="--curve-methods", fix=fix)
        return None
    names = parse_methods(methods)
    absent = [name for name in names if name not in asked.methods] if methods is not None else []
    if absent:
        fix = f"name them in --methods too, or choose of {','.join(asked.methods)}"
        raise UsageError(f"{', '.join(absent)}: not among the methods", where="--curve-methods", fix=fix)
    return Curve(parse_counts(counts, contest), names, draws)


def parse_counts(text: str, contest: Contest) -> list[int]:
    """The numbers of `0,1,2,4,...,all`; behind dots they double, and all is every labelled row.

    Raises:
        UsageError: They are no rising numbers.
    """
    whole, usable = num_labelled(contest), len(contest.parts["train"])
    found: list[int] = []
    for word in (part.strip() for part in text.split(",")):
        if word == AND_SO_ON and found and found[-1]:
            while found[-1] * 2 <= usable:
                found.append(found[-1] * 2)
        elif word == ALL:
            found.append(whole)
        elif word.isdecimal():
            found.append(int(word))
        else:
            fix = "write rising numbers, as in 0,1,2,4,8,...,all"
            raise UsageError(f"{word!r} is no number of examples", where="--curve", fix=fix)
    kept = sorted(set(found))
    too_many = [count for count in kept if count > usable and count != whole]
    if too_many:
        say(f"--curve: {usable:,} rows can be drawn from, so {', '.join(map(str, too_many))} is left out")
    return [count for count in kept if count not in too_many]


def num_labelled(contest: Contest) -> int:
    """All rows that something can be learned from."""
    return len(contest.parts["train"]) + len(contest.parts["validation"])


def trace(results: Sequence[Result], contest: Contest, job: Job, curve: Curve) -> dict[str, Any] | None:
    """The curves of all methods that ran, and who is best from which number of examples on."""
    from llmkit.evaluation.label_efficiency import in_words, stretches

    if not contest.labels:
        say("--curve: each row has choices of its own, so there is nothing to draw for each class")
        return None
    curves: dict[str, list[CurvePoint]] = {}
    for result in results:
        if result.outcome is not None and result.name in RUNS and result.name in curve.methods:
            points = points_of(result, contest, job, curve)
            curves |= {result.name: points} if points else {}
    if not curves:
        say("--curve: none of its methods can run with so few examples")
        return None
    names = {result.name: result.title for result in results}
    parts = stretches(curves)
    return {
        "draws": curve.draws,
        "examples": curve.counts,
        "all": num_labelled(contest),
        "curves": {name: [found._asdict() for found in points] for name, points in curves.items()},
        "stretches": [part._asdict() for part in parts],
        "words": in_words(parts, names),
    }


def points_of(result: Result, contest: Contest, job: Job, curve: Curve) -> list[CurvePoint]:
    """A method at each number of examples that it uses, once where several come to the same."""
    from llmkit.evaluation.label_efficiency import point

    found: dict[int, CurvePoint] = {}
    for count in curve.counts:
        used = count
        values: list[float] = []
        if result.name == "zero-shot":
            used, values = 0, [table_value(result, contest)]
        elif result.name in ASKED:
            # A prompt holds no more examples than that, however many there are.
            used = min(count, job.asked.shots)
        elif count == num_labelled(contest):
            # There is nothing to draw: the row of the table, at the number of rows that it used.
            used, values = outcome_of(result).examples, [table_value(result, contest)]
        if used in found or (not values and used < FEWEST.get(result.name, 2)):
            continue
        drawn = [] if values else [value_with(result, contest, job, used, draw) for draw in range(curve.draws)]
        values += [value for value in drawn if value is not None]
        if values:
            found[used] = point(used, values)
    return [found[used] for used in sorted(found)]


def table_value(result: Result, contest: Contest) -> float:
    """The metric of a method's row of the table."""
    from llmkit.evaluation.contest import value_of

    return value_of(outcome_of(result).test, contest.parts["test"].answers, contest.metric)


def value_with(result: Result, contest: Contest, job: Job, count: int, draw: int) -> float | None:
    """A method with the first `count` rows of a draw: as it was kept, or run now; None where it needs more of them."""
    from llmkit.evaluation.contest import value_of
    from llmkit.evaluation.label_efficiency import nested_order
    from llmkit.files import write_file

    check_stop(job)
    train = contest.parts["train"]
    fewer = contest.with_train(nested_order(train.answers, seed=job.asked.seed, draw=draw)[:count])
    method = make_method(result.name, fewer, job, seed=job.asked.seed + draw)
    name = f"{method.name}-{count}-{draw}-{method.key(fewer)}"
    path = job.output / "curve" / f"{name}.json"
    if path.is_file():
        known: float = json.loads(path.read_text(encoding="utf-8"))["value"]
        return known
    say(f"== {method.title} with {count} labelled examples, draw {draw + 1}")
    try:
        outcome = answer_with(method, fewer, job, job.output / UNFINISHED / name)
    except (StoppedError, BlockedError):
        raise
    except LlmkitError as error:
        say(f"with {count} examples it cannot run: {refusal(error)}")
        return None
    value = value_of(outcome.test, fewer.parts["test"].answers, fewer.metric)
    kept = {"method": method.name, "examples": count, "draw": draw, "metric": contest.metric, "value": value}
    write_file(path, json.dumps(kept) + "\n")
    forget_unfinished(job.output / UNFINISHED / name)
    return value
