"""Muon for matrices, AdamW for all else, as one optimizer.

Muon turns the momentum of a matrix into the nearest orthogonal matrix before it is applied, so that all directions of a
layer learn at one pace. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, chosen by its authors for its slope at zero: singular values end near 1."""

NUM_ITERATIONS = 5


class MuonWithAdamW(torch.optim.Optimizer):
    """Groups with `momentum` are matrices under Muon; groups with `betas` are anything, under AdamW."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            update = update_with_muon if "momentum" in group else update_with_adamw
            for parameter in group["params"]:
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    update(parameter, parameter.grad, self.state[parameter], group)


def update_with_muon(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Nesterov momentum, made orthogonal; scaled so that wide and tall matrices move alike."""
    if not state:
        state["momentum_buffer"] = torch.zeros_like(grad)
    momentum = state["momentum_buffer"].lerp_(grad, 1 - group["momentum"])
    rows, columns = parameter.shape
    update = orthogonalize(grad.lerp(momentum, group["momentum"])).to(parameter.dtype)
    parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def update_with_adamw(parameter: Tensor, grad: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
    """Loshchilov and Hutter 2017, arXiv:1711.05101."""
    if not state:
        state.update(step=torch.zeros(()), exp_avg=torch.zeros_like(grad), exp_avg_sq=torch.zeros_like(grad))
    beta1, beta2 = group["betas"]
    state["step"] += 1
    step = state["step"].item()
    state["exp_avg"].lerp_(grad, 1 - beta1)
    state["exp_avg_sq"].mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
    spread = (state["exp_avg_sq"] / (1 - beta2**step)).sqrt_().add_(1e-8)
    parameter.addcdiv_(state["exp_avg"], spread, value=-group["lr"] / (1 - beta1**step))


def orthogonalize(matrix: Tensor) -> Tensor:
    """(R, C) -> (R, C): the same singular vectors, with all singular values moved to about 1 (0.7 to 1.2), in bf16."""
    a, b, c = NEWTON_SCHULZ
    x: Tensor = matrix.to(torch.bfloat16)
    is_tall = x.shape[0] > x.shape[1]
    x = x.T if is_tall else x
    x = x / (x.norm() + 1e-7)
    for _ in range(NUM_ITERATIONS):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x.T if is_tall else x
