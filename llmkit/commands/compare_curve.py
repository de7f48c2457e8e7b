"""`llmkit compare --curve`: each method with few and with many labelled examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmkit.commands.compare_language import check_stop
from llmkit.commands.compare_rows import Contest, refusal
from llmkit.commands.compare_run import RUNS, UNFINISHED, answer_with, outcome_of
from llmkit.commands.compare_settings import ASKED, Job, make_method
from llmkit.commands.compare_store import Result, forget_unfinished
from llmkit.console import say
from llmkit.errors import LlmkitError, StoppedError, UsageError

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


def parse_counts(text: str, contest: Contest) -> list[int]:
    """The numbers of `0,1,2,4,...,all`; behind dots they double, and all is every labelled row.

    Raises:
        UsageError: They are no rising numbers.
    """
    whole = num_labelled(contest)
    found: list[int] = []
    for word in (part.strip() for part in text.split(",")):
        if word == AND_SO_ON and found and found[-1]:
            while found[-1] * 2 < whole:
                found.append(found[-1] * 2)
        elif word == ALL:
            found.append(whole)
        elif word.isdecimal():
            found.append(int(word))
        else:
            fix = "write rising numbers, as in 0,1,2,4,8,...,all"
            raise UsageError(f"{word!r} is no number of examples", where="--curve", fix=fix)
    kept = sorted(set(found))
    usable = len(contest.parts["train"])
    too_many = [count for count in kept if count > usable and count != whole]
    if too_many:
        say(f"--curve: {usable:,} rows can be drawn from, so {', '.join(map(str, too_many))} is left out")
    return [count for count in kept if count not in too_many]


def num_labelled(contest: Contest) -> int:
    """All rows that something can be learned from."""
    return len(contest.parts["train"]) + len(contest.parts["validation"])


def trace(results: Sequence[Result], contest: Contest, job: Job, curve: Curve) -> dict[str, Any] | None:
    """The curves of all methods that ran, and who is best from which number of examples on."""
    from llmkit.evaluation.label_efficiency import CurvePoint, in_words, point, stretches

    if not contest.labels:
        say("--curve: each row has choices of its own, so there is nothing to draw for each class")
        return None
    curves: dict[str, list[CurvePoint]] = {}
    for result in results:
        if result.outcome is None or result.name not in RUNS or result.name not in curve.methods:
            continue
        found = [(count, values_at(result, contest, job, count, curve.draws)) for count in curve.counts]
        curves[result.name] = [point(count, values) for count, values in found if values]
    curves = {name: points for name, points in curves.items() if points}
    if not curves:
        return None
    names = {result.name: result.title for result in results}
    parts = stretches(curves)
    return {
        "draws": curve.draws,
        "examples": curve.counts,
        "curves": {name: [found._asdict() for found in points] for name, points in curves.items()},
        "stretches": [part._asdict() for part in parts],
        "words": in_words(parts, names),
    }


def values_at(result: Result, contest: Contest, job: Job, count: int, draws: int) -> list[float]:
    """The metric of a method with so many labelled examples, once for each draw; nothing where it needs more."""
    if count == num_labelled(contest) or result.name == "zero-shot":
        # With all of them there is nothing to draw: the row of the table.
        return [value_of(outcome_of(result).test, contest)]
    if count < FEWEST.get(result.name, 2):
        return []
    # A prompt holds no more examples than that, however many there are.
    used = min(count, job.asked.shots) if result.name in ASKED else count
    return [value for draw in range(draws) if (value := value_with(result, contest, job, used, draw)) is not None]


def value_of(chances: Any, contest: Contest) -> float:
    """The metric of probabilities of the test rows."""
    from llmkit.evaluation.contest import measure

    return measure(chances, contest.parts["test"].answers, contest.metric).value


def value_with(result: Result, contest: Contest, job: Job, count: int, draw: int) -> float | None:
    """A method with the first `count` rows of a draw: as it was kept, or run now; None where it needs more of them."""
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
    except StoppedError:
        raise
    except LlmkitError as error:
        say(f"with {count} examples it cannot run: {refusal(error)}")
        return None
    value = value_of(outcome.test, fewer)
    kept = {"method": method.name, "examples": count, "draw": draw, "metric": contest.metric, "value": value}
    write_file(path, json.dumps(kept) + "\n")
    forget_unfinished(job.output / UNFINISHED / name)
    return value
