"""Held-out rows go through the model in batches of like length, within a budget of positions."""

from __future__ import annotations

import torch

from llmkit.evaluation.held_out import share_of_batches


class Lengths:
    """Rows of which only the length matters."""

    is_stream = False

    def __init__(self, lengths):
        self.lengths = lengths

    def __len__(self):
        return len(self.lengths)

    def batch(self, indices):
        return {"input_ids": torch.tensor([self.lengths[i] for i in indices]), "targets": torch.zeros(len(indices))}


def batches(lengths, *arguments):
    return [batch["input_ids"].tolist() for batch in share_of_batches(Lengths(lengths), *arguments)]


def test_rows_of_like_length_go_together():
    assert batches([3, 9, 4, 8, 5], 2) == [[9, 8], [5, 4], [3]]


def test_no_batch_holds_more_positions_than_are_asked_for():
    # 12 // 9 is one row; 12 // 5 two; 12 // 3 four.
    assert batches([3, 9, 4, 5, 3, 3], 10, 12) == [[9], [5, 4], [3, 3, 3]]


def test_a_row_longer_than_that_goes_alone():
    assert batches([30, 2], 10, 12) == [[30], [2]]
