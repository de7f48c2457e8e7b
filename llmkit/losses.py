"""Summed losses.

A loss returns the SUM over its targets, in nats or squared units; the training loop divides once, by all targets of the
step, so that the result does not depend on how a batch is split.

Shapes: B rows, T positions, D hidden size, V vocabulary, N targets that count.
"""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.batch import IGNORE_INDEX, Batch

CHUNK_LOGITS = 1 << 24
"""Most logits that exist at once (64 MiB in fp32): memory stays flat in the vocabulary and in the batch."""


def causal_lm_loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Summed cross-entropy of a causal language model over the targets that count, () float32.

    Only positions with a target reach the output head, and their logits are made, used and dropped in chunks.
    Takes `input_ids` and `targets`, both (B, T) int64, already shifted. Rows are padded on the right, which a causal
    model cannot see from the left, so no attention mask is needed.
    """
    input_ids, targets = batch["input_ids"], batch["targets"]
    if not has_plain_head(model):
        logits = model(input_ids=input_ids, use_cache=False).logits
        return F.cross_entropy(
            logits.float().flatten(0, 1), targets.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )
    hidden = body_of(model)(input_ids=input_ids, use_cache=False).last_hidden_state
    wanted = targets != IGNORE_INDEX
    return summed_cross_entropy(hidden[wanted], head_of(model).weight, targets[wanted])


def summed_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Summed cross-entropy of `hidden @ weight.T` against `targets`, without the whole (N, V) matrix of logits.

    Args:
        hidden: (N, D) outputs of the last layer.
        weight: (V, D) of the output head.
        targets: (N,) int64.
    """
    dtype = (
        torch.get_autocast_dtype(hidden.device.type) if torch.is_autocast_enabled(hidden.device.type) else hidden.dtype
    )
    return ChunkedCrossEntropy.apply(hidden, weight, targets, dtype)  # type: ignore[no-untyped-call, no-any-return]


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy whose forward also makes the gradients, one chunk of logits after the other."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """The summed loss; products in `dtype`, softmax and sums in fp32."""
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        rows = max(64, CHUNK_LOGITS // weight.shape[0])
        head = weight.to(dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        for start in range(0, len(targets), rows):
            part, wanted = hidden[start : start + rows].to(dtype), targets[start : start + rows]
            with torch.autocast(hidden.device.type, enabled=False):
                log_shares = torch.log_softmax(part @ head.T, dim=-1, dtype=torch.float32)
                loss -= log_shares.gather(1, wanted[:, None]).sum()
                if grad_hidden is None and grad_weight is None:
                    continue
                # d loss / d logits = softmax - one-hot, in the memory of the logarithms.
                shares = log_shares.exp_()
                shares[torch.arange(len(wanted), device=shares.device), wanted] -= 1.0
                grad_logits = shares.to(dtype)
                if grad_hidden is not None:
                    grad_hidden[start : start + rows] = grad_logits @ head
                if grad_weight is not None:
                    grad_weight += grad_logits.T @ part
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients made in forward, times the gradient of the loss."""
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = grads[0]
        if grad_weight is not None:
            grad_weight = (grad_weight * scale).to(ctx.weight_dtype)
        return None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype), grad_weight, None, None


def unwrap(model: nn.Module) -> Any:
    """The transformers model inside a PEFT wrapper (whose adapters live in its layers), or the model itself."""
    get_base: Any = getattr(model, "get_base_model", None)
    return model if get_base is None else get_base()


def body_of(model: nn.Module) -> Any:
    """The transformer below the output head: ids to hidden states."""
    inner = unwrap(model)
    return getattr(inner, inner.base_model_prefix)


def head_of(model: nn.Module) -> Any:
    """The output head: hidden states to logits."""
    return unwrap(model).get_output_embeddings()


_plain_heads: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def has_plain_head(model: nn.Module) -> bool:
    """Whether the logits are just `head(body(ids))`, with a head that is one matrix.

    Some architectures scale or cap their logits, project before the head, or add a bias. Rather than know them all, a
    model is asked once, on three tokens.
    """
    inner = unwrap(model)
    if inner not in _plain_heads:
        _plain_heads[inner] = is_plain_head(inner)
    return _plain_heads[inner]


def is_plain_head(model: Any) -> bool:
    """Compare the model's own logits on three tokens with those of its head on its body's output."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear) or head.bias is not None or not hasattr(model, model.base_model_prefix):
        return False
    ids = torch.arange(3, device=head.weight.device)[None] % head.weight.shape[0]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad(), torch.autocast(ids.device.type, enabled=False):
            whole = model(input_ids=ids, use_cache=False).logits
            hidden = getattr(model, model.base_model_prefix)(input_ids=ids, use_cache=False).last_hidden_state
            return hidden.shape[-1] == head.weight.shape[1] and torch.allclose(head(hidden), whole, atol=1e-5)
    finally:
        model.train(was_training)


def classification_loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Summed cross-entropy of a classifier: `inputs` (B, ...), `targets` (B,) int64 -> ()."""
    logits = model(batch["inputs"]).float()
    return F.cross_entropy(logits, batch["targets"], ignore_index=IGNORE_INDEX, reduction="sum")


def regression_loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Summed squared error: `inputs` (B, ...), `targets` (B, K) float32 -> ()."""
    return F.mse_loss(model(batch["inputs"]).float(), batch["targets"], reduction="sum")
