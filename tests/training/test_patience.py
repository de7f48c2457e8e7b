"""Early stopping: when a run ends, which weights are its result, and that both survive a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from small_runs import EXTEND, CrashError, LabelledRows, classify, read_lines

from llmkit.errors import RecipeError
from llmkit.models.baselines.cnn import BatchNorm1d
from llmkit.recipe.schema import TrainSection
from llmkit.training.patience import best_step, has_waited


class Scripted:
    """Validation losses as they were made up, one after the other by step; it asks the model nothing."""

    def __init__(self, losses, every=2):
        self.losses, self.every, self.calls = losses, every, 0

    def __call__(self):
        self.calls += 1
        return {"loss": self.losses[min(self.calls, len(self.losses)) - 1]}


def validations(losses, every=2):
    return {every * i: {"loss": loss} for i, loss in enumerate(losses, start=1)}


FIELDS = {"steps": 20, "validate_every": 2, "patience": 2, "save_every": 0, "keep_last": 1}
LOSSES = [5.0, 4.0, 3.0, 3.5, 3.0, 9.0, 1.0]
"""The third is the best for two validations: the run ends after the fifth, at step 10."""


def weights_in(folder):
    return load_file(folder / "model.safetensors")


def is_same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_the_best_is_the_earliest_of_equal_ones():
    assert best_step(validations([2.0, 1.0, 1.0, float("nan")])) == 4
    assert best_step({}) is None
    assert best_step({3: {"rmse": 2.0}, 5: {"rmse": 1.0}}) == 5


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([3.0], False), ([3.0, 4.0], False), ([3.0, 4.0, 3.0], True), ([3.0, 4.0, 2.9], False), ([], False)],
)
def test_equal_is_no_better(losses, expected):
    config = TrainSection(steps=9, validate_every=2, patience=2)
    assert has_waited(validations(losses), config) is expected


def test_a_validation_at_the_end_of_a_shorter_run_does_not_count_as_waiting():
    config = TrainSection(steps=9, validate_every=2, patience=2)
    assert not has_waited({2: {"loss": 1.0}, 4: {"loss": 2.0}, 5: {"loss": 2.0}}, config)


def test_a_run_ends_when_validation_gets_no_better_and_keeps_the_best(tmp_path):
    plain, _, _ = classify(tmp_path / "plain", steps=6, lr=1e-2, schedule="constant")
    summary, lines, _ = classify(tmp_path / "run", schedule="constant", calls={"validate": Scripted(LOSSES)}, **FIELDS)
    assert (summary.status, summary.step, summary.best_step) == ("finished", 10, 6)
    assert summary.validation == {"loss": 3.0}
    assert [line["step"] for line in lines if "validation" in line] == [2, 4, 6, 8, 10]
    assert is_same(weights_in(plain.model), weights_in(summary.model))
    # The best checkpoint stayed, and the newest.
    assert sorted(path.name for path in (tmp_path / "run/checkpoints").iterdir()) == ["step-00000006", "step-00000010"]


def test_a_run_that_gets_better_to_the_end_keeps_the_last(tmp_path):
    falling = Scripted([1.0 / n for n in range(1, 30)])
    summary, _, weights = classify(tmp_path / "run", calls={"validate": falling}, **FIELDS)
    assert (summary.step, summary.best_step) == (20, 20)
    assert is_same(weights_in(summary.model), weights)


def test_a_run_between_two_validations_is_measured_at_its_end(tmp_path):
    fields = {**FIELDS, "steps": 5, "patience": 9}
    summary, _, _ = classify(tmp_path / "run", calls={"validate": Scripted([3.0, 2.0, 1.0])}, **fields)
    assert (summary.best_step, summary.validation) == (5, {"loss": 1.0})
    other, _, _ = classify(tmp_path / "other", calls={"validate": Scripted([3.0, 2.0, 4.0])}, **fields)
    assert (other.best_step, other.validation) == (4, {"loss": 2.0})


@pytest.mark.parametrize("stop_after", [5, 9])
def test_killed_and_resumed_it_ends_at_the_same_step_with_the_same_weights(tmp_path, stop_after):
    whole, _, _ = classify(tmp_path / "whole", calls={"validate": by_step(tmp_path / "whole")}, **FIELDS)
    call = {"validate": by_step(tmp_path / "run")}
    with pytest.raises(CrashError):
        # The try before the first step reads rows too.
        classify(tmp_path / "run", stop_after=stop_after, calls=call, **FIELDS)
    resumed, _, _ = classify(tmp_path / "run", calls=call, **FIELDS)
    assert (resumed.step, resumed.best_step) == (whole.step, whole.best_step) == (10, 6)
    assert is_same(weights_in(whole.model), weights_in(resumed.model))


def by_step(folder):
    """The loss of LOSSES for the step that the run is at, as its metrics tell."""

    def validate():
        step = max((line["step"] for line in read_lines(folder) if "lr" in line), default=0)
        return {"loss": LOSSES[step // 2 - 1]}

    return validate


def test_a_run_that_stopped_early_and_is_made_longer_has_still_waited_and_says_so(tmp_path, capsys):
    call = {"validate": by_step(tmp_path / "run")}
    classify(tmp_path / "run", calls=call, **FIELDS)
    ended = "step 10: the last 2 validations were no better than the best one, and the run ends here (train.patience)"
    assert f"{ended}\n" in capsys.readouterr().err
    longer, _, _ = classify(tmp_path / "run", calls=call, options=EXTEND, **{**FIELDS, "steps": 40})
    assert (longer.step, longer.best_step) == (10, 6)
    assert f"{ended}; a longer run must begin anew (--fresh)\n" in capsys.readouterr().err


def test_the_average_of_the_best_step_is_the_result(tmp_path):
    fields = {**FIELDS, "ema_decay": 0.5}
    plain, _, _ = classify(tmp_path / "plain", steps=6, schedule="constant", ema_decay=0.5)
    summary, _, _ = classify(tmp_path / "run", schedule="constant", calls={"validate": Scripted(LOSSES)}, **fields)
    assert summary.best_step == 6
    assert is_same(weights_in(plain.model), weights_in(summary.model))


@pytest.mark.parametrize(
    ("fields", "calls", "message"),
    [
        ({"validate_every": 0}, {"validate": Scripted([1.0])}, "validate_every=0"),
        ({}, {}, "no validation rows"),
    ],
    ids=["never", "no rows"],
)
def test_patience_without_validations_is_an_error(tmp_path, fields, calls, message):
    with pytest.raises(RecipeError, match=message):
        classify(tmp_path / "run", calls=calls, **{**FIELDS, **fields})


def make_normed(seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Linear(4, 16), BatchNorm1d(16), torch.nn.ReLU(), torch.nn.Linear(16, 3))


def test_running_statistics_survive_a_kill_bit_by_bit(tmp_path):
    fields = {"steps": 8, "save_every": 4, "batch_size": 6}
    _, _, whole = classify(tmp_path / "whole", make_normed(), **fields)
    with pytest.raises(CrashError):
        classify(tmp_path / "run", make_normed(), stop_after=7, **fields)
    _, _, resumed = classify(tmp_path / "run", make_normed(), **fields)
    assert any("running_mean" in name for name in whole)
    assert is_same(whole, resumed)


def test_what_was_only_tried_is_in_no_running_statistic(tmp_path):
    model = make_normed()
    # One row of zeros would move the means; so would the try before the first step.
    classify(tmp_path / "run", model, steps=1, batch_size=6)
    assert model[1].num_batches_tracked == 1


def test_a_step_that_is_left_out_leaves_no_running_statistic(tmp_path):
    from llmkit.losses import classification_loss_sum

    rows = LabelledRows()
    rows.inputs[7] = float("nan")
    model = make_normed()
    summary, lines, _ = classify(
        tmp_path / "run", model, rows, classification_loss_sum, steps=10, batch_size=6, on_nonfinite="skip"
    )
    assert summary.skipped == sum("skipped" in line for line in lines) == 2
    assert model[1].running_mean.isfinite().all()
    assert model[1].num_batches_tracked == 8


SCRIPT = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from small_runs import classify
from test_patience import FIELDS, by_step
folder = Path(sys.argv[1])
summary, _, _ = classify(folder, calls={"validate": by_step(folder)}, **FIELDS)
assert (summary.step, summary.best_step) == (10, 6), summary
"""


def test_two_processes_end_together(tmp_path):
    here = str(Path(__file__).parent)
    script = tmp_path / "job.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launch, str(script), str(tmp_path / "run"), here], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads((tmp_path / "run/summary.json").read_text())["best_step"] == 6
