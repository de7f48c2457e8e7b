"""`llmkit finetune`, from the command line to the files it leaves."""

from __future__ import annotations

import json

import pytest
import torch

QUICK = ["--set", "train.steps=4", "--set", "train.batch_size=4", "--set", "train.warmup_steps=0"]


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    words = ["the", "next", "token", "from", "text", "and", "then", "we", "ask", "it", "what", "comes", "after"]
    rows = [{"instruction": f"say {a} {b}", "output": f"{b} {a}"} for a in words for b in words[:6]]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def tune(run_cli, tiny_model_folder, rows, tmp_path):
    """Tune the tiny model on the rows, quickly."""

    def run(output, *arguments, data=rows, model=tiny_model_folder):
        options = ["--model", model, "--data", data, "--output", tmp_path / output, *QUICK]
        return run_cli("finetune", *options, *arguments)

    return run


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_run_leaves_an_adapter_an_account_of_the_data_and_its_metrics(tune, tmp_path):
    result = tune("run", "--set", "train.sample_every=2", "--set", "train.validate_every=2", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["status"] == "finished"
    assert document["step"] == 4
    assert set(document["validation"]) == {"nats_per_token", "bits_per_byte"}
    model = tmp_path / "run" / "model"
    assert document["model"] == str(model)
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json"} <= {p.name for p in model.iterdir()}
    report = json.loads((tmp_path / "run" / "data-report.json").read_text())
    assert report["train"]["read"] + report["validation"]["read"] == 78
    assert report == document["data"]
    metrics = lines(tmp_path / "run" / "metrics.jsonl")
    assert [m["step"] for m in metrics if "loss" in m] == [1, 2, 3, 4]
    assert [s["step"] for s in lines(tmp_path / "run" / "samples.jsonl")] == [0, 0, 0, 2, 2, 2, 4, 4, 4]
    assert "instructions (alpaca), by its columns instruction, output" in result.stderr


def test_the_adapter_is_loaded_merged_and_shown(tune, run_cli, tmp_path):
    from llmkit.models.causal_lm import load_causal_lm

    assert tune("run").exit_code == 0
    adapter, merged = tmp_path / "run" / "model", tmp_path / "merged"
    result = run_cli("model", "merge", adapter, "--output", merged, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["max_logit_error"] < 1e-5
    ids = torch.arange(30)[None]
    with torch.no_grad():
        attached, plain = load_causal_lm(adapter)(ids).logits, load_causal_lm(merged)(ids).logits
    assert torch.allclose(attached, plain, atol=1e-5)
    # Ends of documents and of turns, for whoever generates with it.
    assert json.loads((merged / "generation_config.json").read_text())["eos_token_id"] == [0, 2]


def test_a_model_that_never_saw_the_control_tokens_learns_them_under_lora(tune, tmp_path):
    from safetensors.torch import load_file

    assert tune("run").exit_code == 0
    trained = load_file(tmp_path / "run" / "model" / "adapter_model.safetensors")
    assert any("trainable_tokens" in name for name in trained) == ("do not know" in tune("other").stderr)


def test_full_tuning_leaves_a_plain_model(tune, tmp_path):
    result = tune("run", "--set", "method=full", "--json")
    assert result.exit_code == 0, result.stderr
    names = {p.name for p in (tmp_path / "run" / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    assert "adapter_config.json" not in names


@pytest.mark.parametrize("method", ["lora", "full"])
def test_killed_and_resumed_is_uninterrupted(method, tune, tmp_path):
    options = ["--set", f"method={method}", "--set", "train.schedule=constant", "--set", "train.precision=fp32"]
    name = "adapter_model.safetensors" if method == "lora" else "model.safetensors"
    assert tune("whole", *options).exit_code == 0
    assert tune("parts", *options, "--set", "train.steps=2").exit_code == 0
    result = tune("parts", *options, "--extend")
    assert result.exit_code == 0, result.stderr
    weights = [(tmp_path / run / "model" / name).read_bytes() for run in ("whole", "parts")]
    assert weights[0] == weights[1]


def test_a_tokenizer_without_template_gets_one_and_chat_works(tune, run_cli, rows, tmp_path, texts):
    from llmkit.models.causal_lm import build_causal_lm, save_causal_lm
    from llmkit.recipe.schema import ModelSection
    from llmkit.tokenizer import load_tokenizer, train_tokenizer

    tokenizer = train_tokenizer(texts, vocab_size=300)
    tokenizer.chat_template = None
    section = ModelSection(num_layers=1, hidden_size=32, num_heads=2)
    model = build_causal_lm(section, vocab_size=len(tokenizer), seq_len=128, tokenizer=tokenizer, seed=0)
    save_causal_lm(model, tokenizer, tmp_path / "base")
    result = tune("run", model=tmp_path / "base")
    assert result.exit_code == 0, result.stderr
    assert "it gets ChatML" in result.stderr
    adapter = tmp_path / "run" / "model"
    assert load_tokenizer(adapter).chat_template
    answer = run_cli("generate", "--model", adapter, "--chat", "--prompt", "say it", "--max-new-tokens", "4", "--json")
    assert answer.exit_code == 0, answer.stderr


def test_a_dry_run_shows_the_account_and_the_first_row_and_writes_nothing(run_cli, tiny_model_folder, rows, tmp_path):
    before = set(tmp_path.iterdir())
    result = run_cli("finetune", "--model", tiny_model_folder, "--data", rows, "--dry-run", "--json")
    assert result.exit_code == 0, result.stderr
    plan = json.loads(result.stdout)
    assert plan["rows"] == plan["data"]["train"]["used"]
    assert "<|im_start|>assistant\n[[" in result.stderr
    assert set(tmp_path.iterdir()) == before


def test_a_validation_file_shares_no_row_with_training(tune, rows, tmp_path):
    held_out = tmp_path / "held-out.jsonl"
    held_out.write_text("".join(rows.read_text().splitlines(keepends=True)[:5]), encoding="utf-8")
    result = tune("run", "--set", f"data.validation={held_out}", "--json")
    assert result.exit_code == 0, result.stderr
    train = json.loads(result.stdout)["data"]["train"]
    assert train["dropped"]["also in the validation data"]["rows"] >= 5
    assert train["read"] == 78


WRONG = {
    "there is no model to tune": ["--data", "rows.jsonl", "--output", "out"],
    "there is nothing to train on": ["--model", "model", "--output", "out"],
    "a run needs a folder": ["--model", "model", "--data", "rows.jsonl"],
    "there is no such": ["--model", "./none", "--data", "rows.jsonl", "--output", "out"],
}


@pytest.mark.parametrize("message", WRONG)
def test_what_is_missing_is_said(message, run_cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run_cli("finetune", *WRONG[message])
    assert result.exit_code == 2
    assert message in result.stderr
    assert not list(tmp_path.iterdir())


def test_an_unknown_role_names_file_and_line(tune, tmp_path):
    path = tmp_path / "chats.jsonl"
    path.write_text('{"messages": [{"role": "bot", "content": "x"}]}\n')
    result = tune("run", data=path)
    assert result.exit_code == 2
    assert f"{path}:1: message 1 has role 'bot'" in result.stderr
    assert not (tmp_path / "run").exists()


def test_a_layer_that_is_none_is_named_with_those_that_are(tune, tmp_path):
    result = tune("run", "--set", "lora.targets=[q_prj]")
    assert result.exit_code == 2
    assert "did you mean 'q_proj'" in result.stderr
    assert not (tmp_path / "run").exists()
