"""Causal attention for training: one document at a time, and in bf16 on a CPU by two batched products and a softmax.

Documents that lie end to end in one long row are taken apart for it, so that none pays for pairs with the others.

The CPU kernel of torch gains almost nothing from bf16 hardware: with 256 positions it takes a third of a training step
for a twentieth of its arithmetic. Plain products take 0.4 of its time there; from 1,024 positions on they are slower,
unless the compiler fuses what stands between them.

Shapes: B rows, H heads, T positions, K head size.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from llmkit.losses import body_of, model_inputs, unwrap

NAME = "llmkit_products"
MAX_POSITIONS = 512

MAX_DOCUMENT = 1024
"""Positions of a document up to which plain products are the faster way for it."""

BLOCK = 128
"""Queries of a document that are held against its keys at once: what comes after them costs nothing, and their scores
stay in the cache. A document of 425 positions takes 0.7 of the time."""

MAX_BLOCKS = 4
"""Blocks of a row in a compiled model, where each adds to the graph: more of them gain little and compile for long."""

LEAST_LEAK = 1e-4
"""Of two outputs that differ by a smaller share, rounding is the reason."""


def use_products(model: Any) -> None:
    """Let `model` train with this attention.

    Where a call does not fit (not in bf16, a cache, dropout, too many positions), torch's own attention runs as before.
    """
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME)


def use_attention(model: Any, name: str) -> None:
    """Let `model` compute attention in this way, one of the recipe's names.

    Raises:
        ValueError: The architecture does not have it.
        ImportError: A package that it needs is not installed.
    """
    if name == "products":
        use_products(model)
    else:
        model.set_attn_implementation(name)


def can_attend(model: Any, name: str) -> bool:
    """Whether `model` has this attention and stays the same model with it.

    Transformers knows where its own kinds fit. Products know nothing of what some architectures add to attention
    (sinks, caps on the scores), so a model is asked once, on seven tokens.
    """
    inner = unwrap(model)
    before = inner.config._attn_implementation
    try:
        if name != "products":
            use_attention(model, name)
            return True
        if not hasattr(inner, inner.base_model_prefix):
            return False
        ids = few_ids(model)
        with undisturbed(model):
            own = body_of(model)(input_ids=ids, use_cache=False)[0]
            use_attention(model, name)
            return is_same(body_of(model)(input_ids=ids, use_cache=False)[0], own)
    except (ValueError, ImportError):
        return False
    finally:
        model.set_attn_implementation(before)


def keeps_documents_apart(model: Any, name: str = "products", *, num_rows: int = 1) -> bool:
    """Whether documents that share a row get, with this attention, what each gets by itself.

    Some architectures carry a state along the row, count positions in their own way, or add to attention what is not
    known here. Rather than know them all, a model is asked once, on seven tokens a row.
    """
    if name.startswith("flash"):
        # Its kernels want a GPU and half precision; they tell documents apart by the positions that sdpa is given.
        name = "sdpa"
    inner = unwrap(model)
    if not hasattr(inner, inner.base_model_prefix):
        return False
    ids = few_ids(model).expand(num_rows, -1)
    positions = torch.tensor([[0, 1, 2, 0, 1, 2, 3]], device=ids.device).expand(num_rows, -1)
    before = inner.config._attn_implementation
    try:
        with undisturbed(model):
            alone = [body_of(model)(input_ids=part, use_cache=False)[0] for part in (ids[:, :3], ids[:, 3:])]
            use_attention(model, name)
            inputs = model_inputs(model, {"input_ids": ids, "position_ids": positions})
            together = body_of(model)(**inputs)[0].view(num_rows, ids.shape[1], -1)
    except (ValueError, TypeError, ImportError):
        return False
    finally:
        model.set_attn_implementation(before)
    return is_same(together, torch.cat(alone, dim=1))


def few_ids(model: Any) -> Tensor:
    """Seven tokens that any vocabulary has, (1, 7)."""
    weight = unwrap(model).get_input_embeddings().weight
    ids: Tensor = torch.arange(1, 8, device=weight.device)[None] % weight.shape[0]
    return ids


@contextmanager
def undisturbed(model: Any) -> Iterator[None]:
    """Within the block the model answers in its own format, without dropout and without a trace.

    Nothing is compiled: flex attention would be, for half a minute, and says that it is slow when it is not.
    """
    inner = unwrap(model)
    was_training = inner.training
    inner.eval()
    plain = torch.autocast(inner.device.type, enabled=False)
    try:
        with torch.no_grad(), plain, torch.compiler.set_stance("force_eager"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        inner.train(was_training)


def is_same(found: Tensor, expected: Tensor) -> bool:
    """Whether only rounding lies between two outputs.

    Of the whole, not of each number: pretrained models have a few that are a hundred times the others. What is computed
    in another way changes it by far more.
    """
    return bool((found - expected).norm() < LEAST_LEAK * expected.norm())


def attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """The interface of transformers: (B, H, T, K) queries, keys, values -> (B, T, H, K).

    `document_lengths` among the options tells how long the documents of a single row are, one after the other.
    """
    lengths = options.pop("document_lengths", None)
    if lengths is not None and not options.get("sliding_window"):
        return attend_documents(module, (query, key, value), lengths, options)
    # With a cache there are more keys than queries.
    is_whole = can_multiply(query, options) and query.shape[2] == key.shape[2]
    if is_whole and torch.compiler.is_compiling():
        return attend_compiled((query, key, value), attention_mask, options), None
    fits = (
        is_whole
        and not options.get("dropout")
        and (attention_mask is None or sees_itself(attention_mask))
        and 1 < query.shape[2] <= MAX_POSITIONS
        and torch.is_grad_enabled()
    )
    if not fits:
        out: tuple[Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return out
    groups = query.shape[1] // key.shape[1]
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    # Rotary embeddings leave queries and keys in fp32 under autocast.
    query, key, value = (x.to(torch.bfloat16) for x in (query, repeat_kv(key, groups), repeat_kv(value, groups)))
    products = CausalProducts.apply(query, key, value, scale, attention_mask)  # type: ignore[no-untyped-call]
    return products.transpose(1, 2).contiguous(), None


def attend_documents(
    module: nn.Module, states: tuple[Tensor, Tensor, Tensor], lengths: list[int], options: dict[str, Any]
) -> tuple[Tensor, None]:
    """Each document of a row by itself: by products where those fit, else by torch's own attention.

    It is measured as it is trained, also without gradients: the reference that preferences are held against must not
    differ by another rounding.
    """
    query, key, value = states
    if can_multiply(query, options) and not options.get("dropout") and max(lengths) <= MAX_DOCUMENT:
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        query, key, value = (x.to(torch.bfloat16) for x in states)
        products = DocumentProducts.apply(query, key, value, scale, lengths)  # type: ignore[no-untyped-call]
        return products.transpose(1, 2).contiguous(), None
    own = {name: value for name, value in options.items() if name != "position_ids"}
    parts = zip(*(torch.split(x, lengths, dim=2) for x in states), strict=True)
    return torch.cat([sdpa_attention_forward(module, *part, None, **own)[0] for part in parts], dim=1), None


def attend_compiled(
    states: tuple[Tensor, Tensor, Tensor], attention_mask: Tensor | None, options: dict[str, Any]
) -> Tensor:
    """Products for the compiler to fuse, in blocks of queries that look at no key behind their own last.

    With 1,024 positions a training step takes 0.88 of its time with the eager attention of transformers, which keeps
    all probabilities, in fp32 besides.
    """
    query, key, value = states
    length, groups = query.shape[2], query.shape[1] // key.shape[1]
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    size, parts = max(BLOCK, -(-length // MAX_BLOCKS)), []
    places = torch.arange(length, device=query.device)
    seen = places[:, None] >= places if attention_mask is None else attention_mask
    # Not minus infinity: what sees nothing, as padding on the left, must not become NaN.
    hidden = torch.where(seen, 0.0, torch.finfo(torch.bfloat16).min).to(torch.bfloat16)
    query, key, value = (
        x.to(torch.bfloat16) for x in (query * scale, repeat_kv(key, groups), repeat_kv(value, groups))
    )
    for start in range(0, length, size):
        end = min(start + size, length)
        scores = query[:, :, start:end] @ key[:, :, :end].transpose(-1, -2) + hidden[..., start:end, :end]
        shares = F.dropout(torch.softmax(scores, dim=-1), options.get("dropout") or 0.0)
        parts.append(shares @ value[:, :, :end])
    return torch.cat(parts, dim=2).transpose(1, 2).contiguous()


def can_multiply(query: Tensor, options: dict[str, Any]) -> bool:
    """Whether plain products do what is asked for, and are the faster way: in bf16 on a CPU."""
    return query.device.type == "cpu" and multiplies_in_bf16(query) and options.get("softcap") is None


def sees_itself(mask: Tensor) -> bool:
    """Whether every position sees at least itself: a softmax over nothing, as in padding on the left, is no number."""
    return mask.dtype == torch.bool and bool(mask.diagonal(dim1=-2, dim2=-1).all())


def multiplies_in_bf16(query: Tensor) -> bool:
    """Whether products of this tensor are made in bf16: its own format, or autocast's."""
    kind = query.device.type
    return query.dtype == torch.bfloat16 or (
        torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16
    )


