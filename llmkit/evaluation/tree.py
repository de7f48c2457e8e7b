"""Requests as a prefix tree: what is shared is laid out once.

    cluster   a beginning that several contexts share (few-shot examples), run once, kept as a key/value cache
      group   one context, then its continuations as a tree of branches: each token sees the context and its own branch

Shapes: B groups in a batch, T positions of the longest, P positions of the cluster's prefix, S scored positions,
N ids to be predicted there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

MIN_SAVED = 256
"""A shared beginning gets a cache of its own when it saves this many positions; below, batches by length are better."""

MAX_DEPTH = 64
"""Levels of the tree that are searched for shared beginnings."""

MAX_BRANCHES = 512
"""Positions behind one context: attention grows with their square, so what is more gets a row of its own."""


class Request(NamedTuple):
    """How likely is `continuation` after `context`? Both are ids, and neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


class Branches(NamedTuple):
    """Continuations as a tree in one line: an id is followed by all that continues it."""

    ids: list[int]
    """What is run: the last id of a continuation is only predicted."""
    depths: list[int]
    """Position of each id, counted from the end of the context."""
    ends: list[int]
    """Where that which continues an id ends."""
    places: list[list[int]]
    """For each continuation the places whose outputs predict its ids; -1 is the last id of the context."""

    @property
    def is_line(self) -> bool:
        """Whether there is one branch only: then the row is plain text."""
        return all(end == len(self.ids) for end in self.ends)


@dataclass(frozen=True)
class Group:
    """One context and what may follow it."""

    context: tuple[int, ...]
    branches: Branches
    members: list[tuple[int, int]]
    """(number of the request, number of its continuation)."""
    continuations: list[tuple[int, ...]]
    """All different."""

    @property
    def num_inputs(self) -> int:
        """Positions that are run."""
        return len(self.context) + len(self.branches.ids)


class Cluster(NamedTuple):
    """Groups whose contexts began with `prefix`, which has been taken off them."""

    prefix: tuple[int, ...]
    groups: list[Group]

    def longest(self) -> int:
        """Positions of the longest row, the prefix included."""
        return len(self.prefix) + max(group.num_inputs for group in self.groups)


def group_requests(requests: Sequence[Request]) -> list[Group]:
    """Requests with equal contexts put together; equal continuations are scored once."""
    found: dict[tuple[int, ...], dict[tuple[int, ...], list[int]]] = {}
    for index, request in enumerate(requests):
        found.setdefault(request.context, {}).setdefault(request.continuation, []).append(index)
    return [make_group(context, part) for context, members in found.items() for part in split_members(members)]


def separate_groups(requests: Sequence[Request]) -> list[Group]:
    """Requests that need no tree, for models whose attention cannot be told who sees whom.

    Put together are those that run the same ids: what is only predicted may differ.
    """
    found: dict[tuple[int, ...], dict[tuple[int, ...], dict[tuple[int, ...], list[int]]]] = {}
    for index, (context, continuation) in enumerate(requests):
        alike = found.setdefault(context, {}).setdefault(continuation[:-1], {})
        alike.setdefault(continuation, []).append(index)
    return [make_group(context, members) for context, alike in found.items() for members in alike.values()]


Members = dict[tuple[int, ...], list[int]]
"""Continuation -> numbers of the requests that ask for it."""


def make_group(context: tuple[int, ...], members: Members) -> Group:
    """The group of a context and its continuations."""
    numbers = [(index, number) for number, indices in enumerate(members.values()) for index in indices]
    return Group(context, lay_out(list(members)), numbers, list(members))


def split_members(members: Members) -> Iterable[Members]:
    """Continuations in parts that are short enough for a row; neighbours in the alphabet, which share most."""
    parts: list[Members] = []
    room = 0
    for continuation in sorted(members) if total_length(members) > MAX_BRANCHES else members:
        if not parts or room < len(continuation):
            parts.append({})
            room = MAX_BRANCHES
        parts[-1][continuation] = members[continuation]
        room -= len(continuation)
    return parts


