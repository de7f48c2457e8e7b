"""The border: what users can mend is a message and an exit code, in text or JSON, and pipes end quietly."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest


def error_of(result):
    assert result.stdout == ""
    return json.loads(result.stderr.strip().splitlines()[-1])["error"]


def test_an_error_says_where_what_and_what_to_do(run_cli):
    result = run_cli("recipe", "show", "tiny/pretrian")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: tiny/pretrian: there is no such recipe file")
    assert "fix: did you mean 'tiny/pretrain'?" in result.stderr


def test_with_json_an_error_is_a_document_on_stderr(run_cli):
    result = run_cli("recipe", "show", "tiny/pretrian", "--json")
    assert error_of(result).keys() == {"where", "message", "fix"}


@pytest.mark.parametrize("arguments", [("pretrain", "--steps", "3", "--json"), ("model", "frobnicate", "--json")])
def test_with_json_a_mistyped_command_is_a_document_too(run_cli, arguments):
    result = run_cli(*arguments)
    assert result.exit_code == 2
    assert "--help" in error_of(result)["fix"]


def test_a_file_that_cannot_be_read_is_no_traceback(run_cli, tmp_path):
    result = run_cli("recipe", "check", tmp_path)
    assert result.exit_code == 2
    assert str(tmp_path) in result.stderr
    assert "Traceback" not in result.stderr


def test_a_reader_that_leaves_early_ends_the_program_quietly():
    command = f"{sys.executable} -m llmkit recipe show --fields | head -1"
    result = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(result.stdout.splitlines()) == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_streams_are_no_traceback(closed):
    command = f"{sys.executable} -m llmkit recipe list {closed}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert result.returncode == 0
    assert "Traceback" not in result.stderr
