"""Trackers are guests: they get the metrics, and whatever happens to them, the run goes on."""

from __future__ import annotations

import json

import pytest

from llmkit.errors import RecipeError
from llmkit.recipe.schema import TrainSection
from llmkit.training import job


def test_tensorboard_gets_the_metrics(run_cli, tiny_pretraining, tmp_path):
    pytest.importorskip("tensorboard")
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "run", "--set", "train.track=[tensorboard]")
    assert result.exit_code == 0, result.stderr
    assert list((tmp_path / "run" / "tracking").glob("events.*"))
    assert "tracker" not in result.stderr


def test_a_tracker_that_fails_costs_a_warning(run_cli, tiny_pretraining, tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")

    def fail(*arguments, **options):
        raise RuntimeError("no network")

    monkeypatch.setattr("accelerate.tracking.TensorBoardTracker.log", fail)
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "run", "--set", "train.track=[tensorboard]", "--json")
    assert json.loads(result.stdout)["status"] == "finished"
    assert "a tracker failed: no network" in result.stderr


def test_a_tracker_that_is_not_installed_is_an_error_at_the_start(monkeypatch):
    monkeypatch.setattr(job, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="tensorboard is not installed"):
        job.check_trackers(TrainSection(track=["tensorboard"]))
