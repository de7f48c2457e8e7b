"""`llmkit model show` and `llmkit model merge`."""

from __future__ import annotations

import json
import shutil

import pytest


@pytest.fixture
def adapter(tiny_model, tiny_tokenizer, tiny_model_folder, tmp_path):
    """An adapter folder whose adapter does something."""
    import torch

    from llmkit.models.causal_lm import save_causal_lm
    from llmkit.models.lora import attach_lora
    from llmkit.recipe.schema import LoraSection

    model = attach_lora(tiny_model, LoraSection(rank=4), base=tiny_model_folder, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter += 0.05
    save_causal_lm(model, tiny_tokenizer, tmp_path / "adapter")
    return tmp_path / "adapter"


def test_show_tells_what_a_model_is(run_cli, tiny_model_folder, tiny_model):
    facts = json.loads(run_cli("model", "show", tiny_model_folder, "--json").stdout)
    assert facts["architecture"] == "LlamaForCausalLM"
    assert facts["parameters"] == sum(p.numel() for p in tiny_model.parameters())
    assert facts["parameters_without_embeddings"] == facts["parameters"] - 300 * 32
    assert (facts["layers"], facts["hidden_size"], facts["vocabulary"], facts["longest_sequence"]) == (2, 32, 300, 128)
    assert facts["dtype"] == "float32"
    assert facts["chat_template"] is True
    assert facts["adapter"] is None
    assert facts["bytes_on_disk"] > 4 * facts["parameters"]


def test_show_is_a_table_for_people(run_cli, tiny_model_folder):
    result = run_cli("model", "show", tiny_model_folder)
    assert "architecture" in result.stdout
    assert "LlamaForCausalLM" in result.stdout


def test_show_of_an_adapter_tells_its_base_and_rank(run_cli, adapter, tiny_model_folder):
    facts = json.loads(run_cli("model", "show", adapter, "--json").stdout)["adapter"]
    assert facts["base"] == str(tiny_model_folder.resolve())
    assert (facts["kind"], facts["rank"]) == ("lora", 4)
    assert facts["parameters"] > 0
    assert "adapter rank" in run_cli("model", "show", adapter).stdout


def test_a_base_that_lies_beside_the_adapter_is_found_from_anywhere(run_cli, adapter, tiny_model_folder, tmp_path):
    shutil.copytree(tiny_model_folder, tmp_path / "base")
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "../base"}))
    facts = json.loads(run_cli("model", "show", adapter, "--json").stdout)
    assert facts["layers"] == 2
    result = run_cli("model", "merge", adapter, "--output", tmp_path / "merged")
    assert result.exit_code == 0, result.stderr


def test_merged_in_fp32_is_exact_and_bf16_tells_its_cost(run_cli, adapter, tmp_path):
    exact = json.loads(run_cli("model", "merge", adapter, "--output", tmp_path / "fp32", "--json").stdout)
    rounded = json.loads(
        run_cli("model", "merge", adapter, "--output", tmp_path / "bf16", "--dtype", "bf16", "--json").stdout
    )
    assert exact["max_logit_error"] < 1e-5 < rounded["max_logit_error"]
    assert json.loads(run_cli("model", "show", tmp_path / "bf16", "--json").stdout)["dtype"] == "bfloat16"
    # A plain folder: it needs neither the adapter nor its base.
    assert (tmp_path / "fp32" / "config.json").is_file()
    assert not (tmp_path / "fp32" / "adapter_config.json").exists()
    assert (tmp_path / "fp32" / "chat_template.jinja").is_file()


def test_adapters_of_one_model_are_added_up(run_cli, adapter, tiny_model, tiny_tokenizer, tiny_model_folder, tmp_path):
    import torch

    from llmkit.models.causal_lm import load_causal_lm, save_causal_lm
    from llmkit.models.lora import attach_lora
    from llmkit.recipe.schema import LoraSection

    base = load_causal_lm(tiny_model_folder)
    other = attach_lora(base, LoraSection(rank=2, targets=["down_proj"]), base=tiny_model_folder, seed=1)
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            if "lora_B" in name:
                parameter += 0.1
    save_causal_lm(other, tiny_tokenizer, tmp_path / "other")
    result = run_cli("model", "merge", adapter, tmp_path / "other", "--output", tmp_path / "both", "--json")
    assert result.exit_code == 0, result.stderr
    merged, plain = (load_causal_lm(f).state_dict() for f in (tmp_path / "both", tiny_model_folder))
    changes = []
    for source in (adapter, tmp_path / "other"):
        assert run_cli("model", "merge", source, "--output", tmp_path / f"one-{source.name}").exit_code == 0
        changes.append(load_causal_lm(tmp_path / f"one-{source.name}").state_dict())
    for name, weight in merged.items():
        wanted = plain[name] + sum(change[name] - plain[name] for change in changes)
        assert torch.allclose(weight, wanted, atol=1e-6), name


def test_adapters_of_different_models_are_not_merged(run_cli, adapter, tmp_path):
    import shutil

    other = tmp_path / "other"
    shutil.copytree(adapter, other)
    config = json.loads((other / "adapter_config.json").read_text())
    (other / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "someone/else"}))
    result = run_cli("model", "merge", adapter, other, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "belongs to someone/else" in result.stderr


def test_an_adapter_is_never_merged_into_weights_of_few_bits(run_cli, adapter, tiny_model_folder, tmp_path):
    import shutil

    base = tmp_path / "four-bits"
    shutil.copytree(tiny_model_folder, base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "quantization_config": {"load_in_4bit": True}}))
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": str(base)}))
    result = run_cli("model", "merge", adapter, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "stored in few bits" in result.stderr
    assert not (tmp_path / "out").exists()


def test_merge_touches_nothing_that_is_there(run_cli, adapter, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    result = run_cli("model", "merge", adapter, "--output", tmp_path / "full")
    assert result.exit_code == 2
    assert [p.name for p in (tmp_path / "full").iterdir()] == ["mine"]


def test_what_is_no_adapter_is_not_merged(run_cli, tiny_model_folder, tmp_path):
    result = run_cli("model", "merge", tiny_model_folder, "--output", tmp_path / "out")
    assert result.exit_code == 2
    assert "no adapter folder" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_adapter_whose_base_is_gone_says_so(run_cli, adapter, tmp_path):
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = str(tmp_path / "gone")
    path.write_text(json.dumps(config))
    for command in (["merge", adapter, "--output", tmp_path / "out"], ["show", adapter]):
        result = run_cli("model", *command)
        assert result.exit_code == 2
        assert "gone" in result.stderr


def test_a_folder_that_is_no_model_is_an_error(run_cli, tmp_path):
    result = run_cli("model", "show", tmp_path, "--json")
    assert result.exit_code == 2
    assert "no config.json" in json.loads(result.stderr)["error"]["message"]
