"""`llmkit verify`, through the command line."""

from __future__ import annotations

import json

from llmkit.commands.verify import CHECKS


def states(document):
    return {check["name"]: check["state"] for check in document["checks"]}


def test_a_run_gets_its_certificate_and_a_damaged_one_does_not(run_cli, tiny_pretraining, tmp_path):
    run = tmp_path / "run"
    assert run_cli(*tiny_pretraining, "--set", "train.steps=2", "--output", run).exit_code == 0
    result = run_cli("verify", run, "--json")
    assert result.exit_code == 0, result.stderr + result.stdout
    document = json.loads(result.stdout)
    assert document["passed"]
    assert set(states(document)) == {check.name for check in CHECKS}
    assert states(document)["killed and resumed = whole"] == "pass"
    assert states(document)["adapter at start = base"] == "not applicable"
    assert {"recipe", "data", "tokenizer", "result"} == document["hashes"].keys()
    assert json.loads((run / "certificate.json").read_text()) == document
    assert document["environment"]["torch"]

    weights = next((run / "checkpoints").glob("step-*")) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    result = run_cli("verify", run)
    assert result.exit_code == 3
    assert "failed: files whole" in result.stderr
    assert "model.safetensors does not match its checksum" in result.stdout
    assert not json.loads((run / "certificate.json").read_text())["passed"]


def test_a_model_alone_is_verified_and_what_does_not_apply_is_said(run_cli, tiny_model_folder, tmp_path):
    result = run_cli("verify", tiny_model_folder, "--output", tmp_path / "c.json", "--json")
    assert result.exit_code == 0, result.stdout
    found = states(json.loads(result.stdout))
    assert found["cached = uncached generation"] == found["ids in training = ids in chat"] == "pass"
    assert found["a batch can be learnt by heart"] == "not applicable"
    assert (tmp_path / "c.json").is_file()
    assert not (tiny_model_folder / "certificate.json").exists()


def test_a_certificate_of_a_baseline_tells_its_result_and_what_was_set(run_cli, tmp_path):
    from hashlib import sha256

    fields = ["--set", "train.steps=2", "--set", "model.hidden_size=8"]
    run = tmp_path / "run"
    assert run_cli("baseline", "tiny/baseline-mlp", "--output", run, *fields).exit_code == 0
    hashes = json.loads(run_cli("verify", run, "--json").stdout)["hashes"]
    assert hashes.keys() == {"recipe", "data", "result"}
    assert hashes["recipe"] == sha256((run / "recipe.yaml").read_bytes()).hexdigest()
    other = json.loads(run_cli("verify", run, "--set", "model.hidden_size=9", "--json").stdout)["hashes"]
    assert other["recipe"] != hashes["recipe"]
    assert other["data"] == hashes["data"]


def test_nothing_but_a_certificate_is_replaced(run_cli, tiny_model_folder, tmp_path):
    notes = tmp_path / "notes.json"
    for content in ("my notes", "[1]", '{"checks": []}'):
        notes.write_text(content)
        result = run_cli("verify", tiny_model_folder, "--output", notes)
        assert (result.exit_code, notes.read_text()) == (2, content)
        assert "this file is no certificate of llmkit" in result.stderr
    assert "this is a folder" in run_cli("verify", tiny_model_folder, "--output", tmp_path).stderr
    kept = {"subject": "x", "passed": False, "hashes": {}, "checks": []}
    notes.write_text(json.dumps(kept))
    assert run_cli("verify", tiny_model_folder, "--output", notes).exit_code == 0
    assert json.loads(notes.read_text())["passed"]


def test_a_check_that_breaks_down_has_failed_and_the_others_go_on(run_cli, tiny_model_folder, monkeypatch):
    from llmkit.generation import decode

    def broken(*args, **kwargs):
        raise RuntimeError("no cache today")

    monkeypatch.setattr(decode, "decode", broken)
    result = run_cli("verify", tiny_model_folder)
    assert result.exit_code == 3
    assert "RuntimeError: no cache today" in result.stdout
    assert "scores of the tree = naive" in result.stdout


def test_what_cannot_be_verified_is_told(run_cli, tiny_model_folder, tmp_path):
    assert "there is no such recipe" in run_cli("verify", "nowhere").stderr
    result = run_cli("verify", tiny_model_folder, "--data", "x.jsonl")
    assert result.exit_code == 2
    assert "a model is verified by itself" in result.stderr
    (tmp_path / "empty").mkdir()
    assert run_cli("verify", tmp_path / "empty").exit_code == 2
