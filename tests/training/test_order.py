"""Which rows a step sees."""

from __future__ import annotations

import numpy as np
import pytest

from llmkit.training.order import rows_of_step, share_of_process, split_by_tokens, split_in_micro_batches, step_seed


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


LENGTHS = [9, 8, 5, 4, 3, 1]


def test_padded_rows_of_like_length_share_a_budget_of_positions():
    # 2 x 40 <= 100, and so are 2 x 20, the last of which lacks 1 of 40; what is shorter would need more padding.
    pieces = split_by_tokens(np.arange(6), [40, 40, 40, 20, 19, 12], tokens=100, rows=9)
    assert [piece.tolist() for piece in pieces] == [[0, 1], [2], [3, 4], [5]]


def test_flat_rows_are_dealt_out_evenly_into_as_few_pieces_as_can_be():
    # 9 | 8, then 5 to the 8, 4 to the 9, 3 to the first of two 13s, 1 to the other: 16 and 14 positions.
    pieces = split_by_tokens(np.arange(6), LENGTHS, tokens=16, rows=9, is_flat=True)
    assert [piece.tolist() for piece in pieces] == [[0, 3, 4], [1, 2, 5]]


def test_flat_rows_take_one_piece_more_where_they_cannot_be_dealt_out_so():
    pieces = split_by_tokens(np.arange(6), LENGTHS, tokens=15, rows=9, is_flat=True)
    # 9 + 1, 8 + 3, 5 + 4.
    assert sorted(sum(LENGTHS[i] for i in piece) for piece in pieces) == [9, 10, 11]
    assert sorted(i for piece in pieces for i in piece.tolist()) == list(range(6))


@pytest.mark.parametrize("is_flat", [True, False])
def test_a_row_longer_than_the_budget_stands_alone(is_flat):
    pieces = split_by_tokens(np.arange(3), [50, 4, 4], tokens=8, rows=9, is_flat=is_flat)
    assert [piece.tolist() for piece in pieces] == [[0], [1, 2]]


@pytest.mark.parametrize("is_flat", [True, False])
def test_no_piece_has_more_rows_than_are_asked_for(is_flat):
    pieces = split_by_tokens(np.arange(5), [1] * 5, tokens=100, rows=2, is_flat=is_flat)
    assert max(map(len, pieces)) == 2
    assert sum(map(len, pieces)) == 5


@pytest.mark.parametrize("count", [16, 256])
def test_alpaca_like_rows_need_no_padding_beyond_a_twentieth(count):
    lengths = np.random.default_rng(0).lognormal(5, 0.6, count).astype(int).clip(20, 600).tolist()
    order = np.array(sorted(range(count), key=lambda i: -lengths[i]))
    pieces = split_by_tokens(order, lengths, tokens=2048, rows=count)
    positions = sum(len(piece) * max(lengths[i] for i in piece) for piece in pieces)
    assert sum(lengths) > 0.95 * positions
