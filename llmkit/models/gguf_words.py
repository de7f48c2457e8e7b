"""How GGUF files name the rules by which byte-level tokenizers cut text into words, and what those rules are.

A GGUF file holds a vocabulary and its merges, and of the rest of a tokenizer only a name, which llama.cpp knows.
"""

from __future__ import annotations

import importlib
import json
from types import ModuleType
from typing import Any

from tokenizers import Regex, pre_tokenizers

from llmkit.errors import UsageError
from llmkit.tokenizer import WORDS

QWEN_WORDS = WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
"""GPT-4's words, but numbers digit by digit."""

NAMES = {
    "gpt2": ("gpt-2", "phi-2", "mpt", "olmo", "jais"),
    "digits": ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
    "gpt4": ("smaug-bpe", "dbrx", "llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"),
    "qwen2": ("qwen2", "deepseek-r1-qwen"),
}
"""Rule -> names that mean it in GGUF files. The first one is written."""

TAKES_WHOLE_WORDS = "llama-bpe"
"""The name of rule gpt4 by which llama.cpp takes words that are tokens whole, before any merge."""


def gguf_package() -> ModuleType:
    """The gguf package.

    Raises:
        UsageError: It is not installed.
    """
    try:
        return importlib.import_module("gguf")
    except ImportError as error:
        raise UsageError(
            "GGUF files are read and written with the package gguf, which is not installed",
            fix='pip install "llmkit[gguf]"',
        ) from error


def make_rule(rule: str) -> Any:
    """The pre-tokenizer that a rule stands for."""
    plain = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    if rule == "gpt2":
        return plain
    if rule == "digits":
        return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), plain])
    words = pre_tokenizers.Split(Regex(WORDS if rule == "gpt4" else QWEN_WORDS), behavior="isolated")
    return pre_tokenizers.Sequence([words, to_bytes])


def rule_of_name(name: str) -> str | None:
    """The rule that a name in a GGUF file stands for; None for one that is not known here."""
    return next((rule for rule, names in NAMES.items() if name in names), None)


def rule_of(pre_tokenizer: Any) -> str | None:
    """The rule that a pre-tokenizer follows, or None."""
    steps = steps_of(pre_tokenizer)
    return next((rule for rule in NAMES if steps_of(make_rule(rule)) == steps), None)


def steps_of(pre_tokenizer: Any) -> list[dict[str, Any]]:
    """What a pre-tokenizer does, step by step, without what changes no token."""
    if pre_tokenizer is None:
        return []
    spec = json.loads(pre_tokenizer.__getstate__())
    steps = spec["pretokenizers"] if spec["type"] == "Sequence" else [spec]
    return [{key: value for key, value in step.items() if key != "trim_offsets"} for step in steps]
