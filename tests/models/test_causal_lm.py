"""Models are built as asked, loaded whole or not at all, and saved for others to open."""

from __future__ import annotations

import json

import pytest
import torch

from llmkit.errors import ModelError, RecipeError
from llmkit.generation.decode import longest_sequence
from llmkit.models.causal_lm import build_causal_lm, load_causal_lm, load_weights, make_config, save_causal_lm
from llmkit.recipe.schema import ModelSection


def build(tokenizer, **fields):
    section = ModelSection(**{"num_layers": 2, "hidden_size": 32, "num_heads": 2, **fields})
    return build_causal_lm(section, vocab_size=len(tokenizer), seq_len=64, tokenizer=tokenizer, seed=0)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3", "mistral", "gpt_neox", "opt", "gemma3_text", "bloom"])
def test_architectures_of_transformers_are_built_by_name_and_size(tiny_tokenizer, kind):
    model = build(tiny_tokenizer, type=kind)
    logits = model(torch.arange(10)[None]).logits
    assert logits.shape == (1, 10, len(tiny_tokenizer))
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (2, 32)


def test_the_seed_fixes_the_weights(tiny_tokenizer):
    one, same = (build(tiny_tokenizer).state_dict() for _ in range(2))
    assert all(torch.equal(one[name], same[name]) for name in one)


def test_an_unknown_architecture_gets_the_nearest_name(tiny_tokenizer):
    with pytest.raises(RecipeError, match="lama") as caught:
        build(tiny_tokenizer, type="lama")
    assert "llama" in caught.value.fix


def test_an_unknown_field_of_an_architecture_is_an_error(tiny_tokenizer):
    with pytest.raises(RecipeError, match="rope_tetha"):
        build(tiny_tokenizer, overrides={"rope_tetha": 1})


@pytest.mark.parametrize(
    "overrides",
    [
        {"rms_norm_eps": "tiny"},
        {"rope_parameters": {"rope_theta": "far"}},
        {"rope_parameters": {"rope_type": "spiral"}},
    ],
)
def test_a_value_that_an_architecture_cannot_take_is_an_error_of_the_recipe(tiny_tokenizer, tmp_path, overrides):
    with pytest.raises(RecipeError) as caught:
        build(tiny_tokenizer, overrides=overrides)
    assert caught.value.where == "model.overrides"
    make_config(ModelSection(hidden_size=32), vocab_size=300, seq_len=64).save_pretrained(tmp_path)
    section = ModelSection(config=str(tmp_path), overrides={"rms_norm_eps": "tiny"})
    with pytest.raises(RecipeError, match="rms_norm_eps"):
        make_config(section, vocab_size=300, seq_len=64)


def test_heads_must_divide_the_width(tiny_tokenizer):
    with pytest.raises(RecipeError, match="not a multiple"):
        build(tiny_tokenizer, num_heads=3)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_saved_and_loaded_logits_are_equal(tiny_tokenizer, tmp_path, kind):
    model = build(tiny_tokenizer, type=kind).eval()
    save_causal_lm(model, tiny_tokenizer, tmp_path)
    ids = torch.arange(10)[None]
    assert torch.equal(load_causal_lm(tmp_path)(ids).logits, model(ids).logits)


def test_transformers_opens_what_was_saved(tiny_model_folder):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert longest_sequence(AutoModelForCausalLM.from_pretrained(tiny_model_folder)) == 128
    assert AutoTokenizer.from_pretrained(tiny_model_folder).chat_template


def test_weights_go_back_into_the_same_model(tiny_tokenizer, tiny_model, tmp_path):
    save_causal_lm(tiny_model, None, tmp_path)
    other = build_causal_lm(
        ModelSection(num_layers=2, hidden_size=32, num_heads=2),
        vocab_size=len(tiny_tokenizer),
        seq_len=128,
        tokenizer=tiny_tokenizer,
        seed=1,
    )
    load_weights(other, tmp_path)
    ids = torch.arange(10)[None]
    assert torch.equal(other.eval()(ids).logits, tiny_model(ids).logits)


@pytest.fixture
def copy_of_model(tiny_model_folder, tmp_path):
    import shutil

    return shutil.copytree(tiny_model_folder, tmp_path / "model")


def test_a_missing_tensor_is_an_error_that_names_it(copy_of_model):
    from safetensors.torch import load_file, save_file

    path = copy_of_model / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"missing: model\.norm\.weight"):
        load_causal_lm(copy_of_model)


@pytest.mark.parametrize("key", ["auto_map", "_attn_implementation_internal"])
def test_a_model_that_asks_to_run_code_is_refused(copy_of_model, key):
    path = copy_of_model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: "someone/kernel"}))
    with pytest.raises(ModelError, match="code of its own"):
        load_causal_lm(copy_of_model)


def test_a_folder_that_is_no_model_says_so(tmp_path):
    with pytest.raises(ModelError, match="it has no config"):
        load_causal_lm(tmp_path)


def test_a_wrong_path_is_not_looked_up_on_a_hub(tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        load_causal_lm(tmp_path / "nothing" / "here")
