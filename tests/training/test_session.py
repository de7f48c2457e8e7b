"""What a run does besides its steps: losses that are no numbers, leaps, validations that fail, averages, time."""

from __future__ import annotations

import json
import time

import pytest
import torch
from safetensors.torch import load_file
from small_runs import EXTEND, LabelledRows, classify, copied, losses_of, make_classifier, read_lines

from llmkit.errors import RunError, UsageError
from llmkit.losses import classification_loss_sum
from llmkit.training import clock
from llmkit.training.run import RunOptions
from llmkit.training.step import set_seed


class Recorder(LabelledRows):
    """Rows that remember how they were asked for."""

    def __init__(self):
        super().__init__()
        self.asked = []

    def batch(self, indices):
        self.asked.append(list(indices))
        return super().batch(indices)


def poisoned(steps, kind="loss"):
    """A loss that is not finite, or whose gradient is not, in the given steps (from 0)."""
    calls = []

    def loss(model, batch):
        calls.append(1)
        value = classification_loss_sum(model, batch)
        # The first two calls try what fits into memory: one row, then all.
        if len(calls) - 3 not in steps:
            return value
        return value * float("nan") if kind == "loss" else value + (model[0].weight * 0).sum().sqrt()

    return loss


def rows_of(folder, step):
    """The rows of a step, as a run asks for them."""
    rows = Recorder()
    classify(folder, rows=rows, steps=step + 1)
    return rows.asked[step]


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_is_not_finite_ends_the_run_before_its_update(tmp_path, kind):
    model = make_classifier()
    with pytest.raises(RunError, match="step 5: ") as caught:
        classify(tmp_path / "run", model, loss=poisoned({4}, kind), steps=8, save_every=4)
    saved = load_file(tmp_path / "run/checkpoints/step-00000004/model.safetensors")
    assert all(torch.equal(saved[name], tensor) for name, tensor in copied(model).items())
    message, losses = str(caught.value), losses_of(read_lines(tmp_path / "run"))
    assert f"last losses: {losses[0]:.4f}, {losses[1]:.4f}" in message
    assert f"Rows {rows_of(tmp_path / 'rows', step=4)}" in message
    assert "the last checkpoint is sound" in message


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_that_is_left_out_leaves_nothing(tmp_path, kind):
    fields = {"steps": 4, "schedule": "constant", "ema_decay": 0.9, "save_every": 1, "keep_last": 4}
    summary, lines, _ = classify(tmp_path / "run", loss=poisoned({2}, kind), on_nonfinite="skip", **fields)
    folders = [tmp_path / f"run/checkpoints/step-0000000{step}" for step in (2, 3)]
    for name in ("model.safetensors", "optimizer.safetensors", "average.safetensors"):
        before, after = (load_file(folder / name) for folder in folders)
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before), name
    assert summary.skipped == 1
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 4]
    skipped = next(line for line in lines if "skipped" in line)
    assert skipped["step"] == 3
    assert skipped["skipped"]["rows"] == rows_of(tmp_path / "rows", step=2)


def test_too_many_steps_that_are_left_out_end_the_run(tmp_path):
    with pytest.raises(RunError, match=r"step 4: .*2 steps were left out before"):
        classify(tmp_path / "run", loss=poisoned({1, 2, 3}), on_nonfinite="skip", max_nonfinite=2)


def test_the_count_of_steps_that_were_left_out_goes_on_after_a_checkpoint(tmp_path):
    fields = {"on_nonfinite": "skip", "max_nonfinite": 1, "schedule": "constant"}
    classify(tmp_path / "run", loss=poisoned({1}), steps=3, **fields)
    with pytest.raises(RunError, match="1 steps were left out before"):
        classify(tmp_path / "run", loss=poisoned({0}), steps=5, options=EXTEND, **fields)


def test_a_loss_that_leaps_is_noted_with_the_rows_that_made_it(tmp_path, capsys):
    rows = Recorder()

    def leaping(model, batch):
        return classification_loss_sum(model, batch) * (100 if len(rows.asked) == 56 else 1)

    _, lines, _ = classify(tmp_path / "run", rows=rows, loss=leaping, steps=60)
    spikes = [line for line in lines if "spike" in line]
    assert [line["step"] for line in spikes] == [56]
    assert spikes[0]["spike"]["rows"] == rows.asked[55]
    assert spikes[0]["spike"]["loss"] > spikes[0]["spike"]["median"]
    assert "step 56: the loss leaps" in capsys.readouterr().err


def test_of_many_leaps_all_are_noted_and_a_few_are_shown(tmp_path, capsys):
    rows = Recorder()

    def leaping(model, batch):
        return classification_loss_sum(model, batch) * (100 if len(rows.asked) in range(52, 70, 2) else 1)

    _, lines, _ = classify(tmp_path / "run", rows=rows, loss=leaping, steps=70)
    assert [line["step"] for line in lines if "spike" in line] == list(range(52, 70, 2))
    told = [line for line in capsys.readouterr().err.splitlines() if "the loss leaps" in line]
    # The first three of nine, and those that double their number: the fourth and the eighth.
    assert [line.partition(":")[0] for line in told] == [f"step {step}" for step in (52, 54, 56, 58, 66)]
    assert told[-1].endswith("leap 8, all are in metrics.jsonl")


def test_a_quiet_run_has_no_leaps(tmp_path):
    _, lines, _ = classify(tmp_path / "run", steps=80)
    assert not any("spike" in line for line in lines)


