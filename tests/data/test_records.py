"""Rows of files: each format, the place of each row, and everything that can be wrong with it."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmkit.data.documents import read_records
from llmkit.errors import DataError

ROWS = [{"a": "one", "b": 1}, {"a": "zwei\nLinien \u2028 ü", "b": 2}]


def read(path, content=None):
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return [(record.where.rpartition("/")[2], record.values) for record in read_records(str(path))]


def fails(path, content):
    with pytest.raises(DataError) as caught:
        read(path, content)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_json_lines_have_the_numbers_of_their_lines(tmp_path):
    text = f"{json.dumps(ROWS[0])}\n\n  \n{json.dumps(ROWS[1], ensure_ascii=False)}\r\n"
    assert read(tmp_path / "x.jsonl", text) == [("x.jsonl:1", ROWS[0]), ("x.jsonl:4", ROWS[1])]


@pytest.mark.parametrize("indent", [None, 2])
def test_a_json_array_has_the_numbers_of_its_lines(tmp_path, indent):
    places = [1, 1] if indent is None else [2, 6]
    expected = [(f"x.json:{line}", row) for line, row in zip(places, ROWS, strict=True)]
    assert read(tmp_path / "x.json", json.dumps(ROWS, indent=indent)) == expected


def test_json_and_jsonl_are_told_apart_by_what_they_hold(tmp_path):
    lines = "\n".join(map(json.dumps, ROWS))
    assert [row for _, row in read(tmp_path / "x.json", lines)] == ROWS
    assert [row for _, row in read(tmp_path / "x.jsonl", "\n\n" + json.dumps(ROWS))] == ROWS


def test_rows_inside_one_object_are_found(tmp_path):
    text = json.dumps({"version": "1", "data": ROWS})
    assert [row for _, row in read(tmp_path / "x.json", text)] == ROWS


def test_an_object_alone_is_a_row(tmp_path):
    dialogue = {"messages": [{"role": "user", "content": "Hi"}]}
    assert read(tmp_path / "x.json", json.dumps(dialogue, indent=1)) == [("x.json:1", dialogue)]


def test_csv_rows_have_the_number_of_the_line_they_begin_at(tmp_path):
    text = 'text,label\r\n"two\nlines, ""quoted""",1\r\n\r\nplain,2\r\n'
    assert read(tmp_path / "x.csv", text) == [
        ("x.csv:2", {"text": 'two\nlines, "quoted"', "label": "1"}),
        ("x.csv:5", {"text": "plain", "label": "2"}),
    ]


def test_a_csv_field_may_be_very_long(tmp_path):
    ((_, row),) = read(tmp_path / "x.csv", f"text\n{'a' * 300_000}\n")
    assert len(row["text"]) == 300_000


def test_tsv_quotes_are_text_unless_they_enclose_fields(tmp_path):
    assert read(tmp_path / "x.tsv", 'a\tb\n"open\t1\nx\t2\n') == [
        ("x.tsv:2", {"a": '"open', "b": "1"}),
        ("x.tsv:3", {"a": "x", "b": "2"}),
    ]
    assert read(tmp_path / "y.tsv", 'a\tb\n"tab\there"\t1\n') == [("y.tsv:2", {"a": "tab\there", "b": "1"})]


