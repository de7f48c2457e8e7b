"""`llmkit pretrain --minutes`: what is picked, what stays as it was said, and what holds when the run goes on.

The runs here end after a few steps: their time is counted from the start of the process, which is that of the tests.
"""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def arguments(prepared_folder):
    """Of a command whose time is short, but for --output."""
    fields = ("train.seq_len=32", "train.precision=fp32")
    return ["pretrain", "--data", prepared_folder, "--minutes", "0.3", *(x for f in fields for x in ("--set", f))]


def recipe_of(folder):
    from llmkit.recipe.load import load_recipe
    from llmkit.recipe.schema import PretrainRecipe

    return load_recipe(PretrainRecipe, folder / "recipe.yaml")


def plan_of(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_a_folder_with_the_users_own_recipe_was_begun_by_no_minutes(tmp_path):
    from llmkit.commands.minutes import earlier_minutes
    from llmkit.training.run import RunOptions

    (tmp_path / "recipe.yaml").write_text("kind: pretrain\n")
    assert earlier_minutes(tmp_path, 5.0, RunOptions()) is None


def test_size_batch_steps_and_learning_rate_are_picked_and_said(run_cli, arguments, tmp_path):
    from llmkit.models.budget import pick_lr

    result = run_cli(*arguments, "--output", tmp_path / "run", "--json")
    assert plan_of(result)["status"] == "finished"
    assert "--minutes 0.3: a probe of" in result.stderr
    plan, recipe = json.loads((tmp_path / "run" / "plan.json").read_text()), recipe_of(tmp_path / "run")
    train = recipe.train
    assert plan["parameters"] > 2.8e5
    assert (train.optimizer, train.schedule, train.steps) == ("muon", "wsd", plan["steps"])
    assert train.batch_size == plan["tokens"] / (plan["steps"] * 32)
    assert train.lr == pytest.approx(pick_lr(plan["flops"]), rel=0.1)
    assert 3 <= train.steps // train.validate_every <= 4
    assert json.loads((tmp_path / "run" / "inputs.json").read_text())["minutes"] == "0.3"


def test_the_same_command_goes_on_with_what_was_picked(run_cli, arguments, tmp_path):
    first = plan_of(run_cli(*arguments, "--output", tmp_path / "run", "--json"))
    picked = (tmp_path / "run" / "recipe.yaml").read_text()
    again = run_cli(*arguments, "--output", tmp_path / "run", "--json")
    assert plan_of(again) == first
    assert "a probe of" not in again.stderr
    assert (tmp_path / "run" / "recipe.yaml").read_text() == picked
    other = run_cli(*arguments, "--minutes", "0.4", "--output", tmp_path / "run")
    assert other.exit_code == 2
    assert "begun with --minutes 0.3" in other.stderr


def test_an_interrupted_run_is_resumed_with_its_minutes_and_extended_without(run_cli, arguments, tmp_path):
    assert run_cli(*arguments, "--output", tmp_path / "run").exit_code == 0
    (tmp_path / "run" / "summary.json").unlink()
    resumed = run_cli("pretrain", "--output", tmp_path / "run", "--resume", "--json")
    assert plan_of(resumed)["status"] == "finished"
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["minutes"] == 0.3
    done = plan_of(resumed)["step"] + 2
    more = run_cli("pretrain", "--output", tmp_path / "run", "--extend", "--set", f"train.steps={done}", "--json")
    assert plan_of(more)["step"] == done
    assert json.loads((tmp_path / "run" / "plan.json").read_text())["minutes"] is None


def test_a_branch_has_no_minutes(run_cli, arguments, tmp_path):
    result = run_cli(*arguments, "--output", tmp_path / "run", "--branch", tmp_path / "step-00000002")
    assert result.exit_code == 2
    assert "--minutes has nothing to choose" in result.stderr


def test_a_run_without_minutes_does_not_get_them_later(run_cli, arguments, tiny_pretraining, tmp_path):
    assert run_cli(*tiny_pretraining, "--output", tmp_path / "run").exit_code == 0
    result = run_cli(*arguments, "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "begun without --minutes" in result.stderr


def test_what_the_user_says_is_not_picked(run_cli, arguments, tmp_path):
    said = {"model.num_layers": 1, "model.hidden_size": 32, "model.num_heads": 2, "train.batch_size": 3}
    said |= {"train.lr": 0.5, "train.steps": 77}
    flags = [x for key, value in said.items() for x in ("--set", f"{key}={value}")]
    plan = plan_of(run_cli(*arguments, *flags, "--dry-run", "--json"))
    assert (plan["layers"], plan["hidden_size"], plan["steps"]) == (1, 32, 77)
    assert plan["tokens"] == 77 * 3 * 32


def test_an_optimizer_that_was_said_stays_and_so_does_that_of_a_model_which_goes_on(run_cli, arguments, tmp_path):
    said = run_cli(*arguments, "--set", "train.optimizer=adafactor", "--dry-run")
    assert ", adafactor, wsd" in said.stderr
    assert run_cli(*arguments, "--output", tmp_path / "run").exit_code == 0
    more = run_cli(*arguments, "--model", tmp_path / "run/model", "--dry-run")
    assert ", adamw, wsd" in more.stderr


def test_minutes_win_over_the_steps_of_a_recipe_and_not_over_its_sizes(run_cli, arguments, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "kind: pretrain\nmodel: {num_layers: 1, hidden_size: 64, num_heads: 2}\ntrain: {steps: 7, lr: 0.1}\n"
    )
    plan = plan_of(run_cli("pretrain", path, *arguments[1:], "--dry-run", "--json"))
    assert (plan["layers"], plan["hidden_size"]) == (1, 64)
    assert plan["steps"] > 7


def test_too_little_time_is_told(run_cli, arguments):
    result = run_cli(*arguments, "--set", "model.size=8m", "--set", "train.batch_size=65536", "--dry-run")
    assert result.exit_code == 2
    assert "there is time for" in result.stderr
