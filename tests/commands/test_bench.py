"""`llmkit bench`: what it times, what it concludes, and what it refuses."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from llmkit.commands.timing import Bench, Timing, largest_micro_batch, needed_bytes, needed_seconds
from llmkit.recipe.schema import PretrainRecipe, TrainSection

QUICK = ["--steps", "1", "--seconds", "0"]


@pytest.fixture(autouse=True)
def quick_rates(monkeypatch):
    """A matrix product of 1 GFLOP/s: tests of other things need not time it."""
    monkeypatch.setattr("llmkit.device.SECONDS_TO_MEASURE", 0.01)


def test_the_document_names_machine_micro_batches_and_recipe(run_cli):
    result = run_cli("bench", "tiny/pretrain", *QUICK, "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["machine"]["matrix_flops_per_second"]["fp32"] > 0
    assert found["machine"]["copy_bytes_per_second"] > 0
    assert found["model"]["vocab_size"] == 4096
    first = found["micro_batches"][0]
    assert first["rows"] == 1
    # 128 positions per row of this recipe.
    assert first["tokens_per_second"] == pytest.approx(128 / first["step_seconds"])
    rate = found["machine"]["matrix_flops_per_second"][found["machine"]["precision"]]
    assert first["mfu"] == pytest.approx(first["tokens_per_second"] * found["model"]["flops_per_token"] / rate)
    recipe = found["recipe"]
    assert (recipe["steps"], recipe["tokens"]) == (60, 60 * 8 * 128)
    speed = recipe["timed"]["tokens_per_second"]
    assert recipe["seconds"] == pytest.approx(recipe["timed"]["start_seconds"] + 60 * 8 * 128 / speed)


def test_people_get_a_table_and_a_sentence(run_cli):
    result = run_cli("bench", "tiny/pretrain", *QUICK, "--vocab-size", "300")
    assert result.exit_code == 0, result.stderr
    assert "GFLOP/s in fp32" in result.stdout
    assert "rows at once" in result.stdout
    assert "largest micro-batch:" in result.stdout
    assert "tiny/pretrain: 60 steps of 8 rows of 128 positions" in result.stdout


def test_prepared_data_gives_vocabulary_and_number_of_rows(run_cli, prepared_folder, tiny_tokenizer):
    epochs = ["--set", "train.steps=null", "--set", "train.epochs=2", "--set", "train.seq_len=32"]
    found = json.loads(run_cli("bench", "tiny/pretrain", "--data", prepared_folder, *epochs, *QUICK, "--json").stdout)
    assert found["model"]["vocab_size"] == len(tiny_tokenizer)
    rows = json.loads(
        run_cli("pretrain", "tiny/pretrain", "--data", prepared_folder, *epochs, "--dry-run", "--json").stdout
    )["steps"]
    assert found["recipe"]["steps"] == rows


def test_without_data_epochs_have_no_length(run_cli):
    epochs = ["--set", "train.steps=null", "--set", "train.epochs=2"]
    result = run_cli("bench", "tiny/pretrain", *epochs, *QUICK)
    assert result.exit_code == 0, result.stderr
    assert "add --data" in result.stdout


def test_a_model_folder_is_timed_as_it_is(run_cli, tiny_model_folder, tiny_tokenizer):
    found = json.loads(run_cli("bench", "tiny/pretrain", "--model", tiny_model_folder, *QUICK, "--json").stdout)
    assert found["model"]["vocab_size"] == len(tiny_tokenizer)
    assert found["model"]["parameters"] < 100_000


def test_a_recipe_of_another_kind_is_refused(run_cli):
    result = run_cli("bench", "tiny/finetune")
    assert result.exit_code == 2
    assert "finetune" in result.stderr


def test_a_model_that_cannot_be_trained_here_is_refused(run_cli, monkeypatch):
    monkeypatch.setattr("llmkit.device.available_memory_bytes", lambda device: 1_000_000)
    result = run_cli("bench", "tiny/pretrain", *QUICK)
    assert result.exit_code == 2
    assert "0.0 GB are free" in result.stderr


def timing(rows, peak_bytes, step_seconds=1.0):
    """A step of so many rows."""
    return Timing(rows, "sdpa", False, step_seconds, 1.0, 0.5, peak_bytes, 0.0)


@pytest.fixture
def job():
    """A process that held 1,000 bytes before its first step and may take 8,000."""
    settings = PretrainRecipe(train=TrainSection(steps=10, batch_size=8))
    accelerator = SimpleNamespace(device=torch.device("cpu"))
    return Bench(settings, accelerator, 300, None, 3, torch.float32, held_bytes=1_000, limit_bytes=8_000)


def test_memory_is_foretold_along_the_line_of_the_two_largest(job):
    # One row: from 1,000 to 1,500. Later ones: 1,000 for four rows, so 250 each.
    assert needed_bytes(job, [timing(1, 1_500)], 2) == 2_000
    assert needed_bytes(job, [timing(1, 1_500), timing(4, 3_000), timing(8, 4_000)], 16) == 6_000


def test_the_largest_micro_batch_is_a_power_of_two_within_the_limit(job):
    timings = [timing(4, 3_000), timing(8, 4_000)]
    # 250 bytes a row: 16 rows take 6,000, 32 would take 10,000.
    assert largest_micro_batch(job, timings) == {"rows": 16, "tried": False, "peak_bytes": 6_000}
    job.limit_bytes = 4_500
    assert largest_micro_batch(job, timings) == {"rows": 8, "tried": True, "peak_bytes": 4_000}


def test_time_is_foretold_in_proportion_to_rows(job):
    # Three timed steps and one before them.
    assert needed_seconds(job, [timing(4, 0, step_seconds=0.5)], 8) == 4.0


@pytest.mark.parametrize(
    ("fields", "rows"),
    [
        ({}, 8),
        ({"micro_batch_size": 2}, 2),
        ({"micro_batch_size": 100}, 8),
        ({"micro_batch_size": "auto"}, 8),
    ],
)
def test_the_micro_batch_of_the_recipe(job, fields, rows):
    job.settings = PretrainRecipe(train=TrainSection(steps=10, batch_size=8, **fields))
    assert job.micro_batch == rows
