"""Low-rank adapters through PEFT: attach, save, load, merge. At the start an adapter changes nothing.

Hu et al. 2021, arXiv:2106.09685.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from llmkit.errors import ModelError
from llmkit.recipe.load import did_you_mean
from llmkit.recipe.schema import LoraSection

ADAPTER_WEIGHTS = "adapter_model.safetensors"


def attach_lora(
    model: PreTrainedModel,
    section: LoraSection,
    *,
    base: str | Path,
    seed: int,
    token_ids: Sequence[int] = (),
    trained_modules: Sequence[str] = (),
) -> PeftModel:
    """The model with adapters on its linear layers; nothing else is trained, and its outputs are those of the model.

    Args:
        model: Stays as it is; its layers are wrapped.
        section: Rank, scale, dropout and which layers.
        base: Folder or hub name of the model, which the adapter folder will name.
        seed: Of the adapters' first matrices (the second ones are zero).
        token_ids: Tokens whose rows of the embeddings and of the output head are trained and saved too: control tokens
            that the model does not know.
        trained_modules: Names of layers that are trained and saved whole: the head of a classifier.

    Raises:
        ModelError: A layer that is asked for is none.
    """
    check_targets(model, section.targets)
    config = LoraConfig(
        task_type="SEQ_CLS" if trained_modules else "CAUSAL_LM",
        r=section.rank,
        lora_alpha=section.alpha,
        lora_dropout=section.dropout,
        use_rslora=section.rslora,
        use_dora=section.dora,
        modules_to_save=list(trained_modules) or None,
        target_modules=section.targets,
        fan_in_fan_out=any(isinstance(m, Conv1D) for m in model.modules()),
        trainable_token_indices={name: list(token_ids) for name in embedding_names(model)} if token_ids else None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with quiet_peft():
            adapted = get_peft_model(model, config)
    path = Path(base)
    adapted.peft_config["default"].base_model_name_or_path = str(path.resolve() if path.exists() else base)
    scale_second_matrices(adapted, section.b_lr_ratio)
    return adapted


def scale_second_matrices(model: PeftModel, ratio: float) -> None:
    """Note at the adapters' second matrices by how much faster they learn (LoRA+); the optimizer looks there."""
    for name, parameter in model.named_parameters():
        if "lora_B" in name and parameter.requires_grad:
            parameter.lr_scale = ratio


def continue_adapter(model: PeftModel, section: LoraSection) -> PeftModel:
    """A model that was loaded with its adapter, ready to train that adapter on."""
    model.peft_config["default"].inference_mode = False
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora_", "trainable_tokens_delta", "modules_to_save")):
            parameter.requires_grad_(True)
    scale_second_matrices(model, section.b_lr_ratio)
    return model


@contextmanager
def adapter_off(model: PeftModel) -> Iterator[None]:
    """Within the block the model is what it was before it had an adapter.

    PEFT's own switch also freezes the adapter and thaws it again, which a wrapper around the model may not like.
    """
    layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer | AuxiliaryTrainingWrapper)]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Keep PEFT's use of an old name in transformers off the screen: nobody who tunes a model can mend it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def linear_layers(model: nn.Module) -> list[str]:
    """The last parts of the names of all linear layers but the output head, in the order in which they stand."""
    head = model.get_output_embeddings() if isinstance(model, PreTrainedModel) else None
    layers = (n for n, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D) and m is not head)
    return list(dict.fromkeys(name.rpartition(".")[2] for name in layers))


def check_targets(model: nn.Module, targets: Sequence[str] | str) -> None:
    """Raise for a name that no linear layer of the model has, with the names that there are."""
    names = linear_layers(model)
    for target in [] if isinstance(targets, str) else targets:
        if target not in names:
            hint = did_you_mean(target, names)
            raise ModelError(
                f"the model has no linear layer {target!r}; it has {', '.join(names)}",
                where="lora.targets",
                fix=hint or "name some of these, or all-linear",
            )


def embedding_names(model: PreTrainedModel) -> list[str]:
    """The full names of the input embeddings and, where it is a matrix of its own, of the output head."""
    inputs, head = model.get_input_embeddings(), model.get_output_embeddings()
    is_tied = head is None or head.weight is inputs.weight
    return [name for name, module in model.named_modules() if module is inputs or (module is head and not is_tied)]


def load_adapter_weights(model: PeftModel, folder: Path) -> None:
    """Put the weights of an adapter folder back into a model that has the same adapter.

    Raises:
        ModelError: The folder holds another adapter.
    """
    set_peft_model_state_dict(model, check_adapter(model, folder))


def check_adapter(model: PeftModel, folder: Path) -> dict[str, Tensor]:
    """The tensors of an adapter folder: all that `model` has a place for, in their shapes, and no others.

    Raises:
        ModelError: One is missing, left over, or of another shape; PEFT itself keeps random numbers in its place.
    """
    tensors: dict[str, Tensor] = load_file(folder / ADAPTER_WEIGHTS)
    places = get_peft_model_state_dict(model, save_embedding_layers=False)
    # A matrix that two layers share is stored once.
    stored = {places[name].data_ptr() for name in tensors if name in places}
    missing = [name for name, place in places.items() if name not in tensors and place.data_ptr() not in stored]
    others = [name for name, tensor in tensors.items() if name not in places or places[name].shape != tensor.shape]
    if missing or others:
        raise ModelError(
            f"this adapter has other layers (first {[*missing, *others][0]})",
            where=str(folder),
            fix="use the recipe that it was made with",
        )
    return tensors


def merge_lora(model: Any) -> PreTrainedModel:
    """The plain model with its adapter worked into its weights: the same outputs, to rounding.

    Raises:
        ModelError: There is no adapter, or its weights are not finite.
    """
    if not isinstance(model, PeftModel):
        raise ModelError(
            "this model has no adapter to merge", fix="name the folder of an adapter, with adapter_config.json"
        )
    try:
        merged = model.merge_and_unload(safe_merge=True)
    except ValueError as error:
        raise ModelError(
            f"this adapter cannot be merged: {error}", fix="train it again with a lower train.lr"
        ) from error
    merged.tie_weights()
    return merged
