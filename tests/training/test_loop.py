"""The one loop: a step does not depend on how it is split, and a run goes on as if nothing had happened."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from small_runs import (
    EXTEND,
    CrashError,
    LabelledRows,
    RaggedRows,
    classify,
    read_lines,
    run_training,
)
from torch import nn

from llmkit.errors import RecipeError, RunError, UsageError
from llmkit.losses import causal_lm_loss_sum, classification_loss_sum
from llmkit.recipe.schema import TrainSection
from llmkit.training.run import RunOptions
from llmkit.training.step import Loop, plan_steps, rows_per_forward


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


@pytest.mark.parametrize("stopped", [4, 6])
def test_a_run_with_a_deadline_goes_on_at_and_beyond_the_steps_that_were_planned(tmp_path, stopped):
    fields = {"steps": 4, "schedule": "wsd", "save_every": 2, "calls": {"deadline_seconds": 1e6}}
    with pytest.raises(CrashError):
        classify(tmp_path / "run", stop_after=stopped, **fields)
    assert len(read_lines(tmp_path / "run")) == stopped
    with pytest.raises(CrashError):
        classify(tmp_path / "run", stop_after=5, **fields)
    lines = read_lines(tmp_path / "run")
    assert [line["step"] for line in lines] == list(range(1, stopped + 6))
    assert {line["lr"] for line in lines[2:]} == {1e-2}, "there is time for far more steps than will be made"


def test_a_run_goes_on_with_another_split_of_its_batches_and_says_so(tmp_path, make_model, capsys):
    fields = {"steps": 6, "save_every": 2}
    _, whole, _ = run_training(tmp_path / "whole", make_model(), **fields)
    with pytest.raises(CrashError):
        run_training(tmp_path / "run", make_model(), stop_after=3, **fields)
    changed = {**fields, "micro_batch_size": 3, "save_every": 5, "gradient_checkpointing": True}
    with pytest.raises(UsageError, match=r"not to the same last bit: train.micro_batch_size: None -> 3; train.grad"):
        run_training(tmp_path / "run", make_model(), options=RunOptions(require_exact=True), **changed)
    _, lines, _ = run_training(tmp_path / "run", make_model(), **changed)
    assert [line["loss"] for line in lines] == pytest.approx([line["loss"] for line in whole], abs=2e-5)
    told = capsys.readouterr().err
    assert "continuing from" in told
    assert "; from here on train.save_every: 2 -> 5\n" in told
    assert "continues, not bit-identical: train.micro_batch_size: None -> 3; train.gradient_checkpointing: " in told
    assert "micro_batch_size: 3" in (tmp_path / "run/recipe.yaml").read_text()
    parts = json.loads((tmp_path / "run/environment.json").read_text())["parts"]
    assert len(parts[-1]["not_bit_identical"]) == 2


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


def test_extend_may_make_a_run_longer(tmp_path, make_model):
    run_training(tmp_path / "run", make_model(), steps=2)
    with pytest.raises(UsageError, match="another run"):
        run_training(tmp_path / "run", make_model(), steps=4)
    with pytest.raises(UsageError, match=r"train.lr: 0.01 -> 0.02"):
        run_training(tmp_path / "run", make_model(), steps=4, lr=0.02, options=EXTEND)
    summary, lines, _ = run_training(tmp_path / "run", make_model(), steps=4, options=EXTEND)
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
        run_training(tmp_path / "run", make_model(), steps=6, options=EXTEND, stop_after=2)
    summary, _, _ = run_training(tmp_path / "run", make_model(), steps=6)
    assert (summary.status, summary.step) == ("finished", 6)


def test_a_run_cannot_be_made_shorter_than_it_is(tmp_path, make_model):
    run_training(tmp_path / "run", make_model(), steps=4)
    with pytest.raises(UsageError, match="has 4 steps behind it"):
        run_training(tmp_path / "run", make_model(), steps=2, options=EXTEND)
    summary, _, _ = run_training(tmp_path / "run", make_model(), steps=4)
    assert summary.step == 4, "what was refused has changed nothing"


def test_a_result_that_a_crash_left_half_replaced_is_replaced(tmp_path, make_model):
    run_training(tmp_path / "run", make_model(), steps=2)
    for name in (".model.old", ".model.new"):
        (tmp_path / "run" / name).mkdir()
        (tmp_path / "run" / name / "model.safetensors").write_text("left")
    summary, _, _ = run_training(tmp_path / "run", make_model(), steps=3, options=EXTEND)
    assert summary.step == 3
    assert not list((tmp_path / "run").glob(".model*"))


def test_processes_make_equally_many_forwards():
    config = TrainSection(steps=1, batch_size=5, micro_batch_size=2)
    for rank in range(2):
        job = SimpleNamespace(num_processes=2, process_index=rank, device=torch.device("cpu"))
        loop = Loop(None, None, RaggedRows(), config, job, num_steps=1)
        assert len(loop.micro_batches(0)) == 2


class Stream:
    """Rows without an end, which must be asked for in order."""

    lengths = None
    is_stream = True

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 0

    def batch(self, indices):
        self.asked += indices
        ids = torch.tensor([[(7 * index + place) % 290 for place in range(8)] for index in indices])
        return {"input_ids": ids, "targets": ids}


def test_a_stream_is_read_in_its_own_order_and_goes_on_where_it_was(tmp_path, make_model):
    stream = Stream()
    run_training(tmp_path / "whole", make_model(), stream, micro_batch_size=3, steps=4)
    assert stream.asked[:32] == list(range(32))
    run_training(tmp_path / "parts", make_model(), Stream(), micro_batch_size=3, steps=2, schedule="constant")
    resumed = Stream()
    run_training(
        tmp_path / "parts", make_model(), resumed, micro_batch_size=3, steps=4, schedule="constant", options=EXTEND
    )
    assert resumed.asked[0] == 16


def test_a_stream_has_no_epochs(tmp_path, make_model):
    with pytest.raises(RecipeError, match="no epochs"):
        run_training(tmp_path / "run", make_model(), Stream(), steps=None, epochs=1)


@pytest.mark.parametrize("is_stream", [False, True])
def test_processes_make_equally_many_passes_with_the_number_of_rows_that_auto_has_found(is_stream):
    rows, config = LabelledRows(), TrainSection(steps=1, batch_size=9, micro_batch_size="auto")
    rows.is_stream = is_stream
    sizes, targets = [], 0
    for rank in range(2):
        job = SimpleNamespace(num_processes=2, process_index=rank, device=torch.device("cpu"))
        loop = Loop(nn.Linear(1, 1), None, rows, config, job, 1)
        ready = loop.step_rows(0)
        loop.forward_rows = 2
        split = loop.split_again(0, ready)
        sizes.append(len(split.batches))
        targets += sum(int((batch["targets"] >= 0).sum()) for batch in split.batches)
        assert max(len(batch["targets"]) for batch in split.batches) == 2
    assert sizes == [3, 3], "FSDP gathers weights in every forward pass: one pass more would wait for ever"
    assert targets == 9


def test_whoever_does_not_train_takes_its_share_of_the_batch_at_once(monkeypatch):
    config = TrainSection(steps=1, batch_size=64)
    assert rows_per_forward(config) == 64
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 8)
    assert rows_per_forward(config) == 8
