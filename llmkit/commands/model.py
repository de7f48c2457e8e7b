"""`llmkit model`: work an adapter into its model, and look at what a model folder holds."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmkit.commands.convert import convert
from llmkit.commands.options import AsJson
from llmkit.console import format_table, say, write, write_json
from llmkit.errors import ModelError

app = typer.Typer(
    help="Merge adapters into their model; convert to and from GGUF; show what a model is.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.command()(convert)


@app.command()
def merge(
    adapters: Annotated[list[Path], typer.Argument(metavar="ADAPTER", help="Adapter folders, for example RUN/model.")],
    output: Annotated[Path, typer.Option(help="Folder of the merged model.")],
    dtype: Annotated[
        Literal["fp32", "bf16"], typer.Option(help="Number format of the merged weights; fp32 is exact.")
    ] = "fp32",
    as_json: AsJson = False,
) -> None:
    """Work adapters into their model: a plain folder that needs neither.

    \b
    Examples:
      llmkit model merge tuned/model --output merged
      llmkit model merge tuned/model --output merged --dtype bf16     half the size; what rounding costs is told
      llmkit model merge tuned/model polite/model --output merged     both on the same model: their updates are added

    The merged model has the same outputs as the adapter on its model, to the rounding of the number format.
    """
    from llmkit.files import check_output_free

    check_output_free(output)
    cost = merge_into(output, adapters, dtype=dtype)
    result = {"output": str(output), "dtype": dtype, **cost}
    if as_json:
        write_json(result)
        return
    say(
        f"{output}: merged, {dtype}; on a short text the logits differ by {cost['max_logit_error']:.2g} at most, the "
        f"predictions by {cost['divergence']:.2g} nats per token, and {cost['same_predictions']:.0%} of the likeliest "
        "tokens are the same"
    )


def merge_into(output: Path, adapters: Sequence[Path], *, dtype: str = "fp32") -> dict[str, float]:
    """Write the model of these adapters with all of them worked in; what the number format costs.

    Raises:
        ModelError: One is no adapter, they belong to different models, or the model is stored in few bits.
    """
    import torch

    from llmkit.files import new_folder
    from llmkit.models.causal_lm import load_causal_lm, model_folder, put_adapter, save_causal_lm
    from llmkit.models.lora import merge_lora
    from llmkit.tokenizer import load_tokenizer

    folders = [Path(model_folder(adapter)) for adapter in adapters]
    check_adapters(folders)
    tokenizer = load_tokenizer(folders[-1])
    ids = sample_ids(tokenizer)
    with torch.no_grad():
        model: Any = None
        for folder in folders:
            attached = load_causal_lm(folder, dtype=torch.float32) if model is None else put_adapter(model, folder)
            wanted = attached(ids).logits
            model = merge_lora(attached)
        model = note_end_of_turn(model, tokenizer)
        if dtype == "bf16":
            model = model.to(torch.bfloat16)
        with new_folder(output) as aside:
            save_causal_lm(model, tokenizer, aside)
        # In fp32 arithmetic, so that only what the weights lost counts.
        return difference(model.float()(ids).logits, wanted)


def check_adapters(folders: Sequence[Path]) -> None:
    """Raise unless these are adapters of one model, and that is stored in whole numbers of bytes."""
    import os

    from llmkit.models.config_files import ADAPTER_CONFIG, base_of_adapter, read_adapter_config

    bases = {}
    for folder in folders:
        if not (folder / ADAPTER_CONFIG).is_file():
            raise ModelError(
                "this is no adapter folder: it has no adapter_config.json",
                where=str(folder),
                fix="name the model folder of a finetune run with method lora, for example RUN/model",
            )
        read_adapter_config(folder)
        bases[folder] = str(base_of_adapter(folder))
    first = bases[folders[0]]
    for folder, base in bases.items():
        if os.path.realpath(base) != os.path.realpath(first):
            raise ModelError(
                f"this adapter belongs to {base}, the first one to {first}",
                where=str(folder),
                fix="merge adapters of one model; to put one on top of another, tune the merged model",
            )
    config = Path(first) / "config.json"
    if config.is_file() and "quantization_config" in json.loads(config.read_text(encoding="utf-8")):
        raise ModelError(
            "this model is stored in few bits, and an adapter is never merged into such weights: what it learned would "
            "be rounded away",
            where=first,
            fix="name the model in bf16 or fp32 as base_model_name_or_path in adapter_config.json",
        )


def difference(logits: Any, wanted: Any) -> dict[str, float]:
    """How far the predictions of a model are from those that are wanted; logits (1, T, V)."""
    divergence = (wanted.softmax(-1) * (wanted.log_softmax(-1) - logits.log_softmax(-1))).sum(-1).mean()
    return {
        "max_logit_error": float((logits - wanted).abs().max()),
        "divergence": max(0.0, float(divergence)),
        "same_predictions": float((logits.argmax(-1) == wanted.argmax(-1)).float().mean()),
    }


def sample_ids(tokenizer: Any) -> Any:
    """A short text to compare two models on, (1, T) int64."""
    import torch

    from llmkit.tokenizer import encode_text

    return torch.tensor([encode_text(tokenizer, "def add(a, b):\n    return a + b  # What does this function do?")])


def note_end_of_turn(model: Any, tokenizer: Any) -> Any:
    """The model, whose generation configuration now ends texts where the chat template ends turns."""
    from llmkit.data.dialogue import end_of_turn_ids
    from llmkit.models.vocabulary import set_stop_tokens

    if tokenizer.chat_template:
        set_stop_tokens(model, end_of_turn_ids(tokenizer))
    return model


@app.command()
def show(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Model folder, adapter folder, or hub name.")],
    as_json: AsJson = False,
) -> None:
    """Show what a model is: architecture, sizes, vocabulary, number format, adapter.

    \b
    Examples:
      llmkit model show run/model
      llmkit model show tuned/model --json
    """
    facts = describe(model)
    if as_json:
        write_json(facts)
        return
    adapter = {f"adapter {name}": value for name, value in (facts.pop("adapter") or {}).items()}
    rows = [[n.replace("_", " "), show_value(v)] for n, v in {**facts, **adapter}.items() if v is not None]
    write(format_table(["model", model], rows[1:]))


def describe(source: str) -> dict[str, Any]:
    """All facts about a model, from its configuration and the headers of its files: no weight is loaded."""
    from llmkit.generation.decode import longest_sequence
    from llmkit.models.causal_lm import count_parameters, model_folder, outline
    from llmkit.tokenizer import load_tokenizer

    source = str(model_folder(source))
    folder = Path(source)
    adapter = read_adapter(folder)
    base = source if adapter is None else adapter["base"]
    model = outline(base)
    config = model.config
    embeddings = {p for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m for p in m.parameters()}
    total = count_parameters(model)
    tokenizer = load_tokenizer(source)
    return {
        "model": source,
        "architecture": type(model).__name__,
        "type": config.model_type,
        "parameters": total,
        "parameters_without_embeddings": total - sum(p.numel() for p in embeddings),
        "layers": getattr(config, "num_hidden_layers", None),
        "hidden_size": getattr(config, "hidden_size", None),
        "heads": getattr(config, "num_attention_heads", None),
        "kv_heads": getattr(config, "num_key_value_heads", None),
        "vocabulary": model.get_input_embeddings().weight.shape[0],
        "longest_sequence": longest_sequence(model),
        "dtype": dtype_on_disk(Path(base)) or str(config.dtype).removeprefix("torch."),
        "tied_embeddings": bool(config.tie_word_embeddings),
        "bytes_on_disk": sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) if folder.is_dir() else None,
        "tokens_of_tokenizer": len(tokenizer),
        "chat_template": bool(tokenizer.chat_template),
        "adapter": adapter,
    }


def dtype_on_disk(folder: Path) -> str | None:
    """The number format of the weights in a folder; None where there are none."""
    from safetensors import safe_open

    names = {"F32": "float32", "F16": "float16", "BF16": "bfloat16", "F64": "float64"}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a dict
                kind = str(file.get_slice(key).get_dtype())
                return names.get(kind, kind)
    return None


def read_adapter(folder: Path) -> dict[str, Any] | None:
    """What an adapter folder says about its adapter; None for a plain model."""
    from safetensors import safe_open

    from llmkit.models.config_files import ADAPTER_CONFIG, base_of_adapter, open_adapter_config

    if not (folder / ADAPTER_CONFIG).is_file():
        return None
    config = open_adapter_config(folder)
    targets = config.get("target_modules")
    numbers = 0
    for file in folder.glob("adapter_model.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            numbers = sum(math.prod(tensors.get_slice(key).get_shape()) for key in tensors.keys())  # noqa: SIM118
    return {
        "kind": str(config.get("peft_type", "")).lower(),
        "base": base_of_adapter(folder),
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "parameters": numbers,
        "targets": sorted(targets) if isinstance(targets, list) else targets,
    }


def show_value(value: Any) -> str:
    """A fact as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return " ".join(value)
    return f"{value:,}" if isinstance(value, int) else str(value)
