"""Two results of the same items, item by item: who is better, how sure that is, and which items flipped."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmkit.errors import DataError, UsageError
from llmkit.evaluation.metrics import MEASURES, paired_agreement
from llmkit.evaluation.statistics import Interval, Labels, holm, mcnemar, paired_bootstrap, sign_flip, swaps

ASKED = ("kind", "version", "metric", "shots", "draw", "seed", "prompt")
"""What of a result a comparison asks for."""


@dataclass(frozen=True)
class ItemRecord:
    """A line of a file of items."""

    id: str
    question_hash: str
    correct: bool | None
    prediction: str | None
    answer: str | None
    prompt: str
    scores: dict[str, float]
    num_bytes: int
    """Of the text, where a text was predicted."""
    label: int = -1
    """Which of its choices is right, where it has any."""
    chosen: Mapping[str, int] = field(default_factory=dict)
    """Which of them was likeliest; under `_calibrated` after calibration."""


@dataclass(frozen=True)
class TaskOutcome:
    """What a model did on a task, read from its results."""

    label: str
    """The model, or the folder of the results."""
    about: dict[str, Any]
    """Its entry in results.json."""
    items: dict[str, ItemRecord]

    @property
    def task(self) -> str:
        """The name of the task."""
        return str(self.about["task"])


@dataclass(frozen=True)
class Difference:
    """A metric of `b` minus that of `a` over the items that both have."""

    metric: str
    a: float
    b: float
    interval: Interval
    p_value: float
    test: str


@dataclass
class Comparison:
    """Two results of a task, paired."""

    a: TaskOutcome
    b: TaskOutcome
    num_items: int
    differences: list[Difference]
    """The task's own metric first."""
    gained: list[str]
    """Ids of items that only `b` got right."""
    lost: list[str]
    """Ids of items that only `a` got right."""
    notes: list[str]
    """What differs beside the model."""
    p_holm: float = 1.0
    """The p-value of the first metric, corrected for how many comparisons there are."""

    def to_json(self) -> dict[str, Any]:
        """For --json and comparison.json."""
        return {
            "task": self.a.task,
            "a": self.a.label,
            "b": self.b.label,
            "items": self.num_items,
            "differences": {
                d.metric: {
                    "a": d.a,
                    "b": d.b,
                    "difference": d.interval.value,
                    "low": d.interval.low,
                    "high": d.interval.high,
                    "p_value": d.p_value,
                    "test": d.test,
                }
                for d in self.differences
            },
            "p_holm": self.p_holm,
            "gained": self.gained,
            "lost": self.lost,
            "notes": self.notes,
        }


def read_outcomes(folder: Path, label: str | None = None) -> list[TaskOutcome]:
    """The results in a folder that `llmkit evaluate` wrote, named as it is or by `label`.

    Raises:
        DataError: It is none, or its items lack what a comparison needs.
    """
    path = folder / "results.json"
    if not path.is_file():
        inner = sorted(found.parent.name for found in folder.glob("*/results.json"))
        fix = f"name one of its models: {', '.join(inner)}" if inner else "name an --output of `llmkit evaluate`"
        raise DataError("there is no results.json here", where=str(folder), fix=fix)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        entries = document["results"]
        return [read_outcome(folder, entry, label) for entry in entries]
    except (ValueError, KeyError, TypeError) as error:
        message = f"these results cannot be compared ({type(error).__name__}: {error})"
        raise DataError(message, where=str(path), fix="evaluate again with this version of llmkit") from error


def read_outcome(folder: Path, entry: dict[str, Any], label: str | None) -> TaskOutcome:
    """One result with its items."""
    outcome = TaskOutcome(label or str(folder), entry, read_items(folder, entry))
    absent = [key for key in ASKED if key not in entry]
    if absent:
        raise KeyError(absent[0])
    return outcome


