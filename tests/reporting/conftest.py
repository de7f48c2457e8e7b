"""A folder as runs and commands leave it, written by hand."""

from __future__ import annotations

import json

import pytest


def write_run(folder, *, kind="pretrain", steps=6, results=None):
    """A finished run of a few steps."""
    folder.mkdir(parents=True)
    (folder / "recipe.yaml").write_text(f"kind: {kind}\nmodel:\n  type: llama\n")
    lines = [
        {"step": n, "loss": 4.0 - n / 2, "lr": 1e-3, "grad_norm": 1.0, "tokens": 10 * n} for n in range(1, steps + 1)
    ]
    lines.insert(3, {"step": 3, "validation": {"nats_per_token": 2.5, "bits_per_byte": 2.0, "accuracy": 0.5}})
    lines.append({"step": steps, "validation": {"nats_per_token": 1.5, "bits_per_byte": 1.25, "accuracy": 0.75}})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 7, "lo')
    samples = [{"step": n, "prompt": "def ", "text": f"text <{n}> & more"} for n in (3, 6)]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in samples))
    (folder / "summary.json").write_text(
        json.dumps({"status": "finished", "seconds": 61.0, "tokens_per_second": 1234.5})
    )
    environment = {"python": "3.11.7", "packages": {"numpy": "2.4"}, "command": ["llmkit", kind, "--data", "my data"]}
    (folder / "environment.json").write_text(json.dumps(environment))
    if results:
        (folder / "results.json").write_text(json.dumps(results))


@pytest.fixture
def ladder(tmp_path):
    """What `llmkit scale` leaves of a ladder, without its runs."""
    folder = tmp_path / "ladders" / "wide"
    folder.mkdir(parents=True)
    points = [[1e5, 4.0], [1e6, 3.0], [1e7, 2.5]]
    document = {"dials": ["parameters"], "measure": "nats_per_token", "is_supported": False, "note": "at 8m tokens"}
    document |= {"rungs": [{"name": f"{x:g}", "loss": y} for x, y in points], "data": "texts", "rule": "lr as said"}
    document |= {
        "curves": [{"name": "models", "points": points, "law": [], "band": []}],
        "doubts": ["too few <points>"],
    }
    document |= {"prediction": None, "check": None, "law": None, "optima": [], "budgets": []}
    (folder / "scaling.json").write_text(json.dumps(document))
    (folder / "ladder.json").write_text(json.dumps({"request": {}, "sizes": ["100k"]}))
    return folder


@pytest.fixture
def results(tmp_path):
    """A folder with one of everything."""
    folder = tmp_path / "all"
    write_run(folder / "small")
    digits = {"network": "CNN (10 parameters)", "data": "digits", "test": {"accuracy": 0.97}, "classes": ["a", "b"]}
    digits |= {"reference": {"name": "majority class", "accuracy": 0.1}, "confusion_matrix": [[3, 1], [0, 4]]}
    write_run(folder / "cnn", kind="baseline", results=digits)
    metrics = {"bits_per_byte": {"value": 1.5, "stderr": 0.01}}
    text = {"task": "held-out", "shots": 0, "items": 3, "metrics": metrics, "chance": None}
    text["compressors"] = {"gzip_9": 2.0, "xz_9": 1.7}
    task = {
        "task": "quiz",
        "shots": 5,
        "items": 40,
        "metrics": {"accuracy": {"value": 0.3, "stderr": 0.07}},
        "chance": 0.25,
    }
    (folder / "evaluations" / "small").mkdir(parents=True)
    document = {"model": "all/small/model", "results": [text, task]}
    (folder / "evaluations" / "small" / "results.json").write_text(json.dumps(document))
    report = {"tokenizer": "all/tok", "bytes_per_token": 3.5, "vocab_size": 4096, "tokens_per_word": 2.0}
    report |= {"round_trip": 1.0, "unused": 0.1}
    (folder / "tokenizer.json").write_text(json.dumps({"tokenizers": [report], "reference": None}))
    for name, text in (("before", "colourless <green> ideas"), ("after", "A queue.")):
        (folder / f"{name}.json").write_text(json.dumps({"completions": [{"prompt": "What is it?", "text": text}]}))
    return folder


