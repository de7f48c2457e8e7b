"""Documents from all kinds of inputs."""

from __future__ import annotations

import io
import json
import sys
import tracemalloc
from types import SimpleNamespace

import pytest

from llmkit.data.document import Document
from llmkit.data.documents import LONG, PIECE, cut_text, read_documents
from llmkit.errors import DataError, LlmkitError


@pytest.fixture
def stdin(monkeypatch):
    def give(data: bytes):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BufferedReader(io.BytesIO(data))))

    return give


def test_a_text_file_is_one_document_to_the_character(tmp_path):
    text = " Line one\r\n\r\nLine two \n\n"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert list(read_documents([str(tmp_path / "a.txt")])) == [Document(text, str(tmp_path / "a.txt"))]


@pytest.mark.parametrize("separator", ["\n\n", "\n", " ", ""])
def test_a_long_text_is_cut_without_losing_a_character(separator):
    text = separator.join(f"part {i} of the text" for i in range(LONG // 10))
    documents = list(cut_text(iter([text[: LONG - 7], text[LONG - 7 :]]), "x"))
    assert "".join(document.text for document in documents) == text
    assert max(len(document.text) for document in documents) <= PIECE
    if separator:
        assert all(document.text.endswith(separator) for document in documents[:-1])


def test_pieces_of_a_long_text_are_named_by_their_line():
    text = "line\n" * (LONG // 4)
    lines = 1
    for document in cut_text(iter([text]), "x"):
        assert document.source == f"x:{lines}"
        lines += document.text.count("\n")


def test_a_large_file_is_read_with_flat_memory(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("some words on a line\n" * 1_500_000)
    tracemalloc.start()
    try:
        num_characters = sum(len(document.text) for document in read_documents([str(path)]))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert num_characters == path.stat().st_size
    assert peak < 12 << 20


def test_stdin_is_a_document(stdin):
    stdin(b"hello\nworld")
    assert list(read_documents(["-"])) == [Document("hello\nworld", "stdin")]


def test_stdin_is_json_lines_when_a_column_is_asked_for(stdin):
    stdin(b'{"t": "one"}\n{"t": "two"}\n')
    assert list(read_documents(["-"], text_column="t")) == [Document("one", "stdin:1"), Document("two", "stdin:2")]


@pytest.mark.parametrize(
    "row", [{"title": "A title", "text": "body"}, {"content": "body", "id": "a b"}, {"x": "only prose", "n": 1}]
)
def test_the_column_with_the_text_is_found_and_told(tmp_path, capsys, row):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row))
    (document,) = read_documents([str(path)])
    assert document.text in {"body", "only prose"}
    assert "the text is in column '" in capsys.readouterr().err


def test_columns_that_do_not_tell_which_holds_the_text_are_listed(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("question,answer\nwhat is it,it is that\n")
    with pytest.raises(DataError) as caught:
        list(read_documents([str(path)]))
    assert "the columns are: question, answer" in caught.value.fix
    assert caught.value.where.endswith("a.csv:2")


def test_a_missing_column_is_an_error_with_the_columns_there_are(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": "x"}\n{"b": "y", "c": "z"}\n')
    with pytest.raises(DataError, match="there is no column 'a'") as caught:
        list(read_documents([str(path)], text_column="a"))
    assert caught.value.where.endswith("a.jsonl:2")
    assert "b, c" in caught.value.fix


@pytest.mark.parametrize(("value", "kind"), [(5, "a number"), (None, "null"), (["x"], "an array")])
def test_a_text_column_that_holds_no_text_is_an_error(tmp_path, value, kind):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"text": value}))
    with pytest.raises(DataError, match=kind):
        list(read_documents([str(path)], text_column="text"))


def test_documents_without_text_are_left_out_and_counted(tmp_path, capsys):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "x"}\n{"text": " \\n"}\n{"text": ""}\n')
    assert [document.text for document in read_documents([str(path)])] == ["x"]
    assert "left out 2 documents without text" in capsys.readouterr().err


def test_nothing_but_blanks_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text(" \n\n")
    with pytest.raises(DataError, match="no text"):
        list(read_documents([str(tmp_path / "a.txt")]))


def test_python_docs_means_its_training_documents():
    sources = {split: {d.source for d in read_documents([f"python-docs{split}"])} for split in ("", "@train", "@test")}
    assert sources[""] == sources["@train"]
    assert not sources[""] & sources["@test"]


@pytest.mark.parametrize("name", ["python-docs@dev", "python-docs:dialogues", "python-docs:x"])
def test_parts_that_python_docs_does_not_have_are_an_error(name):
    with pytest.raises(LlmkitError, match="python-docs"):
        list(read_documents([name]))


def test_prose_beside_rows_stays_prose_when_a_column_is_named(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("Just a note.")
    (tmp_path / "b.jsonl").write_text('{"title": "x", "body": "A row."}\n')
    assert [d.text for d in read_documents([str(tmp_path)], text_column="body")] == ["Just a note.", "A row."]
    assert [d.text for d in read_documents([str(tmp_path / "a.txt")], text_column="body")] == ["Just a note."]
    assert "plain text has no columns" in capsys.readouterr().err
