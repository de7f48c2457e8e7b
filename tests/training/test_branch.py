"""A new run that begins at a checkpoint of another one."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from small_runs import classify, losses_of

from llmkit.errors import RunError, UsageError
from llmkit.training import branch
from llmkit.training.run import RunOptions

FIELDS = {"schedule": "wsd", "decay_share": 0.5, "save_every": 4, "keep_last": 9, "min_lr_ratio": 0.0}


@pytest.fixture
def trunk(tmp_path):
    """The checkpoint of step 4 of a run of 16 steps, whose lr does not fall before step 8."""
    classify(tmp_path / "trunk", steps=16, **FIELDS)
    return tmp_path / "trunk/checkpoints/step-00000004"


def test_the_decay_can_begin_at_any_checkpoint(tmp_path, trunk):
    _, lines, weights = classify(tmp_path / "branch", steps=8, options=RunOptions(branch=trunk), **FIELDS)
    assert [line["step"] for line in lines] == list(range(1, 9))
    rates = [line["lr"] for line in lines]
    assert rates[3] == max(rates)
    assert rates[-1] == 0.0
    # What a run of 8 steps from the beginning would have come to: the warm-up and the stable part are the same.
    _, whole_lines, whole = classify(tmp_path / "whole", steps=8, **FIELDS)
    assert losses_of(lines) == losses_of(whole_lines)
    assert all(torch.equal(weights[name], whole[name]) for name in whole)


def test_the_trunk_is_left_as_it_was(tmp_path, trunk):
    before = sorted((path.name, path.stat().st_mtime_ns) for path in trunk.parent.parent.rglob("*"))
    classify(tmp_path / "branch", steps=8, options=RunOptions(branch=trunk), **FIELDS)
    assert sorted((path.name, path.stat().st_mtime_ns) for path in trunk.parent.parent.rglob("*")) == before


def test_the_same_command_again_continues_the_branch(tmp_path, trunk):
    command = {"steps": 8, "options": RunOptions(branch=trunk), **FIELDS}
    _, _, whole = classify(tmp_path / "whole", **command)
    classify(tmp_path / "branch", **command)
    (tmp_path / "branch/summary.json").unlink()
    for name in ("model", "checkpoints/step-00000008"):
        (tmp_path / "branch" / name).rename(tmp_path / "gone" if name == "model" else tmp_path / "gone-too")
    _, lines, weights = classify(tmp_path / "branch", **command)
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert all(torch.equal(weights[name], whole[name]) for name in whole)
    assert load_file(tmp_path / "branch/model/model.safetensors").keys() == whole.keys()
    # Without --branch too, once it has begun; but not from elsewhere.
    (tmp_path / "branch/summary.json").unlink()
    classify(tmp_path / "branch", steps=8, **FIELDS)
    assert "branch" in json.loads((tmp_path / "branch/inputs.json").read_text())
    other = RunOptions(branch=trunk.with_name("step-00000008"))
    with pytest.raises(UsageError, match=r"it began at .*step-00000004, not at .*step-00000008"):
        classify(tmp_path / "branch", steps=8, options=other, **FIELDS)


def test_a_run_that_is_there_is_no_place_for_a_branch(tmp_path, trunk):
    classify(tmp_path / "other", steps=8, **FIELDS)
    with pytest.raises(UsageError, match="it began at step 0"):
        classify(tmp_path / "other", steps=8, options=RunOptions(branch=trunk), **FIELDS)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(UsageError, match="not empty"):
        classify(tmp_path / "full", steps=8, options=RunOptions(branch=trunk), **FIELDS)


def test_a_damaged_checkpoint_is_not_begun_at(tmp_path, trunk):
    path = trunk / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(RunError, match=r"damaged: model.safetensors"):
        classify(tmp_path / "branch", steps=8, options=RunOptions(branch=trunk), **FIELDS)
    # And what the error left behind is no obstacle.
    options = RunOptions(branch=trunk.with_name("step-00000008"))
    summary, _, _ = classify(tmp_path / "branch", steps=12, options=options, **FIELDS)
    assert summary.step == 12


@pytest.mark.parametrize("name", ["nowhere/step-00000004", "trunk", "trunk/model"])
def test_what_is_no_checkpoint_is_told(tmp_path, trunk, name):
    with pytest.raises(UsageError, match="there is no checkpoint to begin at"):
        classify(tmp_path / "branch", options=RunOptions(branch=tmp_path / name))


def test_another_optimizer_has_no_use_for_the_state(tmp_path, trunk):
    with pytest.raises(UsageError, match=r"the state of adamw, and train.optimizer is muon"):
        classify(tmp_path / "branch", optimizer="muon", options=RunOptions(branch=trunk))


def test_a_checkpoint_that_its_run_deletes_meanwhile_is_told(tmp_path, trunk, monkeypatch):
    copy = branch.shutil.copy

    def copy_and_delete(source, target):
        copy(source, target)
        branch.shutil.rmtree(trunk, ignore_errors=True)

    monkeypatch.setattr(branch.shutil, "copy", copy_and_delete)
    with pytest.raises(RunError, match="its run has deleted this checkpoint while it was copied"):
        classify(tmp_path / "branch", steps=8, options=RunOptions(branch=trunk), **FIELDS)
    assert not list((tmp_path / "branch/checkpoints").iterdir())


@pytest.mark.parametrize(("earlier", "later"), [("pure-bf16", "bf16"), ("bf16", "pure-bf16")])
def test_weights_that_the_optimizer_has_of_its_own_are_not_left_over(tmp_path, earlier, later):
    classify(tmp_path / "trunk", steps=8, precision=earlier, **FIELDS)
    options = RunOptions(branch=tmp_path / "trunk/checkpoints/step-00000004")
    with pytest.raises(UsageError, match=f"with precision {earlier}, and train.precision is {later}"):
        classify(tmp_path / "branch", steps=8, precision=later, options=options, **FIELDS)


def test_a_branch_must_be_longer_than_its_beginning(tmp_path, trunk):
    with pytest.raises(UsageError, match="has 4 steps behind it"):
        classify(tmp_path / "branch", steps=3, options=RunOptions(branch=trunk), **FIELDS)
