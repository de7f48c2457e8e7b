"""What happens to the unfinished methods of a comparison when something stands in their way."""

from __future__ import annotations

import fcntl
import json
import os

import pytest

from llmkit.errors import BlockedError, DataError, RunError


@pytest.fixture
def compare(run_cli, tmp_path):
    """Run the majority class and an MLP on forty labelled texts: the result of the verb."""
    rows = [{"text": f"{'good' if i % 2 else 'bad'} {i}", "label": "yes" if i % 2 else "no"} for i in range(40)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = ("--methods", "majority,mlp", "--set", "mlp.train.steps=3", "--output", tmp_path / "o", "--json")
    return lambda: run_cli("compare", path, *arguments)


@pytest.fixture
def failing(monkeypatch):
    """Let the MLP leave something in its folder, and then end with an error."""
    from llmkit.commands.contest import run as contest_run

    def fail_with(error):
        def run(method, contest, job, folder):
            folder.mkdir(parents=True)
            (folder / "checkpoint").touch()
            raise error

        monkeypatch.setitem(contest_run.RUNS, "mlp", run)

    return fail_with


def kept(tmp_path):
    """The files of unfinished methods."""
    return [path.name for path in (tmp_path / "o" / ".unfinished").glob("mlp-*/*")]


def test_what_stands_in_the_way_ends_the_comparison_and_costs_no_checkpoint(compare, failing, tmp_path):
    failing(BlockedError("No space left on device"))
    result = compare()
    assert result.exit_code == 2
    assert "No space left" in result.stderr
    assert kept(tmp_path) == ["checkpoint"]


def test_a_training_that_fails_is_a_line_and_keeps_its_checkpoint(compare, failing, tmp_path):
    failing(RunError("step 3: loss nan"))
    reasons = [line["reason"] for line in json.loads(compare().stdout)["methods"]]
    assert reasons == [None, "step 3: loss nan"]
    assert kept(tmp_path) == ["checkpoint"]


def test_a_method_that_cannot_run_on_the_rows_leaves_nothing(compare, failing, tmp_path):
    failing(DataError("all rows are alike"))
    assert compare().exit_code == 0
    assert kept(tmp_path) == []


def test_a_comparison_that_another_process_holds_is_left_alone(compare, tmp_path):
    assert compare().exit_code == 0
    lock = os.open(tmp_path / "o" / ".lock", os.O_RDWR)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        result = compare()
    finally:
        os.close(lock)
    assert result.exit_code == 2
    assert "another process is writing to this comparison" in result.stderr
    assert compare().exit_code == 0
