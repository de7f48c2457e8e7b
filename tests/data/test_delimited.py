"""csv and tsv as users have them: with and without a header, quotes in pairs and not."""

from __future__ import annotations

import pytest

from llmkit.data.delimited import read_delimited
from llmkit.errors import DataError


def read(text, **options):
    return read_delimited(text, "x.csv", **options)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("age,city\n30,Ulm\n40,Ulm\n", ["age", "city"]),
        ("5.1,3.5,setosa\n4.9,3.0,setosa\n4.7,3.2,other\n", ["column-1", "column-2", "column-3"]),
        ("ham,hello\nspam,win\nham,bye\nham,no\n", ["column-1", "column-2"]),
        ("text,label\ngood film,pos\nbad film,neg\nfine film,pos\n", ["text", "label"]),
        ('"Month","Passengers"\r\n"1949-01",112\r\n', ["Month", "Passengers"]),
        ("0,1,2\n5,6,7\n", ["0", "1", "2"]),
        (",x\n1,2\n2,3\n", ["column-1", "x"]),
    ],
)
def test_a_header_is_recognised_by_what_stands_in_it(text, names):
    table = read(text)
    assert table.names == names
    has_told = any("no header" in note for note in table.notes)
    assert has_told == (names[-1].startswith("column-"))


def test_the_recipe_may_say_whether_there_is_a_header():
    text = "ham,hello\nspam,win\nham,bye\nham,no\n"
    assert len(read(text).rows) == 4
    assert read(text, header=True).names == ["ham", "hello"]
    assert len(read("a,b\nc,d\n", header=False).rows) == 2


@pytest.mark.parametrize(("sign", "name"), [(";", "semicolons"), ("\t", "tabs"), ("|", "bars")])
def test_what_separates_fields_is_found_and_told(sign, name):
    table = read(f"x{sign}y\n1,5{sign}2\n2,5{sign}3\n")
    assert table.rows[0] == {"x": "1,5", "y": "2"}
    assert f"fields are separated by {name}" in table.notes


def test_quoted_fields_may_hold_commas_and_line_ends():
    table = read('"3","Fears, say","a\nb"\n"4","x","y ""z"""\n"3","u","v"\n"4","u","v"\n')
    assert table.rows[0] == {"column-1": "3", "column-2": "Fears, say", "column-3": "a\nb"}
    assert table.rows[1]["column-3"] == 'y "z"'


def test_quotes_in_tsv_that_come_in_no_pairs_are_text():
    text = 'ham\t"Hello" he said\nspam\twin "now\nham\t"open\nham\tb\n'
    rows = read(text, is_tsv=True).rows
    assert [row["column-2"] for row in rows] == ['"Hello" he said', 'win "now', '"open', "b"]


def test_quotes_in_tsv_that_come_in_pairs_enclose():
    assert read('a\tb\n1\t"x\ty"\n', is_tsv=True).rows == [{"a": "1", "b": "x\ty"}]


def test_a_line_without_a_tab_is_the_rest_of_the_text_above_and_told():
    table = read("ham\tone\nre though\n" + "spam\ttwo\nham\tthree\n" * 100, is_tsv=True)
    assert table.rows[0]["column-2"] == "one\nre though"
    assert len(table.rows) == 201
    assert any("line 2 has no tab" in note for note in table.notes)


def test_many_lines_without_a_tab_are_an_error():
    with pytest.raises(DataError, match="bad lines") as caught:
        read("ham\tone\n" + "no tab\n" * 5 + "spam\ttwo\nham\tthree\n", is_tsv=True)
    assert "x.csv:2" in str(caught.value)


def test_rows_of_another_width_are_an_error_that_names_them():
    with pytest.raises(DataError, match="3 fields, the first row has 2") as caught:
        read("a,b\n1,2\n1,2,3\n")
    assert "x.csv:3" in str(caught.value)


def test_a_name_that_stands_there_twice_is_an_error():
    with pytest.raises(DataError, match="named twice"):
        read("a,a\n1,2\n")


def test_unpaired_quotes_in_csv_are_an_error():
    with pytest.raises(DataError) as caught:
        read('a,b\n1,"open\n2,3\n')
    assert "check the quotes" in caught.value.fix


@pytest.mark.parametrize("text", ["\n\n", "a,b\n"])
def test_no_rows_are_an_error(text):
    with pytest.raises(DataError, match="no rows"):
        read(text, header=True)
