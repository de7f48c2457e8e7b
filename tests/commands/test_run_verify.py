"""`llmkit run verify`: checkpoints, results and prepared data against their checksums."""

from __future__ import annotations

import json
import shutil

import pytest

from llmkit.training.checkpoint import write_manifest


def write_folder(folder):
    """Two files, and their checksums."""
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(bytes(range(256)) * 4)
    (folder / "state.json").write_text('{"step": 1}')
    write_manifest(folder)
    return folder


@pytest.fixture
def run(tmp_path):
    """A run with two checkpoints, one that was set aside, one that is half deleted, and a result."""
    folder = tmp_path / "run"
    for step in (1, 2):
        write_folder(folder / "checkpoints" / f"step-{step:08}")
    for name in ("damaged-step-00000003", ".step-00000000.tmp"):
        (folder / "checkpoints" / name).mkdir()
    (folder / "model").mkdir()
    (folder / "recipe.yaml").write_text("kind: pretrain\n")
    return folder


def verify(run_cli, *paths):
    """(exit code, name -> state)."""
    result = run_cli("run", "verify", *paths, "--json")
    checks = json.loads(result.stdout)["checks"]
    return result.exit_code, {check["path"].rpartition("/")[2]: check["state"] for check in checks}


def snapshot(folder):
    """All files below a folder, with their contents and times."""
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.rglob("*") if path.is_file()}


def test_a_whole_run_passes(run_cli, run):
    assert verify(run_cli, run) == (
        0,
        {
            "run": "whole",
            "step-00000001": "whole",
            "step-00000002": "whole",
            "damaged-step-00000003": "set aside",
            "model": "no checksums",
        },
    )


def test_a_single_flipped_bit_is_found_named_and_left_as_it_is(run_cli, run):
    path = run / "checkpoints" / "step-00000002" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[700] ^= 4
    path.write_bytes(data)
    before = snapshot(run)
    result = run_cli("run", "verify", run)
    assert result.exit_code == 3
    assert "step-00000002: model.safetensors does not match its checksum" in result.stderr
    assert [line.split()[-1] for line in result.stdout.splitlines() if "step-00000001" in line] == ["whole"]
    assert snapshot(run) == before


@pytest.mark.parametrize("name", ["state.json", "manifest.json"])
def test_a_missing_file_is_found(run_cli, run, name):
    (run / "checkpoints" / "step-00000001" / name).unlink()
    code, states = verify(run_cli, run)
    assert (code, states["step-00000001"], states["step-00000002"]) == (3, "damaged", "whole")


def test_a_result_with_checksums_is_checked_too(run_cli, run):
    shutil.rmtree(run / "model")
    write_folder(run / "model")
    assert verify(run_cli, run)[1]["model"] == "whole"
    (run / "model" / "state.json").write_text('{"step": 2}')
    assert verify(run_cli, run)[0] == 3


def test_a_recipe_that_cannot_be_read_is_damage(run_cli, run):
    (run / "recipe.yaml").write_text("kind: [")
    code, states = verify(run_cli, run)
    assert (code, states["run"]) == (3, "damaged")


def test_a_checkpoint_may_be_named_itself(run_cli, run):
    assert verify(run_cli, run / "checkpoints" / "step-00000001") == (0, {"step-00000001": "whole"})


def test_prepared_data_is_checked_byte_by_byte(run_cli, prepared_folder, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(prepared_folder, folder)
    assert verify(run_cli, folder) == (0, {"data": "whole"})
    path = folder / "tokens-train.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    result = run_cli("run", "verify", folder)
    assert result.exit_code == 3
    assert "tokens-train.npy does not match its checksum" in result.stderr
    path.write_bytes(data[:-1])
    assert verify(run_cli, folder) == (3, {"data": "damaged"})


def test_what_carries_no_checksums_is_an_error(run_cli, tmp_path):
    result = run_cli("run", "verify", tmp_path)
    assert result.exit_code == 2
    assert "no run, no checkpoint and no prepared data" in result.stderr
    assert run_cli("run", "verify", tmp_path / "none").exit_code == 2
