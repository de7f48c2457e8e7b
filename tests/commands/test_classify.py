"""Task classify, from the command line to a classifier that is loaded."""

from __future__ import annotations

import json

import pytest

WORDS = ["the", "next", "token", "from", "text", "and", "then", "we", "ask", "it", "what", "comes", "after"]


@pytest.fixture
def classify(run_cli, tiny_model_folder, tmp_path):
    path = tmp_path / "labelled.csv"
    pairs = [(f"{a} {b} {c}", "yes" if c in WORDS[:6] else "no") for a in WORDS for b in WORDS[:3] for c in WORDS[3:9]]
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in pairs), encoding="utf-8")

    def run(output, *arguments, **settings):
        quick = {"train.steps": 30, "train.batch_size": 16, "train.warmup_steps": 0, "train.precision": "fp32"}
        sets = {**quick, "task": "classify", "data.validation": 0.2, "train.lr": 2e-2, **settings}
        words = [word for k, v in sets.items() for word in ("--set", f"{k}={v}")]
        options = ["--model", tiny_model_folder, "--data", path, "--output", tmp_path / output, "--json", *words]
        return run_cli("finetune", *options, *arguments)

    return run


@pytest.mark.parametrize("method", ["lora", "full", "last-layers"])
def test_a_classifier_learns_and_says_how_well(classify, tmp_path, method):
    from llmkit.models.classify import load_classifier, predict

    result = classify("run", method=method, last_layers=1)
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert set(document["validation"]) == {"accuracy", "macro_f1", "loss"}
    assert document["validation"]["accuracy"] > 0.9
    assert "always naming the commonest class is right on" in result.stderr
    loaded = load_classifier(tmp_path / "run")
    assert loaded.labels == ["no", "yes"]
    found = predict(loaded, ["the next from", "ask what ask"])
    assert found.argmax(1).tolist() == [1, 0]


def test_labels_and_rows_are_shown_before_anything_is_trained(classify):
    result = classify("run", "--dry-run")
    assert result.exit_code == 0
    assert "2 labels: no, yes" in result.stderr
    assert "[[yes]]" in result.stderr


def test_a_run_that_was_stopped_goes_on_from_its_checkpoint(classify, tmp_path):
    assert classify("run", **{"train.save_every": 10}).exit_code == 0
    summary = tmp_path / "run/summary.json"
    summary.unlink()
    result = classify("run", **{"train.save_every": 10})
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["step"] == 30
