"""A cache that a killed process left half-written costs a warning and a compilation, not the run."""

from __future__ import annotations

import os

import pytest
import torch
from torch._inductor.exc import InductorError

from llmkit.errors import RunError
from llmkit.training.compiling import CACHE_VARIABLE, with_whole_cache


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path))
    return tmp_path


def fail():
    raise InductorError(ImportError("x.so: file too short"), torch.compile)


def test_a_damaged_cache_is_left_and_the_work_done_again(cache, capsys):
    places = []

    def compile_it():
        places.append(os.environ[CACHE_VARIABLE])
        if len(places) == 1:
            fail()

    with_whole_cache(compile_it)
    assert places[0] == str(cache) != places[1]
    assert str(cache) in capsys.readouterr().err


def test_a_compiler_that_never_works_is_an_error_that_says_how_to_do_without(cache):
    with pytest.raises(RunError) as error:
        with_whole_cache(fail)
    assert "train.compile=false" in error.value.fix


def test_other_errors_are_not_tried_again(cache):
    calls = []

    def wrong():
        calls.append(1)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        with_whole_cache(wrong)
    assert len(calls) == 1
