"""`llmkit run`: list, show, compare."""

from __future__ import annotations

import fcntl
import json
import math
import os
import pty
import subprocess
import sys

import pytest

RECIPE = (
    "kind: pretrain\nmodel:\n  type: llama\n  num_layers: 2\n  hidden_size: 64\ntrain:\n  steps: {steps}\n  lr: {lr}\n"
)


def make_run(folder, *, steps=40, lr=0.01, done=None, torch="2.13"):
    """A run as the training verbs leave it; `done`: the step after which it was killed."""
    (folder / "checkpoints").mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / "recipe.yaml").write_text(RECIPE.format(steps=steps, lr=lr))
    (folder / "environment.json").write_text(json.dumps({"torch": torch, "command": ["llmkit", "pretrain", "a b"]}))
    with (folder / "metrics.jsonl").open("w") as file:
        for n in range(1, (done or steps) + 1):
            loss = 2 + 6 / (1 + n * lr * 10)
            line = {"step": n, "loss": loss, "lr": lr, "tokens": 64 * n, "tokens_per_second": 640.0}
            file.write(json.dumps(line) + "\n")
            if n % 10 == 0:
                file.write(json.dumps({"step": n, "validation": {"bits_per_byte": loss / 2}}) + "\n")
    sample = {"step": 40, "prompt": "def ", "text": "one\ntwo\x1b[31m"}
    (folder / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    if done is None:
        summary = {"status": "finished", "step": steps, "seconds": 4.0, "tokens_per_second": 640.0}
        (folder / "summary.json").write_text(json.dumps(summary))
    return folder


@pytest.fixture
def runs(tmp_path):
    """Two finished runs that differ in one field, one that was killed, and one with a broken recipe."""
    folder = tmp_path / "runs"
    make_run(folder / "slow", lr=0.01)
    make_run(folder / "fast", lr=0.1, torch="2.14")
    make_run(folder / "killed", done=15)
    make_run(folder / "broken", done=3)
    (folder / "broken" / "recipe.yaml").write_text("kind: [pre\n")
    for number, name in enumerate(("slow", "fast", "killed", "broken")):
        for path in (folder / name, *(folder / name).iterdir()):
            os.utime(path, (1e9 + 100 * number, 1e9 + 100 * number))
    return folder


def test_runs_are_listed_in_the_order_of_their_last_change(run_cli, runs):
    result = run_cli("run", "list", runs, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["runs"]
    assert [(run["run"].rpartition("/")[2], run["status"], run["step"], run["steps"]) for run in found] == [
        ("slow", "finished", 40, 40),
        ("fast", "finished", 40, 40),
        ("killed", "failed", 15, 40),
        ("broken", "unreadable", 3, None),
    ]
    assert found[1]["validation"] == {"bits_per_byte": pytest.approx(1 + 3 / 41)}


def test_the_table_says_what_is_wrong_with_a_broken_run(run_cli, runs):
    result = run_cli("run", "list", runs)
    assert result.exit_code == 0
    rows = {line.split()[0].rpartition("/")[2]: line for line in result.stdout.splitlines()}
    assert "llama 2x64" in rows["killed"]
    assert "15/40" in rows["killed"]
    assert "unreadable" in rows["broken"]
    assert "runs/broken: recipe.yaml is not YAML (line 2:" in result.stderr


def test_a_run_that_is_held_open_is_running(run_cli, runs):
    descriptor = os.open(runs / "killed" / ".lock", os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    found = json.loads(run_cli("run", "list", runs / "killed", "--json").stdout)["runs"]
    os.close(descriptor)
    assert [run["status"] for run in found] == ["running"]


def test_a_folder_without_runs_is_no_error_and_one_that_is_not_there_is(run_cli, tmp_path):
    result = run_cli("run", "list", tmp_path, "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, {"runs": []})
    assert "no run" in run_cli("run", "list", tmp_path).stderr
    assert run_cli("run", "list", tmp_path / "none").exit_code == 2


def test_show_tells_what_is_in_a_run(run_cli, runs):
    result = run_cli("run", "show", runs / "slow")
    assert result.exit_code == 0, result.stderr
    text = result.stdout
    facts = [line.split(maxsplit=1) for line in text.splitlines()]
    assert "pretrain of llama 2x64, finished, step 40 of 40, 4.0 s" in text
    assert ["train.steps", "40"] in facts
    assert "train.batch_size" not in text, "it is at its default"
    assert ["command", "llmkit pretrain 'a b'"] in facts
    assert ["bits_per_byte", "1.6"] in facts
    assert "validation, bits per byte" in text
    assert "samples after step 40" in text
    assert "> one two\\x1b[31m" in text, "a model cannot steer the terminal"


def test_show_as_json_has_the_whole_recipe_and_what_was_changed(run_cli, runs):
    document = json.loads(run_cli("run", "show", runs / "fast", "--json").stdout)
    assert document["recipe"]["train"] == {"steps": 40, "lr": 0.1}
    assert document["changed_fields"]["train.lr"] == 0.1
    assert document["metrics"]["step"] == 40
    assert document["samples"][0]["prompt"] == "def "


@pytest.fixture
def tuned(runs):
    """A run that was asked in its end whether its answers end, and what it forgot."""
    folder = runs / "slow"
    (folder / "ends.json").write_text(json.dumps({"asked": 50, "ended": 48, "rate": 0.96, "step": 40}))
    exam = {"before": ([True, True], 1.0), "after": ([False, True], 0.5)}
    document = {
        when: {"exam": {"metrics": {"accuracy": {"value": value}}, "correct": correct}}
        for when, (correct, value) in exam.items()
    }
    (folder / "forget-check.json").write_text(json.dumps({**document, "step": 40}))
    return folder


def test_show_tells_how_many_answers_end_and_what_was_forgotten(run_cli, tuned):
    text = run_cli("run", "show", tuned).stdout
    assert ["answers", "that", "end", "48", "of", "50"] in [line.split() for line in text.splitlines()]
    assert ["exam", "accuracy", "1.0000", "0.5000", "-0.5000", "1", "0"] in [line.split() for line in text.splitlines()]
    document = json.loads(run_cli("run", "show", tuned, "--json").stdout)
    assert (document["ends"]["ended"], document["ends"]["asked"]) == (48, 50)
    assert document["forgotten"]["after"]["exam"]["metrics"]["accuracy"]["value"] == 0.5


def test_show_says_nothing_of_tuning_where_none_was(run_cli, runs):
    assert "tuning" not in run_cli("run", "show", runs / "fast").stdout
    document = json.loads(run_cli("run", "show", runs / "fast", "--json").stdout)
    assert (document["ends"], document["forgotten"]) == ({}, {})


def test_show_copes_with_a_broken_run(run_cli, runs):
    result = run_cli("run", "show", runs / "broken")
    assert result.exit_code == 0
    assert "unreadable" in result.stdout
    assert "not YAML" in result.stderr


def test_compare_tells_what_differs_and_nothing_else(run_cli, runs):
    document = json.loads(run_cli("run", "compare", runs / "slow", runs / "fast", "--json").stdout)
    assert document["recipe"] == {"train.lr": {"slow": 0.01, "fast": 0.1}}
    assert document["environment"] == {"torch": {"slow": "2.13", "fast": "2.14"}}
    assert document["results"]["fast"]["best"] == {"bits_per_byte": pytest.approx(1 + 3 / 41), "step": 40}
    assert [curve["title"] for curve in document["curves"]] == [
        "training loss, running mean",
        "validation, bits per byte",
    ]
    assert [x for x, _ in document["curves"][1]["lines"]["slow"]] == [10, 20, 30, 40]


def test_compare_lays_curves_over_each_other(run_cli, runs):
    result = run_cli("run", "compare", runs / "slow", runs / "fast", runs / "broken")
    assert result.exit_code == 0, result.stderr
    assert "A slow   B fast   C broken" in result.stdout
    assert "A slow   B fast\n" in result.stdout, "the broken run has no validation"
    assert ["train.lr", "0.01", "0.1"] in [line.split() for line in result.stdout.splitlines()]


@pytest.mark.parametrize(("by", "last"), [("step", 40), ("tokens", 40 * 64), ("time", 4.0)])
def test_the_axis_of_compare_can_be_chosen(run_cli, runs, by, last):
    result = run_cli("run", "compare", runs / "slow", runs / "fast", "--by", by, "--json")
    assert json.loads(result.stdout)["curves"][0]["lines"]["slow"][-1][0] == pytest.approx(last)


def test_the_beginning_can_be_left_out(run_cli, runs):
    result = run_cli("run", "compare", runs / "slow", runs / "fast", "--after", "30", "--json")
    assert [x for x, _ in json.loads(result.stdout)["curves"][1]["lines"]["slow"]] == [30, 40]


def test_losses_that_are_no_numbers_do_not_break_json(run_cli, runs):
    line = {"step": 41, "loss": math.nan, "tokens": 64 * 41, "tokens_per_second": 1.0}
    with (runs / "slow" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")
    for arguments in (["list", runs], ["show", runs / "slow"], ["compare", runs / "slow", runs / "fast"]):
        result = run_cli("run", *arguments, "--json")
        assert result.exit_code == 0, result.stderr
        json.loads(result.stdout, parse_constant=pytest.fail)


def test_pictures_are_written_by_their_ending(run_cli, runs, tmp_path):
    pytest.importorskip("matplotlib")
    both = [runs / "slow", runs / "fast"]
    assert run_cli("run", "compare", *both, "--output", tmp_path / "curves.svg").exit_code == 0
    assert (tmp_path / "curves.svg").read_text().startswith("<svg")
    result = subprocess.run(
        [sys.executable, "-m", "llmkit", "run", "compare", *both, "--output", tmp_path / "curves.png"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr == f"picture: {tmp_path / 'curves.png'}\n"
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_only_pictures_that_llmkit_drew_are_replaced(run_cli, runs, tmp_path):
    pytest.importorskip("matplotlib")
    from llmkit.commands.replace import is_picture
    from llmkit.reporting.curves import Panel
    from llmkit.reporting.png import draw_png

    both = [runs / "slow", runs / "fast"]
    for name, content in (("photo.png", b"\x89PNG of a cat"), ("drawing.svg", b"<svg></svg>")):
        (tmp_path / name).write_bytes(content)
        result = run_cli("run", "compare", *both, "--output", tmp_path / name)
        assert (result.exit_code, (tmp_path / name).read_bytes()) == (2, content)
        assert "no picture of llmkit" in result.stderr
    for _ in range(2):
        assert run_cli("run", "compare", *both, "--output", tmp_path / "curves.svg").exit_code == 0
    assert is_picture(draw_png([Panel("t", "step", {"a": [(0.0, 1.0), (1.0, 2.0)]})]))


def test_without_matplotlib_it_is_named_before_anything_is_read(run_cli, runs, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run_cli("run", "compare", runs / "slow", runs / "fast", "--output", tmp_path / "curves.png")
    assert result.exit_code == 2
    assert "pip install 'llmkit[plot]'" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["slow"], "one run has nothing to be held against"),
        (["slow", "slow"], "named twice"),
        (["slow", "none"], "no such folder"),
        (["slow", "fast", "--output", "curves.pdf"], "drawn as .png or .svg"),
        (["slow", "fast", "--output", "curves.svg", "--after", "1000"], "no curve to draw"),
    ],
)
def test_what_cannot_be_compared_is_an_error(run_cli, runs, monkeypatch, arguments, message):
    monkeypatch.chdir(runs)
    result = run_cli("run", "compare", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize("width", [60, 80, 200])
def test_nothing_is_wider_than_the_terminal(runs, width):
    command = [sys.executable, "-m", "llmkit", "run", "compare", runs / "slow", runs / "fast"]
    environment = {**os.environ, "COLUMNS": str(width), "TERM": "dumb"}
    main, terminal = pty.openpty()
    with subprocess.Popen(command, stdout=terminal, env=environment) as process:
        os.close(terminal)
        lines = read_all(main).decode().splitlines()
        assert process.wait(timeout=120) == 0
    assert max(map(len, lines)) == width, "the plots fill it"


def read_all(descriptor):
    """What was written to a terminal that nobody writes to any more."""
    parts = []
    while True:
        try:
            part = os.read(descriptor, 65536)
        except OSError:
            break
        if not part:
            break
        parts.append(part)
    os.close(descriptor)
    return b"".join(parts)


def test_a_stdout_without_braille_gets_plain_characters(runs):
    result = subprocess.run(
        [sys.executable, "-m", "llmkit", "run", "compare", runs / "slow", runs / "fast"],
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
        timeout=120,
    )
    assert result.returncode == 0, result.stderr
    assert b"\nA slow   B fast\n" in result.stdout
    assert result.stdout.isascii()


def test_a_run_that_was_really_trained_is_listed_shown_compared_and_verified(run_cli, tiny_pretraining, tmp_path):
    for name, steps in (("one", 2), ("two", 4)):
        result = run_cli(*tiny_pretraining, "--output", tmp_path / name, "--set", f"train.steps={steps}")
        assert result.exit_code == 0, result.stderr
    found = json.loads(run_cli("run", "list", tmp_path, "--json").stdout)["runs"]
    assert [(run["status"], run["step"], run["problems"]) for run in found] == [
        ("finished", 2, []),
        ("finished", 4, []),
    ]
    shown = json.loads(run_cli("run", "show", tmp_path / "two", "--json").stdout)
    assert [checkpoint["state"] for checkpoint in shown["checkpoints"]] == ["whole"]
    compared = json.loads(run_cli("run", "compare", tmp_path / "one", tmp_path / "two", "--json").stdout)
    assert compared["recipe"] == {"train.steps": {"one": 2, "two": 4}}
    assert compared["environment"] == {}
    verified = run_cli("run", "verify", tmp_path / "one", tmp_path / "two", "--json")
    assert verified.exit_code == 0
    assert {check["state"] for check in json.loads(verified.stdout)["checks"]} <= {"whole", "no checksums"}