def total_length(continuations: Iterable[tuple[int, ...]]) -> int:
    """Ids of all continuations together."""
    return sum(map(len, continuations))


def lay_out(continuations: Sequence[tuple[int, ...]]) -> Branches:
    """The tree of these continuations."""
    ids: list[int] = []
    depths: list[int] = []
    ends: list[int] = []
    places: list[list[int]] = [[] for _ in continuations]
    path: list[int] = []
    previous: tuple[int, ...] = ()
    for number in sorted(range(len(continuations)), key=continuations.__getitem__):
        inputs = continuations[number][:-1]
        shared = common_length(previous, inputs)
        for place in path[shared:]:
            ends[place] = len(ids)
        del path[shared:]
        for token in inputs[shared:]:
            depths.append(len(path))
            path.append(len(ids))
            ids.append(token)
            ends.append(0)
        places[number] = [-1, *path]
        previous = inputs
    for place in path:
        ends[place] = len(ids)
    return Branches(ids, depths, ends, places)


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
    ends: Tensor
    """(B, T): the column up to which an id is seen; padding is seen by nobody."""
    rows: Tensor
    """(S,) int64 and"""
    columns: Tensor
    """(S,): where something is predicted."""
    spots: Tensor
    """(N,) the number among these places at which each id is predicted, group by group, and"""
    targets: Tensor
    """(N,) the ids."""
    is_plain: bool
    """Whether every row is plain text."""


def stack_groups(groups: Sequence[Group], starts: Sequence[int]) -> Stacked:
    """Lay out groups for one forward, the positions of each counted from its start, the length of its prefix."""
    shape = (len(groups), max(group.num_inputs for group in groups))
    ids, positions, ends = (torch.zeros(shape, dtype=torch.int64) for _ in range(3))
    numbers: dict[tuple[int, int], int] = {}
    spots: list[int] = []
    targets: list[int] = []
    for row, (group, start) in enumerate(zip(groups, starts, strict=True)):
        size, branches = len(group.context), group.branches
        line = slice(group.num_inputs)
        ids[row, line] = torch.tensor([*group.context, *branches.ids])
        positions[row, line] = torch.tensor([*range(size), *(size + depth for depth in branches.depths)]) + start
        ends[row, line] = torch.tensor([shape[1]] * size + [size + end for end in branches.ends])
        for continuation, places in zip(group.continuations, branches.places, strict=True):
            spots += [numbers.setdefault((row, size + place), len(numbers)) for place in places]
            targets += continuation
    rows, columns = zip(*numbers, strict=True)
    return Stacked(
        ids=ids,
        positions=positions,
        ends=ends,
        rows=torch.tensor(rows),
        columns=torch.tensor(columns),
        spots=torch.tensor(spots),
        targets=torch.tensor(targets),
        is_plain=all(group.branches.is_line for group in groups),
    )


def tree_mask(ends: Tensor, starts: Sequence[int], dtype: torch.dtype) -> Tensor:
    """(B, 1, T, P + T) numbers to add to attention scores: who is seen gets 0, who is not the least number there is.

    An id sees what precedes it and has not ended, which is its own branch and the context, and of the prefix, padded to
    the longest, as many columns as its row starts behind.
    """
    size = ends.shape[1]
    place = torch.arange(size, device=ends.device)
    seen = (place[None, :, None] < ends[:, None, :]) & (place[:, None] >= place[None, :])
    lengths = torch.tensor(starts, device=ends.device)
    before = (torch.arange(max(starts), device=ends.device) < lengths[:, None])[:, None].expand(-1, size, -1)
    hidden = ~torch.cat([before, seen], dim=2)
    mask = torch.zeros(hidden.shape, dtype=dtype, device=ends.device).masked_fill_(hidden, torch.finfo(dtype).min)
    return mask[:, None]
