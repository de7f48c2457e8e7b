"""What is said in the training section and changes nothing is told."""

from __future__ import annotations

import pytest

from llmkit.recipe.schema import TrainSection
from llmkit.recipe.unused import NEEDS, tell_unused_training

CHANGED = {"muon_lr": 0.5, "beta1": 0.5, "beta2": 0.5, "decay_share": 0.5, "min_lr_ratio": 0.5, "max_nonfinite": 5}
IDLE = {"optimizer": "adafactor", "schedule": "constant", "on_nonfinite": "error"}


@pytest.mark.parametrize("name", NEEDS)
def test_a_field_that_was_changed_and_counts_for_nothing_is_told(name, capsys):
    other, values = NEEDS[name]
    for value in values:
        tell_unused_training(TrainSection(**{name: CHANGED[name], other: value}))
    # A recipe as a run saves it says all fields: those at their defaults were not meant.
    tell_unused_training(TrainSection(**{name: TrainSection.model_fields[name].default, other: IDLE[other]}))
    assert capsys.readouterr().err == ""
    tell_unused_training(TrainSection(**{name: CHANGED[name], other: IDLE[other]}))
    assert capsys.readouterr().err == f"warning: train.{name} changes nothing: train.{other} is {IDLE[other]}\n"


def test_every_verb_that_trains_tells_it(run_cli, tiny_pretraining, tiny_model_folder, tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(f'{{"prompt": "what is {n}", "completion": "a number, {n}"}}\n' for n in range(20)))
    verbs = (
        tiny_pretraining,
        ["finetune", "--model", tiny_model_folder, "--data", rows],
        ["baseline", "tiny/baseline-mlp"],
    )
    for command in verbs:
        result = run_cli(*command, "--set", "train.muon_lr=0.5", "--set", "train.precision=fp32", "--dry-run")
        assert result.exit_code == 0, result.stderr
        assert "warning: train.muon_lr changes nothing: train.optimizer is adamw\n" in result.stderr
