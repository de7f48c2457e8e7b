"""Causal language models: built from a recipe, loaded without inventing a weight, saved as Hugging Face folders."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from llmkit.errors import ModelError, RecipeError
from llmkit.models.config_files import ADAPTER_CONFIG, base_of_adapter, check_config, read_adapter_config
from llmkit.recipe.load import did_you_mean
from llmkit.recipe.schema import ModelSection
from llmkit.source import check_hub_has

GATED_RATIO = 8 / 3
"""intermediate_size / hidden_size of gated feed-forward layers: as many parameters as a plain layer of ratio 4."""


def build_causal_lm(
    section: ModelSection, *, vocab_size: int, seq_len: int, tokenizer: Any, seed: int
) -> PreTrainedModel:
    """A model with random weights (a function of `seed`), float32, on the CPU.

    Raises:
        RecipeError: The architecture is not known, or a size does not fit it.
    """
    config = make_config(section, vocab_size=vocab_size, seq_len=seq_len)
    config.eos_token_id = tokenizer.eos_token_id
    config.bos_token_id = tokenizer.bos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    torch.manual_seed(seed)
    try:
        with overrides_explained(section):
            model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    except (ValueError, RuntimeError, ZeroDivisionError) as error:
        raise RecipeError(
            f"transformers cannot build this model: {error}", where="model", fix="change its sizes"
        ) from error
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    return model


def make_config(section: ModelSection, *, vocab_size: int, seq_len: int) -> Any:
    """The transformers configuration that `section` describes, for a vocabulary and a longest sequence."""
    if section.config is not None:
        return config_from_file(section, vocab_size=vocab_size, seq_len=seq_len)
    if section.type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        hint = did_you_mean(section.type, list(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)) or "llama, gpt2, qwen3, mistral, ..."
        raise RecipeError(
            f"transformers has no causal language model of type {section.type!r}", where="model.type", fix=hint
        )
    if section.hidden_size % section.num_heads:
        raise RecipeError(
            f"hidden_size {section.hidden_size} is not a multiple of num_heads {section.num_heads}",
            where="model.hidden_size",
            fix=f"for example hidden_size {section.num_heads * max(1, round(section.hidden_size / section.num_heads))}",
        )
    default = AutoConfig.for_model(section.type)
    fields: dict[str, Any] = {
        "vocab_size": vocab_size,
        "num_hidden_layers": section.num_layers,
        "hidden_size": section.hidden_size,
        "num_attention_heads": section.num_heads,
        "max_position_embeddings": seq_len,
        "tie_word_embeddings": section.tie_embeddings,
        **feed_forward(section, default),
    }
    if has_field(default, "num_key_value_heads"):
        fields["num_key_value_heads"] = section.num_kv_heads or section.num_heads
    elif section.num_kv_heads not in (None, section.num_heads):
        raise RecipeError(f"{section.type} has no grouped heads", where="model.num_kv_heads", fix="leave it out")
    if has_field(default, "head_dim"):
        fields["head_dim"] = section.hidden_size // section.num_heads
    # gpt2 and its kin drop out a tenth of everything by default, which small models trained for few epochs do not want.
    fields |= dict.fromkeys((k for k in ("resid_pdrop", "embd_pdrop", "attn_pdrop") if has_field(default, k)), 0.0)
    for key in section.overrides:
        check_field(default, key)
    # Token ids of the architecture's own default vocabulary have no place in ours.
    none = dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id"))
    # An architecture's older name for a size means the same field.
    names = {old: new for new, old in default.attribute_map.items()}
    overrides = {names.get(key, key): value for key, value in section.overrides.items()}
    with overrides_explained(section):
        config = AutoConfig.for_model(section.type, **(none | fields | overrides))
    return check_length(config, seq_len)


@contextmanager
def overrides_explained(section: ModelSection) -> Iterator[None]:
    """Within the block, transformers stumbles over no value of `overrides` without a word of where that stands.

    Raises:
        RecipeError: One of them has a type, or a name in it, that the architecture cannot take.
    """
    try:
        yield
    except (StrictDataclassError, TypeError, KeyError, AttributeError) as error:
        if not section.overrides:
            raise
        reason = f"{error} is not known" if isinstance(error, KeyError) else " ".join(str(error).split())
        fix = f"give values as the configuration of {section.type} in transformers has them"
        message = f"transformers cannot take one of these values: {reason}"
        raise RecipeError(message, where="model.overrides", fix=fix) from error


def feed_forward(section: ModelSection, default: Any) -> dict[str, int]:
    """The width of the feed-forward layers under the architecture's own name for it."""
    is_gated = has_field(default, "intermediate_size") and getattr(default, "hidden_act", "") in (
        "silu",
        "gelu_pytorch_tanh",
    )
    # A multiple of 64 keeps matrix products on their fast path.
    guess = round(section.hidden_size * GATED_RATIO / 64) * 64 or 64 if is_gated else 4 * section.hidden_size
    name = next(
        (n for n in ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size") if has_field(default, n)), None
    )
    if name is None:
        return {}
    return {name: section.intermediate_size or guess}


def check_field(config: Any, key: str) -> None:
    """Raise when an architecture's configuration has no field `key`."""
    if not has_field(config, key):
        hint = did_you_mean(key, list(config.to_dict())) or f"see the {config.model_type} configuration of transformers"
        raise RecipeError(f"{config.model_type} has no field {key!r}", where=f"model.overrides.{key}", fix=hint)


def has_field(config: Any, name: str) -> bool:
    """Whether an architecture's configuration knows `name`, under this or an older name."""
    return name in config.to_dict() or name in config.attribute_map


def config_from_file(section: ModelSection, *, vocab_size: int, seq_len: int) -> Any:
    """A configuration read from a config.json or its folder, with our vocabulary; its own sizes stay."""
    source = str(section.config)
    path = Path(source)
    default = ModelSection()
    for name in ("type", "num_layers", "hidden_size", "num_heads", "num_kv_heads", "intermediate_size"):
        if getattr(section, name) != getattr(default, name):
            raise RecipeError(
                f"model.config brings its own sizes, and model.{name} is given too",
                where=f"model.{name}",
                fix="leave it out, or change the size with model.overrides",
            )
    path = path / "config.json" if path.is_dir() else path
    check_config(path)
    config = AutoConfig.from_pretrained(str(path), trust_remote_code=False)
    config.vocab_size = vocab_size
    with overrides_explained(section):
        for key, value in section.overrides.items():
            check_field(config, key)
            setattr(config, key, value)
    return check_length(config, seq_len)


def check_length(config: Any, seq_len: int) -> Any:
    """The configuration, or an error when its longest sequence is shorter than the rows."""
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and longest < seq_len:
        raise RecipeError(
            f"the model takes {longest} positions, train.seq_len asks for {seq_len}",
            where="train.seq_len",
            fix=f"lower it to {longest}",
        )
    return config


def load_causal_lm(
    source: str | Path, *, dtype: torch.dtype = torch.float32, options: Mapping[str, Any] | None = None
) -> Any:
    """A model folder, an adapter folder (with its base) or a hub name, as a model in eval mode on the CPU.

    No weight is ever invented: a missing, unexpected or misshapen tensor is an error that names it. No code is run.
    `options` go to transformers: how a model is quantised.

    Raises:
        ModelError: There is no such model, or it is not whole.
    """
    source = str(model_folder(source))
    if not Path(source).exists():
        check_hub_has(source)
    elif (Path(source) / ADAPTER_CONFIG).is_file():
        return load_adapter(Path(source), dtype=dtype, options=options)
    else:
        check_config(Path(source) / "config.json")
    return load_pretrained(AutoModelForCausalLM, source, dtype=dtype, options=options)


def load_pretrained(kind: Any, source: str, *, dtype: torch.dtype, options: Mapping[str, Any] | None = None) -> Any:
    """A folder or hub name as one of transformers' auto classes reads it, whole and in eval mode.

    Raises:
        ModelError: It cannot be read, or a tensor is missing, left over or of another shape.
    """
    try:
        with quiet_transformers():
            model, info = kind.from_pretrained(
                source,
                dtype=dtype,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # not ignored: told by name, below
                **(options or {}),
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"this model cannot be loaded: {reason}",
            where=source,
            fix="name a folder with config.json and model.safetensors",
        ) from error
    check_complete(info, source)
    return model.eval()


def outline(source: str) -> Any:
    """The model of a folder or hub name without its weights: what its configuration alone tells.

    Raises:
        ModelError: There is no such model.
    """
    if Path(source).exists():
        check_config(Path(source) / "config.json")
    else:
        check_hub_has(source)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"this model cannot be outlined: {reason}", where=source, fix="name a causal language model"
        ) from error