def test_parquet_rows_are_numbered(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet") == [("x.parquet:1", ROWS[0]), ("x.parquet:2", ROWS[1])]


def test_rows_under_a_name_are_not_taken_for_what_lies_deeper(tmp_path):
    info = {"about": 'rows are in "data": [', "info": {"data": ["x"], "d": {"data": []}}, "version": 1.5}
    text = json.dumps({**info, "data": ROWS, "rows": []}, indent=1).replace('"data": [\n  {', '"d\\u0061ta" : [\n  {')
    rows = read(tmp_path / "x.json", text)
    assert [values for _, values in rows] == ROWS
    lines = [number for number, line in enumerate(text.split("\n"), start=1) if line == "  {"]
    assert [where for where, _ in rows] == [f"x.json:{line}" for line in lines]


def test_what_is_no_parquet_is_an_error(tmp_path):
    assert "not a parquet file" in fails(tmp_path / "x.parquet", "text")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"a": 1', "x.jsonl:2:8: Expecting"),
        ('{"a": 1} x', "x.jsonl:2:10: Extra data"),
        ("[1, 2]", "x.jsonl:2:1: a row must be an object, this is an array"),
        ("3", "this is a number"),
        ('{"a": 1, "a": 2}', "x.jsonl:2: key 'a' stands there twice"),
        ('{"a": "\\ud800"}', "half a surrogate pair"),
        ("[" * 100_000, "x.jsonl:2: nested too deep"),
    ],
)
def test_a_bad_line_is_named_with_its_reason(tmp_path, line, reason):
    assert reason in fails(tmp_path / "x.jsonl", f'{{"a": 1}}\n{line}\n')


def test_a_whole_surrogate_pair_is_text(tmp_path):
    assert read(tmp_path / "x.jsonl", '{"a": "\\ud83d\\ude00"}')[0][1] == {"a": "😀"}


def test_bad_lines_are_collected_up_to_twenty(tmp_path):
    good, bad = '{"a": 1}\n', "{\n"
    message = fails(tmp_path / "x.jsonl", good + 3 * bad + good)
    assert "3 bad lines" in message
    assert all(f"x.jsonl:{line}:" in message for line in (2, 3, 4))
    message = fails(tmp_path / "x.jsonl", good + 50 * bad)
    assert "the first 20 bad lines" in message
    assert message.count("x.jsonl:") == 21


def test_csv_rows_of_another_width_are_bad_lines(tmp_path):
    assert "x.csv:3: 3 fields, the header has 2" in fails(tmp_path / "x.csv", "a,b\n1,2\n1,2,3\n")


@pytest.mark.parametrize("text", ['a,b\n"open,2\n', 'a,b\n"x"y,2\n'])
def test_broken_quotes_are_an_error_with_their_line(tmp_path, text):
    assert "x.csv:2: " in fails(tmp_path / "x.csv", text)


def test_a_column_named_twice_is_an_error(tmp_path):
    assert "column 'a' is named twice" in fails(tmp_path / "x.csv", "a,a\n1,2\n")


@pytest.mark.parametrize(
    ("name", "text"), [("x.jsonl", "\n\n"), ("x.json", "[]"), ("x.json", " \n"), ("x.csv", "a,b\n")]
)
def test_a_file_without_rows_is_an_error(tmp_path, name, text):
    assert "there is no row in it" in fails(tmp_path / name, text)


@pytest.mark.parametrize(
    ("text", "place"),
    [('[{"a": 1},\n {"a": }]', "x.json:2:8"), ('[{"a": 1}\n {"a": 2}]', "x.json:2:2"), ('[{"a": 1}', "x.json:1:10")],
)
def test_a_broken_array_is_named_by_line_and_column(tmp_path, text, place):
    assert fails(tmp_path / "x.json", text).startswith(f"{place}: this is not JSON")


def test_an_array_of_no_objects_is_an_error(tmp_path):
    assert "x.json:2: a row must be an object, this is a string" in fails(tmp_path / "x.json", '[\n"a"]')


def test_plain_text_has_no_rows(tmp_path):
    assert "plain text" in fails(tmp_path / "x.txt", "Hello")


def test_a_file_of_unknown_kind_that_begins_like_json_is_read_as_json(tmp_path):
    assert read(tmp_path / "rows", json.dumps(ROWS[0])) == [("rows:1", ROWS[0])]


def test_python_docs_rows_are_records():
    first = next(iter(read_records("python-docs:instructions@test")))
    assert first.where == "python-docs:instructions@test:1"
    assert set(first.values) == {"instruction", "input", "output"}


@pytest.mark.parametrize("source", ["python-docs", "python-docs:nothing", "python-docs:labelled@nowhere"])
def test_rows_that_python_docs_does_not_have_are_an_error(source):
    with pytest.raises(Exception, match="python-docs"):
        next(iter(read_records(source)))
