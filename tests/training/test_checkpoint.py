"""A checkpoint is whole or absent, and every damage is found."""

from __future__ import annotations

import math
import random

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from llmkit.errors import RunError
from llmkit.files import sha256_of
from llmkit.training import checkpoint, disk
from llmkit.training.checkpoint import (
    find_damage,
    newest_checkpoint,
    prune_checkpoints,
    read_average,
    read_state,
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


def save(folder, step, trained, average=None):
    model, optimizer = trained
    return save_checkpoint(
        folder,
        step,
        accelerator=Accelerator(cpu=True),
        model=model,
        optimizer=optimizer,
        state={"seconds": 1.0},
        save_model=lambda path, weights: save_file(model.state_dict(), path / "model.safetensors"),
        average=average,
    )


def steps_in(folder):
    return [int(path.name[5:]) for path in sorted(folder.iterdir())]


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


class FullDisk:
    """A writer of tensors that finds the disk full so many times."""

    def __init__(self, times):
        self.left = times

    def __call__(self, tensors, path):
        self.left -= 1
        if self.left >= 0:
            path.write_bytes(b"half")
            raise Exception("I/O error: No space left on device (os error 28)")
        save_file(tensors, path)


@pytest.fixture
def full_disk(monkeypatch):
    monkeypatch.setattr(disk, "WAITS", (0.0, 0.0))

    def fill(times):
        monkeypatch.setattr(checkpoint, "save_file", FullDisk(times))

    return fill


def test_a_save_on_a_full_disk_leaves_the_one_before_and_no_litter(tmp_path, trained, full_disk):
    save(tmp_path, 1, trained)
    full_disk(times=3)
    with pytest.raises(RunError, match="No space left on device") as caught:
        save(tmp_path, 2, trained)
    assert "run the same command again" in caught.value.fix
    assert steps_in(tmp_path) == [1]
    assert find_damage(tmp_path / "step-00000001") is None


def test_a_save_waits_for_room_and_says_so(tmp_path, trained, full_disk, capsys):
    full_disk(times=2)
    assert find_damage(save(tmp_path, 2, trained)) is None
    assert steps_in(tmp_path) == [2]
    assert capsys.readouterr().err.count("trying again in 0.0 s") == 2


def test_other_errors_of_the_system_are_not_tried_again(tmp_path, trained, monkeypatch):
    calls = []

    def broken(tensors, path):
        calls.append(path)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(checkpoint, "save_file", broken)
    with pytest.raises(OSError, match="Input/output"):
        save(tmp_path, 2, trained)
    assert (len(calls), list(tmp_path.iterdir())) == (1, [])


def test_a_step_that_has_a_whole_checkpoint_is_not_written_again(tmp_path, trained):
    first = save(tmp_path, 2, trained).stat().st_ino
    assert save(tmp_path, 2, trained).stat().st_ino == first
    (tmp_path / "step-00000002" / "state.json").unlink()
    assert save(tmp_path, 2, trained).stat().st_ino != first
    assert {p.name for p in tmp_path.iterdir()} == {"step-00000002", "damaged-step-00000002"}


def test_each_file_is_read_once_to_find_the_newest_whole_checkpoint(tmp_path, trained, monkeypatch):
    for step in (1, 2):
        save(tmp_path, step, trained)
    read = []
    monkeypatch.setattr(checkpoint, "sha256_of", lambda path: [read.append(path), sha256_of(path)][1])
    assert newest_checkpoint(tmp_path).name == "step-00000002"
    assert sorted(path.name for path in read) == ["model.safetensors", "optimizer.safetensors", "state.json"]
    assert {path.parent.name for path in read} == {"step-00000002"}


def test_steps_are_in_the_order_of_their_numbers(tmp_path, trained):
    for step in (99_999_999, 100_000_000):
        save(tmp_path, step, trained)
    assert read_state(newest_checkpoint(tmp_path))["step"] == 100_000_000


def test_the_average_comes_back_as_it_was(tmp_path, trained):
    average = {name: torch.randn_like(p) for name, p in trained[0].named_parameters()}
    path = save(tmp_path, 1, trained, average)
    assert find_damage(path) is None
    found = read_average(path)
    assert found.keys() == average.keys()
    assert all(torch.equal(found[name], average[name]) for name in average)
    assert read_average(save(tmp_path, 2, trained)) is None


def test_what_was_restored_does_not_depend_on_its_file(tmp_path, trained):
    model, optimizer = trained
    path = save(tmp_path, 1, trained)
    fresh = torch.optim.AdamW(model.parameters(), lr=0.1)
    restore_from(path, model=model, optimizer=fresh)
    file = path / "optimizer.safetensors"
    with file.open("r+b") as open_file:
        open_file.write(bytes(file.stat().st_size))
    for p in model.parameters():
        assert torch.equal(fresh.state[p]["exp_avg"], optimizer.state[p]["exp_avg"])


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"keep_last": 2}, [5, 6]),
        ({"keep_last": 1, "keep_every": 2}, [2, 4, 6]),
        ({"keep_last": 1, "keep_best": 2}, [1, 3, 6]),
        ({"keep_last": 9}, [1, 2, 3, 4, 5, 6]),
        ({"keep_last": 1, "keep_every": 4, "keep_best": 1}, [3, 4, 6]),
    ],
    ids=str,
)
def test_what_is_asked_for_stays_and_all_else_goes(tmp_path, trained, rule, kept):
    for step in range(1, 7):
        save(tmp_path, step, trained)
    (tmp_path / ".step-00000004.77.tmp").mkdir()
    # Step 2 was never measured, step 5 came to nothing, and of step 7 there is no checkpoint.
    losses = {1: 2.0, 3: 1.0, 4: 3.0, 5: math.nan, 6: 4.0, 7: 0.5}
    prune_checkpoints(tmp_path, **rule, best=losses)
    assert steps_in(tmp_path) == kept


def test_an_old_checkpoint_that_cannot_go_costs_a_warning(tmp_path, trained, monkeypatch, capsys):
    for step in (1, 2):
        save(tmp_path, step, trained)
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "remove_entry", lambda path: (_ for _ in ()).throw(OSError(16, "Device busy")))
        prune_checkpoints(tmp_path, keep_last=1)
    assert "Device busy" in capsys.readouterr().err
    assert newest_checkpoint(tmp_path).name == "step-00000002"
    assert steps_in(tmp_path) == [2]


def test_weights_that_are_whole_are_not_gathered(trained):
    assert whole_weights(trained[0]) is None
