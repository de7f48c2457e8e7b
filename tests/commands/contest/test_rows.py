"""The rows of a comparison."""

from __future__ import annotations

import pytest

from llmkit.commands.contest.rows import share_held_out


@pytest.mark.parametrize(("rows", "share"), [(100, 0.2), (800, 0.125), (2000, 0.1), (50_000, 0.01)])
def test_of_few_rows_more_are_held_out_and_of_many_no_more_than_enough(rows, share):
    assert share_held_out(rows) == pytest.approx(share)
