"""What a signal does to a run."""

from __future__ import annotations

import os
import signal

import pytest

from llmkit.training.signals import StopRequest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_asks_for_an_end_and_the_old_handler_comes_back(number):
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert stop.name is None
        os.kill(os.getpid(), number)
        assert stop.name == number.name
    assert signal.getsignal(number) is before


def test_a_signal_in_an_inner_block_is_the_outer_ones_too():
    before = signal.getsignal(signal.SIGINT)  # a shell lets what it starts in the background ignore it
    with StopRequest() as ladder:
        with StopRequest() as run:
            os.kill(os.getpid(), signal.SIGINT)
        assert (run.name, ladder.name) == ("SIGINT", "SIGINT")
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_ends_the_program_at_once():
    with StopRequest():
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_program_has_exit_code_130(run_cli, tmp_path, monkeypatch):
    def interrupted(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("llmkit.training.loop.train", interrupted)
    assert run_cli("baseline", "tiny/baseline-mlp", "--output", tmp_path / "run").exit_code == 130
