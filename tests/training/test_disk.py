"""The room that a run asks for before its first step is the room that it takes."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import nn

from llmkit.errors import RunError
from llmkit.files import bytes_below
from llmkit.recipe.schema import TrainSection
from llmkit.training import disk
from llmkit.training.average import WeightAverage
from llmkit.training.checkpoint import save_checkpoint
from llmkit.training.disk import check_space, count_checkpoints, describe_bytes
from llmkit.training.optim import make_optimizer


class Words(nn.Module):
    """Embeddings, matrices, biases: what optimizers treat in different ways."""

    def __init__(self):
        super().__init__()
        self.words = nn.Embedding(500, 64)
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.LayerNorm(256), nn.Linear(256, 64))

    def forward(self, ids):
        return self.layers(self.words(ids))


@pytest.mark.parametrize(
    "fields",
    [
        {"optimizer": "adamw"},
        {"optimizer": "muon"},
        {"optimizer": "adafactor"},
        {"optimizer": "adamw", "ema_decay": 0.9},
        {"optimizer": "adamw", "precision": "pure-bf16"},
        {"optimizer": "muon", "precision": "pure-bf16"},
    ],
    ids=str,
)
def test_a_checkpoint_is_as_large_as_was_said(fields, tmp_path):
    config, model = TrainSection(steps=1, **fields), Words()
    if config.precision == "pure-bf16":
        model = model.to(torch.bfloat16)
    optimizer = make_optimizer(model, config)
    for group in optimizer.param_groups:
        group["lr"] = 1e-3
    model(torch.arange(8)).sum().backward()
    optimizer.step()
    average = WeightAverage(model, config.ema_decay).tensors() if config.ema_decay else None
    path = save_checkpoint(
        tmp_path,
        1,
        accelerator=Accelerator(cpu=True),
        model=model,
        optimizer=optimizer,
        state={},
        save_model=lambda folder, weights: save_file(model.state_dict(), folder / "model.safetensors"),
        average=average,
    )
    said = disk.weight_bytes(model, config) + disk.optimizer_bytes(model, config)
    assert said == pytest.approx(bytes_below(path), rel=0.05, abs=6000)


def test_only_what_is_trained_counts_for_an_adapter():
    model = Words()
    model.words.requires_grad_(False)
    model.layers.requires_grad_(False)
    model.layers[0].weight.requires_grad_(True)
    model.peft_config = {}
    config = TrainSection(steps=1)
    assert disk.weight_bytes(model, config) == 4 * 64 * 256
    assert disk.optimizer_bytes(model, config) == 8 * 64 * 256


@pytest.mark.parametrize(
    ("fields", "saves", "staying"),
    [
        ({"save_every": 10, "keep_last": 2}, 10, 2),
        ({"save_every": 0}, 1, 1),
        ({"save_every": 30, "keep_last": 9}, 4, 4),
        ({"save_every": 10, "keep_last": 1, "keep_every": 20}, 10, 6),
        ({"save_every": 10, "keep_last": 1, "keep_best": 3}, 10, 4),
    ],
    ids=str,
)
def test_checkpoints_are_counted(fields, saves, staying):
    assert count_checkpoints(TrainSection(steps=100, **fields), 100) == (saves, staying)


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes are free."""
    return lambda count: monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=count))


def test_a_run_that_does_not_fit_is_refused_with_numbers_and_what_to_change(tmp_path, free):
    model = nn.Linear(1000, 1000, bias=False)  # 4 MB, and 8 MB of AdamW
    config = TrainSection(steps=100, save_every=10, keep_last=2)
    free(36_000_000)  # two that stay and a new one
    check_space(tmp_path / "run", model, config, num_steps=100)
    free(35_999_999)
    with pytest.raises(RunError) as caught:
        check_space(tmp_path / "run", model, config, num_steps=100)
    assert caught.value.message == (
        "checkpoints of 12.0 MB, of which 2 stay, and a result of 4.0 MB need 36.0 MB; 36.0 MB are free"
    )
    assert "train.keep_last" in caught.value.fix


def test_what_a_run_has_on_the_disk_already_is_not_asked_for_again(tmp_path, free):
    model = nn.Linear(1000, 1000, bias=False)
    folder = tmp_path / "checkpoints" / "step-00000010"
    folder.mkdir(parents=True)
    (folder / "optimizer.safetensors").write_bytes(bytes(12_000_000))
    free(24_000_000)
    check_space(tmp_path, model, TrainSection(steps=100, save_every=10, keep_last=2), num_steps=100)


def test_a_result_of_one_save_needs_room_beside_the_checkpoint(tmp_path, free):
    model = nn.Linear(1000, 1000, bias=False)
    free(16_000_000)
    check_space(tmp_path, model, TrainSection(steps=10, save_every=0), num_steps=10)
    free(15_999_999)
    with pytest.raises(RunError, match=r"need 16.0 MB"):
        check_space(tmp_path, model, TrainSection(steps=10, save_every=0), num_steps=10)


def test_bytes_are_told_as_people_say_them():
    assert [describe_bytes(n) for n in (2_340_000_000, 41_000_000, 900)] == ["2.3 GB", "41.0 MB", "1 kB"]
