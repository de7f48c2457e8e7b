"""Requests as a prefix tree: what is shared is laid out once.

    cluster   a beginning that several contexts share (few-shot examples), run once, kept as a key/value cache
      group   one context, then its distinct continuations as branches that see the context and themselves only

Shapes: B groups in a batch, T positions of the longest, P positions of the cluster's prefix, N scored positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import torch
from torch import Tensor

MIN_SAVED = 256
"""A shared beginning gets a cache of its own when it saves this many positions; below, batches by length are better."""

MAX_DEPTH = 64
"""Levels of the tree that are searched for shared beginnings."""


class Request(NamedTuple):
    """How likely is `continuation` after `context`? Both are ids, and neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Group:
    """One context and what may follow it."""

    context: tuple[int, ...]
    continuations: list[tuple[int, ...]] = field(default_factory=list)
    members: list[tuple[int, int]] = field(default_factory=list)
    """(number of the request, number of its continuation)."""

    def add(self, index: int, continuation: tuple[int, ...]) -> None:
        """Make request `index` a member; equal continuations are scored once."""
        if continuation not in self.continuations:
            self.continuations.append(continuation)
        self.members.append((index, self.continuations.index(continuation)))

    @property
    def num_inputs(self) -> int:
        """Positions that are run; the last id of a continuation is only predicted."""
        return len(self.context) + sum(len(continuation) - 1 for continuation in self.continuations)

    @property
    def num_branches(self) -> int:
        """Continuations that are run themselves; where it is at most 1, the row is plain text."""
        return sum(len(continuation) > 1 for continuation in self.continuations)


class Cluster(NamedTuple):
    """Groups whose contexts began with `prefix`, which has been taken off them."""

    prefix: tuple[int, ...]
    groups: list[Group]

    def longest(self) -> int:
        """Positions of the longest row, the prefix included."""
        return len(self.prefix) + max(group.num_inputs for group in self.groups)


def group_requests(requests: Sequence[Request]) -> list[Group]:
    """Requests with equal contexts put together."""
    groups: dict[tuple[int, ...], Group] = {}
    for index, request in enumerate(requests):
        groups.setdefault(request.context, Group(request.context)).add(index, request.continuation)
    return list(groups.values())


def separate_groups(requests: Sequence[Request]) -> list[Group]:
    """Each request for itself, for models whose attention cannot be told who sees whom."""
    return [Group(r.context, [r.continuation], [(index, 0)]) for index, r in enumerate(requests)]


def cluster_groups(groups: Sequence[Group]) -> list[Cluster]:
    """The clusters that save the most positions, and one without a prefix for all that share too little."""
    ordered = sorted(groups, key=lambda group: group.context)
    spans = best_spans([group.context for group in ordered], 0, len(ordered), 0)[1]
    clusters, alone, done = [], [], 0
    for start, end, length in [*spans, (len(ordered), len(ordered), 0)]:
        alone += ordered[done:start]
        if length:
            inside = [replace(group, context=group.context[length:]) for group in ordered[start:end]]
            clusters.append(Cluster(ordered[start].context[:length], inside))
        done = end
    return [*clusters, Cluster((), alone)] if alone else clusters


def best_spans(
    contexts: Sequence[tuple[int, ...]], start: int, end: int, depth: int
) -> tuple[int, list[tuple[int, int, int]]]:
    """Positions saved in the sorted `contexts[start:end]`, and the spans (start, end, prefix length) that save them."""
    if end - start < 2 or depth > MAX_DEPTH:
        return 0, []
    shared = common_length(contexts[start], contexts[end - 1])
    # At least one id stays with the group: its output predicts the first id of the continuations.
    usable = min(shared, min(map(len, contexts[start:end])) - 1)
    here = usable * (end - start - 1)
    below, first = 0, start
    spans: list[tuple[int, int, int]] = []
    for index in range(start + 1, end + 1):
        if index == end or contexts[index][: shared + 1] != contexts[first][: shared + 1]:
            saved, inner = best_spans(contexts, first, index, depth + 1) if index - first < end - start else (0, [])
            below, spans, first = below + saved, spans + inner, index
    if here >= max(below, MIN_SAVED):
        return here, [(start, end, usable)]
    return below, spans


def common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many ids two sequences begin with alike."""
    length = 0
    for a, b in zip(one, other, strict=False):
        if a != b:
            break
        length += 1
    return length


class Stacked(NamedTuple):
    """Groups as tensors on the CPU."""

    ids: Tensor
    """(B, T) int64, padded with 0 on the right."""
    positions: Tensor
    """(B, T): each branch continues where the context ended."""
    branches: Tensor
    """(B, T): 0 is the context, 1.. the continuations, -1 padding."""
    rows: Tensor
    """(N,) with `columns`: whose logits are needed, in the order of groups, continuations, ids."""
    columns: Tensor
    targets: Tensor
    """(N,) the ids to be predicted there."""


def stack_groups(groups: Sequence[Group], start: int) -> Stacked:
    """Lay out groups for one forward, their positions counted from `start`, the length of the prefix."""
    shape = (len(groups), max(group.num_inputs for group in groups))
    ids, positions = torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.int64)
    branches = torch.full(shape, -1)
    rows: list[int] = []
    columns: list[int] = []
    targets: list[int] = []
    for row, group in enumerate(groups):
        end = len(group.context)
        line, places, owners = list(group.context), list(range(start, start + end)), [0] * end
        for number, continuation in enumerate(group.continuations, start=1):
            columns += [end - 1, *range(len(line), len(line) + len(continuation) - 1)]
            rows += [row] * len(continuation)
            targets += continuation
            line += continuation[:-1]
            places += range(start + end, start + end + len(continuation) - 1)
            owners += [number] * (len(continuation) - 1)
        ids[row, : len(line)] = torch.tensor(line)
        positions[row, : len(line)] = torch.tensor(places)
        branches[row, : len(line)] = torch.tensor(owners)
    return Stacked(ids, positions, branches, torch.tensor(rows), torch.tensor(columns), torch.tensor(targets))


def tree_mask(branches: Tensor, start: int, dtype: torch.dtype) -> Tensor:
    """(B, 1, T, P + T) numbers to add to attention scores: who is seen gets 0, who is not the least number there is.

    All see the prefix; the context sees what precedes it; a branch sees the context and what precedes it in the branch.
    """
    size = branches.shape[1]
    causal = torch.ones(size, size, dtype=torch.bool, device=branches.device).tril()
    related = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
    hidden = ~torch.nn.functional.pad(related & causal, (start, 0), value=True)
    mask = torch.zeros(hidden.shape, dtype=dtype, device=branches.device).masked_fill_(hidden, torch.finfo(dtype).min)
    return mask[:, None]
