from collections import Counter

import pytest

from llmkit.errors import DataError
from llmkit.evaluation.fewshot import ShotDrawer
from llmkit.evaluation.task import Example


def make_pool(size=20, labels=("a", "b", "c")):
    return [Example(str(n), f"train:{n}", {"question": f"q{n}"}, labels, n % 7 % len(labels)) for n in range(size)]


def draw(order, question, num_shots=4, seed=0, pool=None):
    return [e.id for e in ShotDrawer(pool or make_pool(), order, num_shots=num_shots, seed=seed).draw(question)]


def test_fixed_shots_are_the_first_rows_in_order():
    assert draw("fixed", Example("x", "test:0", {"question": "?"})) == ["0", "1", "2", "3"]


@pytest.mark.parametrize("order", ["fixed", "random", "balanced"])
def test_a_question_is_never_its_own_shot(order):
    for question in make_pool(6):
        assert question.id not in draw(order, question, num_shots=5, pool=make_pool(6))


def test_a_copy_of_the_question_in_another_file_is_no_shot_either():
    pool = make_pool()
    copy = Example("other", "test:9", pool[0].fields, pool[0].choices, pool[0].answer)
    assert draw("fixed", copy) == ["1", "2", "3", "4"]


def test_random_shots_depend_on_seed_and_question_alone():
    one, other = Example("x", "t:0", {"question": "x"}), Example("y", "t:1", {"question": "y"})
    assert draw("random", one) == draw("random", one)
    assert draw("random", one) != draw("random", other)
    assert draw("random", one) != draw("random", one, seed=1)


def test_balanced_shots_show_each_answer_equally_often():
    drawer = ShotDrawer(make_pool(), "balanced", num_shots=6, seed=0)
    shots = drawer.draw(Example("x", "t:0", {"question": "x"}))
    assert set(Counter(shot.solution for shot in shots).values()) == {2}


def test_too_small_a_pool_is_an_error():
    with pytest.raises(DataError, match="only 2 rows for 3 shots"):
        draw("fixed", Example("x", "t:0", {"question": "x"}), num_shots=3, pool=make_pool(2))


@pytest.mark.parametrize("order", ["fixed", "random", "balanced"])
def test_a_text_that_differs_in_id_or_white_space_alone_is_no_shot(order):
    def text_of(example):
        return example.fields["question"]

    pool = [
        Example(f"copy{n}", f"a:{n}", {"question": f"what  is\n{n % 2}?", "id": f"{n}"}, ("x",), 0) for n in range(8)
    ]
    drawer = ShotDrawer(pool, order, num_shots=4, seed=0, text_of=text_of)
    shots = drawer.draw(Example("asked", "b:1", {"question": "what is 1?", "id": "z"}, ("x",), 0))
    assert {text_of(shot).split()[-1] for shot in shots} == {"0?"}


@pytest.mark.parametrize("order", ["fixed", "random", "balanced"])
def test_shots_come_from_the_group_of_the_question(order):
    pool = [Example(str(n), f"a:{n}", {"question": f"q{n}"}, ("x",), 0, group="ab"[n % 2]) for n in range(8)]
    question = Example("x", "b:1", {"question": "?"}, ("x",), 0, group="b")
    shots = ShotDrawer(pool, order, num_shots=4, seed=0).draw(question)
    assert {shot.group for shot in shots} == {"b"}
    with pytest.raises(DataError, match="only 4 rows for 5"):
        ShotDrawer(pool, order, num_shots=5, seed=0).draw(question)


@pytest.mark.parametrize("order", ["fixed", "random", "balanced"])
def test_another_draw_gives_other_shots_and_the_same_again(order):
    def draws(number):
        drawer = ShotDrawer(make_pool(60), order, num_shots=5, seed=0, draw=number)
        return [shot.id for shot in drawer.draw(Example("x", "t:0", {"question": "x"}))]

    assert len({tuple(draws(number)) for number in range(4)}) == 4
    assert draws(3) == draws(3)


def test_a_pool_is_drawn_from_to_its_last_row():
    pool = make_pool(6)
    assert sorted(draw("random", Example("x", "t:0", {"question": "x"}), num_shots=6, pool=pool)) == list("012345")
