"""Muon for hidden matrices, AdamW for all else, as one optimizer.

Muon turns the momentum of a matrix into the nearest orthogonal matrix before it is applied, so that all directions of a
layer learn at one pace. Jordan et al. 2024, https://kellerjordan.github.io/posts/muon.

Matrices move as under torch.optim.Muon, which takes no other parameters and no stacks; of a matrix that FSDP has spread
it exchanges parts fifteen times per step, where gathering it once is enough.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim.adamw import adamw

from llmkit.device import pick_dtype

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration, chosen by its authors for its slope at zero: singular values end near 1."""

NUM_ITERATIONS = 5

STACKED_ELEMENTS = {"cpu": 2**18, "other": 2**24}
"""Equal matrices go through the iteration in stacks of at most so many elements.

On a CPU, stacks of matrices of 64 x 64 are six times faster than one after the other, and stacks of matrices wider than
256 no faster; on a GPU, a stack saves launches.
"""


class MuonWithAdamW(torch.optim.Optimizer):
    """Groups with `momentum` are matrices under Muon; the others are anything, under AdamW."""

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        # "fused" tells torch to put a loaded step count where AdamW's kernel wants it.
        super().__init__(groups, {"fused": True})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if "momentum" in group:
                self.update_with_muon(parameters, group)
            elif parameters:
                self.update_with_adamw(parameters, group)

    def update_with_muon(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Nesterov momentum, made orthogonal; scaled so that wide and tall matrices move alike."""
        for stack in equal_stacks(parameters):
            directions = [whole(in_fast_format(self.direction(p, group["momentum"]))) for p in stack]
            # On a CPU, the product of a stack of one is up to a third slower than that of a matrix.
            alone = len(stack) == 1
            updates = [orthogonalize(directions[0])] if alone else orthogonalize(torch.stack(directions))
            rows, columns = stack[0].shape
            for parameter, update in zip(stack, updates, strict=True):
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                update = like(parameter, update.to(parameter.dtype))
                parameter.add_(update, alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)

    def direction(self, parameter: Tensor, momentum: float) -> Tensor:
        """The gradient, moved on by its momentum."""
        state, grad = self.state[parameter], parameter.grad
        assert grad is not None
        if not state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return grad.lerp(state["momentum_buffer"].lerp_(grad, 1 - momentum), momentum)

    def update_with_adamw(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Loshchilov and Hutter 2017, arXiv:1711.05101, by torch's fused kernel."""
        states = [self.state[p] for p in parameters]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state.update(exp_avg=torch.zeros_like(parameter), exp_avg_sq=torch.zeros_like(parameter))
        beta1, beta2 = group["betas"]
        adamw(
            parameters,
            [p.grad for p in parameters if p.grad is not None],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            fused=True,
            amsgrad=False,
            beta1=beta1,
            beta2=beta2,
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=1e-8,
            maximize=False,
        )


def equal_stacks(parameters: list[Tensor]) -> Iterator[list[Tensor]]:
    """The parameters in stacks of one shape, none larger than is fast."""
    for shape, equals in groupby(sorted(parameters, key=lambda p: tuple(p.shape)), key=lambda p: p.shape):
        members = list(equals)
        limit = STACKED_ELEMENTS.get(members[0].device.type, STACKED_ELEMENTS["other"])
        size = max(1, limit // shape.numel())
        yield from (members[start : start + size] for start in range(0, len(members), size))


def whole(tensor: Tensor) -> Tensor:
    """A matrix that FSDP has spread over processes, gathered on each: its directions are those of the whole."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def like(parameter: Tensor, tensor: Tensor) -> Tensor:
    """Of a whole matrix that every process has, this process's share, spread as `parameter` is."""
    if not isinstance(parameter, DTensor):
        return tensor
    return distribute_tensor(tensor, parameter.device_mesh, parameter.placements, src_data_rank=None)


def in_fast_format(matrices: Tensor) -> Tensor:
    """In bf16, whose digits are enough for a direction, where the hardware multiplies it.

    Emulated, it would take most of a step: 14 of 15 s with 5.9M parameters on two cores with AVX2.
    """
    return matrices.to(pick_dtype("auto", matrices.device))


def orthogonalize(matrices: Tensor) -> Tensor:
    """(R, C) or (N, R, C) -> the same: singular vectors stay, singular values move to about 1 (0.7 to 1.2)."""
    a, b, c = NEWTON_SCHULZ
    add_product = torch.addmm if matrices.ndim == 2 else torch.baddbmm
    is_tall = matrices.shape[-2] > matrices.shape[-1]
    x = in_fast_format(matrices)
    x = x.mT if is_tall else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(NUM_ITERATIONS):
        square = x @ x.mT
        x = add_product(x, add_product(square, square, square, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
