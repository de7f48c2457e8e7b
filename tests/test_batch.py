"""Batches of rows of like length."""

from __future__ import annotations

import pytest

from llmkit.batch import batches_by_length


def test_rows_of_like_length_go_together_the_longest_first():
    assert batches_by_length([3, 9, 4, 8, 5], tokens=None, rows=2) == [[1, 3], [4, 2], [0]]


def test_no_batch_holds_more_positions_than_are_asked_for_padding_included():
    # 9 | 5, 4 padded to 10 | 3, 3, 3 and a fourth would be 12.
    assert batches_by_length([3, 9, 4, 5, 3, 3, 3], tokens=11) == [[1], [3, 2], [0, 4, 5], [6]]


def test_no_batch_has_a_larger_share_of_padding_than_is_asked_for():
    # 10 and 9 lack 1 of 20, with another 9 they lack 2 of 30: more than a twentieth.
    assert batches_by_length([9, 10, 9, 4], tokens=None, padding=0.05) == [[1, 0], [2], [3]]
    assert batches_by_length([9, 10, 9, 4], tokens=None, padding=0.07) == [[1, 0, 2], [3]]


def test_a_row_longer_than_that_stands_alone():
    assert batches_by_length([2, 30, 2], tokens=12) == [[1], [0, 2]]


def test_rows_of_one_length_keep_their_order():
    assert batches_by_length([4, 4, 4], tokens=8) == [[0, 1], [2]]


@pytest.mark.parametrize("lengths", [[], [0], [0, 0]])
def test_rows_without_length_are_batched_too(lengths):
    assert batches_by_length(lengths, tokens=1) == ([list(range(len(lengths)))] if lengths else [])
