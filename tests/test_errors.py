from __future__ import annotations

import json

import pytest

from llmkit import errors
from llmkit.errors import CheckError, DataError, LlmkitError, StoppedError


def test_an_error_says_where_what_and_what_to_do():
    error = DataError("message 3 has role 'bot'", where="chats.jsonl:41", fix="rename the role")
    assert str(error) == "chats.jsonl:41: message 3 has role 'bot'\n  fix: rename the role"


def test_an_error_without_a_place_or_a_fix_is_its_message_alone():
    assert str(LlmkitError("no text")) == "no text"


def test_every_kind_of_error_has_an_exit_code_of_the_documented_ones():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, LlmkitError)]
    assert len(kinds) == 9
    assert {kind.exit_code for kind in kinds} == {2, 3, 75}
    assert CheckError.exit_code == 3
    assert StoppedError.exit_code == 75


@pytest.fixture
def missing_data(run_cli, tmp_path):
    """Run pretrain on a folder that is not there."""
    return lambda *more: run_cli("pretrain", "--data", tmp_path / "none", "--output", tmp_path / "run", *more)


def test_an_error_goes_to_stderr_and_leaves_stdout_empty(missing_data, tmp_path):
    result = missing_data()
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr.splitlines()[-2].startswith(f"error: {tmp_path / 'none'}")
    assert result.stderr.splitlines()[-1].startswith("  fix: ")
    assert not (tmp_path / "run").exists()


def test_an_error_with_json_is_one_document_on_stderr(missing_data, tmp_path):
    result = missing_data("--json")
    assert result.stdout == ""
    error = json.loads(result.stderr.splitlines()[-1])["error"]
    assert set(error) == {"where", "message", "fix"}
    assert error["where"].startswith(str(tmp_path / "none"))


def test_an_unknown_key_is_named_with_the_flag_and_the_nearest_key(run_cli, tmp_path):
    result = run_cli("pretrain", "--data", tmp_path, "--output", tmp_path / "run", "--set", "train.learning_rat=1")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --set train.learning_rat=1: unknown key 'train.learning_rat'")
