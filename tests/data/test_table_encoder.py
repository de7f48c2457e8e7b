"""Columns of tables: what they are, how gaps are filled and marked, and which are left out."""

from __future__ import annotations

import pytest
import torch

from llmkit.data.table_encoder import fit_table, read_table_encoder


def fit(**columns):
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    encoder, notes = fit_table(rows, rows, list(columns), where="x.csv")
    return encoder, "\n".join(notes), rows


def test_a_gap_takes_the_median_and_is_marked():
    encoder, told, rows = fit(x=["1", "?", "3", "5"], y=[1.0, 2.0, 3.0, 5.0])
    inputs = encoder.encode(rows)
    # 1, 3, 3, 5 have mean 3 and spread sqrt(2).
    assert inputs[:, 0].tolist() == pytest.approx([-(2**0.5), 0.0, 0.0, 2**0.5])
    assert inputs[:, 1].tolist() == [0.0, 1.0, 0.0, 0.0]
    assert inputs.shape == (4, 3)
    assert "x: 1 of 4 missing, filled with the median 3 and marked" in told


def test_many_columns_with_gaps_are_told_in_one_line():
    _, told, _ = fit(**{f"x{i}": [1.0, None, 2.0] for i in range(6)})
    assert "missing in 6 columns, filled with the median and marked: x0 (1), x1 (1)" in told


@pytest.mark.parametrize(
    ("name", "values", "reason"),
    [
        ("n", list(range(1, 13)), "numbers the rows"),
        ("customer_id", [5 * i * i for i in range(12)], "an identifier"),
        ("PassengerId", [5 * i * i for i in range(12)], "an identifier"),
        ("planet", ["earth"] * 12, "always the same"),
        ("gone", [None] * 12, "empty"),
    ],
)
def test_what_teaches_nothing_is_left_out_and_told(name, values, reason):
    encoder, told, _ = fit(**{name: values, "x": [float(i % 3) for i in range(12)]})
    assert [column.name for column in encoder.columns] == ["x"]
    assert f"left out: {name} (" in told
    assert reason in told


def test_numbers_that_merely_differ_are_no_identifier():
    encoder, _, _ = fit(paid=[5 * i * i for i in range(12)], x=[0, 1] * 6)
    assert [column.name for column in encoder.columns] == ["paid", "x"]


def test_a_stored_encoder_encodes_the_same():
    encoder, _, rows = fit(x=["1", "?", "3", "5"], city=["Ulm", "Bonn", "Ulm", ""])
    again = read_table_encoder({"columns": encoder.to_json()["columns"]})
    assert torch.equal(again.encode(rows), encoder.encode(rows))


def test_dates_are_left_out_with_a_hint():
    dates = [f"2024-01-{i:02}" for i in range(1, 29)]
    _, told, _ = fit(day=dates, x=[i % 5 for i in range(28)])
    assert "day (28 dates; a series is forecast with data.task=forecast)" in told
