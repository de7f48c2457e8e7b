"""idx files as MNIST has them, and npz arrays."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from llmkit.data.arrays import parse_idx, resize
from llmkit.data.labelled import read_labelled
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData


def idx(array, kind=0x08):
    """The bytes of an idx file, worked out by hand from its description."""
    head = bytes([0, 0, kind, array.ndim]) + b"".join(struct.pack(">I", size) for size in array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()


def read(source, **fields):
    fields = {"validation": 0.0, "test": 0.0, **fields}
    return read_labelled(BaselineData(source=str(source), **fields), vocab_size=10, max_words=10)


def pixels(count, size=5):
    return np.random.default_rng(count).integers(0, 256, (count, size, size), dtype=np.uint8)


@pytest.fixture
def mnist(tmp_path):
    for name, count in (("train", 30), ("t10k", 10)):
        labels = np.arange(count, dtype=np.uint8) % 3
        (tmp_path / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels(count))))
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


def test_a_folder_of_idx_files_keeps_train_and_t10k(mnist):
    data = read(mnist)
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [30, 0, 10]
    assert data.splits["test"].inputs[:, 0].tolist() == pixels(10).tolist()
    assert data.splits["test"].targets.tolist() == [0, 1, 2, 0, 1, 2, 0, 1, 2, 0]
    assert data.class_counts.tolist() == [10, 10, 10]


@pytest.mark.parametrize("name", ["train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte"])
def test_one_idx_file_finds_its_partner(mnist, name):
    assert len(read(mnist / name).splits["train"]) == 30


def test_idx_files_of_other_types():
    values = np.array([[1.5, -2.0]], dtype=np.float32)
    assert parse_idx(idx(values, 0x0D), "x").tolist() == [[1.5, -2.0]]


@pytest.mark.parametrize(("change", "message"), [(lambda d: d[:-1], "bytes"), (lambda d: b"PNG" + d, "no idx file")])
def test_a_damaged_idx_file_is_an_error(change, message):
    with pytest.raises(DataError, match=message):
        parse_idx(change(idx(pixels(2))), "x")


def test_images_without_labels_are_an_error(mnist):
    (mnist / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match="no partner"):
        read(mnist)


def test_arrays_in_npz_by_their_names(tmp_path):
    path = tmp_path / "x.npz"
    x = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), dtype=np.uint8)
    y = (np.arange(12) % 2)[:, None]
    np.savez(path, x_train=x[:8], y_train=y[:8], x_test=x[8:], y_test=y[8:])
    data = read(path)
    assert data.splits["train"].inputs.shape == (8, 3, 4, 4)
    assert data.splits["test"].inputs[0, 2].tolist() == x[8, :, :, 2].tolist()
    assert data.splits["test"].targets.tolist() == [0, 1, 0, 1]


def test_one_column_per_class_is_read_as_classes(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, images=pixels(6), labels=np.eye(3)[[0, 1, 2, 2, 1, 0]])
    data = read(path)
    assert data.splits["train"].targets.tolist() == [0, 1, 2, 2, 1, 0]
    assert any("one column per class" in note for note in data.notes)


def test_flat_rows_in_npz_are_a_table(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.random.default_rng(0).normal(size=(20, 3)), y=np.linspace(0.1, 1.1, 20))
    data = read(path)
    assert (data.form, data.task) == ("table", "regression")
    assert data.splits["train"].inputs.shape == (20, 3)


def test_python_objects_in_npz_are_never_loaded(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=np.array([{"a": 1}, None], dtype=object), y=np.arange(2))
    with pytest.raises(DataError, match="can run code"):
        read(path)


def test_arrays_of_other_names_are_an_error(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, one=pixels(3), two=np.arange(3))
    with pytest.raises(DataError, match="belong together: one, two"):
        read(path)


def test_as_many_labels_as_pictures_are_needed(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=pixels(3), y=np.arange(4))
    with pytest.raises(DataError, match="4 labels for 3 pictures"):
        read(path)


def test_arrays_are_scaled_as_pictures_are():
    one = np.full((1, 1, 4, 8), 7, dtype=np.uint8)
    one[:, :, :, 2:6] = 90
    assert resize(one, 2).tolist() == [[[[90, 90], [90, 90]]]]
