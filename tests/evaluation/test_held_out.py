"""Held-out rows go through the model in batches of like length, within a budget of positions."""

from __future__ import annotations

import torch

from llmkit.batch import IGNORE_INDEX
from llmkit.evaluation import held_out
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


def test_processes_share_all_rows_and_make_equally_many_forward_passes(monkeypatch):
    seen = []
    for rank in range(2):
        monkeypatch.setattr(held_out.dist, "is_initialized", lambda: True)
        monkeypatch.setattr(held_out.dist, "get_world_size", lambda: 2)
        monkeypatch.setattr(held_out.dist, "get_rank", lambda rank=rank: rank)
        parts = list(share_of_batches(Lengths([9, 8, 2, 1, 1]), 2, 9))
        seen.append([part["input_ids"].tolist() for part in parts if (part["targets"] == 0).all()])
        assert len(parts) == 2
    # Dealt out in turn: 9, 2, 1 and 8, 1.
    assert seen == [[[9], [2, 1]], [[8], [1]]]


def test_a_process_that_is_done_goes_along_with_nothing_to_count(monkeypatch):
    monkeypatch.setattr(held_out.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(held_out.dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(held_out.dist, "get_rank", lambda: 1)
    first, second = share_of_batches(Lengths([9, 8, 7]), 1)
    assert (first["input_ids"].tolist(), first["targets"].tolist()) == ([8], [0])
    assert (second["input_ids"].tolist(), second["targets"].tolist()) == ([7], [IGNORE_INDEX])


def test_a_row_longer_than_that_goes_alone():
    assert batches([30, 2], 10, 12) == [[30], [2]]