def model_folder(source: str | Path) -> str | Path:
    """Where the model is: `source`, or the result inside it when `source` is the folder of a run."""
    inner = Path(source) / "model"
    is_run = (inner / "config.json").is_file() or (inner / ADAPTER_CONFIG).is_file()
    return inner if is_run and not (Path(source) / "config.json").is_file() else source


def check_complete(info: dict[str, Any], source: str) -> None:
    """Raise when a tensor was missing, left over or of another shape."""
    for problem, keys in (
        ("missing", info["missing_keys"]),
        ("left over", info["unexpected_keys"]),
        ("of another shape", info["mismatched_keys"]),
    ):
        names = sorted(str(k[0] if isinstance(k, tuple) else k) for k in keys)
        if names:
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            raise ModelError(
                f"tensors are {problem}: {shown}",
                where=source,
                fix="the folder is damaged or belongs to another architecture",
            )


def load_adapter(folder: Path, *, dtype: torch.dtype, options: Mapping[str, Any] | None = None) -> Any:
    """A PEFT adapter on the base model that its configuration names."""
    read_adapter_config(folder)
    return put_adapter(load_base(folder, dtype=dtype, options=options), folder)


def load_base(folder: Path, *, dtype: torch.dtype, options: Mapping[str, Any] | None = None) -> Any:
    """The model that an adapter belongs to."""
    if not (base := base_of_adapter(folder)):
        message = "the adapter does not say which model it belongs to"
        raise ModelError(message, where=str(folder / ADAPTER_CONFIG), fix="set base_model_name_or_path")
    try:
        return load_causal_lm(base, dtype=dtype, options=options)
    except ModelError as error:
        raise ModelError(
            f"the base model of this adapter cannot be loaded ({error.message})",
            where=f"{folder}: {base}",
            fix="put the base model back, or change base_model_name_or_path in adapter_config.json",
        ) from error