@pytest.mark.parametrize("what", ["validate", "sample"])
def test_an_evaluation_that_fails_costs_a_warning_and_no_step(tmp_path, capsys, what):
    def fail(*arguments):
        raise ValueError("no room for logits")

    _, _, expected = classify(tmp_path / "whole")
    summary, lines, weights = classify(tmp_path / "run", calls={what: fail}, validate_every=2, sample_every=2)
    assert summary.status == "finished"
    assert "failed, and the run goes on: ValueError: no room for logits" in capsys.readouterr().err
    key = {"validate": "validation_failed", "sample": "sample_failed"}[what]
    assert [line["step"] for line in lines if key in line] == ([2, 4, 6] if what == "validate" else [0, 2, 4, 6])
    assert all(torch.equal(expected[name], weights[name]) for name in weights)


def test_the_checkpoint_is_there_before_the_validation(tmp_path):
    def look():
        done = read_lines(tmp_path / "run")[-1]["step"]
        assert (tmp_path / f"run/checkpoints/step-{done:08d}/manifest.json").is_file()
        return {"loss": 1.0}

    _, lines, _ = classify(tmp_path / "run", calls={"validate": look}, save_every=2, validate_every=2)
    assert not any("validation_failed" in line for line in lines)


def test_the_checkpoints_that_validate_best_stay(tmp_path):
    values = iter([3.0, 1.0, 2.0, 4.0, 5.0, 6.0])
    calls = {"validate": lambda: {"loss": next(values)}}
    classify(tmp_path / "run", calls=calls, save_every=1, validate_every=1, keep_last=1, keep_best=2)
    kept = sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir())
    assert kept == ["step-00000002", "step-00000003", "step-00000006"]


def test_the_average_is_what_is_validated_and_kept_and_it_survives_a_stop(tmp_path):
    fields = {"steps": 6, "ema_decay": 0.5, "save_every": 2, "validate_every": 6, "schedule": "constant"}
    seen = []

    def run(folder, **options):
        model = make_classifier()
        calls = {"validate": lambda: (seen.append(copied(model)), {"loss": 1.0})[1]}
        return classify(folder, model, calls=calls, **{**fields, **options})

    _, _, last = run(tmp_path / "whole")
    result = load_file(tmp_path / "whole/model/model.safetensors")
    assert not torch.equal(result["0.weight"], last["0.weight"])
    assert all(torch.equal(result[name], seen[-1][name]) for name in result)
    run(tmp_path / "parts", steps=3)
    run(tmp_path / "parts", options=EXTEND)
    resumed = load_file(tmp_path / "parts/model/model.safetensors")
    assert all(torch.equal(result[name], resumed[name]) for name in result)


def test_what_was_validated_before_a_crash_is_not_validated_again(tmp_path):
    classify(tmp_path / "run", calls={"validate": lambda: {"loss": 2.5}})
    (tmp_path / "run/summary.json").unlink()
    summary, lines, _ = classify(tmp_path / "run", calls={"validate": lambda: {"loss": 9.9}})
    assert summary.validation == {"loss": 2.5}
    assert len([line for line in lines if "validation" in line]) == 1


def test_another_number_of_threads_is_told_and_recorded_or_refused(tmp_path, capsys, monkeypatch):
    classify(tmp_path / "run", steps=3)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)
    exact = RunOptions(extend=True, require_exact=True)
    with pytest.raises(UsageError, match="threads was 1, is 7"):
        classify(tmp_path / "run", steps=6, options=exact)
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["step"] == 3, "what was refused has changed nothing"
    classify(tmp_path / "run", steps=6, options=EXTEND)
    assert "continues, not bit-identical: threads was 1, is 7" in capsys.readouterr().err
    parts = json.loads((tmp_path / "run/environment.json").read_text())["parts"]
    assert [part["step"] for part in parts] == [0, 3]
    assert parts[-1]["not_bit_identical"] == ["threads was 1, is 7"]


def test_what_a_line_of_metrics_tells(tmp_path):
    calls = {"flops_per_token": 1e6, "matrix_rate": 1e9}
    summary, lines, _ = classify(tmp_path / "run", calls=calls, steps=2)
    keys = {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "seconds", "memory_bytes", "mfu"}
    assert lines[0].keys() == keys
    assert lines[0]["mfu"] == pytest.approx(lines[0]["tokens_per_second"] * 1e6 / 1e9, rel=0.01)
    assert lines[0]["memory_bytes"] > 50e6
    assert 0 <= summary.waited_share < 1


def test_a_run_with_a_deadline_ends_on_time_with_its_decay(tmp_path, monkeypatch):
    now = 0.0

    def slow_loss(model, batch):
        nonlocal now
        now += 0.05
        return classification_loss_sum(model, batch)

    # By the machine's own clock a busy moment would look like a mistake of the run.
    monkeypatch.setattr(time, "perf_counter", lambda: now)
    monkeypatch.setattr(clock, "seconds_since_start", lambda: now)
    fields = {"steps": 10, "schedule": "wsd", "decay_share": 0.5, "min_lr_ratio": 0.0, "save_every": 0}
    _, lines, _ = classify(tmp_path / "run", loss=slow_loss, calls={"deadline_seconds": 6.0}, **fields)
    assert now == pytest.approx(6.0 - clock.SECONDS_TO_LEAVE, abs=0.1)
    rates = [line["lr"] for line in lines if "lr" in line]
    assert len(rates) > 70
    assert rates[-1] == 0.0
    assert 0.45 < rates.count(max(rates)) / len(rates) < 0.55


def test_the_seeds_of_dropout_are_those_of_torch():
    torch.manual_seed(123)
    expected = torch.rand(3)
    set_seed(123, torch.device("cpu"))
    assert torch.equal(torch.rand(3), expected)
