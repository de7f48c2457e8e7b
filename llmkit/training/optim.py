"""The optimizer with its parameter groups, and the learning rate as a pure function of the step."""

from __future__ import annotations

import math

import torch
from torch import nn

from llmkit.recipe.schema import TrainSection
from llmkit.training.muon import MuonWithAdamW

MUON_MOMENTUM = 0.95


def lr_at(step: int, config: TrainSection, *, num_steps: int) -> float:
    """The learning rate of a step, counted from 0.

    It rises linearly over `warmup_steps`, then falls to `min_lr_ratio` of the highest at the last step.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return config.lr
    done = (step - config.warmup_steps) / max(1, num_steps - 1 - config.warmup_steps)
    fall = {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[config.schedule]
    return config.lr * (config.min_lr_ratio + (1 - config.min_lr_ratio) * fall)


def make_optimizer(model: nn.Module, config: TrainSection) -> torch.optim.Optimizer:
    """The optimizer of what is trained: matrices decay; norms, biases and embeddings do not.

    AdamW follows Loshchilov and Hutter 2017, arXiv:1711.05101; for Muon see `muon`. The loop writes the learning rate
    of the step, times its `lr_scale`, into each group.
    """
    embeddings = {p for m in model.modules() if isinstance(m, nn.Embedding) for p in m.parameters(recurse=False)}
    trained = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in trained if p.ndim >= 2 and p not in embeddings]
    kept = set(matrices)
    rest = [p for p in trained if p not in kept]
    decaying = {"params": matrices, "weight_decay": config.weight_decay, "lr": config.lr, "lr_scale": 1.0}
    plain = {"params": rest, "weight_decay": 0.0, "lr": config.lr, "lr_scale": 1.0}
    betas = (config.beta1, config.beta2)
    if config.optimizer == "adamw":
        groups = [group for group in (decaying, plain) if group["params"]]
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas, fused=True)
    # A convolution's kernel is a stack of matrices: it stays with AdamW.
    flat = [p for p in matrices if p.ndim == 2]
    muon = {**decaying, "params": flat, "momentum": MUON_MOMENTUM, "lr_scale": config.muon_lr / config.lr}
    deep = {**decaying, "params": [p for p in matrices if p.ndim > 2], "betas": betas}
    return MuonWithAdamW([group for group in (muon, deep, {**plain, "betas": betas}) if group["params"]])
