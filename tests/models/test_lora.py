"""Adapters change nothing at the start, survive being saved, and can be worked into the model."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from llmkit.batch import IGNORE_INDEX
from llmkit.data.dialogue import DialogueRows, Message, encode_dialogue, template_ids
from llmkit.data.rendering import add_chat_template
from llmkit.errors import ModelError
from llmkit.losses import causal_lm_loss_sum
from llmkit.models.causal_lm import build_causal_lm, load_causal_lm, save_causal_lm
from llmkit.models.lora import attach_lora, linear_layers, load_adapter_weights, merge_lora
from llmkit.models.vocabulary import content_hash, fit_vocabulary, knows_tokens, revision_of, set_stop_tokens
from llmkit.recipe.schema import LoraSection, ModelSection

KINDS = [("llama", True), ("llama", False), ("gpt2", True), ("qwen3", True)]


def build(kind, is_tied, tokenizer):
    section = ModelSection(type=kind, num_layers=2, hidden_size=32, num_heads=2, tie_embeddings=is_tied)
    return build_causal_lm(section, vocab_size=len(tokenizer), seq_len=64, tokenizer=tokenizer, seed=0).eval()


def make_batch(tokenizer):
    messages = [Message("user", "what comes"), Message("assistant", "the next token")]
    return DialogueRows([encode_dialogue(messages, tokenizer)]).batch([0])


def train_steps(model, batch, steps=3, lr=1e-2):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        causal_lm_loss_sum(model, batch).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture
def without_template(tiny_tokenizer):
    """A tokenizer that gets ChatML and two new tokens, and the model of before."""
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.add_tokens(["<extra>"], special_tokens=True)
    return tokenizer


@torch.no_grad()
def logits(model, tokenizer):
    ids = torch.arange(40)[None] % len(tokenizer)
    ids[0, -1] = len(tokenizer) - 1
    return model(input_ids=ids).logits


@pytest.mark.parametrize(("kind", "is_tied"), KINDS)
def test_lora_at_the_start_is_the_base(kind, is_tied, tiny_tokenizer):
    model = build(kind, is_tied, tiny_tokenizer)
    before = logits(model, tiny_tokenizer)
    adapted = attach_lora(model, LoraSection(), base="base", seed=0, token_ids=template_ids(tiny_tokenizer)).eval()
    assert torch.equal(logits(adapted, tiny_tokenizer), before)


@pytest.mark.parametrize(("kind", "is_tied"), KINDS)
def test_saved_loaded_and_merged_are_as_trained(kind, is_tied, tiny_tokenizer, without_template, tmp_path):
    tokenizer, base = without_template, tmp_path / "base"
    model = build(kind, is_tied, tiny_tokenizer)
    save_causal_lm(model, tiny_tokenizer, base)
    new = fit_vocabulary(model, tokenizer, can_grow=True)
    assert new == [len(tiny_tokenizer)]
    adapted = attach_lora(model, LoraSection(), base=base, seed=0, token_ids=[*template_ids(tokenizer), *new])
    trained = train_steps(adapted, make_batch(tokenizer))
    wanted = logits(trained, tokenizer)
    save_causal_lm(trained, tokenizer, tmp_path / "adapter")

    loaded = load_causal_lm(tmp_path / "adapter")
    assert torch.equal(logits(loaded, tokenizer), wanted)

    again = load_causal_lm(base)
    fit_vocabulary(again, tokenizer, can_grow=True)
    resumed = attach_lora(again, LoraSection(), base=base, seed=1, token_ids=[*template_ids(tokenizer), *new]).eval()
    load_adapter_weights(resumed, tmp_path / "adapter")
    assert torch.equal(logits(resumed, tokenizer), wanted)

    merged = merge_lora(loaded)
    assert torch.allclose(logits(merged, tokenizer), wanted, atol=1e-5)
    save_causal_lm(merged, tokenizer, tmp_path / "merged")
    assert torch.equal(logits(load_causal_lm(tmp_path / "merged"), tokenizer), logits(merged, tokenizer))


def test_only_adapters_and_the_named_rows_are_trained(tiny_tokenizer):
    model = build("llama", True, tiny_tokenizer)
    before = model.get_input_embeddings().weight.clone()
    ids = template_ids(tiny_tokenizer)
    adapted = attach_lora(model, LoraSection(), base="base", seed=0, token_ids=ids)
    names = [name for name, p in adapted.named_parameters() if p.requires_grad]
    assert all("lora_" in name or "trainable_tokens" in name for name in names)
    after = merge_lora(train_steps(adapted, make_batch(tiny_tokenizer))).get_input_embeddings().weight
    changed = (after != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == ids


def test_the_adapters_first_matrices_depend_on_the_seed_alone(tiny_tokenizer):
    def first(seed):
        torch.rand(1)
        adapted = attach_lora(build("llama", True, tiny_tokenizer), LoraSection(), base="base", seed=seed)
        return next(p for name, p in adapted.named_parameters() if "lora_A" in name)

    assert torch.equal(first(3), first(3))
    assert not torch.equal(first(3), first(4))


def test_a_target_that_is_no_layer_names_those_that_are(tiny_tokenizer):
    model = build("llama", True, tiny_tokenizer)
    with pytest.raises(ModelError, match="no linear layer 'q_poj'; it has q_proj, k_proj") as raised:
        attach_lora(model, LoraSection(targets=["q_poj"]), base="base", seed=0)
    assert "did you mean 'q_proj'" in raised.value.fix
    assert "lm_head" not in linear_layers(model)


def test_named_targets_alone_get_adapters(tiny_tokenizer):
    adapted = attach_lora(build("llama", True, tiny_tokenizer), LoraSection(targets=["q_proj"]), base="b", seed=0)
    assert all("q_proj" in name for name, p in adapted.named_parameters() if p.requires_grad)


def test_another_adapter_is_not_loaded_into_this_one(tiny_tokenizer, tmp_path):
    one = attach_lora(build("llama", True, tiny_tokenizer), LoraSection(targets=["q_proj"]), base="base", seed=0)
    save_causal_lm(one, tiny_tokenizer, tmp_path)
    two = attach_lora(build("llama", True, tiny_tokenizer), LoraSection(targets=["v_proj"]), base="base", seed=0)
    with pytest.raises(ModelError, match="this adapter has other layers"):
        load_adapter_weights(two, tmp_path)


def test_a_plain_model_has_nothing_to_merge(tiny_model):
    with pytest.raises(ModelError, match="no adapter to merge"):
        merge_lora(tiny_model)


def test_a_tokenizer_of_another_model_is_an_error(tiny_model, without_template):
    with pytest.raises(ModelError, match=r"the tokenizer has 301 tokens, the model only 300"):
        fit_vocabulary(tiny_model, without_template, can_grow=False)


def test_new_rows_of_the_embeddings_are_the_mean_of_the_others(tiny_tokenizer, without_template):
    model = build("llama", True, tiny_tokenizer)
    mean = model.get_input_embeddings().weight.mean(dim=0)
    [new] = fit_vocabulary(model, without_template, can_grow=True)
    assert torch.allclose(model.get_input_embeddings().weight[new], mean)
    assert fit_vocabulary(model, without_template, can_grow=True) == []


def test_stop_tokens_are_added_to_those_that_are_known(tiny_model):
    assert tiny_model.generation_config.eos_token_id == 0
    set_stop_tokens(tiny_model, [2])
    assert tiny_model.generation_config.eos_token_id == [0, 2]


def test_a_model_knows_tokens_that_it_was_trained_on(tiny_tokenizer):
    batch = make_batch(tiny_tokenizer)
    end = [int(batch["targets"][batch["targets"] != IGNORE_INDEX][-1])]
    model = build("llama", True, tiny_tokenizer)
    with torch.no_grad():
        model.get_input_embeddings().weight[end] *= 0
        model.get_input_embeddings().weight[end] -= 10 * model.model(batch["input_ids"]).last_hidden_state[0, -1]
    assert not knows_tokens(model, batch, end)
    # A batch of pairs has a target for each pair; what the answers say stands beside it.
    pairs = {**batch, "answers": batch["targets"], "targets": torch.zeros(1, dtype=torch.int64)}
    assert not knows_tokens(model, pairs, end)
    plain = build("llama", True, tiny_tokenizer)
    assert knows_tokens(train_steps(plain, batch, steps=10), batch, end)


def test_a_model_folder_is_known_by_its_weights(tiny_tokenizer, tiny_model, tmp_path):
    save_causal_lm(tiny_model, tiny_tokenizer, tmp_path / "one")
    with torch.no_grad():
        next(tiny_model.parameters()).view(-1)[0] += 1
    save_causal_lm(tiny_model, tiny_tokenizer, tmp_path / "two")
    assert content_hash(str(tmp_path / "one")) != content_hash(str(tmp_path / "two"))


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja"])
def test_a_model_folder_is_known_by_its_tokenizer_and_template_too(tiny_tokenizer, tiny_model, tmp_path, name):
    save_causal_lm(tiny_model, tiny_tokenizer, tmp_path / "model")
    before = content_hash(str(tmp_path / "model"))
    with (tmp_path / "model" / name).open("a") as file:
        file.write(" ")
    assert content_hash(str(tmp_path / "model")) != before


def test_an_adapter_is_known_by_its_model_too(tiny_tokenizer, tiny_model, tmp_path):
    save_causal_lm(tiny_model, tiny_tokenizer, tmp_path / "base")
    adapted = attach_lora(copy.deepcopy(tiny_model), LoraSection(), base=tmp_path / "base", seed=0)
    save_causal_lm(adapted, tiny_tokenizer, tmp_path / "adapter")
    before = content_hash(str(tmp_path / "adapter"))
    assert content_hash(str(tmp_path / "adapter")) == before
    with torch.no_grad():
        next(tiny_model.parameters()).view(-1)[0] += 1
    save_causal_lm(tiny_model, tiny_tokenizer, tmp_path / "base")
    assert content_hash(str(tmp_path / "adapter")) != before


def test_a_model_of_the_hub_is_known_by_its_revision(tmp_path, monkeypatch):
    """What lies in the cache of the hub, as a download leaves it there; two commits, of which main is one."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--name"
    (folder / "refs").mkdir(parents=True)
    hashes = []
    for commit in ("1" * 40, "2" * 40):
        (folder / "snapshots" / commit).mkdir(parents=True)
        (folder / "snapshots" / commit / "config.json").write_text("{}")
        (folder / "refs" / "main").write_text(commit)
        assert revision_of("owner/name") == commit
        hashes.append(content_hash("owner/name"))
    assert hashes[0] != hashes[1]
    assert revision_of("owner/other") is None


def test_a_tokenizer_without_template_gives_a_model_that_learns_to_end_its_turn(tiny_tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = None
    assert add_chat_template(tokenizer)
    batch = make_batch(tokenizer)
    # The rest of the output head is frozen, and random: only the end of the turn can be learned well.
    end = template_ids(tokenizer)[1]
    batch["targets"] = torch.where(batch["targets"] == end, end, IGNORE_INDEX)
    model = build("llama", True, tokenizer)
    adapted = attach_lora(model, LoraSection(), base="base", seed=0, token_ids=template_ids(tokenizer))
    assert causal_lm_loss_sum(adapted, batch).item() > 5
    assert causal_lm_loss_sum(train_steps(adapted, batch, steps=40, lr=3e-2), batch).item() < 0.5


def test_an_adapter_in_pickle_is_refused(tmp_path, tiny_model_folder):
    config = {"peft_type": "LORA", "base_model_name_or_path": str(tiny_model_folder)}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    (tmp_path / "adapter_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"no adapter_model\.safetensors"):
        load_causal_lm(tmp_path)
