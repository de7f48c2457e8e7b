"""Summed losses.

A loss returns the SUM over its targets, in nats or squared units; the training loop divides once, by all targets of the
step, so that the result does not depend on how a batch is split.

Shapes: B rows, T positions, D hidden size, V vocabulary, N targets that count.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableMapping
from itertools import pairwise
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from llmkit.batch import IGNORE_INDEX, Batch

CHUNK_LOGITS = 1 << 25
"""Most logits that exist at once (128 MiB in fp32): memory stays flat in the vocabulary and in the batch. Each chunk
adds its gradient to the head's, which is why smaller chunks are slower."""

CPU_CHUNK_ROWS = 512
"""Most positions of a chunk on a CPU: with a vocabulary of 4,096 a step takes 70 MB less than with 2,048 at once, and
no longer. A GPU wants larger products."""

FROZEN_CHUNK_LOGITS = 1 << 23
"""The same where the head is frozen, and no gradient of it is added up: small chunks cost nothing then."""


def causal_lm_loss_sum(model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0, z_loss: float = 0.0) -> Tensor:
    """Summed cross-entropy of a causal language model over the targets that count, () float32.

    Only positions with a target reach the output head, and their logits are made, used and dropped in chunks.

    Args:
        model: A causal language model of transformers, or PEFT's wrapper around one.
        batch: `input_ids` and `targets`, both (B, T) int64, already shifted. Rows are padded on the right, which a
            causal model cannot see from the left, so no attention mask is needed. `position_ids` (B, T), where given,
            start again with each document of a row, and no document sees another.
        label_smoothing: Share of each target's probability that is spread evenly over the vocabulary.
        z_loss: Weight of the squared logarithm of the softmax's denominator (Chowdhery et al. 2022, arXiv:2204.02311).
    """
    targets = batch["targets"]
    wanted = targets != IGNORE_INDEX
    inputs = model_inputs(model, batch)
    if not has_plain_head(model):
        logits = model(**inputs).logits.view(*targets.shape, -1)[wanted]
        return plain_cross_entropy(logits, targets[wanted], LossOptions(label_smoothing, z_loss))
    hidden = body_of(model)(**inputs).last_hidden_state
    hidden = hidden.view(*targets.shape, -1)[wanted]
    options = LossOptions(label_smoothing, z_loss, is_compiled=is_compiled(model))
    return summed_cross_entropy(hidden, head_of(model).weight, targets[wanted], options)


def model_inputs(model: nn.Module, batch: Batch) -> dict[str, Any]:
    """What a forward pass takes of a batch."""
    inputs: dict[str, Any] = {"input_ids": batch["input_ids"], "use_cache": False}
    positions = batch.get("position_ids")
    if positions is None:
        return inputs
    attention = unwrap(model).config._attn_implementation
    if "flash" in attention:
        # Flash kernels tell documents apart by their positions, in one long row only.
        return {**inputs, "input_ids": inputs["input_ids"].reshape(1, -1), "position_ids": positions.reshape(1, -1)}
    # A compiled model would be compiled anew for other lengths: a mask keeps its documents apart.
    if "llmkit" in attention and len(positions) == 1 and not is_compiled(model):
        starts = [*(positions[0] == 0).nonzero().flatten().tolist(), positions.shape[1]]
        lengths = [end - start for start, end in pairwise(starts)]
        return {**inputs, "position_ids": positions, "document_lengths": lengths}
    return {**inputs, "position_ids": positions}


class LossOptions(NamedTuple):
    """What is added to cross-entropy (see `causal_lm_loss_sum`), and whether its passes over logits are compiled."""

    label_smoothing: float = 0.0
    z_loss: float = 0.0
    is_compiled: bool = False


PLAIN = LossOptions()


def plain_cross_entropy(logits: Tensor, targets: Tensor, options: LossOptions) -> Tensor:
    """The sum from logits (N, V) that exist as a whole, by torch's own means."""
    logits = logits.float()
    loss = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=options.label_smoothing)
    return loss + options.z_loss * logits.logsumexp(-1).square().sum() if options.z_loss else loss


def summed_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor, options: LossOptions = PLAIN) -> Tensor:
    """Summed cross-entropy of `hidden @ weight.T` against `targets`, without the whole (N, V) matrix of logits.

    Args:
        hidden: (N, D) outputs of the last layer.
        weight: (V, D) of the output head.
        targets: (N,) int64.
        options: What is added, and how it is computed.
    """
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    if not torch.is_grad_enabled():
        weight = weight.detach()
    return ChunkedCrossEntropy.apply(hidden, weight, targets, dtype, options)  # type: ignore[no-untyped-call, no-any-return]


