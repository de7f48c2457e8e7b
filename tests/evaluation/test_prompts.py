import pytest

from llmkit.errors import UsageError
from llmkit.evaluation.prompts import fill, render_context, render_pairs
from llmkit.evaluation.task import Example, Task


def make_task(**changes):
    settings = {"name": "t", "kind": "choice", "load": lambda split: (), "prompt": "Q: {question}\nA:"}
    return Task(**{**settings, **changes})


def example(question, choices=("yes", "no"), answer=0, **changes):
    return Example(question, question, {"question": question}, tuple(choices), answer, **changes)


def test_shots_stand_solved_before_the_question():
    pairs = render_pairs(make_task(), example("c"), [example("a"), example("b", answer=1)])
    assert pairs[0].context == "Q: a\nA: yes\n\nQ: b\nA: no\n\nQ: c\nA:"
    assert [pair.continuation for pair in pairs] == [" yes", " no"]


def test_choices_inside_the_prompt_are_compared_by_what_follows_them():
    task = make_task(prompt="{choice}")
    pairs = render_pairs(task, example("", ["he", "she"], 1, continuation="left."), [])
    assert [(pair.context, pair.continuation) for pair in pairs] == [("he", " left."), ("she", " left.")]
    shot = example("", ["it", "all"], 1, continuation="ended.")
    assert render_pairs(task, example("", ["he", "she"], continuation="left."), [shot])[0].context == "all ended.\n\nhe"


def test_braces_in_what_is_filled_in_stay_text():
    assert fill("{question}!", {"question": "{secret}"}) == "{secret}!"


@pytest.mark.parametrize("template", ["{nope}", "{question.__class__}", "{question"])
def test_a_prompt_that_asks_for_what_is_not_there_is_an_error(template):
    with pytest.raises(UsageError):
        fill(template, {"question": "a"})


def test_a_free_answer_follows_the_same_context():
    assert render_context(make_task(kind="generate"), example("c"), []) == "Q: c\nA:"
