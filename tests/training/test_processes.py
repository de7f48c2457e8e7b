"""Two processes: the same rows as one, and what happens when one of them is lost."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import EXTEND, UnevenRows, classify, losses_of, read_lines

LAUNCHER = """
import atexit, json, os, sys, time, traceback
import torch, torch._dynamo, torch.distributed.checkpoint.state_dict
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from small_runs import CrashError, LabelledRows, UnevenRows, classify
from llmkit.cli import tell_error
from llmkit.errors import LlmkitError
from llmkit.losses import classification_loss_sum
from llmkit.recipe.schema import TrainSection
from llmkit.training.job import on_main_process, start_job
from llmkit.training.run import RunOptions


class Rows(LabelledRows):
    what, asked = "plain", 0

    def batch(self, indices):
        self.asked += 1
        if self.what == "slow":
            time.sleep(0.05)
        if os.environ["RANK"] == "1" and self.asked == 20:
            if self.what == "raise":
                raise CrashError("row 17 is broken")
            if self.what == "stall":
                time.sleep(1000)
        return super().batch(indices)


def work(what, output, fields):
    if what == "slow-main":
        accelerator = start_job(TrainSection(precision="fp32"))
        assert on_main_process(accelerator, lambda: (time.sleep(8), "tokens")[1]) == "tokens"
        return 0
    rows = UnevenRows() if what == "uneven" else Rows()
    rows.what = what
    if what == "count":
        count_exchanges()
    options = RunOptions(extend=Path(output).exists())

    def loss(model, batch):
        is_bad = what == "poison" and os.environ["RANK"] == "1" and rows.asked > 12
        return classification_loss_sum(model, batch) * (float("nan") if is_bad else 1)

    try:
        classify(Path(output), rows=rows, loss=loss, options=options, schedule="constant", **fields)
    except LlmkitError as error:
        tell_error(error, wants_json=False)
        return error.exit_code
    return 0


def count_exchanges():
    # Say on stderr each time that gradients go over to the other processes.
    from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
    from torch.nn.parallel import DistributedDataParallel

    wrap = DistributedDataParallel.__init__

    def exchange(state, bucket):
        print("gradients exchanged", file=sys.stderr)
        return allreduce_hook(state, bucket)

    def wrap_counting(self, *arguments, **options):
        wrap(self, *arguments, **options)
        self.register_comm_hook(None, exchange)

    DistributedDataParallel.__init__ = wrap_counting


def start(request):
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.dup2(os.open(request["stderr"], os.O_WRONLY | os.O_CREAT), 2)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.environ.update(request["env"])
        code = work(request["what"], request["output"], request["fields"])
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        os._exit(code)


def poll(pid):
    ended, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if ended else None


for line in sys.stdin:
    request = json.loads(line)
    answer = start(request) if "what" in request else poll(request["poll"])
    sys.stdout.write(json.dumps(answer) + chr(10))
    sys.stdout.flush()