def read_items(folder: Path, entry: dict[str, Any]) -> dict[str, ItemRecord]:
    """The items of one result by id; the file lies beside results.json, wherever the folder was moved to."""
    path = folder / Path(entry["items_file"]).name
    if not path.is_file():
        raise DataError(
            "this file of items is missing", where=str(path), fix="keep the folder whole, or evaluate again"
        )
    with path.open(encoding="utf-8") as file:  # str.splitlines would also split at U+2028, which a text may hold
        return {line["id"]: to_record(line) for line in map(json.loads, file)}


def to_record(line: dict[str, Any]) -> ItemRecord:
    """A line of a file of items."""
    choices = line["choices"]
    sizes = [choice["num_bytes"] for choice in choices]
    texts = [choice["text"] for choice in choices]
    rankings = {"": "log_likelihood", "_calibrated": "calibrated"}
    values = {end: [choice.get(key) for choice in choices] for end, key in rankings.items()}
    return ItemRecord(
        id=line["id"],
        question_hash=line["question_hash"],
        correct=line["correct"],
        prediction=line["prediction"],
        answer=line["answer"],
        prompt=line["prompt"],
        scores=line["scores"],
        num_bytes=sizes[0] if len(sizes) == 1 else 1,
        label=texts.index(line["answer"]) if line["answer"] in texts else -1,
        chosen={end: found.index(max(found)) for end, found in values.items() if found and None not in found},
    )


def compare(results: Sequence[Sequence[TaskOutcome]], *, seed: int = 0) -> list[Comparison]:
    """The first results with each of the others, task by task and item by item, with Holm's correction over all.

    Raises:
        UsageError: Two have no task in common.
        DataError: Items of equal ids ask something else, or the tasks have other versions.
    """
    found = []
    for other in results[1:]:
        pairs = pair_up(results[0], other)
        if not pairs:
            tasks = [", ".join(dict.fromkeys(outcome.task for outcome in side)) for side in (results[0], other)]
            fix = "evaluate both on the same task, with the same shots and prompts where there are several"
            raise UsageError(f"there is no task in both ({tasks[0]} and {tasks[1]})", where="--compare", fix=fix)
        found += [compare_outcomes(a, b, seed=seed) for a, b in pairs]
    for comparison, p_value in zip(found, holm([c.differences[0].p_value for c in found]), strict=True):
        comparison.p_holm = p_value
    return found


def pair_up(first: Sequence[TaskOutcome], second: Sequence[TaskOutcome]) -> list[tuple[TaskOutcome, TaskOutcome]]:
    """Results of the same task asked in the same way; of a task that both have once, whichever way it was asked."""
    pairs = []
    for a in first:
        same = [b for b in second if b.task == a.task]
        alike = [b for b in same if manner(b) == manner(a)]
        if alike:
            pairs.append((a, alike[0]))
        elif len(same) == 1 and [x.task for x in first].count(a.task) == 1:
            pairs.append((a, same[0]))
    return pairs


def manner(outcome: TaskOutcome) -> tuple[Any, ...]:
    """What tells apart the results of one task in one folder."""
    return tuple(outcome.about[key] for key in ("shots", "prompt", "draw"))


def compare_outcomes(a: TaskOutcome, b: TaskOutcome, *, seed: int = 0) -> Comparison:
    """Two results of one task over the items that both have."""
    check_same(a, b)
    ids = [name for name in a.items if name in b.items]
    if not ids:
        raise DataError(f"no item of {a.task} is in both results", where=b.label, fix="evaluate the same rows")
    one, other = ([outcome.items[name] for name in ids] for outcome in (a, b))
    names = [name for name in one[0].scores if name in other[0].scores]
    differences = [difference(name, one, other, seed) for name in names]
    if a.about["kind"] == "label":
        differences += agreements(one, other, seed)
    differences.sort(key=lambda found: found.metric != a.about["metric"])
    right = {name: (a.items[name].correct, b.items[name].correct) for name in ids}
    return Comparison(
        a=a,
        b=b,
        num_items=len(ids),
        differences=differences,
        gained=[name for name, pair in right.items() if pair == (False, True)],
        lost=[name for name, pair in right.items() if pair == (True, False)],
        notes=[*differing(a, b, len(ids)), *standing_in(a, differences[0].metric)],
    )


