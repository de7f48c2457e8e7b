"""What `llmkit pretrain` shows before its first step and after its last, and the models it begins with."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file


def document_of(result):
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def error_of(result):
    assert result.exit_code == 2, result.stderr
    return json.loads(result.stderr.strip().splitlines()[-1])["error"]


@pytest.fixture
def continued(prepared_folder, tiny_model_folder):
    """Arguments of a `llmkit pretrain` that goes on with the tiny model, but for --output."""
    loop = {"train.steps": 2, "train.batch_size": 4, "train.seq_len": 32, "train.precision": "fp32"}
    fields = {**loop, "train.validate_every": 0, "train.sample_every": 0}
    flags = [x for key, value in fields.items() for x in ("--set", f"{key}={value}")]
    return ["pretrain", "--model", tiny_model_folder, "--data", prepared_folder, *flags]


def test_the_plan_tells_size_tokens_arithmetic_memory_and_time(run_cli, tiny_pretraining, tmp_path):
    plan = document_of(run_cli(*tiny_pretraining, "--dry-run", "--json"))
    vocabulary = plan["vocab_size"]
    assert plan["parameters"] - plan["parameters_without_embeddings"] == 32 * vocabulary
    assert plan["tokens"] == 4 * 4 * 32
    assert plan["epochs"] == pytest.approx(16 / plan["rows"], abs=1e-3)
    assert plan["tokens_per_parameter"] == pytest.approx(512 / plan["parameters"], abs=0.01)
    layer = 4 * 32 * 32 + 3 * 32 * 64
    assert plan["flops_per_token"] == 6 * (2 * layer + 32 * vocabulary) + 6 * 2 * 32 * 32
    assert plan["flops"] == 512 * plan["flops_per_token"]
    assert plan["seconds_estimated"] == pytest.approx(2 * plan["flops"] / plan["matrix_flops_per_second"], abs=0.1)
    # Weights, gradients and AdamW's two averages in fp32, and some activations.
    assert 16 * plan["parameters"] < plan["memory_bytes_estimated"] < 16 * plan["parameters"] + 50e6
    assert (plan["attention"], plan["compiled"], plan["processes"]) == ("sdpa", False, 1)


def test_the_running_average_is_counted_in_fp32_under_pure_bf16_too(run_cli, tiny_pretraining):
    command = [*tiny_pretraining, "--set", "train.precision=pure-bf16", "--dry-run", "--json"]
    plain, averaged = (document_of(run_cli(*command, "--set", f"train.ema_decay={decay}")) for decay in (0, 0.9))
    average = averaged["memory_bytes_estimated"] - plain["memory_bytes_estimated"]
    assert average == 4 * plain["parameters"]


def test_the_plan_is_said_and_stands_in_the_run(run_cli, tiny_pretraining, tmp_path):
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "run", "--json")
    assert result.exit_code == 0, result.stderr
    saved = json.loads((tmp_path / "run" / "plan.json").read_text())
    assert saved["steps"] == 4
    for word in ("parameters", "without embeddings", "vocabulary", "4 steps of 4 x 32", "epochs", "FLOPs", "memory"):
        assert word in result.stderr


def test_the_loss_is_drawn_at_the_end(run_cli, tiny_pretraining, tmp_path):
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "run")
    assert result.exit_code == 0, result.stderr
    assert "nats per token" in result.stderr
    assert "A loss   B validation" in result.stderr
    assert "A loss" in (tmp_path / "run" / "log.txt").read_text()
    again = run_cli(*tiny_pretraining, "--output", tmp_path / "run")
    assert "A loss" not in again.stderr


def test_a_size_becomes_sizes_in_the_saved_recipe_and_the_same_command_goes_on(
    run_cli, prepared_folder, tiny_tokenizer, tmp_path
):
    from llmkit.models.causal_lm import count_parameters, load_causal_lm
    from llmkit.recipe.load import load_recipe
    from llmkit.recipe.schema import PretrainRecipe

    fields = ["model.size=300k", "train.steps=2", "train.seq_len=32", "train.precision=fp32", "train.sample_every=0"]
    arguments = ["pretrain", "--data", prepared_folder, "--output", tmp_path / "run", "--json"]
    arguments += [x for field in fields for x in ("--set", field)]
    first = document_of(run_cli(*arguments))
    model = load_causal_lm(tmp_path / "run" / "model")
    assert count_parameters(model) == pytest.approx(3e5, rel=0.05)
    saved = load_recipe(PretrainRecipe, tmp_path / "run" / "recipe.yaml").model
    assert (saved.size, saved.hidden_size) == (None, model.config.hidden_size)
    assert document_of(run_cli(*arguments)) == first
    assert document_of(run_cli("pretrain", "--resume", *arguments[1:])) == first


@pytest.mark.parametrize(("kind", "attention"), [("mpt", "auto"), ("opt", "sdpa")])
def test_documents_that_a_model_cannot_keep_apart_are_refused_before_training(
    run_cli, tiny_pretraining, kind, attention
):
    settings = (f"model.type={kind}", f"train.attention={attention}", "data.document_mask=true")
    arguments = [word for setting in settings for word in ("--set", setting)]
    error = error_of(run_cli(*tiny_pretraining, "--dry-run", *arguments, "--json"))
    assert error["where"] == "data.document_mask"
    assert f"{kind} with" in error["message"]


def test_a_size_beside_sizes_is_an_error(run_cli, tiny_pretraining, tmp_path):
    error = error_of(run_cli(*tiny_pretraining, "--dry-run", "--set", "model.size=300k", "--json"))
    assert "model.num_layers, model.hidden_size, model.num_heads are given" in error["message"]


def test_another_model_is_trained_from_exactly_its_weights(run_cli, continued, tiny_model_folder, tmp_path):
    # With a learning rate of next to nothing the weights stay what they were.
    result = run_cli(*continued, "--output", tmp_path / "run", "--set", "train.lr=1e-30", "--json")
    assert document_of(result)["step"] == 2
    before = load_file(tiny_model_folder / "model.safetensors")
    after = load_file(tmp_path / "run" / "model" / "model.safetensors")
    assert before.keys() == after.keys()
    assert all(torch.allclose(before[name], after[name], rtol=0, atol=1e-25) for name in before)


def test_going_on_with_another_model_starts_at_its_loss(run_cli, continued, tiny_pretraining, tmp_path):
    assert run_cli(*tiny_pretraining, "--output", tmp_path / "first", "--set", "train.lr=1e-2").exit_code == 0
    arguments = [tmp_path / "first" if a == continued[2] else a for a in continued]
    assert run_cli(*arguments, "--output", tmp_path / "more").exit_code == 0

    def losses(run):
        lines = [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").read_text().splitlines()]
        return [line["loss"] for line in lines if "loss" in line]

    assert losses("more")[0] < losses("first")[0] - 0.1
    again = run_cli("pretrain", "--output", tmp_path / "more", "--extend", "--set", "train.steps=3", "--json")
    assert document_of(again)["step"] == 3


def test_a_model_that_has_changed_is_not_the_same_run(run_cli, continued, tiny_pretraining, tmp_path):
    for lr in ("1e-3", "1e-2"):
        fields = ["--output", tmp_path / f"lr{lr}", "--set", f"train.lr={lr}"]
        assert run_cli(*tiny_pretraining, *fields).exit_code == 0
    (tmp_path / "base").symlink_to(tmp_path / "lr1e-3" / "model")
    arguments = [tmp_path / "base" if a == continued[2] else a for a in continued]
    assert run_cli(*arguments, "--output", tmp_path / "run").exit_code == 0
    (tmp_path / "base").unlink()
    (tmp_path / "base").symlink_to(tmp_path / "lr1e-2" / "model")
    error = error_of(run_cli(*arguments, "--output", tmp_path / "run", "--json"))
    assert "contents of the model have changed" in error["message"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--set", "model.hidden_size=64"], "model.hidden_size is given"),
        (["--set", "model.size=300k"], "model.source is given"),
        (["--set", "train.seq_len=129"], "takes 128 positions, train.seq_len asks for 129"),
        (["--model", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_what_does_not_go_with_a_model_is_told(run_cli, continued, extra, message):
    error = error_of(run_cli(*continued, "--dry-run", "--json", *extra))
    assert message in f"{error['where']}: {error['message']}"
    assert error["fix"]


def test_the_data_must_be_made_with_the_models_tokenizer(run_cli, continued, texts, tmp_path):
    from llmkit.data.prepare import prepare
    from llmkit.tokenizer import train_tokenizer

    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "a.txt").write_text("".join(texts))
    prepare([str(tmp_path / "text")], train_tokenizer(texts, vocab_size=280), tmp_path / "other", validation=0.2)
    error = error_of(run_cli(*continued, "--data", tmp_path / "other", "--dry-run", "--json"))
    assert "another tokenizer" in error["message"]


def test_an_adapter_must_be_merged_first(run_cli, continued, tiny_model_folder, tmp_path):
    from llmkit.models.causal_lm import load_causal_lm, save_causal_lm
    from llmkit.models.lora import attach_lora
    from llmkit.recipe.schema import LoraSection

    model = attach_lora(load_causal_lm(tiny_model_folder), LoraSection(), base=str(tiny_model_folder), seed=0)
    (tmp_path / "adapter").mkdir()
    save_causal_lm(model, None, tmp_path / "adapter")
    error = error_of(run_cli(*continued, "--model", tmp_path / "adapter", "--dry-run", "--json"))
    assert "llmkit model merge" in error["fix"]


def test_of_a_mix_each_part_is_validated(run_cli, tiny_pretraining, prepared_folder, tmp_path):
    (tmp_path / "twin").symlink_to(prepared_folder)
    mix = {str(prepared_folder): 3, str(tmp_path / "twin"): 1}
    arguments = [a for a in tiny_pretraining if a not in ("--data", prepared_folder)]
    result = run_cli(*arguments, "--output", tmp_path / "run", "--set", f"data.mix={json.dumps(mix)}", "--json")
    validation = document_of(result)["validation"]
    assert validation.keys() == {"nats_per_token", "bits_per_byte", *(f"bits_per_byte {name}" for name in mix)}
    parts = [validation[f"bits_per_byte {name}"] for name in mix]
    assert min(parts) <= validation["bits_per_byte"] <= max(parts)
    assert "of the rows" in result.stderr


def test_a_run_may_begin_at_a_checkpoint_of_another(run_cli, tiny_pretraining, tmp_path):
    fields = ["--set", "train.save_every=2", "--set", "train.schedule=constant"]
    assert run_cli(*tiny_pretraining, *fields, "--output", tmp_path / "run").exit_code == 0
    checkpoint = tmp_path / "run" / "checkpoints" / "step-00000002"
    result = run_cli(*tiny_pretraining, "--output", tmp_path / "cooled", "--branch", checkpoint, "--json")
    assert document_of(result)["step"] == 4
    assert f"beginning at {checkpoint}" in result.stderr
