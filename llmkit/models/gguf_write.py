"""Models to GGUF files, which llama.cpp, Ollama and their kin run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llmkit.errors import ModelError
from llmkit.losses import unwrap
from llmkit.models.causal_lm import shared_names
from llmkit.models.gguf_words import NAMES, TAKES_WHOLE_WORDS, gguf_package, rule_of

Kind = Literal["f16", "q8_0"]

LARGEST_F16 = 65504.0

BLOCK = 32
"""Numbers that share a scale in q8_0."""

ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3", "gpt2": "gpt2"}
"""model_type -> the architecture of GGUF that computes the same."""

MEANT: dict[str, dict[str, Any]] = {
    "llama": {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False},
    "mistral": {"hidden_act": "silu", "sliding_window": None},
    "qwen2": {"hidden_act": "silu", "use_sliding_window": False},
    "qwen3": {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False},
    "gpt2": {
        "activation_function": "gelu_new",
        "scale_attn_weights": True,
        "scale_attn_by_inverse_layer_idx": False,
        "reorder_and_upcast_attn": False,
        "add_cross_attention": False,
    },
}
"""What llama.cpp takes for granted about an architecture."""

NORMAL, CONTROL, USER_DEFINED, UNUSED = 1, 3, 4, 5
"""What a token is in a GGUF file."""


class Tokens(NamedTuple):
    """A tokenizer as a GGUF file holds it."""

    words: str
    """Name of the rule that cuts text into words."""
    texts: list[str]
    types: list[int]
    merges: list[str]


def write_gguf(
    model: Any, tokenizer: Any, path: Path, *, kind: Kind, name: str, adds_bos: bool, end_of_turn: int | None
) -> dict[str, int]:
    """Write a Llama-like or GPT-2-like model with a byte-level BPE tokenizer as one GGUF file.

    Args:
        model: Of transformers, on the CPU; adapters merged.
        tokenizer: Its tokenizer and chat template.
        path: A new file.
        kind: Number format of the matrices; norms, biases and position embeddings stay in float32.
        name: What the model is called.
        adds_bos: Whether the tokenizer itself puts its BOS token before a text.
        end_of_turn: The id that ends the assistant's turns, if there is one.

    Returns:
        Number formats -> how many tensors have them.

    Raises:
        ModelError: A GGUF file cannot say what this model or this tokenizer does.
    """
    gguf = gguf_package()
    config = unwrap(model).config
    check_architecture(config)
    tokens = tokens_of(tokenizer, config.vocab_size)
    writer = gguf.GGUFWriter(path, ARCHITECTURES[config.model_type])
    try:
        add_sizes(writer, config, gguf, kind=kind, name=name)
        add_tokens(writer, tokenizer, tokens, adds_bos=adds_bos, end_of_turn=end_of_turn)
        kinds: dict[str, int] = {}
        for tensor_name, values in named_tensors(unwrap(model), gguf):
            stored, data = encode_values(tensor_name, values, kind, gguf)
            writer.add_tensor(tensor_name, data, raw_dtype=stored)
            kinds[stored.name] = kinds.get(stored.name, 0) + 1
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()
    return kinds


def check_architecture(config: Any) -> None:
    """Raise unless llama.cpp computes what this configuration says."""
    if config.model_type not in ARCHITECTURES:
        raise ModelError(
            f"a {config.model_type} cannot be written as GGUF here",
            fix=f"these can: {', '.join(ARCHITECTURES)}; others with llama.cpp's convert_hf_to_gguf.py",
        )
    for key, meant in MEANT[config.model_type].items():
        if getattr(config, key, meant) != meant:
            raise ModelError(
                f"llama.cpp takes {key} to be {meant!r}, and here it is {getattr(config, key)!r}",
                where="config.json",
                fix="convert it with llama.cpp's convert_hf_to_gguf.py",
            )
    rope_type = (getattr(config, "rope_parameters", None) or {}).get("rope_type", "default")
    if rope_type not in ("default", "llama3"):
        raise ModelError(
            f"rotary positions of type {rope_type!r} cannot be written as GGUF here",
            where="config.json: rope_parameters",
            fix="convert it with llama.cpp's convert_hf_to_gguf.py",
        )


def add_sizes(writer: Any, config: Any, gguf: Any, *, kind: Kind, name: str) -> None:
    """The metadata that describes the architecture."""
    writer.add_name(name)
    writer.add_type("model")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if kind == "f16" else gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    if config.model_type == "gpt2":
        writer.add_feed_forward_length(config.n_inner or 4 * config.hidden_size)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
        return
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(head_dim)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)


def tokens_of(tokenizer: Any, vocab_size: int) -> Tokens:
    """The tokenizer in the terms of GGUF.

    Raises:
        ModelError: It is none of those that llama.cpp rebuilds from a vocabulary, merges and the name of a rule.
    """
    spec, rule = read_spec(tokenizer)
    texts = [f"[PAD{index}]" for index in range(vocab_size)]
    types = [UNUSED] * vocab_size
    vocab = tokenizer.get_vocab()
    if max(vocab.values()) >= vocab_size:
        raise ModelError(
            f"the tokenizer has {max(vocab.values()) + 1} tokens, and the model {vocab_size}",
            fix="give the model the tokenizer that it was trained with",
        )
    for text, index in vocab.items():
        texts[index], types[index] = text, NORMAL
    for token in spec["added_tokens"]:
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in spec["model"]["merges"]]
    takes_whole = bool(spec["model"].get("ignore_merges"))
    return Tokens(TAKES_WHOLE_WORDS if takes_whole else NAMES[rule][0], texts, types, merges)


def read_spec(tokenizer: Any) -> tuple[dict[str, Any], str]:
    """The tokenizer's own description, and the rule by which it cuts words."""
    backend = tokenizer.backend_tokenizer
    spec: dict[str, Any] = json.loads(backend.to_str())
    kind = spec["model"].get("type", "BPE")
    is_byte_level = (spec["decoder"] or {}).get("type") == "ByteLevel"
    if kind != "BPE" or not is_byte_level:
        raise refusal(
            f"its tokenizer is {kind}" if kind != "BPE" else "its tokenizer is SentencePiece-like",
            "a GGUF file wants scores for such a vocabulary, which tokenizer.json does not keep",
        )
    normalizer = (spec["normalizer"] or {}).get("type")
    if normalizer not in (None, "NFC"):
        raise refusal(f"its tokenizer changes text first ({normalizer})", "llama.cpp does not")
    # Without merges each byte is a token, however text is cut.
    rule = rule_of(backend.pre_tokenizer) if spec["model"]["merges"] else "gpt2"
    if rule is None or (spec["model"].get("ignore_merges") and rule != "gpt4"):
        raise refusal("its tokenizer cuts words by a rule of its own", f"llama.cpp knows those of {', '.join(NAMES)}")
    return spec, rule