def difference(metric: str, a: Sequence[ItemRecord], b: Sequence[ItemRecord], seed: int) -> Difference:
    """One metric of the same items: McNemar's exact test where an item is right or wrong, else by the signs."""
    one, other = (np.array([item.scores[metric] for item in side]) for side in (a, b))
    weights = np.array([item.num_bytes if metric == "bits_per_byte" else 1 for item in a])
    interval = paired_bootstrap(one, other, weights=weights, seed=seed)
    if set(np.unique([one, other])) <= {0.0, 1.0}:
        p_value, test = mcnemar(one, other), "McNemar, exact"
    else:
        p_value, test = sign_flip((other - one) * weights, seed=seed), "sign flips"
    means = [float(np.average(values, weights=weights)) for values in (one, other)]
    return Difference(metric, means[0], means[1], interval, p_value, test)


def agreements(a: Sequence[ItemRecord], b: Sequence[ItemRecord], seed: int) -> list[Difference]:
    """Macro-F1 and Matthews correlation of labels, which are of all items together."""
    right = np.array([item.label for item in a], dtype=np.int64)
    found = []
    for end in (end for end in a[0].chosen if end in b[0].chosen):
        one, other = (np.array([item.chosen[end] for item in side], dtype=np.int64) for side in (a, b))
        found += [agreement(name, end, (one, other), right, seed) for name in MEASURES]
    return found


def agreement(name: str, end: str, said: tuple[Labels, Labels], right: Labels, seed: int) -> Difference:
    """One of these measures, with the test whose signs are those of whole items changing sides."""
    measure = MEASURES[name]
    size = 1 + int(max(right.max(), said[0].max(), said[1].max()))

    def gap(one: Labels, other: Labels) -> float:
        return measure(other, right, size) - measure(one, right, size)

    values = [measure(predicted, right, size) for predicted in said]
    interval = paired_agreement(measure, *said, right, size, seed=seed)
    return Difference(name + end, values[0], values[1], interval, swaps(gap, *said, seed=seed), "swaps")


def check_same(a: TaskOutcome, b: TaskOutcome) -> None:
    """Raise where the same ids do not stand for the same questions."""
    if a.about["version"] != b.about["version"]:
        message = f"{a.task} is of version {a.about['version']} in one result and {b.about['version']} in the other"
        raise DataError(message, where=b.label, fix="evaluate both with one version of the task")
    other = [name for name, item in a.items.items() if name in b.items and differs(item, b.items[name])]
    if other:
        message = f"{len(other):,} items of {a.task} ask something else in the other result, the first is {other[0]}"
        raise DataError(message, where=b.label, fix="evaluate both on the same rows")


def differs(one: ItemRecord, other: ItemRecord) -> bool:
    """Whether two items of one id are not the same question."""
    return one.question_hash != other.question_hash


def standing_in(a: TaskOutcome, metric: str) -> list[str]:
    """What is to be said where the task's own metric cannot be had from its items."""
    own = a.about["metric"]
    return [] if own == metric else [f"items have no {own}: {metric} stands for it here"]


def differing(a: TaskOutcome, b: TaskOutcome, num_items: int) -> list[str]:
    """What people should know of beside the model."""
    notes = []
    for key in ("shots", "draw", "seed"):
        if a.about[key] != b.about[key]:
            notes.append(f"{key} {a.about[key]} against {b.about[key]}")
    if a.about["prompt"] != b.about["prompt"]:
        notes.append("another prompt")
    elif not notes and any(a.items[name].prompt != b.items[name].prompt for name in a.items if name in b.items):
        notes.append("the prompts differ (chat template, shots or system text)")
    if not num_items == len(a.items) == len(b.items):
        notes.append(f"{num_items:,} items are in both, of {len(a.items):,} and {len(b.items):,}")
    return notes
