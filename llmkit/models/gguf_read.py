"""GGUF files to models and tokenizers, by the reader of transformers, with what it leaves out told or refused."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GgufConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from llmkit.alphabet import as_signs
from llmkit.errors import ModelError
from llmkit.models.causal_lm import check_complete, count_parameters, quiet_transformers
from llmkit.models.gguf_words import gguf_package, make_rule, rule_of, rule_of_name

LLAMA3_SCALING = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
"""What all Llama 3 models have; a file holds only the frequencies that come of it."""

ROPE_FACTORS = "rope_freqs.weight"


class GgufModel(NamedTuple):
    """What a GGUF file held."""

    model: Any
    """In float32, dequantised, in eval mode."""
    tokenizer: Any
    architecture: str
    kinds: dict[str, int]
    """Number formats of the file -> how many tensors have them."""
    notes: list[str]
    """What one should know of the conversion."""


def read_gguf(path: Path) -> GgufModel:
    """Read a GGUF file whole: weights, configuration, tokenizer, chat template.

    Raises:
        UsageError: The package gguf is missing.
        ModelError: It is no GGUF file, its architecture is not known to transformers, or something in it would be lost.
    """
    check_magic(path)
    gguf = gguf_package()
    reader = gguf.GGUFReader(path)
    architecture = str(field(reader, "general.architecture"))
    model, tokenizer = load(path, reader, architecture)
    notes = fix_words(tokenizer, field(reader, "tokenizer.ggml.pre"), field(reader, "tokenizer.ggml.model"))
    notes += fix_positions(model, reader, architecture, path)
    check_nothing_left(model, reader, path)
    check_tokens(tokenizer, field(reader, "tokenizer.ggml.tokens"), path)
    tokenizer.model_max_length = getattr(model.config, "max_position_embeddings", None) or tokenizer.model_max_length
    kinds: dict[str, int] = {}
    for tensor in reader.tensors:
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
    return GgufModel(rebuild(model), tokenizer, architecture, kinds, notes)


def check_magic(path: Path) -> None:
    """Raise unless the file begins as GGUF files do."""
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise ModelError("this is not a GGUF file", where=str(path), fix="name a .gguf file, or a model folder")


def field(reader: Any, name: str) -> Any:
    """The value of a metadata field; None where there is none."""
    found = reader.fields.get(name)
    return None if found is None else found.contents()


def load(path: Path, reader: Any, architecture: str) -> tuple[Any, Any]:
    """Model and tokenizer as transformers reads them, from a folder that holds nothing else."""
    # The reader draws a bar of its own on stderr, whatever it is told.
    with tempfile.TemporaryDirectory() as folder, quiet_transformers(), redirect_stderr(io.StringIO()):
        (Path(folder) / "model.gguf").symlink_to(path.resolve())
        options: dict[str, Any] = {"gguf_file": "model.gguf", "trust_remote_code": False, "local_files_only": True}
        try:
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            config = AutoConfig.from_pretrained(folder, **options)
            fill_sizes(config, reader, architecture)
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
                output_loading_info=True,
                **options,
            )
        # tokenizers raises bare Exceptions.
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(
                f"transformers cannot read this file: {reason}",
                where=str(path),
                fix="take a file of another architecture, or the model's own folder from the hub",
            ) from error
    check_complete(info, str(path))
    return model.eval(), tokenizer


def fill_sizes(config: Any, reader: Any, architecture: str) -> None:
    """Set the sizes that the file tells and that transformers leaves at an architecture's default."""
    head_dim = field(reader, f"{architecture}.attention.key_length")
    if head_dim is not None and config.model_type in ("llama", "mistral", "qwen3"):
        config.head_dim = head_dim
    if config.model_type == "gpt2":
        config.n_positions = field(reader, "gpt2.context_length")
        config.n_inner = field(reader, "gpt2.feed_forward_length")


def rebuild(loaded: Any) -> Any:
    """The same model without the mark of quantisation, for with it no model can be saved."""
    config = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path", "_model_name_or_path"):
        config.pop(key, None)
    model = AutoModelForCausalLM.from_config(type(loaded.config).from_dict(config), dtype=torch.float32)
    model.load_state_dict(loaded.state_dict(), strict=True)
    model.tie_weights()
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(model.generation_config, name, getattr(model.config, name, None))
    return model.eval()


def fix_words(tokenizer: Any, name: str | None, kind: str | None) -> list[str]:
    """Cut text into words by the rule that the file names; transformers knows fewer of them than llama.cpp."""
    if kind != "gpt2":
        return []
    rule = rule_of_name(name or "")
    if rule is not None:
        tokenizer.backend_tokenizer.pre_tokenizer = make_rule(rule)
        return []
    if rule_of(tokenizer.backend_tokenizer.pre_tokenizer) == "gpt2":
        return [
            f"the file's rule for words, {name!r}, is not known here: words are cut as GPT-2 does, "
            "so that some texts may have other tokens than in training"
        ]
    return []


def fix_positions(model: Any, reader: Any, architecture: str, path: Path) -> list[str]:
    """Bring back how the file scales its rotary positions, which transformers does not read."""
    config = model.config.get_text_config()
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        return []
    kind = field(reader, f"{architecture}.rope.scaling.type")
    if kind not in (None, "none"):
        raise ModelError(
            f"its positions are scaled ({kind}), which transformers does not read from GGUF files",
            where=str(path),
            fix="take the model's own folder from the hub",
        )
    factors = next((np.array(t.data) for t in reader.tensors if t.name == ROPE_FACTORS), None)
    if factors is None:
        return []
    config.rope_parameters = {**rope, "rope_type": "llama3", "factor": float(factors.max()), **LLAMA3_SCALING}
    plain = 1 / rope["rope_theta"] ** (torch.arange(0, 2 * len(factors), 2) / (2 * len(factors)))
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    if not np.allclose(plain / scaled, factors, rtol=1e-3):
        raise ModelError(
            "its positions are scaled in a way that is not known here",
            where=f"{path}: {ROPE_FACTORS}",
            fix="take the model's own folder from the hub",
        )
    return ["positions are scaled as in Llama 3.1"]


def check_nothing_left(model: Any, reader: Any, path: Path) -> None:
    """Raise when the file holds weights that found no place: transformers leaves out what it does not know."""
    held = sum(int(tensor.n_elements) for tensor in reader.tensors if not tensor.name.startswith("rope_"))
    taken = count_parameters(model)
    if held != taken:
        raise ModelError(
            f"the file holds {held:,} weights, and transformers made a model of {taken:,}",
            where=str(path),
            fix="take the model's own folder from the hub",
        )


def check_tokens(tokenizer: Any, tokens: Sequence[str], path: Path) -> None:
    """Raise unless each id stands for the file's own token."""
    backend = tokenizer.backend_tokenizer
    for index, token in enumerate(tokens):
        found = backend.id_to_token(index)
        # Byte-level vocabularies may hold plain text, SentencePiece ones spaces: transformers spells them their way.
        if found not in (token, token.replace(" ", "▁")) and found != as_signs(token):
            raise ModelError(
                f"id {index} is {token!r} in the file, and {found!r} in the tokenizer that transformers makes of it",
                where=str(path),
                fix="take the model's own folder from the hub",
            )
