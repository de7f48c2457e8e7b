"""SIGTERM, SIGINT and SIGUSR1 at any time: the step in hand is saved, the exit code is 75, and nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time

import pytest
from forks import ENVIRONMENT
from trainers import differences, outcome
from trials import STOPPED, stop

STEPS = {"pretrain": 30, "lora": 30, "mlp": 300}
"""So many that the run is not over before the last signal comes."""


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("seed", range(2))
def test_a_signal_at_any_time_stops_with_a_checkpoint(name, seed, disturbed):
    trial = disturbed(name, steps=STEPS[name], save_every=0)
    verdicts = list(stop(trial, random.Random(f"{name} {seed}"), count=6))
    assert [verdict for verdict in verdicts if verdict.problem] == []
    assert len(verdicts) > 1


def test_the_program_itself_stops_with_a_checkpoint(forks, trainers, undisturbed, tmp_path):
    fields = {"steps": STEPS["mlp"], "save_every": 0}
    expected, _ = undisturbed("mlp", **fields)
    run = tmp_path / "run"
    command = trainers["mlp"].command(run, **fields)
    process = subprocess.Popen(
        [sys.executable, "-m", "llmkit", *command], env={**os.environ, **ENVIRONMENT}, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while not (run / "metrics.jsonl").exists() and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=60)
    assert (process.returncode, "run the same command again" in said) == (STOPPED, True), said
    assert forks.run(*command, log=tmp_path / "log")["code"] == 0
    assert differences(expected, outcome(run)) == []
