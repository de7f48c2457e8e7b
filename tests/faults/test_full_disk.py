"""A disk that is really full: a small tmpfs, and a limit on the size of files."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from contextlib import suppress

import pytest
from trainers import differences, litter, outcome, steps_of

FIELDS = {"steps": 40, "save_every": 1}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of four megabytes; only root may have one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(folder)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


class Filler(threading.Thread):
    """Another program's file: from the first sight of something on it takes all room but `left` bytes.

    As a context, until the end of the block or for `seconds`; then the file goes.
    """

    def __init__(self, sight, path, left=0, seconds=60.0):
        super().__init__()
        self.sight, self.path, self.left, self.seconds = sight, path, left, seconds
        self.has_ended = threading.Event()

    def __enter__(self):
        self.start()

    def __exit__(self, *exception):
        self.has_ended.set()
        self.join()

    def run(self):
        while not self.sight.exists() and not self.has_ended.wait(0.001):
            pass
        end = time.monotonic() + self.seconds
        with self.path.open("wb", buffering=0) as file:
            while time.monotonic() < end and not self.has_ended.wait(0.001):
                status = os.statvfs(self.path.parent)
                with suppress(OSError):
                    file.write(bytes(max(0, status.f_bavail * status.f_frsize - self.left)))
        self.path.unlink()


def test_a_run_waits_on_a_full_disk_and_goes_on_when_there_is_room(forks, trainers, undisturbed, small_disk, tmp_path):
    expected, _ = undisturbed("pretrain", **FIELDS)
    run, log = small_disk / "run", tmp_path / "log"
    command = trainers["pretrain"].command(run, **FIELDS)
    with Filler(run / "checkpoints/step-00000003", small_disk / "filler", seconds=1):
        found = forks.run(*command, log=log, fault={"waits": [0.5, 1, 2, 4]})
    said = log.read_text()
    assert "No space left on device" in said
    assert "trying again in 0.5 s" in said
    assert found["code"] == 0, said
    assert differences(expected, outcome(run)) == []
    assert litter(run) == []


@pytest.mark.parametrize("left", [0, 1, 20_000, 100_000, 200_000, 300_000])
def test_a_disk_that_stays_full_ends_the_run_with_a_whole_checkpoint(
    left, forks, trainers, undisturbed, small_disk, tmp_path
):
    expected, _ = undisturbed("pretrain", **FIELDS)
    run, log = small_disk / "run", tmp_path / "log"
    command = trainers["pretrain"].command(run, **FIELDS)
    with Filler(run / "checkpoints/step-00000003", small_disk / "filler", left=left):
        found = forks.run(*command, log=log, fault={"waits": [0.01, 0.01]})
    said = log.read_text()
    assert (found["code"], "Traceback" in said) == (2, False), said
    assert "No space left on device" in said
    assert "run the same command again" in said
    assert steps_of(run)
    assert litter(run) == []
    assert forks.run(*command, log=log)["code"] == 0, log.read_text()
    assert differences(expected, outcome(run)) == []


def test_a_run_that_will_not_fit_says_so_before_its_first_step(forks, trainers, small_disk, tmp_path):
    run, log = small_disk / "run", tmp_path / "log"
    command = trainers["pretrain"].command(run, keep_last=30, **FIELDS)
    assert forks.run(*command, log=log)["code"] == 2
    assert "checkpoints of" in log.read_text()
    assert "train.keep_last" in log.read_text()
    assert not (run / "metrics.jsonl").exists()


@pytest.mark.parametrize("largest", [50_000, 150_000])
def test_a_limit_on_the_size_of_files_is_told_and_leaves_no_half_file(largest, forks, trainers, tmp_path):
    run, log = tmp_path / "run", tmp_path / "log"
    command = trainers["pretrain"].command(run, steps=3)
    found = forks.run(*command, log=log, fault={"largest_file": largest, "waits": [0, 0]})
    assert (found["code"], "Traceback" in log.read_text()) == (2, False), log.read_text()
    assert "File too large" in log.read_text()
    assert steps_of(run) == []
    assert litter(run) == []
    assert forks.run(*command, log=log)["code"] == 0, log.read_text()
