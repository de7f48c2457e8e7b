"""The optimizer with its parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from llmkit.device import pick_device
from llmkit.errors import RecipeError
from llmkit.recipe.schema import TrainSection
from llmkit.training.master import MasterWeights
from llmkit.training.muon import MuonWithAdamW

MUON_MOMENTUM = 0.95

ADAFACTOR_SCALE = 1 / 0.03
"""Adafactor's lr is a share of a matrix's own size, which is about 0.03 (root mean square) in the beginning.

Times this, `lr` means what it means for AdamW; without it, a small model hardly learned at AdamW's best lr.
"""

Groups = list[dict[str, Any]]

FALLS: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
    "linear": lambda done: 1 - done,
    "wsd": lambda done: 1 - math.sqrt(done),
}
"""What is left of the way from the highest lr to the lowest, when a share of the fall is done.

Cosine: Loshchilov and Hutter 2016, arXiv:1608.03983. WSD (warm-up, stable, decay): Hu et al. 2024, arXiv:2404.06395; of
the shapes of its decay, 1 - sqrt came out best in Hägele et al. 2024, arXiv:2405.18392.
"""


def lr_at(step: int, config: TrainSection, *, num_steps: int) -> float:
    """The learning rate of a step, counted from 0.

    It rises linearly over the warm-up. Then it stays (constant), falls with the inverse square root of the step
    (Vaswani et al. 2017, arXiv:1706.03762), or falls to `min_lr_ratio` of the highest at the last step: from the
    warm-up on (cosine, linear), or over the last `decay_share` of the steps (wsd).
    """
    warmup = warmup_of(config, num_steps)
    if step < warmup:
        return config.lr * (step + 1) / (warmup + 1)
    if config.schedule == "constant":
        return config.lr
    if config.schedule == "inverse_sqrt":
        return config.lr * math.sqrt((warmup + 1) / (step + 1))
    top = warmup  # the last step at the highest lr
    if config.schedule == "wsd":
        top = max(warmup, num_steps - round(config.decay_share * num_steps)) - 1
    if step <= top:
        return config.lr
    done = min(1.0, (step - top) / max(1, num_steps - 1 - top))
    left = FALLS[config.schedule](done)
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * left)


def warmup_of(config: TrainSection, num_steps: int) -> int:
    """Over how many steps lr rises: of a run that lets it fall from then on, at most half.

    Else a run of few steps would never get to its lr. Other schedules must not depend on the length of the run before
    they fall: it may be made longer.
    """
    if config.warmup_share is not None:
        return round(config.warmup_share * num_steps)
    is_falling = config.schedule in ("cosine", "linear")
    return min(config.warmup_steps, num_steps // 2) if is_falling else config.warmup_steps


def make_optimizer(model: nn.Module, config: TrainSection) -> torch.optim.Optimizer:
    """The optimizer of what is trained; parameters in bf16 get master weights in fp32.

    The loop writes the learning rate of the step, times its `lr_scale`, into each group.

    Raises:
        RecipeError: The optimizer needs a library that is not installed.
    """
    make = MAKERS[config.optimizer]
    groups = parameter_groups(model, config)
    if any(p.dtype == torch.bfloat16 for group in groups for p in group["params"]):
        return MasterWeights(groups, make)
    return make(groups)


def clip_gradients(parameters: Sequence[nn.Parameter], bound: float) -> float:
    """Scale the gradients down to a norm of `bound`; the norm that they had together.

    What torch's clip_grad_norm_ does, to the last bit. On a CPU that takes a tenth of a small network's step; a third
    of it is enough where nothing is multiplied by 1, nor sorted by device and type.
    """
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if not gradients or gradients[0].device.type != "cpu":
        return float(nn.utils.clip_grad_norm_(parameters, bound))
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients]))
    norm = float(total)
    if not math.isfinite(norm) or norm + 1e-6 > bound:
        scale = torch.clamp(bound / (total + 1e-6), max=1.0)
        for gradient in gradients:
            gradient.mul_(scale)
    return norm


def parameter_groups(model: nn.Module, config: TrainSection) -> Groups:
    """Matrices decay; norms, biases and embeddings do not. Under Muon, hidden matrices have a group of their own."""
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2 and p not in embeddings]
    kept = set(matrices)
    common = {"lr": config.lr, "lr_scale": 1.0, "betas": (config.beta1, config.beta2)}
    decaying = {**common, "name": "matrices", "params": matrices, "weight_decay": config.weight_decay}
    rest = [p for p in trained if p not in kept]
    plain = {**common, "name": "norms, biases and embeddings", "params": rest, "weight_decay": 0.0}
    groups: Groups = [decaying, plain]
    if config.optimizer == "muon":
        heads = output_heads(model)
        # A convolution's kernel is a stack of matrices: it stays with AdamW, as the output head does.
        hidden = [p for p in matrices if p.ndim == 2 and p not in heads]
        scale = config.muon_lr / config.lr
        muon = {"name": "hidden matrices", "params": hidden, "momentum": MUON_MOMENTUM, "lr_scale": scale}
        groups.insert(0, {**decaying, **muon})
        taken = set(hidden)
        decaying["params"] = [p for p in matrices if p not in taken]
    if config.optimizer == "adafactor":
        for group in groups:
            group.update(lr_scale=ADAFACTOR_SCALE, weight_decay=group["weight_decay"] / ADAFACTOR_SCALE)
    return [part for group in groups for part in split_by_scale(group)]


def split_by_scale(group: dict[str, Any]) -> Groups:
    """A group for each pace at which its parameters learn: an `lr_scale` of their own goes on top of the group's."""
    paces: dict[float, list[nn.Parameter]] = {}
    for parameter in group["params"]:
        paces.setdefault(getattr(parameter, "lr_scale", 1.0), []).append(parameter)
    return [{**group, "params": params, "lr_scale": group["lr_scale"] * pace} for pace, params in paces.items()]


