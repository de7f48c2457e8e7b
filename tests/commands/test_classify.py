"""Task classify, from the command line to a classifier that is loaded."""

from __future__ import annotations

import json

import pytest

from llmkit.errors import ModelError

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


@pytest.mark.parametrize(
    ("name", "value"), [("strip", "[x]"), ("thinking", "mask"), ("train_on", "last"), ("roles", "{bot: user}")]
)
def test_what_a_classifier_has_no_use_for_is_refused(classify, name, value):
    result = classify("run", "--dry-run", **{f"data.{name}": value})
    assert result.exit_code == 2
    assert f"the task classify has no use for data.{name}" in result.stderr


def test_a_label_of_which_all_texts_are_held_out_is_told(classify, tmp_path):
    with (tmp_path / "labelled.csv").open("a", encoding="utf-8") as file:
        file.write("".join(f"{word},rare {n}\n" for n, word in enumerate(WORDS)))
    result = classify("run", "--dry-run")
    assert result.exit_code == 0, result.stderr
    assert "15 labels: no, rare 0," in result.stderr
    assert "are held out: it is not learned" in result.stderr


def test_a_label_that_only_the_validation_file_has_is_refused(classify, tmp_path):
    held_out = tmp_path / "held.csv"
    held_out.write_text("text,label\nthe next,maybe\n")
    result = classify("run", "--dry-run", **{"data.validation": held_out})
    assert result.exit_code == 2
    assert "label 'maybe' is none of the training data's: no, yes" in result.stderr


def test_texts_read_are_texts_used_and_texts_dropped(classify, tmp_path):
    held_out = tmp_path / "held.csv"
    held_out.write_text("text,label\nthe the from,yes\nother text,no\n,no\n")
    result = classify("run", "--dry-run", **{"data.validation": held_out})
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)["data"]
    # 13 * 3 * 6 texts, of which one is also in the validation file; one of its three has no text.
    assert (report["train"]["read"], report["train"]["used"]) == (234, 233)
    assert report["train"]["dropped"]["also in the validation data"]["rows"] == 1
    assert (report["validation"]["read"], report["validation"]["used"]) == (3, 2)


def test_a_classifier_labels_new_texts(classify, run_cli, tmp_path):
    assert classify("run").exit_code == 0
    rows = tmp_path / "new.jsonl"
    rows.write_text('{"review": "the next from", "n": 1}\n{"review": "ask what ask", "n": 2}\n', encoding="utf-8")
    found = json.loads(run_cli("baseline", "predict", tmp_path / "run", rows, "--json").stdout)["predictions"]
    assert [row["row"] for row in found] == [f"{rows}:1", f"{rows}:2"]
    assert [row["label"] for row in found] == ["yes", "no"]
    assert all(sum(row["probabilities"].values()) == pytest.approx(1, abs=1e-5) for row in found)
    lines = run_cli("baseline", "predict", tmp_path / "run", "-", input="the next from\n\nask what ask\n").stdout
    again = [json.loads(line) for line in lines.splitlines()]
    assert [(row["row"], row["label"]) for row in again] == [("stdin:1", "yes"), ("stdin:3", "no")]


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_classifier_that_lacks_a_tensor_is_refused_by_name(classify, tmp_path, method):
    from safetensors.torch import load_file, save_file

    from llmkit.models.classify import load_classifier

    assert classify("run", method=method).exit_code == 0
    (path,) = (tmp_path / "run" / "model").glob("*model.safetensors")
    tensors = load_file(path)
    name = sorted(tensors)[0]
    save_file({key: value for key, value in tensors.items() if key != name}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        load_classifier(tmp_path / "run")
    save_file({**tensors, name: tensors[name][:1, ..., :1].contiguous()}, path, metadata={"format": "pt"})
    with pytest.raises(ModelError):
        load_classifier(tmp_path / "run")


def test_texts_that_a_classifier_cuts_are_counted(classify, run_cli, tmp_path):
    assert classify("run").exit_code == 0
    result = run_cli("baseline", "predict", tmp_path / "run", "-", input="ask what\n" + "the next from " * 400 + "\n")
    assert len(result.stdout.splitlines()) == 2
    assert "1 of 2 texts lose their end: the model takes" in result.stderr


def test_the_text_column_is_for_classifiers(run_cli, tmp_path):
    result = run_cli("baseline", "predict", tmp_path, "-", "--text-column", "a", input="x")
    assert result.exit_code == 2
    assert "this is for a classifier from finetune" in result.stderr
