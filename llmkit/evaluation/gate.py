"""Conditions that a result must meet, such as `accuracy >= -0.01`.

    [TASK:]METRIC[.low|.high] >=|>|<=|< NUMBER

Of one model the number is a score; in a comparison it is a difference, the later result minus the first. `.low` and
`.high` take the ends of the 95% interval, so that chance must not explain it either. Without a task every task that
has the metric must meet it.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from llmkit.errors import UsageError

FORM = re.compile(
    r"(?:(?P<task>\S+):)?(?P<metric>[A-Za-z]\w*)(?:\.(?P<end>low|high))?\s*"
    r"(?P<sign>>=|<=|>|<)\s*(?P<number>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
)
SIGNS = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


@dataclass(frozen=True)
class Gate:
    """One condition."""

    text: str
    task: str | None
    metric: str
    end: str | None
    sign: str
    number: float


@dataclass(frozen=True)
class Measured:
    """A score or a difference that a condition may be about."""

    task: str
    metric: str
    label: str
    """Of what, for people."""
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Verdict:
    """What a condition found."""

    gate: Gate
    measured: Measured
    value: float
    is_met: bool


def parse_gate(text: str) -> Gate:
    """The condition that a text stands for.

    Raises:
        UsageError: It is none.
    """
    match = FORM.fullmatch(text.strip())
    if match is None:
        fix = 'for example --gate "accuracy >= -0.01", "hellaswag:accuracy_bytes >= 0.3" or "accuracy.low > -0.02"'
        raise UsageError(f"{text!r} is not a condition", where="--gate", fix=fix)
    return Gate(text.strip(), match["task"], match["metric"], match["end"], match["sign"], float(match["number"]))


def check_gates(gates: Sequence[Gate], measured: Sequence[Measured]) -> list[Verdict]:
    """What each condition found, for each value that it is about.

    Raises:
        UsageError: A condition is about nothing that was measured.
    """
    return [verdict for gate in gates for verdict in check_gate(gate, measured)]


def check_names(
    gates: Sequence[Gate],
    names: Mapping[str, Sequence[str]],
    without_interval: Mapping[str, Sequence[str]],
) -> None:
    """Raise for a condition about nothing that tasks will have, before anything has been measured.

    Args:
        gates: The conditions.
        names: Task -> its metrics.
        without_interval: Task -> those of them that will have no interval.

    Raises:
        UsageError: No task has the metric, or one has it without the interval whose end is asked for.
    """
    for gate in gates:
        about = [task for task, metrics in names.items() if gate.metric in metrics and gate.task in (None, task)]
        if not about:
            raise about_nothing(gate, [f"{task}:{name}" for task, metrics in names.items() for name in metrics])
        for task in about if gate.end else ():
            if gate.metric in without_interval.get(task, ()):
                raise no_interval(gate, task)


def about_nothing(gate: Gate, known: Iterable[str]) -> UsageError:
    """The error for a condition that nothing can meet or miss."""
    fix = f"there is {', '.join(dict.fromkeys(known))}"
    return UsageError(f"nothing that is measured here is {gate.text!r}", where="--gate", fix=fix)


def no_interval(gate: Gate, task: str) -> UsageError:
    """The error for the end of an interval that is not there."""
    message = f"{task}:{gate.metric} has no interval"
    return UsageError(message, where=f"--gate {gate.text}", fix="take the value itself")


def check_gate(gate: Gate, measured: Sequence[Measured]) -> list[Verdict]:
    """What one condition found."""
    about = [m for m in measured if m.metric == gate.metric and gate.task in (None, m.task)]
    if not about:
        raise about_nothing(gate, [f"{m.task}:{m.metric}" for m in measured])
    verdicts = []
    for found in about:
        value = getattr(found, gate.end) if gate.end else found.value
        if value is None:
            raise no_interval(gate, found.task)
        verdicts.append(Verdict(gate, found, value, bool(SIGNS[gate.sign](value, gate.number))))
    return verdicts
