"""Files and streams as text: what is found, unpacked and decoded."""

from __future__ import annotations

import gzip
import io
import lzma

import pytest

from llmkit.data.records import decode_file
from llmkit.data.sources import BLOCK, find_sources, read_blocks, read_lines
from llmkit.errors import DataError


def decode(path):
    (source,) = find_sources([str(path)])
    return "".join(decode_file(source))


def test_a_folder_is_read_all_the_way_down_in_the_order_of_names(tmp_path, capsys):
    for name in ("b.txt", "a/z.md", "a/b.jsonl.gz", "c.png", ".hidden/x.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    names = [source.path.relative_to(tmp_path).as_posix() for source in find_sources([str(tmp_path)])]
    assert names == ["a/b.jsonl.gz", "a/z.md", "b.txt"]
    assert "left out 1 files of other kinds (.png)" in capsys.readouterr().err


def test_a_glob_takes_files_of_any_kind_sorted(tmp_path):
    for name in ("b.py", "a.py", "c.txt"):
        (tmp_path / name).write_text("x")
    found = find_sources([str(tmp_path / "*.py")])
    assert [(source.path.name, source.format) for source in found] == [("a.py", "text"), ("b.py", "text")]


@pytest.mark.parametrize("name", ["absent.txt", "*.absent", "folder"])
def test_what_is_not_there_is_an_error(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError) as caught:
        find_sources([str(tmp_path / name)])
    assert name in caught.value.where


def test_compressed_files_are_known_by_their_first_bytes(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    text = "naïve\n" * 1000
    packers = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.compress}
    for suffix, pack in packers.items():
        (tmp_path / f"named.txt.{suffix}").write_bytes(pack(text.encode()))
        (tmp_path / f"unnamed-{suffix}.txt").write_bytes(pack(text.encode()))
        assert decode(tmp_path / f"named.txt.{suffix}") == text
        assert decode(tmp_path / f"unnamed-{suffix}.txt") == text


def test_several_zst_frames_in_a_row_are_read_to_the_end(tmp_path):
    zstandard = pytest.importorskip("zstandard")
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"one ") + zstandard.compress(b"two"))
    assert decode(tmp_path / "a.txt.zst") == "one two"


@pytest.mark.parametrize("suffix", ["gz", "xz", "zst"])
def test_compressed_files_cut_short_are_an_error(tmp_path, suffix):
    zstandard = pytest.importorskip("zstandard")
    pack = {"gz": gzip.compress, "xz": lzma.compress, "zst": zstandard.compress}[suffix]
    data = pack(b"".join(b"%d squared is %d\n" % (i, i * i) for i in range(50_000)))
    (tmp_path / "a.txt").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataError, match="cut short"):
        decode(tmp_path / "a.txt")


def test_without_zstandard_a_zst_file_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.txt.zst").write_bytes(b"\x28\xb5\x2f\xfd rest")
    monkeypatch.setattr("llmkit.data.sources.importlib.util.find_spec", lambda name: None)
    with pytest.raises(DataError) as caught:
        decode(tmp_path / "a.txt.zst")
    assert caught.value.fix == 'pip install "llmkit[zstd]"'


@pytest.mark.parametrize(
    "data",
    [gzip.compress(b"text " * 1000)[:40], b"\x28\xb5\x2f\xfdnonsense", b"\xfd7zXZ\x00bad"],
    ids=["gz", "zst", "xz"],
)
def test_damaged_archives_are_an_error_with_the_name_of_the_file(tmp_path, data):
    if data.startswith(b"\x28"):
        pytest.importorskip("zstandard")
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError, match="damaged") as caught:
        decode(tmp_path / "a.txt")
    assert caught.value.where.endswith("a.txt")


def test_a_zip_file_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04rest")
    with pytest.raises(DataError, match="archive"):
        decode(tmp_path / "a.zip")


def test_empty_files_of_a_folder_or_a_glob_are_left_out_and_told(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("text")
    (tmp_path / "b.txt").touch()
    for place in (tmp_path, tmp_path / "*.txt"):
        assert [source.path.name for source in find_sources([str(place)])] == ["a.txt"]
        assert f"left out 1 empty files ({tmp_path / 'b.txt'})" in capsys.readouterr().err


def test_an_empty_file_is_an_error(tmp_path):
    (tmp_path / "a.txt").touch()
    with pytest.raises(DataError, match="empty"):
        decode(tmp_path / "a.txt")


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfabc")
    assert decode(tmp_path / "a.txt") == "abc"


def test_an_invalid_byte_is_named_by_offset_line_and_likely_encoding(tmp_path):
    text = "First line\nSecond line\nEin schönes Haus für die Größe und das Übermaß\n" * 3
    data = text.encode("latin-1")
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(DataError) as caught:
        decode(tmp_path / "a.txt")
    assert f"offset {text.index('ö')} " in caught.value.message
    assert caught.value.where.endswith("a.txt:3")
    assert "iconv -f cp125" in caught.value.fix


@pytest.mark.parametrize("place", [BLOCK - 1, BLOCK, BLOCK + 5])
def test_offset_and_line_are_right_where_blocks_meet(place):
    data = b"\n" * (place - 1) + b"\xc3(" + b"\n" * 10
    with pytest.raises(DataError) as caught:
        list(read_blocks(io.BytesIO(data), "x"))
    assert f"offset {place - 1} " in caught.value.message
    assert caught.value.where == f"x:{place}"


def test_a_character_across_blocks_is_whole():
    text = "a" * (BLOCK - 1) + "é" + "b" * BLOCK
    assert "".join(read_blocks(io.BytesIO(text.encode()), "x")) == text


def test_a_character_cut_off_at_the_end_of_the_file_is_an_error():
    with pytest.raises(DataError, match="offset 3"):
        list(read_blocks(io.BytesIO("abcé".encode()[:-1]), "x"))


def test_utf_16_is_recognised():
    with pytest.raises(DataError) as caught:
        list(read_blocks(io.BytesIO("Hello".encode("utf-16")), "x"))
    assert "utf-16" in caught.value.fix


def test_bytes_that_are_no_text_are_an_error():
    with pytest.raises(DataError, match="not text"):
        list(read_blocks(io.BytesIO(b"\x00\x01\x02"), "x"))


def test_lines_end_at_line_feeds_alone():
    text = "a\u2028b\x85c\x0bd\r\ne\rf\n\nlast"
    lines = list(read_lines(io.BytesIO(text.encode()), "x"))
    assert lines == [(1, "a\u2028b\x85c\x0bd\r\n"), (2, "e\rf\n"), (3, "\n"), (4, "last")]
