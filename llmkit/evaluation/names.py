"""Which metrics a task will have: known before anything is asked, so that what asks for others is told at once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from llmkit.evaluation.metrics import MEASURES
from llmkit.evaluation.subject import Setting
from llmkit.evaluation.task import CHOSEN_BY, PREDICTED, SAID, Task, first_examples


def score_names(task: Task, setting: Setting) -> tuple[str, ...]:
    """The scores that each item has."""
    if task.kind == "perplexity":
        return PREDICTED[:1]
    if task.kind == "generate":
        return task.metrics
    if task.metrics == SAID:
        return ("accuracy", "nats")
    ways = {"accuracy_pmi": setting.pmi, "accuracy_calibrated": setting.calibrate and task.kind == "label"}
    return (*CHOSEN_BY, *(name for name, is_wanted in ways.items() if is_wanted))


def agreement_names(task: Task, setting: Setting, measures: Iterable[str] = MEASURES) -> list[str]:
    """What labels have beside the scores of items: measures of all items together, and of the calibrated ones."""
    ends = ("", "_calibrated") if setting.calibrate else ("",)
    return [name + end for name in measures for end in ends] if task.kind == "label" else []


def metric_names(task: Task, setting: Setting) -> list[str]:
    """The metrics of a task, those of single groups apart."""
    is_whole = task.kind == "perplexity" or task.metrics == SAID
    names = [*(task.metrics if is_whole else score_names(task, setting))]
    names += agreement_names(task, setting, (*MEASURES, "log_loss", "calibration_error"))
    if any(example.group for example in task.examples("test")):
        names.append(f"{name_in_groups(task, score_names(task, setting))}_macro")
    return names


def compared_names(task: Task, setting: Setting) -> list[str]:
    """The metrics of a task by which two models are compared."""
    return [*score_names(task, setting), *agreement_names(task, setting)]


def names_without_interval(task: Task, setting: Setting, names: Iterable[str]) -> list[str]:
    """Those of a task's metrics that will be numbers alone: one item, or a group of one, gives no idea of an error."""
    examples = first_examples(task.examples("test"), setting.limit)
    fewest = min(Counter(example.group for example in examples).values(), default=0)

    def is_bare(name: str) -> bool:
        return len(examples) < 2 or name.startswith("calibration_error") or (name.endswith("_macro") and fewest < 2)

    return [name for name in names if is_bare(name)]


def name_in_groups(task: Task, scores: Iterable[str]) -> str:
    """The score that each group of a task has: its own metric, or where that is no score of single items the first."""
    names = list(scores)
    return task.metric if task.metric in names else names[0]
