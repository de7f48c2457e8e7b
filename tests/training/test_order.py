"""Which rows a step sees."""

from __future__ import annotations

import numpy as np

from llmkit.training.order import rows_of_step, share_of_process, split_in_micro_batches, step_seed


def rows(step, **options):
    return rows_of_step(step, **{"num_rows": 10, "batch_size": 4, "seed": 0, **options}).tolist()


def test_steps_walk_through_whole_epochs():
    seen = [row for step in range(5) for row in rows(step)]
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]


def test_the_order_is_a_function_of_seed_and_step_alone():
    assert rows(7) == rows(7)
    assert rows(7) != rows(7, seed=1)


def test_epoch_one_of_a_seed_is_not_epoch_zero_of_the_next():
    first = [row for step in range(5) for row in rows(step)]
    other = [row for step in range(5) for row in rows(step, seed=1)]
    assert first[10:] != other[:10]


def test_the_last_batch_ends_with_the_epoch():
    assert len(rows(2, last_row=10)) == 2


def test_processes_share_a_step_without_overlap_and_carry_equal_weight():
    lengths = [100 - 10 * i for i in range(10)]
    indices = np.array([3, 1, 7, 5])
    shares = [share_of_process(indices, lengths, rank=rank, num_processes=2).tolist() for rank in range(2)]
    assert shares == [[1, 5], [3, 7]]


def test_micro_batches_are_consecutive():
    assert [part.tolist() for part in split_in_micro_batches(np.arange(5), 2)] == [[0, 1], [2, 3], [4]]


def test_dropout_differs_by_step_and_by_process():
    assert len({step_seed(0, step, rank) for step in range(10) for rank in range(4)}) == 40
