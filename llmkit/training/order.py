"""Which rows a step sees: a pure function of (seed, step), so that resuming is arithmetic and needs no saved state."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from llmkit.batch import batches_by_length

Indices = NDArray[np.int64]

MOST_PADDING = 0.05
"""Share of the positions of padded rows that go through the model together."""


@lru_cache(maxsize=2)
def epoch_order(num_rows: int, seed: int, epoch: int) -> Indices:
    """A permutation of all rows that depends on (seed, epoch) alone."""
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(num_rows)


def rows_of_step(
    step: int, *, num_rows: int | None, batch_size: int, seed: int, last_row: int | None = None
) -> Indices:
    """The rows of a step: a window of `batch_size` on the endless sequence of shuffled epochs.

    Args:
        step: Counted from 0.
        num_rows: Rows in an epoch; None for a stream, whose rows come in their own order.
        batch_size: Rows in a step; a batch may reach over the border of two epochs.
        seed: Of the run.
        last_row: The sequence ends here (whole epochs were asked for): the last batch may be smaller.

    >>> [sorted(rows_of_step(s, num_rows=4, batch_size=2, seed=0).tolist()) for s in (0, 1)]  # doctest: +SKIP
    [[0, 3], [1, 2]]
    """
    first, end = step * batch_size, (step + 1) * batch_size
    if num_rows and (last_row is None or end <= last_row) and first // num_rows == (end - 1) // num_rows:
        # Within one epoch, as nearly always: small networks feel what arithmetic on arrays costs.
        epoch, place = divmod(first, num_rows)
        return epoch_order(num_rows, seed, epoch)[place : place + batch_size]
    positions = np.arange(first, end if last_row is None else min(end, last_row))
    if num_rows is None:
        return positions
    epochs, places = np.divmod(positions, num_rows)
    parts = [epoch_order(num_rows, seed, int(e))[places[epochs == e]] for e in np.unique(epochs)]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int64)


def share_of_process(indices: Indices, lengths: Sequence[int] | None, *, rank: int, num_processes: int) -> Indices:
    """The rows of one process: like lengths together, dealt out in turn, so that processes carry equal weight."""
    if lengths is not None:
        order = sorted(range(len(indices)), key=lambda i: -lengths[int(indices[i])])
        indices = indices[order]
    return indices[rank::num_processes]


def split_in_micro_batches(indices: Indices, micro_batch_size: int) -> list[Indices]:
    """Consecutive pieces of at most `micro_batch_size` rows."""
    return [indices[i : i + micro_batch_size] for i in range(0, len(indices), micro_batch_size)]


def split_by_tokens(
    indices: Indices, lengths: Sequence[int], *, tokens: int, rows: int, is_flat: bool = False
) -> list[Indices]:
    """Pieces whose rows hold at most `tokens` positions together; a longer row stands alone.

    Args:
        indices: Rows, the longest first.
        lengths: Of all rows of the set.
        tokens: Most positions of a piece, padding included.
        rows: Most rows of a piece.
        is_flat: Rows are laid end to end. Then no piece has padding, rows of any lengths go together, and the pieces
            are made as equal as can be. Else rows of like length stand together, padded to the longest by MOST_PADDING
            at most: a forward pass more costs less than to compute what nobody looks at.

    >>> split_by_tokens(np.arange(3), [5, 3, 2], tokens=6, rows=9, is_flat=True)
    [array([0]), array([1, 2])]
    """
    if is_flat:
        return deal_out(indices, lengths, tokens=tokens, rows=rows)
    own = [lengths[index] for index in indices.tolist()]
    return [indices[places] for places in batches_by_length(own, tokens=tokens, rows=rows, padding=MOST_PADDING)]


def deal_out(indices: Indices, lengths: Sequence[int], *, tokens: int, rows: int) -> list[Indices]:
    """Each row, the longest first, to the piece that has the least yet; as few pieces as stay within the bounds."""
    alone = [np.array([index]) for index in indices.tolist() if lengths[index] > tokens]
    rest = [index for index in indices.tolist() if lengths[index] <= tokens]
    total = sum(lengths[index] for index in rest)
    for count in range(max(1, -(-total // tokens), -(-len(rest) // rows)), len(rest) + 1):
        pieces: list[list[int]] = [[] for _ in range(count)]
        sums = [0] * count
        for index in rest:
            least = min((c for c in range(count) if len(pieces[c]) < rows), key=sums.__getitem__)
            pieces[least].append(index)
            sums[least] += lengths[index]
        if max(sums) <= tokens:
            return alone + [np.array(piece) for piece in pieces]
    return alone


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of dropout in one step of one process."""
    # A hash: numpy's SeedSequence would take a twentieth of a small network's step.
    digest = hashlib.blake2b(f"{seed} {step} {rank}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
