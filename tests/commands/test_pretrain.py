"""`llmkit pretrain`, through the command line."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time

import pytest
import torch


def lines(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run):
    from safetensors.torch import load_file

    return load_file(run / "model" / "model.safetensors")


def test_a_run_leaves_a_model_its_recipe_and_its_metrics(run_cli, tiny_pretraining, tmp_path):
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "run", "--set", "train.sample_every=2", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    keys = "run status step loss validation tokens_per_second seconds model waited_share skipped"
    assert document.keys() >= set(keys.split())
    assert (document["status"], document["step"]) == ("finished", 4)
    assert document["validation"].keys() >= {"nats_per_token", "bits_per_byte"}
    run = tmp_path / "run"
    steps = [line for line in lines(run) if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4]
    keys = {"step", "loss", "lr", "grad_norm", "tokens", "tokens_per_second", "seconds", "memory_bytes"}
    assert steps[0].keys() - {"mfu"} == keys
    assert steps[-1]["tokens"] == 4 * 4 * 32
    assert [line["step"] for line in lines(run) if "validation" in line] == [2, 4]
    assert {json.loads(line)["step"] for line in (run / "samples.jsonl").read_text().splitlines()} == {0, 2, 4}
    for name in ("recipe.yaml", "environment.json", "log.txt", "model/tokenizer.json", "model/config.json"):
        assert (run / name).is_file()


def test_the_saved_recipe_is_the_same_run(run_cli, tiny_pretraining, tmp_path):
    run_cli(*tiny_pretraining, "--output", tmp_path / "one")
    result = run_cli("pretrain", tmp_path / "one" / "recipe.yaml", "--output", tmp_path / "two")
    assert result.exit_code == 0, result.stderr
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_finished_run_is_left_as_it_is(run_cli, tiny_pretraining, tmp_path):
    arguments = [*tiny_pretraining, "--output", tmp_path / "run", "--json"]
    first = run_cli(*arguments)
    again = run_cli(*arguments)
    assert again.exit_code == 0
    assert json.loads(again.stdout) == json.loads(first.stdout)
    assert "finished already" in again.stderr


def test_extend_makes_a_run_longer_without_naming_its_recipe_again(run_cli, tiny_pretraining, tmp_path):
    run_cli(*tiny_pretraining, "--output", tmp_path / "run")
    result = run_cli("pretrain", "--output", tmp_path / "run", "--extend", "--set", "train.steps=6", "--json")
    assert json.loads(result.stdout)["step"] == 6, result.stderr
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == [1, 2, 3, 4, 5, 6]


@pytest.fixture
def streaming(tiny_pretraining, tmp_path, tiny_tokenizer, local_hub, monkeypatch):
    """Arguments of a run of two steps on a data set of the hub, read in small pieces."""
    from llmkit.data import stream, stream_reader

    monkeypatch.setattr(stream, "BLOCK", 256)
    monkeypatch.setattr(stream_reader, "PIECE", 100)
    tiny_tokenizer.save_pretrained(tmp_path / "tok")
    fields = {"data.stream": "true", "data.tokenizer": tmp_path / "tok", "train.steps": 2}
    arguments = [*tiny_pretraining, "--data", "hf:owner/name", "--output", tmp_path / "run"]
    return [*arguments, *(x for key, value in fields.items() for x in ("--set", f"{key}={value}"))]


def test_a_run_on_a_hub_data_set_goes_on_with_the_commit_it_began_with(run_cli, streaming, local_hub):
    local_hub.push("one")
    first = run_cli(*streaming)
    assert first.exit_code == 0, first.stderr
    local_hub.push("two")
    again = run_cli(*streaming, "--extend", "--set", "train.steps=3", "--json")
    assert again.exit_code == 0, again.stderr
    assert json.loads(again.stdout)["step"] == 3
    assert set(local_hub.read) == {"one"}
    assert run_cli(*streaming, "--fresh", "--dry-run").exit_code == 0
    assert set(local_hub.read) == {"one", "two"}


def test_a_run_whose_commit_is_not_known_is_not_continued_on_another(run_cli, streaming, local_hub):
    local_hub.error = OSError("no network")
    assert run_cli(*streaming).exit_code == 0
    local_hub.push("two")
    refused = run_cli(*streaming)
    assert refused.exit_code == 2
    assert "the contents of the data have changed" in refused.stderr


def test_a_dry_run_shows_the_plan_and_writes_nothing(run_cli, tiny_pretraining, tmp_path):
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "run", "--dry-run", "--json")
    plan = json.loads(result.stdout)
    assert (plan["steps"], plan["tokens"], plan["precision"]) == (4, 512, "float32")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--set", "train.lrr=1"], "unknown key 'train.lrr'"),
        (["--set", "model.type=lama"], "no causal language model of type"),
        (["--set", "train.seq_len=100000"], "too few for one row"),
        (["--data", "nowhere"], "there is no such folder"),
    ],
)
def test_wrong_input_is_told_and_nothing_is_written(run_cli, tiny_pretraining, tmp_path, extra, message):
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "run", *extra, "--json")
    assert result.exit_code == 2
    assert result.stdout == ""
    error = json.loads(result.stderr.strip().splitlines()[-1])["error"]
    assert message in error["message"]
    assert error["fix"]
    assert not (tmp_path / "run").exists()


def test_validation_takes_no_more_positions_at_once_than_training(run_cli, tiny_pretraining, tmp_path, monkeypatch):
    from llmkit.evaluation import perplexity

    sizes, measure = [], perplexity.measure_stream

    def measure_stream(*arguments, batch_size, **options):
        sizes.append(batch_size)
        return measure(*arguments, batch_size=batch_size, **options)

    monkeypatch.setattr(perplexity, "measure_stream", measure_stream)
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "run", "--set", "train.batch_tokens=64")
    assert result.exit_code == 0, result.stderr
    assert sizes == [2, 2], "of the 4 rows of 32 positions in a batch"


def test_a_folder_with_something_else_in_it_is_not_touched(run_cli, tiny_pretraining, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("years of work")
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["thesis.txt"]


def test_without_data_it_says_what_to_name(run_cli):
    result = run_cli("pretrain", "--output", "run")
    assert result.exit_code == 2
    assert "llmkit data prepare" in result.stderr


def launch(arguments, *, processes=None):
    """Start llmkit in a process of its own, or in two that work together."""
    launcher = [sys.executable]
    if processes:
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
    command = [*launcher, "-m", "llmkit", *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_sigterm_leaves_a_checkpoint_and_the_same_command_ends_at_the_same_weights(run_cli, tiny_pretraining, tmp_path):
    fields = ["--set", "train.steps=80", "--set", "train.validate_every=0"]
    run = tmp_path / "stopped"
    process = launch([*tiny_pretraining, *fields, "--output", run, "--json"])
    while not (run / "metrics.jsonl").exists() or len(lines(run)) < 3:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 75, stderr
    assert json.loads(stdout)["status"] == "stopped"
    assert 3 <= json.loads(stdout)["step"] < 80
    assert run_cli(*tiny_pretraining, *fields, "--output", run).exit_code == 0
    run_cli(*tiny_pretraining, *fields, "--output", tmp_path / "whole")
    whole, stopped = weights(tmp_path / "whole"), weights(run)
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


def test_two_processes_give_the_losses_of_one_and_one_document(run_cli, tiny_pretraining, tmp_path):
    process = launch([*tiny_pretraining, "--output", tmp_path / "two", "--json"], processes=2)
    stdout, stderr = process.communicate(timeout=240)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["step"] == 4
    run_cli(*tiny_pretraining, "--output", tmp_path / "one")
    one, two = lines(tmp_path / "one"), lines(tmp_path / "two")
    for mine, other in zip(one, two, strict=True):
        for key in mine.keys() & {"loss", "grad_norm", "lr"}:
            assert other[key] == pytest.approx(mine[key], abs=1e-5)
        if "validation" in mine:
            assert other["validation"] == pytest.approx(mine["validation"], abs=1e-5)


def test_more_processes_than_were_started_is_an_error_that_says_what_to_type(
    run_cli, tiny_pretraining, tmp_path, monkeypatch
):
    # What `accelerate launch --cpu --num_processes 2` hands to the one process that it starts.
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "run")
    assert result.exit_code == 2
    assert "torchrun" in result.stderr
