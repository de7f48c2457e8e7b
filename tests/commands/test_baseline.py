"""`llmkit baseline` as it is typed."""

from __future__ import annotations

import json
import math

import pytest

from llmkit.models.baselines import load_baseline

FAST = ["--set", "train.steps=60", "--set", "train.validate_every=0"]


@pytest.fixture
def points(tmp_path):
    """Three hundred points in three stripes, which a line cannot part."""
    path = tmp_path / "points.csv"
    rows = [(i % 20, i // 20, ["red", "green", "blue"][(i % 20) // 4 % 3]) for i in range(300)]
    path.write_text("x,y,label\n" + "".join(f"{x},{y},{label}\n" for x, y, label in rows))
    return path


def test_the_result_is_one_json_document(run_cli, points, tmp_path):
    result = run_cli(
        "baseline",
        "--kind",
        "mlp",
        "--data",
        points,
        "--output",
        tmp_path / "run",
        "--set",
        "train.steps=300",
        "--json",
    )
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert {"run", "status", "step", "loss", "validation", "test", "tokens_per_second", "seconds", "model"} <= set(
        document
    )
    assert (document["status"], document["step"]) == ("finished", 300)
    assert set(document["validation"]) == set(document["test"]) == {"accuracy", "macro_f1", "loss"}
    assert document["test"]["accuracy"] > 0.8 > document["reference"]["accuracy"]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    matrix = results["confusion_matrix"]
    assert results["classes"] == ["blue", "green", "red"]
    assert sum(map(sum, matrix)) == results["rows"]["test"]
    assert sum(matrix[k][k] for k in range(3)) / results["rows"]["test"] == pytest.approx(document["test"]["accuracy"])


def test_people_get_a_table_with_the_reference(run_cli, points, tmp_path):
    result = run_cli("baseline", "--kind", "mlp", "--data", points, "--output", tmp_path / "run", *FAST)
    assert result.exit_code == 0, result.stderr
    assert "majority class" in result.stdout
    assert "is \\ taken for" in result.stdout
    assert "3 classes: blue (60), green (120), red (120)" in result.stderr


def test_a_finished_run_is_told_again_and_not_trained_again(run_cli, points, tmp_path):
    command = ["baseline", "--kind", "mlp", "--data", points, "--output", tmp_path / "run", *FAST, "--json"]
    first, again = run_cli(*command), run_cli(*command)
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout) == json.loads(first.stdout)


def test_killed_and_resumed_gives_the_same_weights(run_cli, points, tmp_path):
    common = ["--kind", "mlp", "--data", points, "--set", "train.schedule=constant", "--set", "train.save_every=20"]
    assert run_cli("baseline", *common, "--output", tmp_path / "whole", *FAST).exit_code == 0
    part = ["--output", tmp_path / "parts", "--set", "train.validate_every=0", "--set"]
    assert run_cli("baseline", *common, *part, "train.steps=40").exit_code == 0
    longer = run_cli("baseline", *common, *part, "train.steps=60", "--extend")
    assert longer.exit_code == 0, longer.stderr
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_a_run_with_other_data_is_not_continued(run_cli, points, tmp_path):
    command = ["baseline", "--kind", "mlp", "--data", points, "--output", tmp_path / "run", *FAST]
    assert run_cli(*command).exit_code == 0
    points.write_text(points.read_text() + "3,3,red\n")
    result = run_cli(*command)
    assert result.exit_code == 2
    assert "the contents of the data have changed" in result.stderr


def test_a_forecast_is_measured_against_the_naive_one(run_cli, tmp_path):
    path = tmp_path / "wave.csv"
    path.write_text("t,x\n" + "".join(f"{t},{100 + 10 * math.sin(t / 3):.4f}\n" for t in range(400)))
    arguments = ["--set", "data.task=forecast", "--set", "data.look_back=12", "--set", "model.hidden_size=16", *FAST]
    arguments += ["--set", "train.steps=150"]
    for kind in ("mlp", "cnn", "rnn"):
        result = run_cli("baseline", "--kind", kind, "--data", path, "--output", tmp_path / kind, *arguments, "--json")
        assert result.exit_code == 0, result.stderr
        document = json.loads(result.stdout)
        assert document["reference"]["name"] == "naive forecast"
        # In the column's own unit: a wave of height 10 moves by up to 10/3 a step.
        assert 2.0 < document["reference"]["rmse"] < 10 / 3
        assert document["test"]["rmse"] < document["reference"]["rmse"] / 2


def test_a_regression_is_measured_in_its_own_unit(run_cli, tmp_path):
    path = tmp_path / "line.csv"
    path.write_text("x,price\n" + "".join(f"{x / 2},{1000 + 7.5 * x}\n" for x in range(200)))
    result = run_cli(
        "baseline", "--kind", "mlp", "--data", path, "--output", tmp_path / "run", "--set", "train.steps=200", "--json"
    )
    document = json.loads(result.stdout)
    assert document["reference"]["name"] == "training mean"
    assert document["reference"]["rmse"] == pytest.approx(7.5 * 200 / math.sqrt(12), rel=0.2)
    assert document["test"]["rmse"] < document["reference"]["rmse"] / 5


@pytest.mark.parametrize("kind", ["cnn", "rnn"])
def test_texts_are_told_apart(run_cli, tmp_path, kind):
    path = tmp_path / "texts.jsonl"
    texts = [(f"film {i} was a {'joy' if i % 2 else 'bore'} to watch" + " again" * (i % 7), i % 2) for i in range(200)]
    path.write_text("".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in texts))
    sizes = ["--set", "model.hidden_size=16", "--set", "model.embedding_size=16", "--set", "train.lr=1e-2"]
    result = run_cli("baseline", "--kind", kind, "--data", path, "--output", tmp_path / "run", *sizes, *FAST, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["test"]["accuracy"] == 1.0
    model, data = load_baseline(tmp_path / "run" / "model")
    assert "joy" in data["encoder"]["words"]
    assert data["target"] == {"kind": "classes", "names": ["0", "1"]}
    assert not model.training


@pytest.mark.parametrize(("recipe", "level"), [("tiny/baseline-mlp", 0.95), ("tiny/baseline-cnn", 0.96)])
def test_the_tiny_recipes_read_digits(run_cli, tmp_path, recipe, level):
    result = run_cli("baseline", recipe, "--output", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["test"]["accuracy"] > level


def test_the_tiny_rnn_beats_the_naive_forecast(run_cli, tmp_path):
    result = run_cli("baseline", "tiny/baseline-rnn", "--output", tmp_path / "run", "--json")
    document = json.loads(result.stdout)
    assert document["test"]["rmse"] < document["reference"]["rmse"] / 2


def test_a_dry_run_shows_the_plan_and_writes_nothing(run_cli, points, tmp_path):
    result = run_cli("baseline", "--kind", "mlp", "--data", points, "--output", tmp_path / "run", "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert (plan["form"], plan["task"], plan["classes"]) == ("table", "classification", ["blue", "green", "red"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--kind", "mlp"], "nothing to train on"),
        (["--kind", "tree", "--data", "wine"], "'mlp', 'cnn', 'rnn' or 'transformer'"),
        (["--kind", "cnn", "--data", "POINTS"], "neither"),
        (["--kind", "mlp", "--data", "nothing.csv"], "nothing.csv"),
        (["--kind", "mlp", "--data", "POINTS", "--set", "data.target=z"], "columns: x, y, label"),
        (["--kind", "mlp", "--data", "POINTS", "--set", "model.activaton=relu"], "did you mean 'activation'"),
    ],
)
def test_what_the_user_can_mend_ends_with_exit_code_2(run_cli, points, tmp_path, arguments, message):
    given = [str(points) if argument == "POINTS" else argument for argument in arguments]
    result = run_cli("baseline", *given, "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_time_limit_stops_with_a_checkpoint_and_the_same_command_continues(run_cli, points, tmp_path):
    command = ["baseline", "--kind", "mlp", "--data", points, *FAST]
    stopped = [*command, "--output", tmp_path / "stopped", "--json"]
    # The tests have been running for longer: a run makes one step, and leaves it in a checkpoint.
    for step in (1, 2):
        result = run_cli(*stopped, "--time-limit", "1s")
        assert result.exit_code == 75, result.stderr
        assert json.loads(result.stdout)["step"] == step
        assert "the time limit is near" in result.stderr
    assert run_cli(*stopped).exit_code == 0
    assert run_cli(*command, "--output", tmp_path / "whole").exit_code == 0
    weights = [(tmp_path / name / "model" / "model.safetensors").read_bytes() for name in ("whole", "stopped")]
    assert weights[0] == weights[1]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--time-limit", "5 minutes"], "--time-limit: '5 minutes' is not a time"),
        (["--resume"], "there is no run to continue"),
        (["--extend"], "there is no run to continue"),
        (["--fresh", "--extend"], "--fresh begins one"),
    ],
)
def test_flags_that_cannot_be_followed_say_why(run_cli, points, tmp_path, flags, message):
    result = run_cli("baseline", "--kind", "mlp", "--data", points, "--output", tmp_path / "run", *flags)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "run").exists()


