"""The products of layers with an adapter, in bf16: what is frozen is rounded once, and no sum is made twice.

With fast matrix products, passes over their results weigh: PEFT's own way scales and adds the adapter's part in passes
of their own, forward and backward, which take as long as the products.

Shapes: N positions, D inputs, E outputs, R rank.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from peft import PeftModel
from peft.tuners.lora import Linear, LoraLayer
from torch import Tensor, nn

from llmkit.losses import has_plain_head


def hold_in_bf16(model: PeftModel) -> int:
    """Round the frozen matrices that adapters stand beside to bf16, in place; how many numbers that is.

    Autocast would do so in every forward pass anyway, and keep the copy for the backward pass. Nothing else is rounded,
    and the model on disk stays what it is. DoRA measures the columns of these matrices, and so needs them whole.
    """
    has_plain_head(model)  # asked now: in fp32 it could not be any more
    count = 0
    for module in model.modules():
        if isinstance(module, LoraLayer) and not module.lora_magnitude_vector:
            weight = module.get_base_layer().weight
            if weight.dtype == torch.float32 and not weight.requires_grad:
                weight.data = weight.data.to(torch.bfloat16)
                count += weight.numel()
    return count


class SharedCast:
    """Rounds what goes into adapted layers to autocast's format once, where several layers are given the same.

    Autocast itself rounds it for each layer, and keeps each copy for the backward pass: query, key and value alone hold
    three. PEFT even widens it first, to what the adapter's own matrices are stored in.
    """

    def __init__(self) -> None:
        self.last: Callable[[], Tensor | None] = lambda: None
        self.cast: Callable[[], Tensor | None] = lambda: None

    def __call__(self, layer: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        """A forward pre-hook."""
        wide = arguments[0]
        kind = wide.device.type
        if not torch.is_autocast_enabled(kind) or wide.dtype != torch.float32:
            return None
        cast = self.cast() if self.last() is wide else None
        if cast is None:
            cast = wide.to(torch.get_autocast_dtype(kind))
            # Held weakly: the graph keeps them for as long as they are needed.
            self.last, self.cast = weakref.ref(wide), weakref.ref(cast)
        return (cast, *arguments[1:])


def join_products(model: PeftModel) -> None:
    """Let layers with an adapter round what they are given once, and add up in their products where they can.

    Outputs stay as they are, to rounding. For layers whose matrices `hold_in_bf16` holds.
    """
    cast = SharedCast()
    for module in model.modules():
        if isinstance(module, LoraLayer) and not module.lora_magnitude_vector:
            module.cast_input_dtype_enabled = False
            module.register_forward_pre_hook(cast)
            if is_joinable(module):
                module.forward = JoinedForward(module)


def is_joinable(layer: LoraLayer) -> bool:
    """Whether a layer is a frozen matrix in bf16 with one plain adapter, without dropout."""
    base = layer.get_base_layer()
    names = list(layer.active_adapters)
    return (
        isinstance(layer, Linear)
        and isinstance(base, nn.Linear)
        and base.weight.dtype == torch.bfloat16
        and not base.weight.requires_grad
        and names == list(layer.lora_A)
        and len(names) == 1
        and not layer.lora_variant
        and isinstance(layer.lora_dropout[names[0]], nn.Identity)
        and layer.lora_B[names[0]].bias is None
    )


class JoinedForward:
    """The forward pass of a layer, in place of PEFT's."""

    def __init__(self, layer: Any) -> None:
        self.layer = layer
        [self.name] = layer.active_adapters

    def __call__(self, states: Tensor) -> Tensor:
        """(..., D) -> (..., E)."""
        layer, base = self.layer, self.layer.get_base_layer()
        if layer.disable_adapters or layer.merged or states.dtype != torch.bfloat16:
            return type(layer).forward(layer, states)  # type: ignore[no-any-return]
        down, up = layer.lora_A[self.name].weight, layer.lora_B[self.name].weight
        scale = layer.scaling[self.name]
        return JoinedProduct.apply(states, base.weight, base.bias, down, up, scale)  # type: ignore[no-untyped-call, no-any-return]


class JoinedProduct(torch.autograd.Function):
    """x W^T + bias + scale (x A^T) B^T with a frozen W; the adapter's part is added to the product in place."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, down: Tensor, up: Tensor, scale: float
    ) -> Tensor:
        """(..., D) in bf16, (E, D) in bf16, (E,), (R, D), (E, R) -> (..., E) in bf16."""
        flat = states.reshape(-1, states.shape[-1])
        a, b = down.to(flat.dtype), (up * scale).to(flat.dtype)
        low = flat @ a.T
        out = F.linear(flat, weight, None if bias is None else bias.to(flat.dtype)).addmm_(low, b.T)
        ctx.save_for_backward(flat, weight, low, a, b)
        ctx.scale, ctx.dtype = scale, down.dtype
        return out.view(*states.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the input and of the adapter's matrices."""
        flat, weight, low, a, b = ctx.saved_tensors
        grad = grads[0].reshape(-1, weight.shape[0])
        grad_low = grad @ b
        grad_states = None
        if ctx.needs_input_grad[0]:
            grad_states = (grad @ weight).addmm_(grad_low, a).view(*grads[0].shape[:-1], -1)
        grad_down = (grad_low.T @ flat).to(ctx.dtype)
        grad_up = (grad.T @ low).to(ctx.dtype).mul_(ctx.scale)
        return grad_states, None, None, grad_down, grad_up, None
