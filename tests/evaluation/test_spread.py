import pytest

from llmkit.evaluation.evaluate import Setting, TaskResult
from llmkit.evaluation.spread import spreads
from llmkit.evaluation.statistics import Estimate
from llmkit.evaluation.task import Task


def result(value, *, prompt="{question}", draw=0, shots=1):
    task = Task("exam", "label", lambda split: [], prompt=prompt)
    metrics = {"accuracy": Estimate(value), "log_loss": Estimate(1 - value)}
    return TaskResult(task, Setting(shots=shots, draw=draw), [], metrics, None, 0.0, 0, 0)


def test_runs_of_one_task_give_mean_spread_and_worst_case():
    found = spreads([result(0.4), result(0.6, draw=1), result(0.8, prompt="Q: {question}")])
    accuracy, loss = found
    assert (accuracy.mean, accuracy.deviation) == (pytest.approx(0.6), pytest.approx(0.2))
    assert (accuracy.worst, accuracy.best) == (0.4, 0.8)
    assert (loss.worst, loss.best) == (pytest.approx(0.6), pytest.approx(0.2))
    assert (accuracy.prompts, accuracy.draws, accuracy.runs) == (2, 2, 3)


def test_other_numbers_of_shots_are_no_spread():
    assert spreads([result(0.4), result(0.6, shots=5)]) == []
