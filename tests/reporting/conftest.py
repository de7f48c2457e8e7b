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
