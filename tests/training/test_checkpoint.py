"""A checkpoint is whole or absent, and every damage is found."""

from __future__ import annotations

import random

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from llmkit.training.checkpoint import (
    find_damage,
    newest_checkpoint,
    prune_checkpoints,
    restore_from,
    save_checkpoint,
    whole_weights,
)


@pytest.fixture
def trained():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(3, 4)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    return model, optimizer


def save(folder, step, trained):
    model, optimizer = trained
    return save_checkpoint(
        folder,
        step,
        accelerator=Accelerator(cpu=True),
        model=model,
        optimizer=optimizer,
        state={"seconds": 1.0},
        save_model=lambda path, weights: save_file(model.state_dict(), path / "model.safetensors"),
    )


def test_a_saved_checkpoint_is_whole_and_holds_no_pickle(tmp_path, trained):
    path = save(tmp_path, 3, trained)
    assert find_damage(path) is None
    assert {p.name for p in path.iterdir()} == {
        "model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"
    }  # fmt: skip


def test_the_optimizer_comes_back_to_the_last_bit(tmp_path, trained):
    model, optimizer = trained
    path = save(tmp_path, 3, trained)
    fresh = torch.optim.AdamW(model.parameters(), lr=0.1)
    restore_from(path, model=model, optimizer=fresh)
    for p in model.parameters():
        assert fresh.state[p].keys() == optimizer.state[p].keys()
        assert all(torch.equal(fresh.state[p][k], optimizer.state[p][k]) for k in fresh.state[p])


def test_any_flipped_bit_in_any_file_is_found(tmp_path, trained):
    path = save(tmp_path, 3, trained)
    chance = random.Random(0)
    for file in path.iterdir():
        original = file.read_bytes()
        for _ in range(60):
            data = bytearray(original)
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
            file.write_bytes(data)
            assert find_damage(path), file.name
        file.write_bytes(original)
    assert find_damage(path) is None


def test_a_missing_or_shortened_file_is_found(tmp_path, trained):
    path = save(tmp_path, 3, trained)
    for file in sorted(path.iterdir()):
        original = file.read_bytes()
        file.unlink()
        assert "missing" in find_damage(path)
        file.write_bytes(original[:-1])
        assert find_damage(path)
        file.write_bytes(original)


def test_a_damaged_checkpoint_is_set_aside_under_another_name(tmp_path, trained):
    save(tmp_path, 1, trained)
    (save(tmp_path, 2, trained) / "state.json").unlink()
    assert newest_checkpoint(tmp_path).name == "step-00000001"
    (save(tmp_path, 2, trained) / "state.json").unlink()
    assert newest_checkpoint(tmp_path).name == "step-00000001"
    assert {p.name for p in tmp_path.iterdir()} == {
        "step-00000001", "damaged-step-00000002", "damaged-step-00000002-1"
    }  # fmt: skip


def test_a_save_that_fails_leaves_the_one_before_and_no_litter(tmp_path, trained, monkeypatch):
    save(tmp_path, 1, trained)

    def full(*arguments, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("llmkit.training.checkpoint.save_file", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2, trained)
    assert [p.name for p in tmp_path.iterdir()] == ["step-00000001"]
    assert find_damage(tmp_path / "step-00000001") is None


def test_only_the_newest_stay(tmp_path, trained):
    for step in (1, 2, 3):
        save(tmp_path, step, trained)
    (tmp_path / ".step-00000004.77.tmp").mkdir()
    prune_checkpoints(tmp_path, keep_last=2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_weights_that_are_whole_are_not_gathered(trained):
    assert whole_weights(trained[0]) is None
