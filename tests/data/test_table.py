"""Which column is the target and which hold text."""

from __future__ import annotations

import pytest

from llmkit.data.table import Table, drop_unlabelled, find_target, find_texts, join_tables
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData

SENTENCES = [f"the sailors of boat {i} rode the breeze clear of rock {i}" for i in range(60)]


def table(**columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return Table(rows, list(columns), [""] * len(rows))


def test_beside_a_text_the_target_is_the_column_of_fewest_classes_without_gaps():
    # As CoLA has it: source, label, mark (mostly empty), sentence.
    cola = table(a=["gj04", "bc01", "ks08"] * 20, b=["0", "1"] * 30, c=["", "*"] * 30, d=SENTENCES)
    assert find_target(cola, BaselineData()) == "b"
    assert find_texts(cola, BaselineData(), "b") == ["d"]


def test_a_title_beside_a_text_is_text_too():
    news = table(k=["1", "2"] * 30, title=[f"fears for pension {i} today" for i in range(60)], text2=SENTENCES)
    assert find_texts(news, BaselineData(), "k") == ["title", "text2"]
    assert find_texts(news, BaselineData(text=["text2"]), "k") == ["text2"]


@pytest.mark.parametrize(
    ("columns", "target"),
    [
        ({"x": [0.5, 1.5] * 10, "y": ["a", "b"] * 10}, "y"),
        ({"k": [1, 2] * 10, "x": [0.1 * i for i in range(20)]}, "k"),
        ({"k": [3, 7] * 10, "x": [0.1 * i for i in range(20)]}, "x"),
        ({"k": [1, 2] * 10, "x": [1, 2] * 10}, "x"),
        ({"Class": [1.5] * 20, "x": [1, 2] * 10}, "Class"),
    ],
)
def test_a_tables_target_is_named_or_last_or_numbers_classes_ahead(columns, target):
    assert find_target(table(**columns), BaselineData()) == target


def test_a_class_may_be_called_none_and_an_empty_label_is_missing():
    values = table(label=["none", "", "?", "na", None, "b"])
    kept, notes = drop_unlabelled(values, "label", "x", is_number=False)
    assert kept.column("label") == ["none", "na", "b"]
    assert notes == ["3 rows without a value in label are left out"]
    assert len(drop_unlabelled(table(label=["1", "na", "2"]), "label", "x", is_number=True)[0].rows) == 2


def test_files_with_different_columns_are_no_one_table():
    with pytest.raises(DataError, match="different columns: a; and b"):
        join_tables([table(a=[1]), table(b=[1])], where="folder")


def test_several_targets_of_a_table_are_an_error():
    with pytest.raises(DataError, match="2 columns are named"):
        find_target(table(a=[1], b=[2]), BaselineData(target=["a", "b"]))


def test_beside_a_label_short_texts_are_texts():
    spam = table(a=["ham", "spam"] * 10, b=[f"win now {i}" for i in range(20)])
    assert find_target(spam, BaselineData()) == "a"
    assert find_texts(spam, BaselineData(), "a") == ["b"]
