"""What the configuration files of a model or an adapter say, read and checked before anything is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmkit.errors import ModelError
from llmkit.source import check_ended

ADAPTER_CONFIG = "adapter_config.json"


def check_config(path: Path) -> None:
    """Raise unless `path` is a model's configuration that runs no code of its own."""
    if not path.is_file():
        check_ended(path.parent)
        raise ModelError(
            "this is not a model folder: it has no config.json",
            where=str(path.parent),
            fix="name the folder that pretrain or finetune wrote, for example RUN/model",
        )
    try:
        config = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        fix = "the file is damaged: copy the model again"
        raise ModelError(f"not JSON: {error}", where=str(path), fix=fix) from error
    # Each of these makes transformers load code (CVE-2026-4372 and its kin); none is needed for a model that it knows.
    attention = str(
        config.get("_attn_implementation_internal")
        or config.get("attn_implementation")
        or config.get("_attn_implementation")
        or ""
    )
    if "auto_map" in config or "/" in attention:
        raise ModelError(
            "this model asks to run code of its own, which is never done",
            where=str(path),
            fix="use an architecture that transformers knows",
        )
    if "model_type" not in config:
        raise ModelError(
            "config.json names no model_type: this is no transformers model",
            where=str(path),
            fix="name a causal language model",
        )


def base_of_adapter(folder: Path) -> str | None:
    """The folder, as seen from here or from the adapter's own, or the hub name of the model that it belongs to."""
    base = open_adapter_config(folder).get("base_model_name_or_path")
    return str(folder / base) if base and (folder / base).exists() else base


def read_adapter_config(folder: Path, *, is_classifier: bool = False) -> dict[str, Any]:
    """The configuration of an adapter that PEFT may be given: LoRA, in safetensors, importing nothing.

    Raises:
        ModelError: It is another, names classes where words are wanted, or has no weights.
    """
    path, config = folder / ADAPTER_CONFIG, open_adapter_config(folder)
    if config.get("peft_type") != "LORA" or config.get("megatron_config") or config.get("auto_mapping"):
        raise ModelError("this is no plain LoRA adapter", where=str(path), fix="use a LoRA adapter")
    if config.get("task_type") == "SEQ_CLS" and not is_classifier:
        raise ModelError(
            "this adapter names classes, it writes no text", where=str(path), fix="use `llmkit baseline predict`"
        )
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError("there is no adapter_model.safetensors", where=str(folder), fix="copy the adapter again")
    return config


def open_adapter_config(folder: Path) -> dict[str, Any]:
    """The configuration of any adapter."""
    path = folder / ADAPTER_CONFIG
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise ModelError(f"not JSON: {error}", where=str(path), fix="copy the adapter again") from error
