"""Runs in a folder: found, described, compared."""

from __future__ import annotations

import fcntl
import json
import os

import pytest

from llmkit.errors import UsageError
from llmkit.reporting.runs import (
    changed_fields,
    describe_run,
    differences,
    environment_differences,
    find_runs,
    list_checkpoints,
    named_records,
    open_record,
    recipe_differences,
    results_of,
    status_of,
)


def make_run(folder, *, recipe="kind: pretrain\ntrain:\n  steps: 10\n", steps=6, saved=(), files=None):
    """A run that has come to step `steps`, with checkpoints of the steps `saved`."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / "recipe.yaml").write_text(recipe)
    lines = [{"step": n, "loss": 5.0 - n / 2, "tokens": 10 * n, "tokens_per_second": 5.0} for n in range(1, steps + 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for step in saved:
        checkpoint = folder / "checkpoints" / f"step-{step:08}"
        checkpoint.mkdir()
        (checkpoint / "state.json").write_text("{}")
        manifest = {"files": {"state.json": {"size": 2, "sha256": ""}}}
        (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    for name, document in (files or {}).items():
        (folder / name).write_text(json.dumps(document))
    return folder


def test_runs_are_found_below_a_folder_and_recipes_alone_are_none(tmp_path):
    for name in ("a/one", "b", "b/more"):
        make_run(tmp_path / name)
    (tmp_path / "recipes").mkdir()
    (tmp_path / "recipes" / "recipe.yaml").write_text("kind: pretrain\n")
    (tmp_path / "begun" / "checkpoints").mkdir(parents=True)
    (tmp_path / "begun" / ".lock").touch()
    make_run(tmp_path / ".hidden")
    assert [path.relative_to(tmp_path).as_posix() for path in find_runs(tmp_path)] == ["a/one", "b"]
    assert list(find_runs(tmp_path / "b")) == [tmp_path / "b"]


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"steps": 0}, "new"),
        ({"steps": 6}, "failed"),
        ({"steps": 6, "saved": (2, 4)}, "failed"),
        ({"steps": 6, "saved": (4, 6)}, "stopped"),
        ({"steps": 10, "saved": (10,), "files": {"summary.json": {"status": "finished"}}}, "finished"),
        ({"recipe": "kind: [pre\n"}, "unreadable"),
        ({"recipe": "- a list\n"}, "unreadable"),
    ],
)
def test_the_state_of_a_run_is_read_from_what_it_left(tmp_path, changes, status):
    assert status_of(open_record(make_run(tmp_path / "run", **changes))) == status


def test_a_run_is_running_as_long_as_its_lock_is_held(tmp_path):
    folder = make_run(tmp_path / "run")
    descriptor = os.open(folder / ".lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    assert status_of(open_record(folder)) == "running"
    os.close(descriptor)
    assert status_of(open_record(folder)) == "failed"


def test_a_run_is_described_at_one_glance(tmp_path):
    recipe = "kind: pretrain\nmodel:\n  type: gpt2\n  num_layers: 3\n  hidden_size: 48\ntrain:\n  steps: 10\n"
    files = {"plan.json": {"steps": 9, "parameters": 12_345_678}}
    about = describe_run(open_record(make_run(tmp_path / "run", recipe=recipe, saved=(4,), files=files)))
    assert about.pop("changed")
    assert about == {
        "run": str(tmp_path / "run"),
        "kind": "pretrain",
        "model": "gpt2 3x48 12.3M",
        "status": "failed",
        "step": 6,
        "steps": 9,
        "loss": 2.0,
        "validation": None,
        "seconds": 12.0,
        "problems": [],
    }


@pytest.mark.parametrize(
    ("recipe", "model"),
    [
        ("kind: pretrain\nmodel:\n  type: llama\n  size: 10m\n", "llama 10m"),
        ("kind: finetune\nmethod: lora\nmodel:\n  source: runs/base/model\n", "base lora"),
        ("kind: baseline\nmodel:\n  kind: cnn\n  hidden_size: 64\n", "cnn 64"),
        ("kind: pretrain\nmodel: nonsense\n", None),
    ],
)
def test_a_model_is_told_in_two_words(tmp_path, recipe, model):
    assert describe_run(open_record(make_run(tmp_path / "run", recipe=recipe)))["model"] == model


def test_what_cannot_be_read_is_told_and_the_rest_is_read(tmp_path):
    folder = make_run(tmp_path / "run", recipe="kind: [pre\n")
    (folder / "summary.json").write_text('{"status": "fin')
    (folder / "environment.json").write_text("[]")
    with (folder / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 7, "lo\xff')
    about = describe_run(open_record(folder))
    assert about["step"] == 6
    assert [problem.split(" (")[0] for problem in about["problems"]] == [
        "recipe.yaml is not YAML",
        "environment.json holds no mapping of names to values",
        "summary.json cannot be read",
    ]


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no run in this folder"):
        open_record(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        open_record(tmp_path / "none")


def test_runs_are_called_by_the_shortest_names_that_tell_them_apart(tmp_path):
    one, two, other = (make_run(tmp_path / name) for name in ("a/run", "b/run", "b/other"))
    assert list(named_records([one, other])) == ["run", "other"]
    assert list(named_records([one, two])) == ["a/run", "b/run"]
    with pytest.raises(UsageError, match="named twice"):
        named_records([one, tmp_path / "b" / ".." / "a" / "run"])


def test_only_fields_that_differ_are_told():
    a = {"x": 1, "deep": {"y": [1], "z": None}}
    b = {"x": 1, "deep": {"y": [2], "z": None}, "more": True}
    assert differences({"a": a, "b": b, "empty": {}}) == {"deep.y": {"a": [1], "b": [2]}, "more": {"b": True}}
    assert differences({"a": a, "b": a}) == {}


def test_recipes_of_several_kinds_are_compared_where_both_have_a_field(tmp_path):
    one = make_run(tmp_path / "one", recipe="kind: pretrain\ntrain:\n  lr: 1\nmodel:\n  type: llama\n")
    two = make_run(tmp_path / "two", recipe="kind: baseline\ntrain:\n  lr: 2\n")
    assert recipe_differences(named_records([one, two])) == {
        "kind": {"one": "pretrain", "two": "baseline"},
        "train.lr": {"one": 1, "two": 2},
    }


def test_other_data_under_the_same_name_is_a_difference(tmp_path):
    one = make_run(tmp_path / "one", files={"inputs.json": {"data": "a" * 64}})
    two = make_run(tmp_path / "two", files={"inputs.json": {"data": "b" * 64}})
    assert recipe_differences(named_records([one, two])) == {"contents of the data": {"one": "a" * 12, "two": "b" * 12}}


def test_the_command_is_no_difference_of_environments(tmp_path):
    environments = [{"torch": "1", "packages": {"numpy": n}, "command": [n], "began": n} for n in ("2", "3")]
    runs = [make_run(tmp_path / e["began"], files={"environment.json": e}) for e in environments]
    assert environment_differences(named_records(runs)) == {"packages.numpy": {"2": "2", "3": "3"}}


def test_changed_fields_are_those_that_are_not_at_their_default(tmp_path):
    recipe = "kind: pretrain\ntrain:\n  steps: 10\n  seed: 0\n  unheard_of: 1\n"
    assert changed_fields(open_record(make_run(tmp_path / "run", recipe=recipe))) == {
        "train.steps": 10,
        "train.unheard_of": 1,
    }


def test_checkpoints_are_told_with_what_their_sizes_show(tmp_path):
    folder = make_run(tmp_path / "run", saved=(2, 4, 6))
    (folder / "checkpoints" / "step-00000004" / "state.json").write_text("{ }")
    (folder / "checkpoints" / "step-00000006" / "state.json").unlink()
    for name in ("damaged-step-00000001", ".step-00000008.1.tmp"):
        (folder / "checkpoints" / name).mkdir()
    assert {found["name"]: found["state"] for found in list_checkpoints(folder)} == {
        "step-00000002": "whole",
        "step-00000004": "state.json has another size",
        "step-00000006": "state.json is missing",
        "damaged-step-00000001": "set aside",
        ".step-00000008.1.tmp": "left by a save that was broken off",
    }


def test_results_hold_the_last_and_the_best_validation(tmp_path):
    folder = make_run(tmp_path / "run")
    with (folder / "metrics.jsonl").open("a") as file:
        for step, bits in ((2, 3.0), (4, 2.0), (6, 2.5)):
            file.write(json.dumps({"step": step, "validation": {"bits_per_byte": bits}}) + "\n")
    results = results_of(open_record(folder))
    assert results["validation"] == {"bits_per_byte": 2.5}
    assert results["best"] == {"bits_per_byte": 2.0, "step": 4}
    assert (results["steps"], results["tokens"], results["seconds"], results["training_loss"]) == (6, 60, 12.0, 2.0)


def test_results_hold_what_a_tuned_model_was_asked_in_the_end(tuned):
    results = results_of(open_record(tuned))
    assert (results["answers_that_end"], results["change"]) == (0.96, {"<exam>": {"accuracy": -0.25}})
