"""Models to GGUF and back: names of word rules, weights, tokens, positions."""

from __future__ import annotations

import copy
import importlib.util
import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from llmkit.errors import ModelError, UsageError
from llmkit.models.causal_lm import build_causal_lm
from llmkit.models.gguf_read import read_gguf
from llmkit.models.gguf_words import NAMES, make_rule, rule_of, rule_of_name
from llmkit.models.gguf_write import interleave, notes_about, write_gguf
from llmkit.recipe.schema import ModelSection
from llmkit.tokenizer import encode_text, train_tokenizer

gguf = pytest.importorskip("gguf")

TEXT = "the model learns: def add(a, b): return 12345 + 6789  # naïve 👍\n\n  class"


def build(kind, tokenizer, **overrides):
    """A small model of a kind, every weight random, so that none can take another's place."""
    section = ModelSection(
        type=kind,
        num_layers=2,
        hidden_size=64,
        num_heads=4,
        num_kv_heads=None if kind == "gpt2" else 2,
        overrides=overrides,
    )
    model = build_causal_lm(section, vocab_size=len(tokenizer), seq_len=128, tokenizer=tokenizer, seed=0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def write(model, tokenizer, path, kind="f16"):
    """Write a file with what the command passes in."""
    return write_gguf(model, tokenizer, path, kind=kind, name="small", adds_bos=False, end_of_turn=2)


def logits(model, ids):
    """What a model says to some ids."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


@pytest.mark.parametrize("kind", ["llama", "mistral", "qwen2", "qwen3", "gpt2"])
def test_a_model_comes_back_from_its_file(kind, tiny_tokenizer, tmp_path):
    model = build(kind, tiny_tokenizer, **({"sliding_window": None} if kind == "mistral" else {}))
    write(model, tiny_tokenizer, tmp_path / "m.gguf")
    found = read_gguf(tmp_path / "m.gguf")
    ids = encode_text(tiny_tokenizer, TEXT)
    assert encode_text(found.tokenizer, TEXT) == ids
    assert found.tokenizer.chat_template == tiny_tokenizer.chat_template
    assert found.tokenizer.eos_token == tiny_tokenizer.eos_token
    assert found.notes == []
    # f16 keeps 11 bits of each number.
    assert torch.allclose(logits(found.model, ids), logits(model, ids), atol=0.02)
    assert (logits(found.model, ids).argmax(-1) == logits(model, ids).argmax(-1)).float().mean() > 0.95


def test_a_tokenizer_that_composes_letters_first_is_told_of(tiny_tokenizer):
    assert notes_about(tiny_tokenizer) == []
    composing = copy.deepcopy(tiny_tokenizer)
    composing.backend_tokenizer.normalizer = normalizers.NFC()
    (note,) = notes_about(composing)
    assert "llama.cpp does not" in note


def test_weights_stand_in_the_file_as_llama_cpp_wants_them(tiny_tokenizer, tmp_path):
    model = build("llama", tiny_tokenizer, tie_word_embeddings=False)
    write(model, tiny_tokenizer, tmp_path / "m.gguf")
    tensors = {t.name: np.array(t.data) for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors}
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    assert len(tensors) == len(state)
    assert np.array_equal(tensors["token_embd.weight"], state["model.embed_tokens.weight"].astype(np.float16))
    assert np.array_equal(tensors["output.weight"], state["lm_head.weight"].astype(np.float16))
    assert np.array_equal(tensors["output_norm.weight"], state["model.norm.weight"])
    assert np.array_equal(
        tensors["blk.1.attn_v.weight"], state["model.layers.1.self_attn.v_proj.weight"].astype(np.float16)
    )
    query = state["model.layers.0.self_attn.q_proj.weight"].astype(np.float16)
    # Heads of 16 rows: row 2i of a head is its row i, row 2i + 1 its row i + 8.
    order = [head * 16 + pair + half for head in range(4) for pair in range(8) for half in (0, 8)]
    assert np.array_equal(tensors["blk.0.attn_q.weight"], query[order])


def test_interleaving_goes_by_heads():
    rows = np.arange(8, dtype=np.float32)[:, None]
    assert interleave(rows, 2)[:, 0].tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_metadata_names_sizes_and_tokens(tiny_tokenizer, tmp_path):
    write(build("llama", tiny_tokenizer), tiny_tokenizer, tmp_path / "m.gguf")
    fields = {name: field.contents() for name, field in gguf.GGUFReader(tmp_path / "m.gguf").fields.items()}
    assert fields["general.architecture"] == "llama"
    assert (fields["llama.attention.head_count"], fields["llama.attention.head_count_kv"]) == (4, 2)
    assert (fields["llama.context_length"], fields["llama.rope.dimension_count"]) == (128, 16)
    assert fields["tokenizer.ggml.pre"] == "smaug-bpe", "GPT-4's words, merged as usual"
    assert fields["tokenizer.ggml.tokens"][:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert fields["tokenizer.ggml.token_type"][:5] == [3, 3, 3, 3, 1]
    assert fields["tokenizer.ggml.eot_token_id"] == 2
    assert fields["tokenizer.chat_template"] == tiny_tokenizer.chat_template


def test_q8_rounds_each_block_to_127_steps_and_keeps_vectors(tiny_tokenizer, tmp_path):
    model = build("llama", tiny_tokenizer)
    kinds = write(model, tiny_tokenizer, tmp_path / "m.gguf", kind="q8_0")
    assert kinds == {"F32": 5, "Q8_0": 15}
    tensor = next(t for t in gguf.GGUFReader(tmp_path / "m.gguf").tensors if t.name == "blk.0.ffn_up.weight")
    values = gguf.dequantize(tensor.data, tensor.tensor_type)
    wanted = model.model.layers[0].mlp.up_proj.weight.detach().numpy()
    scale = np.abs(wanted.reshape(-1, 32)).max(-1) / 127
    assert np.all(np.abs((values - wanted).reshape(-1, 32)) <= 0.51 * scale[:, None] + 1e-4)
    ids = encode_text(tiny_tokenizer, TEXT)
    assert torch.allclose(logits(read_gguf(tmp_path / "m.gguf").model, ids), logits(model, ids), atol=0.3)


def test_scaled_positions_of_llama_3_come_back(tiny_tokenizer, tmp_path):
    scaling = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    model = build("llama", tiny_tokenizer, rope_parameters=scaling)
    write(model, tiny_tokenizer, tmp_path / "m.gguf")
    found = read_gguf(tmp_path / "m.gguf")
    assert found.model.config.rope_parameters == scaling
    assert "Llama 3" in found.notes[0]
    assert torch.allclose(found.model.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq)


def test_rows_beyond_the_tokenizer_are_unused_tokens(tiny_tokenizer, tmp_path):
    model = build("llama", tiny_tokenizer)
    model.resize_token_embeddings(len(tiny_tokenizer) + 4, mean_resizing=False)
    write(model, tiny_tokenizer, tmp_path / "m.gguf")
    fields = gguf.GGUFReader(tmp_path / "m.gguf").fields
    assert fields["tokenizer.ggml.tokens"].contents()[-1] == f"[PAD{len(tiny_tokenizer) + 3}]"
    assert fields["tokenizer.ggml.token_type"].contents()[-4:] == [5] * 4
    assert read_gguf(tmp_path / "m.gguf").model.get_input_embeddings().weight.shape[0] == len(tiny_tokenizer) + 4


@pytest.mark.parametrize("rule", NAMES)
def test_a_rule_is_known_by_what_it_does(rule):
    assert rule_of(make_rule(rule)) == rule
    assert all(rule_of_name(name) == rule for name in NAMES[rule])
    assert rule_of(None) is None
    assert rule_of_name("whatever") is None


def byte_level(pre_tokenizer, **fields):
    """A byte-level BPE tokenizer with one merge."""
    signs = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {sign: i for i, sign in enumerate([*signs, "th"])}
    backend = Tokenizer(models.BPE(vocab, [("t", "h")], **fields))
    backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>")


@pytest.mark.parametrize("name", ["smollm", "qwen2", "gpt-2"])
def test_words_are_cut_by_the_rule_that_a_file_names(name, tmp_path):
    tokenizer = byte_level(make_rule(rule_of_name(name)))
    write_gguf(
        build("llama", tokenizer),
        tokenizer,
        tmp_path / "m.gguf",
        kind="f16",
        name="x",
        adds_bos=False,
        end_of_turn=None,
    )
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["tokenizer.ggml.pre"].contents() == name
    found = read_gguf(tmp_path / "m.gguf").tokenizer
    assert rule_of(found.backend_tokenizer.pre_tokenizer) == rule_of_name(name)


def test_whole_words_first_has_a_name_of_its_own(tmp_path):
    tokenizer = byte_level(make_rule("gpt4"), ignore_merges=True)
    write_gguf(
        build("llama", tokenizer),
        tokenizer,
        tmp_path / "m.gguf",
        kind="f16",
        name="x",
        adds_bos=False,
        end_of_turn=None,
    )
    assert gguf.GGUFReader(tmp_path / "m.gguf").fields["tokenizer.ggml.pre"].contents() == "llama-bpe"


def changed(tokenizer, **fields):
    """A tokenizer with another part."""
    copied = copy.deepcopy(tokenizer)
    for name, part in fields.items():
        setattr(copied.backend_tokenizer, name, part)
    return copied


def test_tokenizers_that_a_file_cannot_hold_are_refused(tiny_tokenizer, texts, tmp_path):
    unigram = train_tokenizer(texts, algorithm="unigram", vocab_size=280)
    own_words = changed(tiny_tokenizer, pre_tokenizer=pre_tokenizers.Whitespace())
    lower = changed(tiny_tokenizer, normalizer=normalizers.Lowercase())
    pieces = changed(tiny_tokenizer, decoder=decoders.Metaspace())
    for tokenizer, reason in (
        (unigram, "Unigram"),
        (own_words, "rule of its own"),
        (lower, "changes text first"),
        (pieces, "SentencePiece"),
    ):
        with pytest.raises(ModelError, match=reason):
            write(build("llama", tokenizer), tokenizer, tmp_path / "m.gguf")


def test_models_that_llama_cpp_would_compute_differently_are_refused(tiny_tokenizer, tmp_path):
    for kind, overrides, reason in (
        ("llama", {"attention_bias": True}, "attention_bias"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "inverse_layer"),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}, "'linear'"),
        ("mistral", {"sliding_window": 8}, "sliding_window"),
    ):
        with pytest.raises(ModelError, match=reason):
            write(build(kind, tiny_tokenizer, **overrides), tiny_tokenizer, tmp_path / "m.gguf")
    bloom = AutoModelForCausalLM.from_config(
        AutoConfig.for_model("bloom", vocab_size=300, hidden_size=16, n_layer=1, n_head=2)
    )
    with pytest.raises(ModelError, match="a bloom cannot be written"):
        write(bloom, tiny_tokenizer, tmp_path / "m.gguf")


def rewrite(source, target, *, drop=(), add=None, fields=None):
    """Copy a GGUF file with other tensors or fields."""
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for name, value in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        content = (fields or {}).get(name, value.contents())
        sub = value.types[-1] if value.types[0] == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(name, content, value.types[0], sub_type=sub)
    for name, content in (fields or {}).items():
        if name not in reader.fields:
            writer.add_string(name, content)
    for tensor in reader.tensors:
        if tensor.name not in drop:
            writer.add_tensor(tensor.name, np.array(tensor.data))
    for name, values in (add or {}).items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_nothing_of_a_file_is_lost_in_silence(tiny_tokenizer, tmp_path):
    source, target = tmp_path / "m.gguf", tmp_path / "other.gguf"
    write(build("llama", tiny_tokenizer), tiny_tokenizer, source)
    tokens = gguf.GGUFReader(source).fields["tokenizer.ggml.tokens"].contents()
    # The signs of two bytes that no merge uses; one stands there twice, and the other is missing.
    twice = ["ā" if token == "Ā" else token for token in tokens]
    cases = (
        ({"add": {"blk.0.attn_q.bias": np.zeros(64, np.float32)}}, "weights, and transformers made"),
        ({"drop": {"blk.1.ffn_up.weight"}}, "missing"),
        ({"fields": {"llama.rope.scaling.type": "yarn"}}, "scaled .yarn."),
        ({"add": {"rope_freqs.weight": np.linspace(1, 3, 8, dtype=np.float32)}}, "not known here"),
        ({"fields": {"tokenizer.ggml.tokens": twice}}, "in the tokenizer that transformers makes"),
        ({"fields": {"tokenizer.ggml.merges": ["zz zz"]}}, "transformers cannot read this file"),
    )
    for changes, reason in cases:
        rewrite(source, target, **changes)
        with pytest.raises(ModelError, match=reason):
            read_gguf(target)


def test_a_rule_that_is_not_known_is_told(tiny_tokenizer, tmp_path):
    write(build("llama", tiny_tokenizer), tiny_tokenizer, tmp_path / "m.gguf")
    rewrite(tmp_path / "m.gguf", tmp_path / "other.gguf", fields={"tokenizer.ggml.pre": "martian"})
    assert "martian" in read_gguf(tmp_path / "other.gguf").notes[0]


def test_what_is_no_gguf_file_is_told(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"PK\3\4 something else")
    with pytest.raises(ModelError, match="not a GGUF file"):
        read_gguf(tmp_path / "m.gguf")


def test_without_the_package_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "gguf", None)
    (tmp_path / "m.gguf").write_bytes(b"GGUF....")
    with pytest.raises(UsageError, match="not installed") as caught:
        read_gguf(tmp_path / "m.gguf")
    assert "llmkit[gguf]" in caught.value.fix


LLAMA_CPP = """
import json, sys
import numpy as np
from llama_cpp import Llama
llama = Llama(sys.argv[1], n_ctx=128, logits_all=True, verbose=False, n_threads=1)
text = sys.argv[2]
ids = llama.tokenize(text.encode(), add_bos=False, special=False)
llama.eval(ids)
print(json.dumps({"ids": ids, "logits": np.array(llama.scores[: len(ids)]).tolist()}))
"""


@pytest.mark.skipif(importlib.util.find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen3"])
def test_llama_cpp_has_the_same_tokens_and_logits(kind, tiny_tokenizer, tmp_path):
    model = build(kind, tiny_tokenizer)
    write(model, tiny_tokenizer, tmp_path / "m.gguf")
    command = [sys.executable, "-c", LLAMA_CPP, str(tmp_path / "m.gguf"), TEXT]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    ids = encode_text(tiny_tokenizer, TEXT)
    assert found["ids"] == ids
    assert np.allclose(found["logits"], logits(model, ids).numpy(), atol=0.05)
