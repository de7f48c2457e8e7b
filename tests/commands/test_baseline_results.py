"""What a baseline leaves besides its weights: references, classes in detail, errors, insides; and its losses."""

from __future__ import annotations

import json
import math

import pytest
import torch


@pytest.fixture
def rare(tmp_path):
    """A class that one row in ten has, hardly to be told from the other."""
    path = tmp_path / "rare.csv"
    torch.manual_seed(0)
    labels = [i % 10 == 0 for i in range(1200)]
    noise = torch.randn(1200, 2).tolist()
    rows = [
        (a + 1.3 * is_rare, b, "rare" if is_rare else "usual") for (a, b), is_rare in zip(noise, labels, strict=True)
    ]
    path.write_text("a,b,label\n" + "".join(f"{a:.4f},{b:.4f},{label}\n" for a, b, label in rows))
    return path


def train(run_cli, folder, *arguments, steps=60):
    result = run_cli("baseline", *arguments, "--output", folder, "--set", f"train.steps={steps}", "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads((folder / "results.json").read_text()), json.loads(result.stdout)


def test_the_network_stands_beside_all_references(run_cli, rare, tmp_path):
    results, document = train(run_cli, tmp_path / "run", "--kind", "mlp", "--data", rare)
    assert [r["name"] for r in document["references"]] == ["majority class", "logistic regression"]
    assert document["reference"] == document["references"][0]
    assert all(set(document["test"]) <= set(reference) for reference in document["references"])
    counts = {found["name"]: found["rows"] for found in results["classes_in_detail"]}
    assert sum(counts.values()) == results["rows"]["test"]
    assert 0.0 <= results["calibration_error"] <= 1.0
    assert sum(found["rows"] for found in results["reliability"]) == results["rows"]["test"]
    worst = results["worst_errors"]
    assert worst == sorted(worst, key=lambda error: -error["probability"])
    assert set(worst[0]["columns"]) == {"a", "b"}


def test_balanced_weights_find_the_rare_class(run_cli, rare, tmp_path):
    common = ["--kind", "mlp", "--data", rare]
    plain, _ = train(run_cli, tmp_path / "plain", *common, steps=200)
    balanced, _ = train(run_cli, tmp_path / "balanced", *common, "--set", "loss.class_weights=balanced", steps=200)
    recalls = [results["classes_in_detail"][0]["recall"] for results in (plain, balanced)]
    assert recalls[1] > 0.6 > recalls[0]


def test_what_went_on_inside_is_in_the_metrics(run_cli, rare, tmp_path):
    train(run_cli, tmp_path / "run", "--kind", "mlp", "--data", rare)
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    looks = [line["layers"] for line in lines if "layers" in line]
    assert looks
    assert set(looks[0]) == {"layers.0", "layers.1", "layers.3", "layers.4", "head"}
    assert set(looks[0]["layers.1"]) == {"dead"}
    page = run_cli("report", tmp_path / "run")
    assert page.exit_code == 0, page.stderr
    assert "Gradient norm by layer" in (tmp_path / "run/report.html").read_text()


def test_a_run_that_stops_early_is_tested_with_its_best_weights(run_cli, rare, tmp_path):
    early = ["--set", "train.patience=1", "--set", "train.validate_every=5", "--set", "train.lr=0.3"]
    results, document = train(run_cli, tmp_path / "run", "--kind", "mlp", "--data", rare, *early, steps=400)
    assert document["step"] < 400
    assert document["best_step"] < document["step"]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    losses = {line["step"]: line["validation"]["loss"] for line in lines if "validation" in line}
    assert document["best_step"] == min(losses, key=losses.get)
    assert results["validation"]["loss"] == min(losses.values())


def test_huber_is_pulled_less_by_outliers(run_cli, tmp_path):
    path = tmp_path / "line.csv"
    # One value in twenty is far off, in the training rows and elsewhere.
    rows = [(x / 7, 5 * x / 7 + (400 if x % 20 == 0 else 0)) for x in range(300)]
    path.write_text("x,y\n" + "".join(f"{x:.4f},{y:.4f}\n" for x, y in rows))
    maes = []
    for name in ("mse", "huber"):
        _, document = train(
            run_cli, tmp_path / name, "--kind", "mlp", "--data", path, "--set", f"loss.numbers={name}", steps=150
        )
        maes.append(document["test"]["mae"])
    assert maes[1] < maes[0]


@pytest.mark.parametrize("kind", ["rnn", "transformer"])
def test_a_language_model_is_measured_in_bits_per_byte(run_cli, tmp_path, kind):
    path = tmp_path / "names.txt"
    path.write_text("".join(f"{'äb' * (i % 3 + 1)}{i % 5}\n" for i in range(300)))
    sizes = ["--set", "model.hidden_size=16", "--set", "model.num_heads=2", "--set", "train.seq_len=12"]
    sizes += ["--set", "train.lr=1e-2", "--set", "train.warmup_steps=5"]
    results, document = train(
        run_cli, tmp_path / "run", "--kind", kind, "--data", path, "--set", "data.task=language", *sizes, steps=120
    )
    names = [reference["name"] for reference in document["references"]]
    assert names == ["frequency of symbols", "frequency of pairs"]
    test = document["test"]
    assert test["bits_per_byte"] < document["references"][0]["bits_per_byte"]
    # A row of three pairs has 3 x 3 + 2 bytes with its end, and a digit: 8 symbols to predict.
    assert test["bits_per_byte"] * math.log(2) < test["loss"]
    assert results["confusion_matrix"] is None


def test_a_plan_lists_the_layers(run_cli, rare):
    result = run_cli("baseline", "--kind", "mlp", "--data", rare, "--dry-run", "--json")
    layers = json.loads(result.stdout)["layers"]
    assert [(layer["kind"], layer["shape"], layer["parameters"]) for layer in layers] == [
        ("Linear", [64, 2], 192),
        ("Linear", [64, 64], 4160),
        ("Linear", [2, 64], 130),
    ]


def test_classes_that_are_none_cannot_be_weighed(run_cli, tmp_path):
    path = tmp_path / "line.csv"
    path.write_text("x,y\n" + "".join(f"{x / 3:.3f},{x / 2:.3f}\n" for x in range(99)))
    result = run_cli(
        "baseline",
        "--kind",
        "mlp",
        "--data",
        path,
        "--set",
        "loss.class_weights=balanced",
        "--output",
        tmp_path / "run",
    )
    assert result.exit_code == 2
    assert "no classes to weigh" in result.stderr