class CausalProducts(torch.autograd.Function):
    """softmax(q k^T scale, masked) v, with the probabilities kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, mask: Tensor | None) -> Tensor:
        """(B, H, T, K) three times -> (B, H, T, K). `mask` (B, 1, T, T): what is seen; None: what came before."""
        query, key, value = (x.contiguous() for x in (query, key, value))
        length = query.shape[2]
        hidden = torch.full((length, length), float("-inf"), dtype=query.dtype, device=query.device).triu_(1)
        if mask is not None:
            hidden = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
        scores = (query @ key.transpose(-1, -2)).mul_(scale).add_(hidden)
        shares = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(query, key, value, shares)
        ctx.scale = scale
        return shares @ value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        query, key, value, shares = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_shares = grad @ value.transpose(-1, -2)
        grad_scores = torch._softmax_backward_data(grad_shares, shares, -1, shares.dtype).mul_(ctx.scale)
        return grad_scores @ key, grad_scores.transpose(-1, -2) @ query, shares.transpose(-1, -2) @ grad, None, None


class DocumentProducts(torch.autograd.Function):
    """The same for documents that lie end to end; the probabilities are made again in the backward pass.

    To keep them would take a fifth of a tuning's memory, in blocks of as many sizes as there are documents; to make
    them again takes one product of eight. Heads that share keys and values are stacked, so that these are not repeated.
    """

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, lengths: list[int]) -> Tensor:
        """(1, H, T, K) queries, (1, G, T, K) keys and values, H a multiple of G -> (1, H, T, K)."""
        # Queries are scaled, not scores: there are fewer of them.
        query = query * scale
        ctx.save_for_backward(query, key, value)
        ctx.scale, ctx.lengths = scale, lengths
        out = torch.empty_like(query)
        for q, k, v, o in zip(*(documents(x, lengths) for x in (query, key, value, out)), strict=True):
            for start, end in blocks(q.shape[1]):
                part = q[:, start:end]
                o[:, start:end] = (shares_of(stacked(part, k), k[:, :end]) @ v[:, :end]).view(part.shape)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of queries, keys and values."""
        tensors = (*ctx.saved_tensors, grads[0])
        results = [torch.empty_like(x) for x in ctx.saved_tensors]
        for q, k, v, grad, grad_q, grad_k, grad_v in zip(
            *(documents(x, ctx.lengths) for x in (*tensors, *results)), strict=True
        ):
            # The blocks of a document add up to the gradients of its keys and values: not in bf16.
            sum_k, sum_v = (torch.zeros(x.shape, device=x.device) for x in (k, v))
            for start, end in blocks(q.shape[1]):
                part = q[:, start:end]
                queries, pull = stacked(part, k), stacked(grad[:, start:end], k)
                shares = shares_of(queries, k[:, :end])
                sum_v[:, :end] += shares.transpose(-1, -2) @ pull
                grad_shares = pull @ v[:, :end].transpose(-1, -2)
                grad_scores = torch._softmax_backward_data(grad_shares, shares, -1, shares.dtype)
                torch.mul((grad_scores @ k[:, :end]).view(part.shape), ctx.scale, out=grad_q[:, start:end])
                sum_k[:, :end] += grad_scores.transpose(-1, -2) @ queries
            grad_k.copy_(sum_k)
            grad_v.copy_(sum_v)
        return (*results, None, None)