def put_adapter(model: Any, folder: Path) -> Any:
    """`model` with the adapter of a folder, in eval mode."""
    # peft takes seconds to import, and only adapters need it.
    from peft import LoraConfig, PeftModelForCausalLM  # noqa: PLC0415

    from llmkit.models.lora import load_adapter_weights, quiet_peft  # noqa: PLC0415

    fit_embeddings(model, folder)
    config = LoraConfig.from_pretrained(str(folder))
    config.inference_mode = True
    with quiet_peft():
        adapted = PeftModelForCausalLM(model, config)
        # PEFT's own loader leaves random numbers in the place of what the file does not have.
        load_adapter_weights(adapted, folder)
    return adapted.eval()


def fit_embeddings(model: Any, folder: Path) -> None:
    """Grow the embeddings to the size the adapter was trained with (new control tokens), which PEFT does not do."""
    trained = read_adapter_config(folder).get("trainable_token_indices") or {}
    ids = [i for rows in (trained.values() if isinstance(trained, dict) else [trained]) for i in rows]
    size = max(ids, default=-1) + 1
    if size > model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(size, mean_resizing=False)


def save_causal_lm(model: Any, tokenizer: Any, folder: Path, weights: dict[str, Any] | None = None) -> None:
    """Write a plain Hugging Face folder (or a PEFT adapter folder), tokenizer and chat template included.

    `weights` are written in place of the model's own, which FSDP may have spread over many processes.
    """
    if weights is not None:
        # Gathered one by one, a matrix that two layers share has lost its kinship: it is still stored once.
        shared = shared_names(model)
        weights = {name: tensor for name, tensor in weights.items() if name not in shared}
    with quiet_transformers():
        if hasattr(model, "peft_config"):
            # New rows of the embeddings are saved one by one: PEFT need not ask the hub whether the whole has grown.
            model.save_pretrained(str(folder), state_dict=weights, save_embedding_layers=False)
        else:
            model.save_pretrained(str(folder), state_dict=weights)
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))


def load_weights(model: Any, folder: Path) -> None:
    """Put the weights of a folder that `save_causal_lm` wrote back into the same model."""
    # A large model lies in several files, model-00001-of-00003.safetensors and so on.
    tensors = {name: tensor for path in folder.glob("model*.safetensors") for name, tensor in load_file(path).items()}
    places = model.state_dict()
    mismatched = [name for name, tensor in tensors.items() if name in places and places[name].shape != tensor.shape]
    # A matrix that two layers share is stored once.
    missing = [name for name in places if name not in tensors and name not in shared_names(model)]
    unexpected = [name for name in tensors if name not in places]
    check_complete({"missing_keys": missing, "unexpected_keys": unexpected, "mismatched_keys": mismatched}, str(folder))
    model.load_state_dict(tensors, strict=False)


def shared_names(model: torch.nn.Module) -> set[str]:
    """Names of parameters that are another name for an earlier one."""
    return {n for n, _ in model.named_parameters(remove_duplicate=False)} - {n for n, _ in model.named_parameters()}


def count_parameters(model: torch.nn.Module) -> int:
    """All parameters, shared ones once."""
    return sum(p.numel() for p in model.parameters())


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' own reports off the screen: what matters in them becomes an error of ours."""
    from transformers.utils import logging as transformers_logging  # noqa: PLC0415

    level, had_bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity(logging.ERROR)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if had_bars:
            transformers_logging.enable_progress_bar()
