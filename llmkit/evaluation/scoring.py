"""Log-likelihoods of continuations, each shared piece of text computed once.

Scores equal those of one request at a time, whatever shares a batch with them. Shapes: B rows, T positions,
P positions of the shared prefix, S scored positions, N ids predicted there, V vocabulary, H heads, D width of a head.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor
from transformers import DynamicCache

from llmkit.batch import batches_by_length
from llmkit.device import is_memory_error
from llmkit.errors import ModelError, RunError
from llmkit.evaluation.tree import (
    Cluster,
    Group,
    Request,
    Stacked,
    cluster_groups,
    group_requests,
    separate_groups,
    stack_groups,
    tree_mask,
)
from llmkit.losses import body_of, has_plain_head, head_of

CHUNK_LOGITS = 1 << 24
"""Logits that exist at once (64 MiB in fp32), so that memory stays flat in the vocabulary."""

CACHED_LOGITS = 1 << 18
"""Logits that the softmax takes at once on CPUs: 1 MiB stays in the cache of a core (a fifth of the time of 64 MiB)."""

LONG_CONTEXT = 256
"""From so many ids on a context is run ahead of its branches: without a mask its attention takes half the time."""


Piece = TypeVar("Piece")
Found = TypeVar("Found")


class Prefix(NamedTuple):
    """What precedes the groups of a batch, as it was run: one for all of them, or one for each."""

    layers: list[tuple[Tensor, Tensor]]
    """Keys and values of each layer, (1 or B, H, P, D)."""
    lengths: list[int]
    """Ids of each; the rest is padding."""


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
    on_scored: Callable[[Mapping[int, Score]], None] | None = None,
) -> list[Score]:
    """The score of each request, in the order of the requests.

    Args:
        model: A causal language model of transformers or PEFT, in eval mode.
        requests: Each fits the model: context and continuation have at most one id more than it has positions.
        batch_tokens: Positions per forward, padding included; None for what suits the device. Changes no score but
            by rounding.
        on_scored: Told after each forward what it has answered: number of the request -> its score.
    """
    if not requests:
        return []
    scores: dict[int, Score] = {}
    for cluster in plan(model, requests):
        for found in score_cluster(model, cluster, batch_tokens or default_batch_tokens(model.device)):
            scores |= found
            if on_scored:
                on_scored(found)
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
    """Positions per forward that keep the device busy.

    A CPU is busy with few; more would only be padded more (200 questions: 8% with 2,048, 2% with 512).
    """
    return 16384 if device.type == "cuda" else 512


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
    probe = [Request((5, 6, 7, 8), (1, 2, 3)), Request((5, 6, 7, 8), (1, 4, 3)), Request((5, 6, 9), (1, 2))]
    together = [Cluster((5, 6), [replace(group, context=group.context[2:]) for group in group_requests(probe)])]
    apart = [Cluster((), separate_groups(probe))]
    tree, naive = (collect(model, clusters, 64) for clusters in (together, apart))
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.1
    return all(
        math.isclose(tree[i].log_likelihood, naive[i].log_likelihood, rel_tol=tolerance, abs_tol=tolerance)
        for i in naive
    )


def collect(model: Any, clusters: Sequence[Cluster], budget: int) -> dict[int, Score]:
    """The scores of all requests in these clusters, by number."""
    parts = [found for cluster in clusters for found in score_cluster(model, cluster, budget)]
    return {index: score for part in parts for index, score in part.items()}


def score_cluster(model: Any, cluster: Cluster, budget: int) -> Iterator[dict[int, Score]]:
    """The scores of a cluster's requests by number, a part after each forward, longest first."""
    prefix = prefill_shared(model, cluster.prefix) if cluster.prefix else None
    lengths = [group.num_inputs for group in cluster.groups]
    batches = [[cluster.groups[i] for i in places] for places in batches_by_length(lengths, tokens=budget)]
    for _, found in in_halves(batches, lambda groups: score_batch(model, groups, prefix)):
        yield found


def prefill_shared(model: Any, beginning: Sequence[int]) -> Prefix:
    """The keys and values of what all rows of a cluster begin with.

    Raises:
        RunError: They do not fit.
    """
    try:
        return prefill(model, [beginning])
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        raise no_memory(f"the {len(beginning):,} tokens that all rows begin with do") from error


def no_memory(what: str) -> RunError:
    """The error of something that does not fit and cannot be halved."""
    return RunError(f"{what} not fit into memory", fix="give fewer --shots or shorter rows, or try --dtype bf16")


