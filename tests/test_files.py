from __future__ import annotations

import errno
import fcntl
import hashlib
import os

import pytest

from llmkit.errors import UsageError
from llmkit.files import append_line, check_output_free, full_disk, new_folder, sha256_of, write_file


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


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    (tmp_path / ".result.4711.tmp").mkdir()
    (tmp_path / ".result.4711.tmp" / "half.txt").write_text("half")
    (tmp_path / ".a.json.4711.tmp").write_text("half")
    with new_folder(tmp_path / "result") as aside:
        (aside / "a.txt").write_text("a")
    write_file(tmp_path / "a.json", "{}")
    assert everything_below(tmp_path) == ["a.json", "result", "result/a.txt"]


def test_what_is_still_being_written_or_somebody_elses_stays(tmp_path):
    others = [".a.json.4711.tmp", ".a.json.tmp", ".a.json.x.tmp", ".b.json.4711.tmp", "a.json.4711.tmp"]
    for name in others:
        (tmp_path / name).write_text("half")
    with (tmp_path / others[0]).open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_file(tmp_path / "a.json", "{}")
    assert everything_below(tmp_path) == sorted([*others, "a.json"])


def test_files_may_be_read_by_whom_the_folder_lets_in(tmp_path):
    before = os.umask(0o022)
    try:
        with new_folder(tmp_path / "result") as aside:
            os.close(os.open(aside / "model.safetensors", os.O_CREAT | os.O_WRONLY, 0o600))
    finally:
        os.umask(before)
    assert (tmp_path / "result" / "model.safetensors").stat().st_mode & 0o777 == 0o644


def test_a_full_disk_is_an_error_of_the_system_whoever_meets_it(tmp_path):
    with pytest.raises(OSError, match="No space left") as caught, new_folder(tmp_path / "result"):
        raise Exception("I/O error: No space left on device (os error 28)")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, str(tmp_path / "result"))
    assert everything_below(tmp_path) == []
    with pytest.raises(ValueError, match="wrong"), new_folder(tmp_path / "result"):
        raise ValueError("wrong (os error 2)")
    assert full_disk(OSError(errno.EDQUOT, "Quota exceeded")) == errno.EDQUOT
    assert full_disk(OSError(errno.EIO, "Input/output error")) is None


def test_a_line_that_does_not_fit_is_not_there_at_all(tmp_path, monkeypatch):
    path = tmp_path / "lines"
    append_line(path, "one")
    append_line(path, "zwei \u00fc")

    class Narrow:
        """A file on a disk with room for four more bytes."""

        def __init__(self, *arguments, **options):
            self.file = open(path, "ab", buffering=0)  # noqa: SIM115

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            return self.file.write(data[:4])

    with monkeypatch.context() as patch:
        patch.setattr(type(path), "open", Narrow)
        with pytest.raises(OSError, match="No space left"):
            append_line(path, "three")
    assert path.read_text() == "one\nzwei \u00fc\n"
