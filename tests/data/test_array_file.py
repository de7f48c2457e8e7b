"""Arrays that grow on disk."""

from __future__ import annotations

import numpy as np
import pytest

from llmkit.data.array_file import ArrayFile


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (4, 9), (17, 20), (0, 20), (5, 5)])
def test_rows_can_be_taken_out_of_an_array_file(tmp_path, monkeypatch, start, stop):
    monkeypatch.setattr("llmkit.data.array_file.ROWS_AT_ONCE", 4)
    array = ArrayFile(tmp_path / "a.npy", np.uint16)
    array.append(np.arange(20))
    assert array.read(start, stop).tolist() == list(range(start, stop))
    array.remove(start, stop)
    array.append(np.array([99]))
    array.close()
    assert np.load(tmp_path / "a.npy").tolist() == [*range(start), *range(stop, 20), 99]


def test_an_array_file_grows_and_is_an_ordinary_npy(tmp_path):
    array = ArrayFile(tmp_path / "a.npy", np.int64, width=2)
    for i in range(1000):
        array.append(np.array([[i, -i]]))
    array.close()
    assert np.load(tmp_path / "a.npy").tolist() == [[i, -i] for i in range(1000)]
