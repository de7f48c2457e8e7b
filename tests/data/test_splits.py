"""Who trains and who tests: the source's own splits first, then a hash of each row."""

from __future__ import annotations

import pytest

from llmkit.data.splits import assign_splits, split_in_name
from llmkit.recipe.schema import BaselineData

TEXTS = [f"row {i}" for i in range(2000)]


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("in_domain_dev.tsv", "validation"),
        ("t10k-images-idx3-ubyte.gz", "test"),
        ("train-00000-of-00001.parquet", "train"),
        ("x_val", "validation"),
        ("latest.csv", ""),
        ("contest", ""),
    ],
)
def test_names_speak_of_splits(name, split):
    assert split_in_name(name) == split


def test_what_the_source_lacks_is_cut_from_the_rest():
    splits, notes = assign_splits(TEXTS, ["test"] * 500 + ["train"] * 1500, BaselineData(validation=0.1, test=0.2))
    assert splits[:500] == ["test"] * 500
    assert splits.count("test") == 500
    assert splits[500:].count("validation") / 1500 == pytest.approx(0.1, abs=0.03)
    assert notes == ["splits of the source: train, test; cut from the rest: validation"]


def test_rows_on_both_sides_are_pointed_out():
    _, notes = assign_splits(["a", "b", "c", "b"], ["train", "train", "test", "test"], BaselineData(validation=0.0))
    assert "1 test rows are training rows too" in notes[1]


def test_a_file_for_the_test_leaves_no_share_of_the_rows():
    splits, _ = assign_splits(TEXTS, [""] * 2000, BaselineData(test="test.csv", validation=0.0))
    assert set(splits) == {"train"}
