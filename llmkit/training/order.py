"""Which rows a step sees: a pure function of (seed, step), so that resuming is arithmetic and needs no saved state."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]


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


def step_seed(seed: int, step: int, rank: int) -> int:
    """The seed of dropout in one step of one process."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)
