"""The one loop: a step does not depend on how it is split, and a run goes on as if nothing had happened."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from llmkit.batch import IGNORE_INDEX
from llmkit.errors import RunError, UsageError
from llmkit.losses import causal_lm_loss_sum, classification_loss_sum
from llmkit.recipe.schema import PretrainRecipe, TrainSection
from llmkit.training.job import start_job
from llmkit.training.loop import plan_steps, train
from llmkit.training.run import open_run


class RaggedRows:
    """Rows of 3 to 12 ids with some targets masked, padded on the right."""

    def __init__(self, count=24):
        generator = torch.Generator().manual_seed(0)
        self.rows = [torch.randint(5, 290, (3 + i % 10,), generator=generator) for i in range(count)]
        self.lengths = [len(row) for row in self.rows]

    def __len__(self):
        return len(self.rows)

    def batch(self, indices):
        longest = max(self.lengths[i] for i in indices)
        ids = torch.zeros(len(indices), longest, dtype=torch.int64)
        targets = torch.full_like(ids, IGNORE_INDEX)
        for place, index in enumerate(indices):
            row = self.rows[index]
            ids[place, : len(row)] = row
            targets[place, index % 3 : len(row)] = row[index % 3 :]
        return {"input_ids": ids, "targets": targets}


class LabelledRows:
    """Thirty points with three classes."""

    lengths = None

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(30, 4, generator=generator)
        self.targets = torch.arange(30) % 3

    def __len__(self):
        return 30

    def batch(self, indices):
        return {"inputs": self.inputs[indices], "targets": self.targets[indices]}


def run_training(folder, model, rows=None, loss=causal_lm_loss_sum, *, resume=False, stop_after=None, **fields):
    """Train and return (summary, lines of metrics, weights)."""
    from safetensors.torch import load_file, save_file

    config = TrainSection(**{"steps": 6, "batch_size": 8, "lr": 1e-2, "warmup_steps": 2, "precision": "fp32", **fields})
    accelerator = start_job(config)
    rows = rows or RaggedRows()
    if stop_after is not None:
        rows = FailingRows(rows, stop_after * config.batch_size)
    with open_run(folder, PretrainRecipe(train=config), accelerator, resume=resume) as run:
        summary = train(
            model,
            rows,
            loss,
            config,
            run,
            accelerator=accelerator,
            save_model=lambda path, weights: save_file(
                dict(model.state_dict()) | tied(model), path / "model.safetensors"
            ),
            load_model=lambda path: model.load_state_dict(load_file(path / "model.safetensors")),
        )
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return summary, lines, {name: tensor.clone() for name, tensor in model.state_dict().items()}


def tied(model):
    """safetensors refuses two names for one memory."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


class CrashError(Exception):
    """Stands for the plug being pulled."""


class FailingRows:
    """Rows that break after so many were read."""

    def __init__(self, rows, limit):
        self.rows, self.limit, self.read, self.lengths = rows, limit, 0, rows.lengths

    def __len__(self):
        return len(self.rows)

    def batch(self, indices):
        self.read += len(indices)
        if self.read > self.limit:
            raise CrashError
        return self.rows.batch(indices)


@pytest.fixture
def make_model(tiny_tokenizer):
    from llmkit.models.causal_lm import build_causal_lm
    from llmkit.recipe.schema import ModelSection

    def make(dropout=0.0):
        overrides = {"attention_dropout": dropout}
        section = ModelSection(num_layers=2, hidden_size=32, num_heads=2, overrides=overrides)
        return build_causal_lm(section, vocab_size=300, seq_len=64, tokenizer=tiny_tokenizer, seed=0)

    return make


def test_how_a_batch_is_split_changes_neither_loss_nor_gradient(tmp_path, make_model):
    _, whole, _ = run_training(tmp_path / "a", make_model(), micro_batch_size=8)
    _, split, _ = run_training(tmp_path / "b", make_model(), micro_batch_size=3)
    for key in ("loss", "grad_norm"):
        assert [line[key] for line in split] == pytest.approx([line[key] for line in whole], abs=2e-5)


