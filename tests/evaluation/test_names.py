from dataclasses import replace

import pytest

from llmkit.evaluation.compare import compare, read_outcomes
from llmkit.evaluation.evaluate import Setting, Subject, evaluate_task
from llmkit.evaluation.names import compared_names, metric_names, names_without_interval
from llmkit.evaluation.results import write_results
from llmkit.evaluation.task import Example, Task

CHOICES = ("learns", "asks")
LABEL = Task("t", "label", lambda split: [row("the"), row("model", 1)], labels=CHOICES)
TASKS = {
    "choice": Task("t", "choice", lambda split: [row("the"), row("model", 1)]),
    "groups": Task("t", "choice", lambda split: [row("the", group="a"), row("model", 1, group="b")]),
    "continuation": Task("t", "choice", lambda split: [replace(row("the"), choices=("model",))]),
    "label": LABEL,
    "label groups": replace(LABEL, load=lambda split: [row("the", group="a"), row("it", group="b")]),
    "generate": Task("t", "generate", lambda split: [replace(row("the"), references=("x",))], max_new_tokens=2),
    "squad": Task("t", "generate", lambda split: [replace(row("a"), references=("x",))], grading="squad"),
    "perplexity": Task("t", "perplexity", lambda split: [row("the model learns")]),
}
SETTINGS = {"plain": Setting(), "calibrated, PMI": Setting(calibrate=True, pmi=True)}


def row(question, answer=0, group=""):
    return Example(question, question, {"question": question}, CHOICES, answer, group=group)


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("name", TASKS)
def test_the_names_are_those_of_what_is_measured(tiny_model, tiny_tokenizer, tmp_path, name, setting):
    task, asked = TASKS[name], SETTINGS[setting]
    if asked.pmi and task.kind in ("generate", "perplexity"):
        pytest.skip("there is nothing to choose")
    result = evaluate_task(Subject(tiny_model, tiny_tokenizer, 128), task, asked)
    assert sorted(metric_names(task, asked)) == sorted(found for found in result.metrics if " of " not in found)
    bare = names_without_interval(task, asked, metric_names(task, asked))
    assert sorted(bare) == sorted(n for n, found in result.metrics.items() if found.low is None and " of " not in n)
    write_results(tmp_path, tmp_path, [result], model="m", environment={})
    outcomes = read_outcomes(tmp_path)
    (comparison,) = compare([outcomes, outcomes])
    assert sorted(compared_names(task, asked)) == sorted(found.metric for found in comparison.differences)
