import json
from dataclasses import dataclass
from typing import Any

import pytest

from llmkit.errors import DataError
from llmkit.evaluation.columns import Wanted, make_examples, recognise


@dataclass(frozen=True)
class R:
    where: str
    values: dict[str, Any]


def rows(*values):
    return [R(f"f:{n}", v) for n, v in enumerate(values, 1)]


def read(*values, labels=(), **wanted):
    table = rows(*values)
    return make_examples(table, recognise(table, Wanted(**wanted)), labels)


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ((1, 0), [1, 0]),
        (("1", "0"), [1, 0]),
        (("B", "a"), [1, 0]),
        (("2", "1"), [1, 0]),
        (("north", "east"), [0, 1]),
        (("(B)", "A."), [1, 0]),
    ],
)
def test_answers_are_texts_numbers_or_letters(answers, expected):
    found = read(*({"question": "?", "choices": ["north", "east"], "answer": a} for a in answers))
    assert [example.answer for example in found] == expected


def test_digits_that_are_choices_in_some_rows_only_are_numbers():
    found = read(
        {"q": "?", "choices": ["0", "1"], "answer": "1"}, {"q": "?", "choices": ["x", "y"], "answer": "1"}, question="q"
    )
    assert [example.answer for example in found] == [1, 1]


def test_digits_that_are_choices_everywhere_are_their_texts():
    found = read(
        {"question": "2+1", "choices": ["1", "3"], "answer": "3"},
        {"question": "2-1", "choices": ["1", "3"], "answer": "1"},
    )
    assert [example.answer for example in found] == [1, 0]


@pytest.mark.parametrize("cell", [["x", "y"], '["x", "y"]', "x | y", {"text": ["x", "y"], "label": ["A", "B"]}])
def test_choices_are_lists_or_text_with_bars(cell):
    assert read({"question": "?", "choices": cell, "answer": 0})[0].choices == ("x", "y")


def test_each_choice_may_have_a_column():
    found = read({"question": "?", "choice0": "x", "choice1": "y", "answer": "1"})
    assert found[0].choices == ("x", "y")
    assert read({"question": "?", "u": "x", "v": "y", "answer": "v"[:0] + "y"}, choices="u,v")[0].answer == 1


def test_a_few_answers_again_and_again_are_labels_and_others_are_free_text():
    reviews = rows(*({"text": f"t{n}", "label": "ab"[n % 2]} for n in range(8)))
    facts = rows(*({"question": f"q{n}", "answer": f"a{n}"} for n in range(8)))
    assert recognise(reviews, Wanted()).form == "label"
    assert recognise(facts, Wanted()).form == "generate"
    assert recognise(facts, Wanted(kind="label")).form == "label"


def test_aliases_are_accepted_answers():
    (found,) = read({"context": "Q:", "answer": "Onion", "aliases": ["Onions", "Onion"]})
    assert found.references == ("Onion", "Onions")


def test_the_forms_of_published_sets_are_recognised():
    schema = {"context_options": ["he", "she"], "continuation": "left.", "gold": 1}
    assert recognise(rows(schema), Wanted()).form == "schema"
    assert read(schema)[0].continuation == "left."
    assert recognise(rows({"context": "a", "continuation": "b"}), Wanted()).form == "continuation"
    assert recognise(rows({"query": "a", "choices": ["b", "c"], "gold": 0}), Wanted()).form == "choice"


def test_rows_keep_their_own_ids_where_these_tell_them_apart():
    assert [
        e.id for e in read({"id": "x", "question": "?", "answer": "1"}, {"id": "y", "question": "?", "answer": "2"})
    ] == ["x", "y"]
    assert [
        e.id for e in read({"id": "x", "question": "?", "answer": "1"}, {"id": "x", "question": "?", "answer": "2"})
    ] == ["0", "1"]


@pytest.mark.parametrize(
    ("values", "wanted", "message"),
    [
        ({"a": 1, "b": 2}, {}, "no column has a usual name of the question"),
        ({"question": "?", "answer": "x"}, {"question": "q"}, "there is no column 'q'"),
        ({"question": "?", "choices": ["x", "y"], "answer": "z"}, {}, "'z' is none of the choices"),
        ({"question": "?", "choices": ["x", ""], "answer": "x"}, {}, "a choice is empty"),
        ({"question": "?", "choices": ["x"], "answer": "x"}, {}, "fewer than two choices"),
        ({"question": "?", "choices": "[1,", "answer": "x"}, {}, "begin as JSON"),
        ({"question": " ", "choices": ["x", "y"], "answer": "x"}, {}, "column 'question' is empty"),
    ],
)
def test_what_is_wrong_with_a_row_is_said_with_its_place(values, wanted, message):
    with pytest.raises(DataError, match=message) as caught:
        read(values, **wanted)
    assert caught.value.where == "f:1"
    assert caught.value.fix


@pytest.mark.parametrize("labels", [list(range(1, 11)), [True, False], [-1, 0, 1]])
def test_labels_that_are_numbers_are_their_own_texts(labels):
    rows = [{"text": f"row {i}", "label": label} for label in labels for i in range(5)]
    found = read(*rows, kind="label", labels=sorted(map(json.dumps, labels)))
    assert [example.choices[example.answer] for example in found] == [
        json.dumps(label) for label in labels for _ in range(5)
    ]