def method_line(method, title, value, milliseconds, reason=None):
    """A method of a comparison; with a reason, one that did not run."""
    if reason:
        return {"method": method, "title": title, "reason": reason}
    return {
        "method": method,
        "title": title,
        "reason": None,
        "metric": {"value": value, "stderr": 0.05, "low": value - 0.1, "high": value + 0.1},
        "difference": {"value": value - 0.9, "low": None, "high": None},
        "p_holm": 0.0004,
        "log_loss": 0.4,
        "calibration_error": 0.07,
        "leaning": "99% of its answers are <b>" if method == "tfidf" else None,
        "confusion_matrix": [[7, 1], [3, 9]],
        "reliability": [
            {"confidence": 0.7, "accuracy": 0.6, "rows": 12},
            {"confidence": 0.9, "accuracy": 1.0, "rows": 8},
        ],
        "labelled_examples": 1234,
        "trained_parameters": 56789,
        "training_seconds": 1.5,
        "milliseconds_per_item": milliseconds,
        "peak_memory_bytes": 1_500_000_000,
    }


@pytest.fixture
def document():
    """What `llmkit compare` writes into comparison.json."""
    lines = [
        method_line("tfidf", "TF-IDF + logistic regression", 0.7, 0.05),
        method_line("lora", "LoRA", 0.9, 80.0),
        method_line("full", "full fine-tuning", 0, 0, reason="no language model was named"),
    ]
    curves = {
        "tfidf": [{"examples": n, "value": v, "low": v - 0.1, "high": v, "draws": 3} for n, v in ((2, 0.5), (8, 0.6))],
        "lora": [{"examples": n, "value": v, "low": v - 0.1, "high": v, "draws": 3} for n, v in ((0, 0.5), (8, 0.7))],
    }
    frontier = [
        {"threshold": 0.0, "share": 0.0, "value": 0.7, "milliseconds_per_item": 0.05},
        {"threshold": 2.0, "share": 1.0, "value": 0.9, "milliseconds_per_item": 80.05},
    ]
    return {
        "task": "<b>reviews</b>",
        "model": None,
        "labels": ["bad", "good"],
        "rows": {"train": 1134, "validation": 100, "test": 20},
        "notes": ["read as kind label"],
        "accounting": "labelled: the rows whose labels a method used",
        "metric": "accuracy",
        "test": "McNemar's exact test",
        "chance": 0.5,
        "best": "lora",
        "methods": lines,
        "only_one_right": {"lora": {"count": 1, "items": [{"id": "3", "answer": "bad", "text": "<script>x</script>"}]}},
        "cascade": {"first": "tfidf", "second": "lora", "share_handed_on": 0.22, "frontier": frontier},
        "curve": {"draws": 3, "examples": [0, 2, 8], "all": 1234, "curves": curves, "words": "below 4 examples, LoRA"},
        "output": "o",
        "command": "llmkit compare reviews.csv",
    }


@pytest.fixture
def compared(results, document):
    """The folder of a comparison, among other results."""
    folder = results / "compared here"
    folder.mkdir()
    (folder / "comparison.json").write_text(json.dumps(document))
    (folder / "comparison.html").write_text("<!doctype html>")
    (folder / "contest.json").write_text(json.dumps({"task": "reviews", "rows": {"test": 20}}))
    return folder


@pytest.fixture
def tuned(results):
    """A tuned run, asked in its end whether its answers end and what it forgot."""
    folder = results / "tuned"
    write_run(folder, kind="finetune")
    ends = {"asked": 50, "ended": 48, "rate": 0.96, "median_tokens": 20, "longest_allowed": 90, "step": 6}
    (folder / "ends.json").write_text(json.dumps(ends))
    before = {"metrics": {"accuracy": {"value": 0.75, "stderr": 0.1}}, "correct": [True, True, True, False]}
    after = {"metrics": {"accuracy": {"value": 0.5, "stderr": 0.1}}, "correct": [False, True, False, True]}
    document = {"before": {"<exam>": before}, "after": {"<exam>": after}, "step": 6}
    (folder / "forget-check.json").write_text(json.dumps(document))
    return folder