"""


@pytest.fixture(scope="module")
def ask():
    """Ask a process that has imported torch to fork another one, or how one has ended."""
    command = [sys.executable, "-c", LAUNCHER, str(Path(__file__).parent)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(**request):
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    yield ask
    process.kill()
    process.communicate()


class Job:
    """Processes that work together, started without a launcher that would tidy up after them."""

    def __init__(self, ask, output, what="plain", *, processes=2, env=None, **fields):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        size = str(processes)
        shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": size, "LOCAL_WORLD_SIZE": size}
        self.ask, self.output, self.codes = ask, output, {}
        self.logs = [output.with_name(f"{output.name}.{rank}.{what}.log") for rank in range(processes)]
        self.pids = [
            ask(
                what=what,
                output=str(output),
                fields=fields,
                stderr=str(log),
                env={**shared, **(env or {}), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            )
            for rank, log in enumerate(self.logs)
        ]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        for rank in range(len(self.pids)):
            if self.code(rank) is None:
                os.kill(self.pids[rank], signal.SIGKILL)
                self.end(rank)

    def code(self, rank):
        if rank not in self.codes:
            code = self.ask(poll=self.pids[rank])
            if code is None:
                return None
            self.codes[rank] = code
        return self.codes[rank]

    def send(self, rank, number):
        os.kill(self.pids[rank], number)

    def wait_for_step(self, step):
        path = self.output / "metrics.jsonl"
        while not path.exists() or len(path.read_text().splitlines()) < step:
            for rank, log in enumerate(self.logs):
                assert self.code(rank) is None, log.read_text()
            time.sleep(0.05)

    def end(self, rank, seconds=60):
        """(exit code, what was said, seconds) of a process."""
        begin = time.monotonic()
        while self.code(rank) is None:
            assert time.monotonic() - begin < seconds, self.logs[rank].read_text()
            time.sleep(0.02)
        return self.code(rank), self.logs[rank].read_text(), time.monotonic() - begin


def finish(ask, output, **options):
    with Job(ask, output, **options) as job:
        for rank in range(len(job.pids)):
            code, stderr, _ = job.end(rank, seconds=120)
            assert code == 0, stderr
    return losses_of(read_lines(output))


FIELDS = {"schedule": "constant"}


def test_one_process_and_four_see_the_same_rows(ask, tmp_path):
    _, one, _ = classify(tmp_path / "one", **FIELDS)
    four = finish(ask, tmp_path / "four", processes=4, steps=6)
    assert four == pytest.approx(losses_of(one), abs=1e-5)


def test_targets_are_counted_over_all_processes_however_they_fall(ask, tmp_path):
    _, one, expected = classify(tmp_path / "one", rows=UnevenRows(), **FIELDS)
    finish(ask, tmp_path / "two", what="uneven", steps=6)
    two = read_lines(tmp_path / "two")
    # Adam takes the same step at any scale of the gradient, its norm tells the scale.
    for name in ("loss", "grad_norm"):
        assert [line[name] for line in two] == pytest.approx([line[name] for line in one], abs=1e-5)
    saved = load_file(tmp_path / "two/model/model.safetensors")
    assert all(torch.allclose(saved[name], expected[name], atol=1e-5) for name in expected)


def test_gradients_are_exchanged_once_a_step_however_many_micro_batches_there_are(ask, tmp_path):
    # 8 rows on two processes, one at a time: four times forward and backward in each.
    with Job(ask, tmp_path / "run", "count", steps=3, micro_batch_size=1) as job:
        for rank in range(2):
            code, stderr, _ = job.end(rank)
            assert code == 0, stderr
            assert stderr.count("gradients exchanged") == 3


@pytest.mark.parametrize("first", [1, 2])
def test_a_run_goes_on_with_another_number_of_processes(ask, tmp_path, first):
    fields = {**FIELDS, "ema_decay": 0.5}
    _, whole, expected = classify(tmp_path / "whole", **fields)
    if first == 1:
        classify(tmp_path / "run", steps=3, **fields)
        losses = finish(ask, tmp_path / "run", steps=6, ema_decay=0.5)
    else:
        finish(ask, tmp_path / "run", steps=3, ema_decay=0.5)
        _, lines, _ = classify(tmp_path / "run", options=EXTEND, **fields)
        losses = losses_of(lines)
    assert losses == pytest.approx(losses_of(whole), abs=1e-5)
    saved = [load_file(tmp_path / name / "model/model.safetensors") for name in ("whole", "run")]
    assert all(torch.allclose(saved[0][name], saved[1][name], atol=1e-5) for name in expected)


def test_a_process_that_is_killed_ends_the_job_and_is_named(ask, tmp_path):
    with Job(ask, tmp_path / "run", "slow", steps=2000, save_every=5) as job:
        job.wait_for_step(6)
        job.send(1, signal.SIGKILL)
        code, stderr, seconds = job.end(0)
    assert code == 2, stderr
    assert "process 1 has died or hangs" in stderr
    assert seconds < 15
    assert (tmp_path / "run/checkpoints").is_dir()


def test_a_process_that_is_stopped_ends_the_job_and_is_named(ask, tmp_path):
    with Job(ask, tmp_path / "run", "slow", env={"LLMKIT_SILENCE_SECONDS": "3"}, steps=2000) as job:
        job.wait_for_step(3)
        job.send(0, signal.SIGSTOP)
        code, stderr, seconds = job.end(1)
    assert code == 2, stderr
    assert "rank 1: error: process 0" in stderr
    assert "has died or hangs: no sign of life" in stderr
    assert seconds < 15


def test_a_process_that_raises_ends_the_job_and_is_named_with_its_error(ask, tmp_path):
    with Job(ask, tmp_path / "run", "raise", steps=2000) as job:
        code, stderr, _ = job.end(0)
        assert code == 2, stderr
        assert "process 1 ended with an error: CrashError: row 17 is broken" in stderr
        code, stderr, _ = job.end(1)
        assert code == 1
        assert "CrashError: row 17 is broken" in stderr


def test_a_process_that_lives_but_does_not_go_on_is_named_when_the_message_times_out(ask, tmp_path):
    with Job(ask, tmp_path / "run", "stall", env={"LLMKIT_TIMEOUT_SECONDS": "6"}, steps=2000) as job:
        code, stderr, _ = job.end(0)
        assert code == 2, stderr
        assert "process 1 is at step" in stderr


def test_a_signal_to_one_process_stops_all_with_a_checkpoint(ask, tmp_path):
    with Job(ask, tmp_path / "run", "slow", steps=2000) as job:
        job.wait_for_step(3)
        job.send(1, signal.SIGTERM)
        ends = [job.end(rank) for rank in range(2)]
    assert [code for code, _, _ in ends] == [0, 0], ends
    assert len(list((tmp_path / "run/checkpoints").glob("step-*"))) == 1
    assert not (tmp_path / "run/summary.json").exists()


def test_a_loss_that_is_not_finite_on_one_process_ends_all_and_is_placed(ask, tmp_path):
    with Job(ask, tmp_path / "run", "poison", steps=40) as job:
        ends = [job.end(rank) for rank in range(2)]
    steps = {re.search(r"step (\d+): loss nan", stderr)[1] for _, stderr, _ in ends}
    assert len(steps) == 1, ends
    for code, stderr, _ in ends:
        assert code == 2
        assert re.search(r"rows of process 0: \[[\d, ]+\]; process 1: \[[\d, ]+\] \(not finite here\)", stderr.lower())


def test_slow_work_of_the_main_process_trips_no_timeout(ask, tmp_path):
    limits = {"LLMKIT_TIMEOUT_SECONDS": "5", "LLMKIT_SILENCE_SECONDS": "5"}
    with Job(ask, tmp_path / "none", "slow-main", env=limits) as job:
        for rank in range(2):
            code, stderr, _ = job.end(rank)
            assert code == 0, stderr