def output_heads(model: nn.Module) -> set[nn.Parameter]:
    """Parameters of the layer behind which the logits are: of a transformers model, or the `head` of a baseline."""
    heads = set()
    for module in model.modules():
        ask = getattr(module, "get_output_embeddings", None)
        head = ask() if ask is not None else getattr(module, "head", None)
        heads |= set(head.parameters()) if isinstance(head, nn.Module) else set()
    return heads


def make_adamw(groups: Groups) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101).

    Fused: on a CPU with 12 million parameters a step took 11 ms, 29 with a loop and 52 with `foreach`.
    """
    return torch.optim.AdamW(groups, fused=True)


def make_adafactor(groups: Groups) -> torch.optim.Optimizer:
    """Adafactor (Shazeer and Stern 2018, arXiv:1804.04235): two vectors of state for a matrix, and no momentum."""
    optimizer = torch.optim.Adafactor(groups)
    optimizer.register_step_pre_hook(refuse_shards)
    return optimizer


def make_adamw8bit(groups: Groups) -> torch.optim.Optimizer:
    """AdamW with states of 8 bits (Dettmers et al. 2021, arXiv:2110.02861)."""
    where, fix = "train.optimizer", "pip install 'llmkit[8bit]', or use adafactor"
    if find_spec("bitsandbytes") is None:
        raise RecipeError("adamw8bit comes from bitsandbytes, which is not installed", where=where, fix=fix)
    if pick_device().type == "mps":
        raise RecipeError("bitsandbytes has no optimizers for Apple's GPUs", where=where, fix="use adafactor")
    from llmkit.training.adamw8bit import AdamW8bit  # noqa: PLC0415 - an optional extra

    optimizer = AdamW8bit(groups)
    optimizer.register_step_pre_hook(refuse_shards)
    return optimizer


def refuse_shards(optimizer: torch.optim.Optimizer, *_: Any) -> None:
    """Raise where FSDP has spread the parameters: the library's update takes whole ones."""
    if any(isinstance(p, DTensor) for group in optimizer.param_groups for p in group["params"]):
        raise RecipeError(
            f"{type(optimizer).__name__.lower()} cannot update parameters that FSDP has spread over processes",
            where="train.optimizer",
            fix="use adamw or muon, or start the job without FSDP",
        )


MAKERS: dict[str, Callable[[Groups], torch.optim.Optimizer]] = {
    "adamw": make_adamw,
    "muon": MuonWithAdamW,
    "adafactor": make_adafactor,
    "adamw8bit": make_adamw8bit,
}
