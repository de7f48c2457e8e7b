import pytest

from llmkit.errors import UsageError
from llmkit.evaluation.prompts import Chat, fill, join, render_context, render_pairs
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


def test_what_precedes_all_else_stands_once_and_is_set_off():
    task = make_task(system="About {question}.")
    assert render_context(task, example("c"), [example("a")]) == "About c.\n\nQ: a\nA: yes\n\nQ: c\nA:"
    assert render_context(make_task(system="Hear: "), example("c"), []) == "Hear: Q: c\nA:"


def test_what_every_answer_begins_with_is_part_of_context_and_shots():
    task = make_task(prompt="{question}", answer_prefix="I say")
    pairs = render_pairs(task, example("c"), [example("a")])
    assert pairs[0].context == "a I say yes\n\nc I say"
    assert [pair.continuation for pair in pairs] == [" yes", " no"]


@pytest.mark.parametrize("chat", [None, "turns"])
@pytest.mark.parametrize(("prefix", "delimiter"), [("A:", " "), ("A: ", " "), ("(", ""), ("A:", "  "), ("", "\n")])
@pytest.mark.parametrize("prompt", ["{question}", "{question}\n"])
def test_an_answer_is_set_apart_in_shots_as_where_it_is_asked_for(prompt, prefix, delimiter, chat):
    task = make_task(prompt=prompt, answer_prefix=prefix, delimiter=delimiter, separator="#")
    chat = TURNS if chat else None
    pairs = render_pairs(task, example("same"), [example("same")], chat)
    whole = pairs[0].context + pairs[0].continuation
    shot, asked = whole.split("<user>")[1:] if chat else whole.split("#")
    assert shot == asked


def test_what_every_answer_begins_with_precedes_the_rest_of_a_sentence_in_shots_too():
    task, shot = make_task(prompt="{choice}", answer_prefix="so"), example("", ["it", "all"], 1, continuation="ended.")
    (pair, _) = render_pairs(task, example("", ["he", "she"], continuation="left."), [shot])
    assert pair.context + pair.continuation == "all so ended.\n\nhe so left."


def ids_of(texts):
    return [[len(text)] for text in texts]


def write_turns(turns):
    return "".join(f"<{turn.role}>{turn.content}" for turn in turns) + "<assistant>"


TURNS, ONE_TURN = Chat(write_turns, ids_of, str), Chat(write_turns, ids_of, str, is_one_turn=True)


def test_shots_are_turns_of_a_dialogue_or_stand_in_one():
    task, shots = make_task(prompt="{question}", system="Be short."), [example("a"), example("b", answer=1)]
    apart = "<system>Be short.<user>a<assistant>yes<user>b<assistant>no<user>c<assistant>"
    assert render_context(task, example("c"), shots, TURNS) == apart
    together = "<system>Be short.<user>a yes\n\nb no\n\nc<assistant>"
    assert render_context(task, example("c"), shots, ONE_TURN) == together


def test_an_answer_begins_its_turn_without_a_delimiter_unless_it_goes_on():
    assert [p.continuation for p in render_pairs(make_task(), example("c"), [], TURNS)] == ["yes", "no"]
    begun = render_pairs(make_task(prompt="{question}", answer_prefix="So:"), example("c"), [example("a")], TURNS)
    assert begun[0].context == "<user>a<assistant>So: yes<user>c<assistant>So:"
    assert [pair.continuation for pair in begun] == [" yes", " no"]


def test_choices_inside_the_prompt_go_through_a_dialogue_too():
    task, shot = make_task(prompt="{choice}"), example("", ["it", "all"], 1, continuation="ended.")
    pairs = render_pairs(task, example("", ["he", "she"], 1, continuation="left."), [shot], TURNS)
    assert [pair.context for pair in pairs] == [
        f"<user>all<assistant>ended.<user>{who}<assistant>" for who in ("he", "she")
    ]
    assert {pair.continuation for pair in pairs} == {"left."}


@pytest.mark.parametrize(
    ("a", "b", "joined"), [("a", "b", "a, b"), ("a ", "b", "a b"), ("a", "\nb", "a\nb"), ("", "b", "b"), ("a", "", "a")]
)
def test_texts_are_joined_where_nothing_sets_them_apart(a, b, joined):
    assert join(a, b, ", ") == joined