class ChunkedCrossEntropy(torch.autograd.Function):
    """Cross-entropy whose forward also makes the gradients, one chunk of logits after the other."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype, options: LossOptions
    ) -> Tensor:
        """The summed loss; products in `dtype`, softmax and sums in fp32."""
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        measure = compiled_loss_and_grad() if options.is_compiled else loss_and_grad
        rows = max(64, (CHUNK_LOGITS if needs_weight else FROZEN_CHUNK_LOGITS) // weight.shape[0])
        if hidden.device.type == "cpu":
            rows = min(rows, CPU_CHUNK_ROWS)
        head = rounded(weight, dtype)
        loss = torch.zeros((), dtype=torch.float32, device=hidden.device)
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        for start in range(0, len(targets), rows):
            part, wanted = hidden[start : start + rows].to(dtype), targets[start : start + rows]
            with torch.autocast(hidden.device.type, enabled=False):
                logits = part @ head.T
                if grad_hidden is None and grad_weight is None:
                    loss += plain_cross_entropy(logits, wanted, options)
                    continue
                total, grad_logits = measure(logits, wanted, options.label_smoothing, options.z_loss)
                loss += total
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
            grad_weight = grad_weight.mul_(scale).to(ctx.weight_dtype)
        if grad_hidden is not None:
            grad_hidden = grad_hidden.mul_(scale.to(grad_hidden.dtype))
        return grad_hidden, grad_weight, None, None, None


def loss_and_grad(logits: Tensor, targets: Tensor, smoothing: float, z_loss: float) -> tuple[Tensor, Tensor]:
    """Summed loss in fp32 and its gradient in the format of the logits; logits (N, V), targets (N,)."""
    places, targets = torch.arange(len(targets), device=targets.device), targets[:, None]
    log_shares = torch.log_softmax(logits, dim=-1, dtype=torch.float32)
    at_target = log_shares.gather(1, targets)
    loss = -(1 - smoothing) * at_target.sum()
    even, pull = smoothing / logits.shape[1], None
    if smoothing:
        loss = loss - even * log_shares.sum()
    if z_loss:
        # What a log-share lacks of its logit is the logarithm of the softmax's denominator.
        log_total = logits.gather(1, targets).float() - at_target
        loss = loss + z_loss * log_total.square().sum()
        pull = 1 + 2 * z_loss * log_total
    # d loss / d logits = softmax - smoothed one-hot; shares take the memory of the logarithms.
    at_target = at_target.exp()
    shares = log_shares.exp_()
    if pull is not None:
        shares, at_target = shares.mul_(pull), at_target * pull
    if smoothing:
        shares = shares.sub_(even)
    # Rounded once, as a difference: close to 1, a share in bf16 could not tell what is left to learn.
    own = (at_target - even - (1 - smoothing)).to(logits.dtype)
    grad = shares.to(logits.dtype)
    # Not scatter_, which goes over all logits on a CPU: a quarter of the time of this function.
    grad[places, targets[:, 0]] = own[:, 0]
    return loss, grad


@functools.cache
def compiled_loss_and_grad() -> Callable[..., tuple[Tensor, Tensor]]:
    """The same in two passes over the logits instead of six."""
    return torch.compile(loss_and_grad)


_rounded: MutableMapping[Tensor, tuple[Any, Tensor]] = WeakTensorKeyDictionary()


def rounded(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """A head in another number format. That of a frozen one is kept: every micro-batch asks for it."""
    if weight.requires_grad or weight.dtype == dtype:
        return weight.to(dtype)
    state = (weight._version, weight.data_ptr(), weight.device, dtype)
    if weight not in _rounded or _rounded[weight][0] != state:
        _rounded[weight] = (state, weight.to(dtype))
    return _rounded[weight][1]


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


def is_compiled(model: nn.Module) -> bool:
    """Whether the body of `model` was compiled."""
    return getattr(body_of(model), "_compiled_call_impl", None) is not None


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


def classification_loss_sum(
    model: nn.Module, batch: Batch, *, label_smoothing: float = 0.0, class_weights: Tensor | None = None
) -> Tensor:
    """Summed cross-entropy of a classifier: `inputs` (B, ...), `targets` (B,) int64 -> ().

    A small language model gives logits at every position, and has targets (B, T).

    Args:
        model: Gives logits (B, K) or (B, T, K).
        batch: `inputs` and `targets`.
        label_smoothing: Share of each target's probability that is spread evenly over the classes.
        class_weights: (K,) what a row of each class weighs; of mean 1 over the training rows.
    """
    logits, targets = model(batch["inputs"]).float(), batch["targets"]
    weights = None if class_weights is None else class_weights.to(logits.device)
    return F.cross_entropy(
        logits.view(-1, logits.shape[-1]),
        targets.reshape(-1),
        weights,
        ignore_index=IGNORE_INDEX,
        reduction="sum",
        label_smoothing=label_smoothing,
    )


def regression_loss_sum(model: nn.Module, batch: Batch, *, is_huber: bool = False) -> Tensor:
    """Summed error of predicted numbers: `inputs` (B, ...), `targets` (B, K) float32 -> ().

    The squared error; or the Huber loss (1964), twice over so that both agree where errors are below one: beyond that,
    it grows in proportion to the error.
    """
    predicted = model(batch["inputs"]).float()
    if is_huber:
        return 2 * F.huber_loss(predicted, batch["targets"], reduction="sum")
    return F.mse_loss(predicted, batch["targets"], reduction="sum")
