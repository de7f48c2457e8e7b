"""Log-likelihoods of continuations, each shared piece of text computed once.

Scores equal those of one request at a time, whatever shares a batch with them. Shapes: B rows, T positions,
P positions of the shared prefix, N scored positions, V vocabulary, H heads, D width of a head.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from llmkit.errors import ModelError
from llmkit.evaluation.tree import (
    Cluster,
    Group,
    Request,
    cluster_groups,
    group_requests,
    separate_groups,
    stack_groups,
    tree_mask,
)
from llmkit.losses import body_of, has_plain_head, head_of

CHUNK_LOGITS = 1 << 24
"""Logits that exist at once (64 MiB in fp32), so that memory stays flat in the vocabulary."""

Cache = list[tuple[Tensor, Tensor]]
"""Keys and values of each layer, (1, H, P, D)."""


class Score(NamedTuple):
    """Summed log-likelihood in nats, and whether each id was the likeliest one."""

    log_likelihood: float
    is_greedy: bool
    num_tokens: int


@torch.no_grad()
def score_continuations(
    model: Any,
    requests: Sequence[Request],
    *,
    batch_tokens: int | None = None,
    on_scored: Callable[[int], None] | None = None,
) -> list[Score]:
    """The score of each request, in the order of the requests.

    Args:
        model: A causal language model of transformers or PEFT, in eval mode.
        requests: Each fits the model: context and continuation have at most one id more than it has positions.
        batch_tokens: Positions per forward, padding included; None for what suits the device. Changes no score.
        on_scored: Told after each forward how many requests it has answered.
    """
    if not requests:
        return []
    scores: dict[int, Score] = {}
    for cluster in plan(model, requests):
        for group, found in score_cluster(model, cluster, batch_tokens or default_batch_tokens(model.device)):
            scores.update((index, found[number]) for index, number in group.members)
            if on_scored:
                on_scored(len(group.members))
    return [scores[index] for index in range(len(requests))]


def plan(model: Any, requests: Sequence[Request]) -> list[Cluster]:
    """What is run together: a prefix tree where the model allows it; the longest first."""
    longest = max(len(request.context) + len(request.continuation) for request in requests)
    if can_branch(model, longest):
        clusters = cluster_groups(group_requests(requests))
    else:
        clusters = [Cluster((), separate_groups(requests))]
    return sorted(clusters, key=Cluster.longest, reverse=True)


def default_batch_tokens(device: torch.device) -> int:
    """Positions per forward that keep the device busy without filling its memory."""
    return 16384 if device.type == "cuda" else 2048


def can_branch(model: Any, longest: int) -> bool:
    """Whether the model can score a tree: it takes positions and a mask of its own.

    Architectures differ in ways that a configuration does not tell, so a small tree is scored both ways as well.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    full = set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
    core = model.get_base_model() if hasattr(model, "get_base_model") else model
    takes_positions = "position_ids" in inspect.signature(core.forward).parameters
    takes_masks = not str(getattr(config, "_attn_implementation", "")).startswith(("flash", "flex", "paged"))
    if not (full and takes_positions and takes_masks and (window is None or window >= longest)):
        return False
    return is_tree_exact(model)


def is_tree_exact(model: Any) -> bool:
    """Whether a small tree behind a shared prefix gives this model the scores that its requests get one by one."""
    probe = [Request((5, 6, 7, 8), (1, 2, 3)), Request((5, 6, 7, 8), (4, 3)), Request((5, 6, 9), (1, 2))]
    together = [Cluster((5, 6), [replace_context(group, 2) for group in group_requests(probe)])]
    apart = [Cluster((), separate_groups(probe))]
    tree, naive = (collect(model, clusters, 64) for clusters in (together, apart))
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    return all(abs(tree[i].log_likelihood / naive[i].log_likelihood - 1) < tolerance for i in naive)


def replace_context(group: Group, start: int) -> Group:
    """The group without the first `start` ids of its context."""
    return Group(group.context[start:], group.continuations, group.members)


def collect(model: Any, clusters: Sequence[Cluster], budget: int) -> dict[int, Score]:
    """The scores of all requests in these clusters, by number."""
    answered = (pair for cluster in clusters for pair in score_cluster(model, cluster, budget))
    return {index: found[number] for group, found in answered for index, number in group.members}


