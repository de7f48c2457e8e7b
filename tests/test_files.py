from __future__ import annotations

import hashlib

import pytest

from llmkit.errors import UsageError
from llmkit.files import check_output_free, new_folder, sha256_of, write_file


def everything_below(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_folder_appears_under_its_name_only_when_it_is_done(tmp_path):
    target = tmp_path / "deep" / "result"
    with new_folder(target) as aside:
        (aside / "a.txt").write_text("a")
        assert not target.exists()
        assert aside.parent == target.parent, "renaming works within one file system only"
    assert everything_below(tmp_path) == ["deep", "deep/result", "deep/result/a.txt"]


def test_a_folder_that_failed_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_folder(tmp_path / "result") as aside:  # noqa: PT012
        (aside / "half.txt").write_text("half")
        raise KeyboardInterrupt
    assert everything_below(tmp_path) == []


def test_an_empty_folder_may_be_filled(tmp_path):
    (tmp_path / "result").mkdir()
    with new_folder(tmp_path / "result") as aside:
        (aside / "a.txt").write_text("a")
    assert everything_below(tmp_path) == ["result", "result/a.txt"]


def test_a_folder_with_something_in_it_is_refused_and_untouched(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UsageError, match="not empty"), new_folder(tmp_path):
        pass
    with pytest.raises(UsageError, match="is a file"):
        check_output_free(tmp_path / "mine.txt")
    assert (tmp_path / "mine.txt").read_text() == "mine"


def test_a_folder_that_filled_up_in_the_meantime_is_not_overwritten(tmp_path):
    with pytest.raises(OSError, match="not empty"), new_folder(tmp_path / "result") as aside:  # noqa: PT012
        (aside / "a.txt").write_text("a")
        (tmp_path / "result").mkdir()
        (tmp_path / "result" / "other.txt").write_text("other")
    assert everything_below(tmp_path) == ["result", "result/other.txt"]


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "deep" / "a.json"
    write_file(path, "old")
    write_file(path, b"new")
    assert path.read_text() == "new"
    assert everything_below(tmp_path) == ["deep", "deep/a.json"]


def test_a_write_that_failed_leaves_the_old_file(tmp_path):
    write_file(tmp_path / "a.json", "old")
    with pytest.raises(UnicodeEncodeError):
        write_file(tmp_path / "a.json", "\ud800")
    assert (tmp_path / "a.json").read_text() == "old"
    assert everything_below(tmp_path) == ["a.json"]


def test_sha256_is_that_of_the_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()