def test_a_classifier_goes_through_the_same_loop(tmp_path):
    results = []
    for size in (8, 2):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 3))
        loss = classification_loss_sum
        _, lines, _ = run_training(tmp_path / str(size), model, LabelledRows(), loss, micro_batch_size=size)
        results.append([line["loss"] for line in lines])
    assert results[0] == pytest.approx(results[1], abs=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_crashed_run_continues_to_the_same_last_bit(tmp_path, make_model, optimizer):
    fields = {"steps": 10, "save_every": 2, "micro_batch_size": 3, "optimizer": optimizer}
    _, lines, weights = run_training(tmp_path / "whole", make_model(0.2), **fields)
    with pytest.raises(CrashError):
        run_training(tmp_path / "killed", make_model(0.2), stop_after=5, **fields)
    summary, resumed_lines, resumed = run_training(tmp_path / "killed", make_model(0.2), **fields)
    assert summary.status == "finished"
    assert [line["loss"] for line in resumed_lines] == [line["loss"] for line in lines]
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_a_damaged_checkpoint_is_set_aside_and_the_one_before_is_taken(tmp_path, make_model, capsys):
    fields = {"steps": 8, "save_every": 2}
    _, _, weights = run_training(tmp_path / "whole", make_model(), **fields)
    with pytest.raises(CrashError):
        run_training(tmp_path / "run", make_model(), stop_after=5, **fields)
    newest = tmp_path / "run/checkpoints/step-00000004/optimizer.safetensors"
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)
    _, _, resumed = run_training(tmp_path / "run", make_model(), **fields)
    assert "damaged" in capsys.readouterr().err
    assert (tmp_path / "run/checkpoints/damaged-step-00000004").is_dir()
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)


def test_nothing_is_updated_from_a_loss_that_is_not_finite(tmp_path, make_model):
    model = make_model()
    before = model.state_dict()["model.norm.weight"].clone()

    def poisoned(model, batch):
        return causal_lm_loss_sum(model, batch) * float("nan")

    with pytest.raises(RunError, match="no update was made"):
        run_training(tmp_path / "run", model, loss=poisoned)
    assert torch.equal(model.state_dict()["model.norm.weight"], before)


def test_another_recipe_in_the_same_folder_is_refused_with_the_differences(tmp_path, make_model):
    run_training(tmp_path / "run", make_model(), steps=2)
    with pytest.raises(UsageError, match=r"train.lr: 0.01 -> 0.02"):
        run_training(tmp_path / "run", make_model(), steps=2, lr=0.02)


def test_resume_may_make_a_run_longer(tmp_path, make_model):
    run_training(tmp_path / "run", make_model(), steps=2)
    with pytest.raises(UsageError, match="another run"):
        run_training(tmp_path / "run", make_model(), steps=4)
    summary, lines, _ = run_training(tmp_path / "run", make_model(), steps=4, resume=True)
    assert (summary.step, [line["step"] for line in lines]) == (4, [1, 2, 3, 4])


def test_every_row_is_seen_once_in_an_epoch(tmp_path):
    seen = []
    rows = LabelledRows()
    original = rows.batch
    rows.batch = lambda indices: (seen.extend(indices), original(indices))[1]
    torch.manual_seed(0)
    run_training(tmp_path / "run", nn.Linear(4, 3), rows, classification_loss_sum, steps=None, epochs=1)
    assert sorted(seen) == list(range(30))


def test_steps_follow_from_epochs_and_rows():
    assert plan_steps(TrainSection(epochs=2, batch_size=8), 30) == 8
    assert plan_steps(TrainSection(steps=5, batch_size=8), 30) == 5


def test_a_longer_run_that_stops_is_not_taken_for_finished(tmp_path, make_model):
    run_training(tmp_path / "run", make_model(), steps=2)
    with pytest.raises(CrashError):
        run_training(tmp_path / "run", make_model(), steps=6, resume=True, stop_after=2)
    summary, _, _ = run_training(tmp_path / "run", make_model(), steps=6)
    assert (summary.status, summary.step) == ("finished", 6)


def test_a_run_cannot_be_made_shorter_than_it_is(tmp_path, make_model):
    run_training(tmp_path / "run", make_model(), steps=4)
    with pytest.raises(UsageError, match="has 4 steps behind it"):
        run_training(tmp_path / "run", make_model(), steps=2, resume=True)


def test_a_result_that_a_crash_left_half_replaced_is_replaced(tmp_path, make_model):
    run_training(tmp_path / "run", make_model(), steps=2)
    for name in (".model.old", ".model.new"):
        (tmp_path / "run" / name).mkdir()
        (tmp_path / "run" / name / "model.safetensors").write_text("left")
    summary, _, _ = run_training(tmp_path / "run", make_model(), steps=3, resume=True)
    assert summary.step == 3
    assert not list((tmp_path / "run").glob(".model*"))


def test_processes_make_equally_many_forwards():
    from types import SimpleNamespace

    from llmkit.training.step import Loop

    config = TrainSection(steps=1, batch_size=5, micro_batch_size=2)
    for rank in range(2):
        job = SimpleNamespace(num_processes=2, process_index=rank)
        loop = Loop(None, None, RaggedRows(), config, job, num_steps=1)
        assert len(loop.micro_batches(0)) == 2