def score_cluster(model: Any, cluster: Cluster, budget: int) -> Iterator[tuple[Group, list[Score]]]:
    """The groups of a cluster with the scores of their continuations, longest first.

    What does not fit into memory fails at once, being the longest, and is tried again in halves.
    """
    prefix = prefill(model, cluster.prefix) if cluster.prefix else None
    waiting = batches_by_length(cluster.groups, budget)[::-1]
    while waiting:
        batch = waiting.pop()
        try:
            found = score_batch(model, batch, prefix)
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            waiting += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
            continue
        yield from zip(batch, found, strict=True)


def batches_by_length(groups: Sequence[Group], budget: int) -> list[list[Group]]:
    """Groups of like length together, longest first, within the budget of positions."""
    batches: list[list[Group]] = []
    longest = 0
    for group in sorted(groups, key=lambda group: group.num_inputs, reverse=True):
        if not batches or longest * (len(batches[-1]) + 1) > budget:
            batches.append([])
            longest = group.num_inputs
        batches[-1].append(group)
    return batches


def score_batch(model: Any, groups: Sequence[Group], prefix: Cache | None) -> list[list[Score]]:
    """The scores of all continuations of these groups, from one forward."""
    start = prefix[0][0].shape[-2] if prefix else 0
    stacked = stack_groups(groups, start)
    inputs: dict[str, Any] = {"input_ids": stacked.ids.to(model.device), "use_cache": prefix is not None}
    if prefix or any(group.num_branches > 1 for group in groups):
        inputs["position_ids"] = stacked.positions.to(model.device)
        inputs["attention_mask"] = tree_mask(stacked.branches.to(model.device), start, model.dtype)
    if prefix:
        inputs["past_key_values"] = expand_cache(prefix, len(groups))
    tokens = score_positions(model, inputs, stacked.rows, stacked.columns, stacked.targets)
    return [[make_score(list(islice(tokens, len(c)))) for c in group.continuations] for group in groups]


def make_score(tokens: Sequence[tuple[float, bool]]) -> Score:
    """One score from (log-likelihood, was likeliest) of each of its ids."""
    return Score(sum(value for value, _ in tokens), all(greedy for _, greedy in tokens), len(tokens))


def prefill(model: Any, ids: Sequence[int]) -> Cache:
    """Run the shared beginning once and keep its keys and values."""
    input_ids = torch.tensor([list(ids)], device=model.device)
    cache = body_of(model)(input_ids=input_ids, use_cache=True).past_key_values
    return [(layer.keys, layer.values) for layer in cache.layers]


def expand_cache(prefix: Cache, size: int) -> DynamicCache:
    """A cache for `size` rows that all begin with the prefix."""
    cache = DynamicCache()
    for number, (keys, values) in enumerate(prefix):
        cache.update(keys.expand(size, -1, -1, -1), values.expand(size, -1, -1, -1), number)
    return cache


def score_positions(
    model: Any, inputs: dict[str, Any], rows: Tensor, columns: Tensor, targets: Tensor
) -> Iterator[tuple[float, bool]]:
    """(log-likelihood, was likeliest) of each of the (N,) targets at (rows, columns), the softmax in fp32.

    The output head is computed at these places alone, and in chunks, where it is a plain matrix.
    """
    rows, columns, targets = (tensor.to(model.device) for tensor in (rows, columns, targets))
    chunks: Iterable[Tensor]
    if has_plain_head(model):
        hidden: Tensor = body_of(model)(**inputs).last_hidden_state[rows, columns]
        head = head_of(model)
        size = max(64, CHUNK_LOGITS // head.weight.shape[0])
        chunks = (head(part) for part in torch.split(hidden, size))
    else:
        size = len(targets)
        chunks = [model(**inputs).logits[rows, columns]]
    for logits, wanted in zip(chunks, torch.split(targets, size), strict=True):
        values = logits.float()
        if not bool(values.isfinite().all()):
            raise ModelError(
                "the model's output is not a number", fix="try --dtype fp32; else take an earlier checkpoint"
            )
        chosen = values.gather(1, wanted[:, None]).squeeze(1) - values.logsumexp(dim=-1)
        yield from zip(chosen.tolist(), (values.argmax(dim=-1) == wanted).tolist(), strict=True)