def notes_about(tokenizer: Any) -> list[str]:
    """What a GGUF file cannot say of a tokenizer that it can hold."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    if (spec["normalizer"] or {}).get("type") != "NFC":
        return []
    return [
        "this tokenizer puts a letter and its accent together before it looks them up (NFC), and llama.cpp does not: "
        "text that has them apart, as file names of macOS do, gets other tokens there than in training"
    ]


def refusal(what: str, why: str) -> ModelError:
    """The error for a tokenizer that a GGUF file cannot hold."""
    return ModelError(
        f"{what}, and {why}",
        where="tokenizer.json",
        fix="train one with `llmkit tokenizer train` (bpe), or convert with llama.cpp's convert_hf_to_gguf.py",
    )


def add_tokens(writer: Any, tokenizer: Any, tokens: Tokens, *, adds_bos: bool, end_of_turn: int | None) -> None:
    """The metadata of the tokenizer, and the chat template."""
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokens.words)
    writer.add_token_list(tokens.texts)
    writer.add_token_types(tokens.types)
    writer.add_token_merges(tokens.merges)
    for add, index in (
        (writer.add_bos_token_id, tokenizer.bos_token_id),
        (writer.add_eos_token_id, tokenizer.eos_token_id),
        (writer.add_unk_token_id, tokenizer.unk_token_id),
        (writer.add_pad_token_id, tokenizer.pad_token_id),
        (writer.add_eot_token_id, end_of_turn),
    ):
        if index is not None:
            add(index)
    writer.add_add_bos_token(adds_bos)
    writer.add_add_space_prefix(False)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def named_tensors(model: Any, gguf: Any) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(GGUF's name, values as llama.cpp wants them) of each weight."""
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    number = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == architecture)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    shared = shared_names(model)
    for name, tensor in model.state_dict().items():
        if name in shared:
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if target is None:
            raise ModelError(f"GGUF has no place for the tensor {name}", fix="convert it with llama.cpp itself")
        values = tensor.detach().float().cpu().numpy()
        if architecture == "gpt2" and ".h." in name and values.ndim == 2:
            values = values.T  # GPT-2 keeps its matrices the other way round
        if architecture == "llama" and name.endswith("q_proj.weight"):
            values = interleave(values, config.num_attention_heads)
        if architecture == "llama" and name.endswith("k_proj.weight"):
            values = interleave(values, config.num_key_value_heads)
        yield target, np.ascontiguousarray(values)
    if (getattr(config, "rope_parameters", None) or {}).get("rope_type") == "llama3":
        yield "rope_freqs.weight", rope_factors(config)


def interleave(weight: NDArray[np.float32], num_heads: int) -> NDArray[np.float32]:
    """A query or key projection with the two halves of each head's rows interleaved.

    transformers turns the pairs (i, i + D/2) of a head by its rotary angles, llama.cpp's llama the pairs (2i, 2i + 1).
    """
    halves = weight.reshape(num_heads, 2, weight.shape[0] // num_heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def rope_factors(config: Any) -> NDArray[np.float32]:
    """By how much each rotary frequency is slowed down in Llama 3.1 and later, (head_dim / 2,)."""
    slowed, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    size = 2 * len(slowed)
    plain = 1 / config.rope_parameters["rope_theta"] ** (torch.arange(0, size, 2) / size)
    return np.asarray((plain / slowed).numpy(), dtype=np.float32)


def encode_values(name: str, values: NDArray[np.float32], kind: Kind, gguf: Any) -> tuple[Any, NDArray[Any]]:
    """(number format, the bytes in it) of a tensor."""
    types = gguf.GGMLQuantizationType
    if values.ndim == 1 or name.startswith("position_embd"):
        return types.F32, values
    if kind == "q8_0" and values.shape[-1] % BLOCK == 0:
        return types.Q8_0, gguf.quants.quantize(values, types.Q8_0)
    if float(np.abs(values).max()) > LARGEST_F16:
        raise ModelError(f"{name} has values beyond what f16 can hold", fix="use --dtype q8_0")
    return types.F16, values.astype(np.float16)
