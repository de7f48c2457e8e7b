"""Master weights: an optimizer in fp32 for parameters in bf16.

A weight in bf16 has 8 significant bits: an update smaller than 1/512 of it is lost. So the optimizer works on a copy in
fp32, and the model gets it rounded (Micikevicius et al. 2017, arXiv:1710.03740).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import chain
from typing import Any

import torch
from torch import Tensor

MASTER = "master"
"""Name of the fp32 weights in the state of a parameter."""

Make = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]


class MasterWeights(torch.optim.Optimizer):
    """The optimizer that `make` gives for groups of parameters, at work on fp32 copies of them.

    A step takes the gradients away: each is freed as its fp32 copy is made. The copies of the weights are made at the
    first step, when FSDP has spread the parameters.
    """

    def __init__(self, groups: list[dict[str, Any]], make: Make) -> None:
        super().__init__(groups, {})
        self.make = make
        self.inner: torch.optim.Optimizer | None = None

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Update the fp32 weights of every parameter that has a gradient, and round them into the parameter."""
        if self.inner is None:
            self.inner = self.make_inner({})
        inner = self.inner
        for group, copied in zip(self.param_groups, inner.param_groups, strict=True):
            copied.update({name: value for name, value in group.items() if name != "params"})
        pairs = [(p, m) for p, m in zip(parameters_of(self), parameters_of(inner), strict=True) if p.grad is not None]
        for parameter, master in pairs:
            master.grad = parameter.grad.float()
            parameter.grad = None
        inner.step()
        inner.zero_grad(set_to_none=True)
        for parameter, master in pairs:
            if parameter.dtype != master.dtype:
                parameter.copy_(master)

    def make_inner(self, saved: Mapping[Tensor, Mapping[str, Any]]) -> torch.optim.Optimizer:
        """The optimizer of the fp32 weights: of those in the saved state of a parameter, else of its own in fp32."""
        masters = {
            p: saved.get(p, {}).get(MASTER, p.detach()).to(device=p.device, dtype=torch.float32)
            for p in parameters_of(self)
        }
        for parameter, master in masters.items():
            if parameter.dtype != master.dtype:
                self.state[parameter][MASTER] = master
        inner = self.make([{**g, "params": [masters[p] for p in g["params"]]} for g in self.param_groups])
        values = {
            number: {name: value for name, value in saved[p].items() if name != MASTER}
            for number, p in enumerate(masters)
            if p in saved
        }
        inner.load_state_dict({"state": values, "param_groups": inner.state_dict()["param_groups"]})
        return inner

    def state_dict(self) -> dict[str, Any]:
        """Of each parameter its fp32 weights, and what the optimizer keeps of them."""
        whole = super().state_dict()
        inner = self.inner.state_dict()["state"] if self.inner is not None else {}
        both = {key: {**whole["state"].get(key, {}), **values} for key, values in inner.items()}
        return {**whole, "state": {**whole["state"], **both}}

    @torch.no_grad()
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` gave, in fp32: torch itself would round all state to the parameters' bf16."""
        groups = state_dict["param_groups"]
        super().load_state_dict({"state": {}, "param_groups": groups})
        keys = chain.from_iterable(group["params"] for group in groups)
        values = state_dict["state"]
        saved = {p: values[key] for key, p in zip(keys, parameters_of(self), strict=True) if key in values}
        # Without state this is Accelerate, which does so before it spreads the parameters.
        self.inner = self.make_inner(saved) if saved else None


def parameters_of(optimizer: torch.optim.Optimizer) -> list[Any]:
    """All parameters, in the order of the groups."""
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