def test_resume_takes_the_recipe_of_the_run(run_cli, points, tmp_path):
    command = ["baseline", "--kind", "mlp", "--data", points, "--output", tmp_path / "run", *FAST, "--json"]
    assert run_cli(*command, "--time-limit", "1s").exit_code == 75
    result = run_cli("baseline", "--output", tmp_path / "run", "--resume", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["step"] == 60
    again = run_cli("baseline", "--output", tmp_path / "run", "--resume", "--json")
    assert json.loads(again.stdout) == json.loads(result.stdout)
    assert "finished already" in again.stderr
    changed = run_cli("baseline", "--output", tmp_path / "run", "--resume", "--set", "train.steps=90")
    assert changed.exit_code == 2
    assert "train.steps: 60 -> 90" in changed.stderr
    assert "--extend" in changed.stderr


def test_fresh_leaves_the_run_that_is_there(run_cli, points, tmp_path):
    command = ["baseline", "--kind", "mlp", "--data", points, "--output", tmp_path / "run", *FAST]
    assert run_cli(*command).exit_code == 0
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    result = run_cli(*command, "--set", "train.lr=1e-2", "--fresh", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["run"] == str(tmp_path / "run-2")
    assert (tmp_path / "run-2/results.json").is_file()
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_exactness_can_be_required(run_cli, points, tmp_path, monkeypatch):
    import torch

    command = ["baseline", "--kind", "mlp", "--data", points, "--output", tmp_path / "run", *FAST]
    assert run_cli(*command, "--time-limit", "1s").exit_code == 75
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    refused = run_cli(*command, "--require-exact")
    assert refused.exit_code == 2
    assert "threads was 1, is 3" in refused.stderr
    result = run_cli(*command)
    assert result.exit_code == 0
    assert "continues, not bit-identical: threads was 1, is 3" in result.stderr
