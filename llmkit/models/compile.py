"""How a model is made to train fast: which attention, and whether torch.compile is worth its start.

The choice depends on the recipe, the device and the length of the run in FLOPs, never on a measured speed: a run that
is continued must choose as before, or it would not be the same run to the last bit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch

from llmkit.console import warn
from llmkit.device import has_amx
from llmkit.errors import RecipeError
from llmkit.losses import body_of, has_plain_head, is_compiled, unwrap
from llmkit.models.attention import MAX_POSITIONS, can_attend, use_attention
from llmkit.recipe.schema import TrainSection

WORTH_COMPILING = {"cpu": 1e14, "cpu with amx": 3e13, "cuda": 1e16}
"""FLOPs of a run from which compiling wins back its start: 20 to 70 s on two cores, for steps a seventh to a fifth
faster in bf16. With AMX, where products are cheap and what stands between them is most of the time, steps take less
than half (6,419 tokens/s for 2,885). In fp32 nothing is won on a CPU, where products take nearly all of the time."""


@dataclass(frozen=True)
class Engine:
    """How the forward and backward passes of a run are computed."""

    attention: str
    is_compiled: bool

    def to_json(self) -> dict[str, Any]:
        """For the plan and the fingerprint of the run."""
        return {"attention": self.attention, "compiled": self.is_compiled}


def choose_engine(
    config: TrainSection,
    *,
    dtype: torch.dtype,
    device: torch.device,
    total_flops: float,
    has_documents: bool = False,
    is_ragged: bool = False,
    is_flat: bool = False,
    is_sharded: bool = False,
) -> Engine:
    """What the recipe asks for, `auto` filled in with what is fastest; see `fit_engine` for what a model allows.

    Args:
        config: Of the recipe.
        dtype: Of the matrix products.
        device: Where the model trains.
        total_flops: Of the whole run.
        has_documents: Rows hold documents that are kept apart.
        is_ragged: Rows differ in length: each length would be compiled anew.
        is_flat: Rows are laid end to end, as documents that are kept apart.
        is_sharded: FSDP spreads the weights.

    Raises:
        RecipeError: The device does not have the attention that the recipe asks for.
    """
    is_fast_cpu = device.type == "cpu" and dtype == torch.bfloat16
    is_worth_it = is_fast_cpu or device.type == "cuda"
    kind = "cpu with amx" if device.type == "cpu" and has_amx() else device.type
    is_long = total_flops >= WORTH_COMPILING.get(kind, float("inf"))
    compiles = is_worth_it and is_long and not is_ragged and not is_sharded and not config.gradient_checkpointing
    if config.compile != "auto":
        compiles = config.compile
    elif compiles and not compiler_works(device):
        warn("torch.compile does not work here (no C++ compiler?), so the model is not compiled")
        compiles = False
    if config.attention == "flex_attention" and device.type == "cpu":
        message = "flex_attention has no backward pass on a CPU"
        raise RecipeError(message, where="train.attention", fix="set it to auto")
    if config.attention != "auto":
        return Engine(config.attention, compiles)
    if is_flat and not compiles:
        has_flash = device.type == "cuda" and find_spec("flash_attn") is not None
        return Engine("flash_attention_2" if has_flash else "products", compiles)
    if is_fast_cpu:
        # Inside a compiled body products are fused with the softmax; torch's own CPU kernel cannot be. Blocks of a row
        # would be compiled anew for each length, which eager attention is not.
        if compiles:
            return Engine("eager" if is_ragged else "products", compiles)
        # Of rows of many lengths, the long ones go to torch's own attention by themselves.
        return Engine("products" if is_ragged or config.seq_len <= MAX_POSITIONS else "sdpa", compiles)
    if has_documents and device.type == "cuda" and find_spec("flash_attn") is not None:
        return Engine("flash_attention_2", compiles)
    return Engine("sdpa", compiles)


def fit_engine(engine: Engine, model: Any, config: TrainSection) -> Engine:
    """The engine, with the model's own attention where it would be another model with the one that was chosen.

    Raises:
        RecipeError: The recipe asks for products, which do not compute what the model does.
    """
    is_chosen_here = config.attention == "auto"
    # What the recipe asks for by name, `use_engine` tries, and tells the reason if it fails.
    if not (is_chosen_here or engine.attention == "products") or can_attend(model, engine.attention):
        return engine
    own = unwrap(model).config._attn_implementation
    if not is_chosen_here:
        message = f"products do not compute what the attention of {unwrap(model).config.model_type} does"
        raise RecipeError(message, where="train.attention", fix=f"set it to auto, which takes {own} here")
    return replace(engine, attention=own)


def use_engine(model: Any, engine: Engine, config: TrainSection, *, is_ragged: bool = False) -> None:
    """Set the attention of `model`, compile its body and have it keep few activations, in place: weights stay.

    Raises:
        RecipeError: The architecture or the machine does not have it.
    """
    # Asked now, on three tokens, since each call with another shape is compiled anew.
    has_plain_head(model)
    try:
        use_attention(model, engine.attention)
    except (ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0]
        raise RecipeError(
            f"{engine.attention} does not work here: {reason}", where="train.attention", fix="set it to auto"
        ) from error
    if config.gradient_checkpointing:
        keep_few_activations(model)
    if engine.is_compiled:
        body_of(model).compile(dynamic=is_ragged)


def keep_few_activations(model: Any) -> None:
    """Let the layers of `model` keep only what goes into them, and compute the rest again in the backward pass.

    Raises:
        RecipeError: The architecture cannot.
    """
    # The name that transformers had for it before 5.23.
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise RecipeError(str(error), where="train.gradient_checkpointing", fix="leave it out") from error


@contextmanager
def uncompiled(model: Any) -> Iterator[None]:
    """Within the block the model runs as it was loaded: what is validated or sampled has shapes of its own."""
    if not is_compiled(model):
        yield
        return
    attention = model.config._attn_implementation
    if can_attend(model, "sdpa"):
        model.set_attn_implementation("sdpa")
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.set_attn_implementation(attention)


def compiler_works(device: torch.device) -> bool:
    """Whether something small can be compiled: torch.compile needs a C++ compiler and its headers, or Triton."""
    if device.type == "cpu" and not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        return False
    try:
        torch.compile(lambda x: x * 2 + 1)(torch.ones(8, device=device))
    except Exception:
        return False
    return True