def documents(states: Tensor, lengths: list[int]) -> tuple[Tensor, ...]:
    """The documents of (1, H, T, K), each (H, L, K)."""
    return torch.split(states[0], lengths, dim=1)


def blocks(length: int) -> Iterator[tuple[int, int]]:
    """Stretches of a document's queries, [start, end): none looks at keys behind its end, and its scores stay small."""
    return ((start, min(start + BLOCK, length)) for start in range(0, length, BLOCK))


def stacked(query: Tensor, key: Tensor) -> Tensor:
    """Queries (H, B, K) of the heads that share a key, one below the other: (G, H / G * B, K)."""
    return query.reshape(key.shape[0], -1, query.shape[-1])


def shares_of(queries: Tensor, key: Tensor) -> Tensor:
    """Causal probabilities (G, N * B, L) of stacked queries (G, N * B, K), scaled already, over keys (G, L, K).

    The queries are those of the last block of L positions.
    """
    length = key.shape[1]
    size = (length - 1) % BLOCK + 1
    hidden = torch.full((size, size), float("-inf"), dtype=queries.dtype, device=queries.device).triu_(1)
    scores = queries @ key.transpose(-1, -2)
    scores.view(key.shape[0], -1, size, length)[..., length - size :].add_(hidden)
    return torch.softmax(scores, dim=-1)
