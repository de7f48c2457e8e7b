"""Bytes as text: a missing or wrong encoding is an error that proposes another."""

from __future__ import annotations

import pytest

from llmkit.data.decoding import decode, read_bytes, split_lines
from llmkit.errors import DataError


def test_bytes_that_are_not_utf8_name_their_line_and_what_may_be_meant():
    with pytest.raises(DataError, match="byte 0xe9 at offset 9 is not utf-8") as caught:
        decode(b"first\ncaf\xe9 and more\n", "x.txt", "utf-8")
    assert caught.value.where == "x.txt:2"
    assert "data.encoding=cp1252" in caught.value.fix
    assert "latin-1" in caught.value.fix


def test_the_encoding_that_was_asked_for_is_used():
    assert decode(b"caf\xe9 \x85", "x.txt", "cp1252") == "café …"
    assert decode("\ufeffcafé".encode(), "x.txt", "utf-8") == "café"


def test_utf8_read_as_latin_1_is_an_error_and_no_nonsense():
    with pytest.raises(DataError, match="this is UTF-8, not latin-1"):
        decode("café".encode(), "x.txt", "latin-1")
    assert decode(b"cafe", "x.txt", "latin-1") == "cafe"


@pytest.mark.parametrize("encoding", ["latin-17", "hex"])
def test_an_encoding_that_there_is_not_is_an_error(encoding):
    with pytest.raises(DataError, match="there is no encoding"):
        decode(b"x", "x.txt", encoding)


def test_a_sign_outside_of_the_encoding_is_an_error():
    with pytest.raises(DataError, match="is not ascii"):
        decode(b"caf\xe9", "x.txt", "ascii")


def test_lines_end_at_newlines_alone():
    assert split_lines("a\x85b\r\nc\u2028d\n") == ["a\x85b", "c\u2028d"]


def test_files_are_unpacked_by_what_is_in_them(tmp_path):
    import gzip

    path = tmp_path / "x.txt"
    path.write_bytes(gzip.compress(b"text"))
    assert read_bytes(path) == b"text"
    with pytest.raises(DataError, match="no such file"):
        read_bytes(tmp_path / "none.txt")
