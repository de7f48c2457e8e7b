import math

import pytest

from llmkit.evaluation.evaluate import Setting, TaskResult
from llmkit.evaluation.metrics import ChoiceScore, Item
from llmkit.evaluation.spread import spreads
from llmkit.evaluation.statistics import Estimate
from llmkit.evaluation.task import Task


def result(value, *, prompt="{question}", draw=0, shots=1, clean=None):
    task = Task("exam", "label", lambda split: [], prompt=prompt)
    metrics = {"accuracy": Estimate(value), "log_loss": Estimate(1 - value)}
    items = [Item("0", "a", "a", True, choices=(ChoiceScore("a", -1.0, 1, 1, 1, True),) * 4)]
    found = None if clean is None else {"accuracy": Estimate(clean)}
    return TaskResult(task, Setting(shots=shots, draw=draw), items, metrics, 0.25, 0.0, 0, 0, clean=found)


def test_runs_of_one_task_give_mean_spread_and_worst_case():
    found = spreads([result(0.4), result(0.6, draw=1), result(0.8, prompt="Q: {question}")])
    accuracy, loss = found
    assert (accuracy.mean, accuracy.deviation) == (pytest.approx(0.6), pytest.approx(0.2))
    assert (accuracy.worst, accuracy.best) == (0.4, 0.8)
    assert (loss.worst, loss.best) == (pytest.approx(0.6), pytest.approx(0.2))
    assert (accuracy.prompts, accuracy.draws, accuracy.runs) == (2, 2, 3)


def test_other_numbers_of_shots_are_no_spread():
    assert spreads([result(0.4), result(0.6, shots=5)]) == []


def test_chance_and_the_mean_of_the_clean_scores_stand_beside_the_spread():
    accuracy, loss = spreads([result(0.4, clean=0.3), result(0.6, draw=1, clean=0.5)])
    assert (accuracy.chance, accuracy.clean) == (0.25, pytest.approx(0.4))
    assert (loss.chance, loss.clean) == (pytest.approx(math.log(4)), None)
    assert (accuracy.to_json()["chance"], loss.to_json()["clean"]) == (0.25, None)
