"""The run folder: whose it is, and what is in it."""

from __future__ import annotations

import errno
import json
import math

import pytest
from accelerate import Accelerator

from llmkit.errors import RunError, UsageError
from llmkit.recipe.load import load_recipe
from llmkit.recipe.schema import PretrainRecipe, TrainSection
from llmkit.training import folder as folders
from llmkit.training.job import on_main_process
from llmkit.training.run import RunOptions, open_run, run_options


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True)


def test_a_run_says_what_it_was_made_with(tmp_path, accelerator):
    with open_run(tmp_path / "run", PretrainRecipe(), accelerator) as run:
        assert not run.is_continued
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment.keys() >= {"llmkit", "python", "torch", "threads", "processes", "precision", "command"}


def test_two_processes_never_write_to_one_run(tmp_path, accelerator):
    with (
        open_run(tmp_path / "run", PretrainRecipe(), accelerator),
        pytest.raises(RunError, match="another process"),
        open_run(tmp_path / "run", PretrainRecipe(), accelerator),
    ):
        pass
    with open_run(tmp_path / "run", PretrainRecipe(), accelerator) as run:
        assert run.is_continued


def test_changed_data_is_refused(tmp_path, accelerator):
    with open_run(tmp_path / "run", PretrainRecipe(), accelerator, inputs={"data": "a"}):
        pass
    with (
        pytest.raises(UsageError, match="contents of the data have changed"),
        open_run(tmp_path / "run", PretrainRecipe(), accelerator, inputs={"data": "b"}),
    ):
        pass


def recipe_with(**fields):
    return PretrainRecipe(train=TrainSection(steps=9, **fields))


def test_what_no_weight_depends_on_may_be_changed(tmp_path, accelerator):
    with open_run(tmp_path / "run", recipe_with(), accelerator):
        pass
    changed = recipe_with(save_every=7, keep_last=1, keep_every=2, keep_best=3, log_every=4, track=["tensorboard"])
    with open_run(tmp_path / "run", changed, accelerator) as run:
        assert "train.save_every: 250 -> 7" in run.changes.keeping
        assert len(run.changes.keeping) == 6
        run.begin(4)
    assert load_recipe(PretrainRecipe, tmp_path / "run/recipe.yaml") == changed, "what is on disk is what ran"
    for fields in ({"validate_every": 7}, {"patience": 2}, {"seed": 1}):
        with (
            pytest.raises(UsageError, match=f"train.{next(iter(fields))}: ") as caught,
            open_run(tmp_path / "run", recipe_with(save_every=3, **fields), accelerator),
        ):
            pass
        assert "save_every" not in str(caught.value)


def test_a_folder_with_the_users_own_recipe_alone_is_no_run(tmp_path, accelerator):
    (tmp_path / "recipe.yaml").write_text("kind: pretrain\n")
    with (
        pytest.raises(UsageError, match="this folder is not empty"),
        open_run(tmp_path, PretrainRecipe(), accelerator),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["recipe.yaml"]


def test_lines_after_the_checkpoint_are_forgotten(tmp_path, accelerator):
    with open_run(tmp_path / "run", PretrainRecipe(), accelerator) as run:
        for step in range(1, 6):
            run.log({"step": step})
        run.append("samples.jsonl", {"step": 2, "text": "a\nb"})
        run.append("samples.jsonl", {"step": 3, "text": "taken again"})
        with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
            file.write('{"step": 6, "lo')
        run.forget_after(3)
    lines = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines == [1, 2, 3]
    assert json.loads((tmp_path / "run" / "samples.jsonl").read_text())["text"] == "a\nb"


def test_what_people_were_told_is_in_the_log(tmp_path, accelerator):
    from llmkit.console import say

    with open_run(tmp_path / "run", PretrainRecipe(), accelerator):
        say("half way there")
    assert (tmp_path / "run" / "log.txt").read_text() == "half way there\n"


def test_an_error_on_the_main_process_is_everybodys(accelerator):
    def fail():
        raise UsageError("no", where="here", fix="do")

    with pytest.raises(UsageError, match="here: no"):
        on_main_process(accelerator, fail)
    assert on_main_process(accelerator, lambda: 3) == 3


def test_characters_that_end_lines_for_python_stay_in_samples(tmp_path, accelerator):
    with open_run(tmp_path / "run", PretrainRecipe(), accelerator) as run:
        run.sample({"step": 1, "text": "one\u2028two\x85three"})
        with (tmp_path / "run" / "samples.jsonl").open("ab") as file:
            file.write(b'{"step": 2, "text": "\xe2\x80')
        run.forget_after(3)
    assert json.loads((tmp_path / "run" / "samples.jsonl").read_text())["text"] == "one\u2028two\x85three"


def test_nothing_is_continued_where_there_is_no_run(tmp_path, accelerator):
    for options in (RunOptions(resume=True), RunOptions(extend=True)):
        with (
            pytest.raises(UsageError, match="no run to continue"),
            open_run(tmp_path / "run", PretrainRecipe(), accelerator, options=options),
        ):
            pass
    assert not (tmp_path / "run").exists()


def test_fresh_begins_beside_the_runs_that_are_there(tmp_path, accelerator, capsys):
    folders = []
    for _ in range(3):
        with open_run(tmp_path / "run", PretrainRecipe(), accelerator, options=RunOptions(fresh=True)) as run:
            assert not run.is_continued
            folders.append(run.folder.name)
    assert folders == ["run", "run-2", "run-3"]
    assert "the new one begins in" in capsys.readouterr().err


def test_fresh_and_resume_contradict_each_other():
    with pytest.raises(UsageError, match="--fresh begins one"):
        run_options(resume=True, fresh=True)


def test_a_start_that_was_cut_off_is_no_run_and_no_obstacle(tmp_path, accelerator):
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    for name in (".lock", "inputs.json", ".recipe.yaml.4711.tmp"):
        (folder / name).write_text("{")
    with open_run(folder, PretrainRecipe(), accelerator) as run:
        assert not run.is_continued


def test_a_folder_with_a_lock_and_something_else_is_not_free(tmp_path, accelerator):
    folder = tmp_path / "run"
    (folder / "checkpoints" / "step-00000001").mkdir(parents=True)
    (folder / ".lock").touch()
    with pytest.raises(UsageError, match="not empty"), open_run(folder, PretrainRecipe(), accelerator):
        pass


def test_where_there_are_no_locks_a_run_goes_on_with_a_warning(tmp_path, accelerator, monkeypatch, capsys):
    def no_locks(*arguments):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(folders.fcntl, "flock", no_locks)
    with open_run(tmp_path / "run", PretrainRecipe(), accelerator) as run:
        run.log({"step": 1, "loss": 1.0})
    assert "this file system has no locks (No locks available)" in capsys.readouterr().err


def test_numbers_that_json_does_not_know_are_null_in_the_metrics(tmp_path, accelerator):
    with open_run(tmp_path / "run", PretrainRecipe(), accelerator) as run:
        run.log({"step": 1, "validation": {"loss": math.nan}})
        assert run.validations() == {1: {"loss": None}}
    assert "NaN" not in (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_refused_run_is_not_locked(tmp_path, accelerator):
    with open_run(tmp_path / "run", PretrainRecipe(), accelerator, inputs={"data": "a"}):
        pass
    with (
        pytest.raises(UsageError, match="changed"),
        open_run(tmp_path / "run", PretrainRecipe(), accelerator, inputs={"data": "b"}),
    ):
        pass
    with open_run(tmp_path / "run", PretrainRecipe(), accelerator, inputs={"data": "a"}) as run:
        assert run.is_continued
