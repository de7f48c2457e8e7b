"""Trackers are guests: they get the metrics, and whatever happens to them, the run goes on."""

from __future__ import annotations

import json

import pytest
from accelerate import tracking
from accelerate.tracking import GeneralTracker
from accelerate.utils import LoggerType

from llmkit.errors import RecipeError
from llmkit.recipe.schema import TrainSection
from llmkit.training import job


def test_tensorboard_gets_the_metrics(run_cli, tiny_pretraining, tmp_path):
    pytest.importorskip("tensorboard")
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "run", "--set", "train.track=[tensorboard]")
    assert result.exit_code == 0, result.stderr
    assert list((tmp_path / "run" / "tracking").glob("events.*"))
    assert "tracker" not in result.stderr


class Tracker(GeneralTracker):
    """One that writes down what it is told, in place of a service."""

    requires_logging_directory = False

    def __init__(self, project, **options):
        super().__init__()
        self.told = []
        self.started_as = (project, options)
        self.is_finished = False
        MADE.append(self)

    name = property(lambda self: KINDS[type(self)])
    tracker = property(lambda self: self)

    def start(self):
        pass

    def store_init_configuration(self, values):
        self.told.append(values)

    def log(self, values, step=None, **options):
        self.told.append((step, values))

    def finish(self):
        self.is_finished = True


class Broken(Tracker):
    def start(self):
        raise RuntimeError("no key")


class Offline(Tracker):
    def log(self, values, step=None, **options):
        raise RuntimeError("no network")


MADE: list[Tracker] = []
KINDS = {Tracker: "trackio", Broken: "wandb", Offline: "wandb"}


@pytest.fixture
def services(monkeypatch):
    """Weights & Biases as the class that is given, and Trackio that works; the trackers that were made."""

    def use(wandb):
        MADE.clear()
        for name, kind in (("wandb", wandb), ("trackio", Tracker)):
            monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, name, kind)
        monkeypatch.setattr(tracking, "get_available_trackers", lambda: [LoggerType.WANDB, LoggerType.TRACKIO])
        monkeypatch.setattr(job, "find_spec", lambda name: True)
        return MADE

    return use


@pytest.mark.parametrize(
    ("wandb", "told"),
    [(Broken, "the tracker wandb could not start: no key"), (Offline, "wandb failed and gets no more: no network")],
)
def test_a_tracker_that_fails_costs_one_warning_and_no_other_tracker(
    run_cli, tiny_pretraining, tmp_path, services, wandb, told
):
    made = services(wandb)
    fields = ("--set", "train.track=[wandb,trackio]", "--set", "train.log_every=1")
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "run", *fields, "--json")
    assert json.loads(result.stdout)["status"] == "finished"
    assert result.stderr.count("the tracker") == 1
    assert told in result.stderr
    other = made[-1]
    steps = [told[0] for told in other.told[1:]]
    assert steps[0] == 1
    assert len(set(steps)) > 2
    assert other.is_finished


def test_services_list_runs_by_the_name_of_their_folder(run_cli, tiny_pretraining, tmp_path, services):
    made = services(Tracker)
    run_cli(*tiny_pretraining, "--output", tmp_path / "first", "--set", "train.track=[wandb,trackio]")
    found = [tracker.started_as for tracker in made]
    folder = str(tmp_path / "first")
    assert found == [("llmkit", {"name": "first", "dir": folder}), ("llmkit", {"name": "first"})]


def test_a_tracker_that_is_not_installed_is_an_error_at_the_start(monkeypatch):
    monkeypatch.setattr(job, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="tensorboard is not installed"):
        job.check_trackers(TrainSection(track=["tensorboard"]))