def in_halves(
    batches: Sequence[Sequence[Piece]], run: Callable[[Sequence[Piece]], Found]
) -> Iterator[tuple[Sequence[Piece], Found]]:
    """Each batch with what came of it; one that does not fit into memory is tried again in halves.

    Where the longest come first, what does not fit fails at once.

    Raises:
        RunError: A single row does not fit.
    """
    waiting = list(batches[::-1])
    while waiting:
        batch = waiting.pop()
        try:
            found = run(batch)
        except (RuntimeError, MemoryError) as error:
            if not is_memory_error(error):
                raise
            if len(batch) == 1:
                raise no_memory("one row alone does") from error
            waiting += [batch[len(batch) // 2 :], batch[: len(batch) // 2]]
            continue
        yield batch, found


def score_batch(model: Any, groups: Sequence[Group], prefix: Prefix | None) -> dict[int, Score]:
    """The scores of all requests of these groups, run together."""
    if prefix is None and pays_ahead(groups):
        prefix = prefill(model, [group.context[:-1] for group in groups])
        groups = [replace(group, context=group.context[-1:]) for group in groups]
    starts = [0] * len(groups) if prefix is None else prefix.lengths * (len(groups) // len(prefix.lengths))
    stacked = stack_groups(groups, starts)
    inputs: dict[str, Any] = {"input_ids": stacked.ids.to(model.device), "use_cache": prefix is not None}
    if prefix or not stacked.is_plain:
        inputs["position_ids"] = stacked.positions.to(model.device)
        inputs["attention_mask"] = tree_mask(stacked.ends.to(model.device), starts, model.dtype)
    if prefix:
        inputs["past_key_values"] = make_cache(prefix, len(groups))
    values, is_top = score_positions(model, inputs, stacked)
    found: dict[int, Score] = {}
    place = 0
    for group in groups:
        scores = []
        for size in map(len, group.continuations):
            part = slice(place, place + size)
            scores.append(Score(sum(values[part]), all(is_top[part]), size))
            place += size
        found.update((index, scores[number]) for index, number in group.members)
    return found


def pays_ahead(groups: Sequence[Group]) -> bool:
    """Whether the contexts are better run before their branches, which need a mask."""
    is_tree = not all(group.branches.is_line for group in groups)
    return is_tree and min(len(group.context) for group in groups) >= LONG_CONTEXT


def prefill(model: Any, beginnings: Sequence[Sequence[int]]) -> Prefix:
    """Run beginnings and keep their keys and values. Padding stands behind them, where none of their ids sees it."""
    lengths = [len(ids) for ids in beginnings]
    input_ids = torch.zeros(len(beginnings), max(lengths), dtype=torch.int64)
    for row, ids in enumerate(beginnings):
        input_ids[row, : len(ids)] = torch.tensor(list(ids))
    cache = body_of(model)(input_ids=input_ids.to(model.device), use_cache=True).past_key_values
    return Prefix([(layer.keys, layer.values) for layer in cache.layers], lengths)


def make_cache(prefix: Prefix, size: int) -> DynamicCache:
    """A cache for `size` rows that begin with the prefix, or each with its own."""
    cache = DynamicCache()
    for number, (keys, values) in enumerate(prefix.layers):
        cache.update(keys.expand(size, -1, -1, -1), values.expand(size, -1, -1, -1), number)
    return cache


def score_positions(model: Any, inputs: dict[str, Any], stacked: Stacked) -> tuple[list[float], list[bool]]:
    """(N,) log-likelihood of each wanted id, and whether it was the likeliest; the softmax in fp32.

    The output head is computed at the scored positions alone, each once, and in chunks, where it is a plain matrix.
    """
    rows, columns = stacked.rows.to(model.device), stacked.columns.to(model.device)
    if has_plain_head(model):
        head = head_of(model)
        hidden: Tensor = body_of(model)(**inputs).last_hidden_state[rows, columns]
        size = max(64, CHUNK_LOGITS // head.weight.shape[0])
        chunks: Iterator[Tensor] = (head(part) for part in torch.split(hidden, size))
    else:
        size = len(rows)
        chunks = iter([model(**inputs).logits[rows, columns]])
    order = stacked.spots.argsort(stable=True)
    spots, targets = stacked.spots[order], stacked.targets[order].to(model.device)
    borders = torch.searchsorted(spots, torch.arange(0, len(rows) + size, size)).tolist()
    found = []
    for number, logits in enumerate(chunks):
        part = slice(borders[number], borders[number + 1])
        found.append(look_up(logits, (spots[part] - number * size).to(model.device), targets[part]))
    likelihoods, is_top = (torch.cat(parts).cpu()[order.argsort()] for parts in zip(*found, strict=True))
    if not bool(likelihoods.isfinite().all()):
        raise ModelError("the model's output is not a number", fix="try --dtype fp32; else take an earlier checkpoint")
    return likelihoods.tolist(), is_top.tolist()


def look_up(logits: Tensor, spots: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood of ids, and whether each is the likeliest, under the rows `spots` of logits (S, V).

    Against fp64 a continuation of HellaSwag is within 4e-5. torch's own log_softmax, which errs to one side in a
    vocabulary of 49,152 on CPUs, is off by 2e-4.
    """
    at_once = max(1, CACHED_LOGITS // logits.shape[1]) if logits.device.type == "cpu" else len(logits)
    tops, totals = (torch.cat(parts) for parts in zip(*map(top_and_total, torch.split(logits, at_once)), strict=True))
    chosen = logits[spots, targets].float()
    # What is likeliest goes off first: added to the sum it would cost that its last digits.
    return chosen - tops[spots] - totals[spots], are_first(logits, spots, targets, chosen == tops[spots])


def top_and_total(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The highest of each row of logits, and the logarithm of the sum of exponentials of what they are below it."""
    values = logits.float()
    top = values.amax(dim=-1)
    return top, (values - top[:, None]).exp_().sum(dim=-1).log_()


def are_first(logits: Tensor, spots: Tensor, targets: Tensor, is_top: Tensor) -> Tensor:
    """Which of the ids that have the highest logit are the likeliest: the first of equals, of which bf16 has many."""
    if logits.device.type != "cpu":
        return is_top & (logits.argmax(dim=-1)[spots] == targets)
    # On a CPU argmax takes longer than all the rest: it is asked of the ids before those alone that may be first.
    places = is_top.nonzero().flatten()
    for place, row, target in zip(places.tolist(), spots[places].tolist(), targets[places].tolist(), strict=True):
        is_top[place] = bool((logits[row, :target] < logits[row, target]).all())
    return is_top
