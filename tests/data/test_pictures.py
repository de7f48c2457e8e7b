"""Pictures from files, folders, archives and columns."""

from __future__ import annotations

import io
import sys
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from llmkit.data.labelled import read_labelled
from llmkit.data.pictures import class_and_split, decode_picture, png_of
from llmkit.errors import DataError, UsageError
from llmkit.recipe.schema import BaselineData


def png(pixels, mode=None, form="PNG"):
    """A picture file of an array."""
    file = io.BytesIO()
    Image.fromarray(np.asarray(pixels, dtype=np.uint8), mode).save(file, form)
    return file.getvalue()


@pytest.mark.parametrize("channels", [1, 3])
def test_a_picture_is_found_again_in_its_png(channels):
    pixels = np.arange(channels * 2 * 3, dtype=np.uint8).reshape(channels, 2, 3) * 14
    found = np.asarray(Image.open(io.BytesIO(png_of(pixels))))
    assert np.array_equal(found.reshape(2, 3, channels).transpose(2, 0, 1), pixels)


def test_numbers_that_are_no_bytes_go_from_black_to_white():
    found = Image.open(io.BytesIO(png_of(np.array([[[-1.0, 0.0, 3.0]]]))))
    assert np.asarray(found).tolist() == [[0, 64, 255]]


def noise(seed, height=6, width=6, channels=3):
    return np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)


def read(source, **fields):
    fields = {"validation": 0.0, "test": 0.0, **fields}
    return read_labelled(BaselineData(source=str(source), **fields), vocab_size=10, max_words=10)


@pytest.fixture
def animals(tmp_path):
    """Two classes in train and test, eight and four pictures each."""
    for split, count in (("train", 8), ("test", 4)):
        for k, label in enumerate(("cat", "dog")):
            folder = tmp_path / "animals" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                (folder / f"{i}.png").write_bytes(png(noise(100 * k + 10 * count + i)))
    return tmp_path / "animals"


def test_a_folder_per_class_keeps_its_splits(animals):
    data = read(animals)
    assert data.classes == ["cat", "dog"]
    assert [len(data.splits[name]) for name in ("train", "validation", "test")] == [16, 0, 8]
    first = (noise(80)).transpose(2, 0, 1)
    assert np.array_equal(data.splits["train"].inputs[0].numpy(), first)


def test_batches_have_mean_0_and_spread_1_over_the_training_pictures(animals):
    rows = read(animals).splits["train"]
    inputs = rows.batch(range(len(rows)))["inputs"]
    assert inputs.mean((0, 2, 3)).tolist() == pytest.approx([0.0] * 3, abs=1e-5)
    assert inputs.std((0, 2, 3), correction=0).tolist() == pytest.approx([1.0] * 3, abs=1e-5)


def test_an_archive_is_read_as_its_folder_is(animals, tmp_path):
    path = tmp_path / "animals.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        archive.add(animals, "animals")
    one, other = read(animals), read(path)
    assert np.array_equal(one.splits["test"].inputs, other.splits["test"].inputs)
    assert one.encoder == other.encoder


def test_equal_pictures_are_in_the_same_split(tmp_path):
    for label in ("a", "b"):
        (tmp_path / label).mkdir()
        for i in range(60):
            (tmp_path / label / f"{i}.png").write_bytes(png(noise(i)))
    data = read(tmp_path, test=0.3)
    assert all(len(rows) % 2 == 0 for rows in data.splits.values())


def test_pictures_of_different_sizes_are_an_error_until_a_size_is_given(animals):
    (animals / "train" / "cat" / "wide.png").write_bytes(png(noise(1, 8, 12)))
    with pytest.raises(DataError, match=r"most have 6 x 6, .*wide\.png has 12 x 8") as caught:
        read(animals)
    assert "data.image_size=6" in caught.value.fix
    data = read(animals, image_size=4)
    assert data.splits["train"].inputs.shape == (17, 3, 4, 4)
    assert any("scaled to 4 x 4" in note for note in data.notes)


def test_the_middle_of_a_picture_is_kept():
    wide = np.zeros((4, 12), dtype=np.uint8)
    wide[:, 4:8] = 200
    assert decode_picture(png(wide), "x", size=(4, 4)).tolist() == [[200] * 4] * 4


def test_grey_stays_grey_and_becomes_colour_among_colour(tmp_path):
    for label, pixels in {"a": noise(1)[..., 0], "b": noise(2)[..., 0]}.items():
        (tmp_path / label).mkdir()
        (tmp_path / label / "1.png").write_bytes(png(pixels))
    assert read(tmp_path).splits["train"].inputs.shape == (2, 1, 6, 6)
    (tmp_path / "b" / "2.png").write_bytes(png(noise(3)))
    inputs = read(tmp_path).splits["train"].inputs
    assert inputs.shape == (3, 3, 6, 6)
    assert inputs[0, 0].tolist() == inputs[0, 2].tolist() == noise(1)[..., 0].tolist()


def test_what_is_transparent_is_white():
    pixels = np.zeros((2, 2, 4), dtype=np.uint8)
    pixels[0, 0] = (10, 20, 30, 255)
    array = decode_picture(png(pixels), "x")
    assert array[0, 0].tolist() == [10, 20, 30]
    assert array[1, 1].tolist() == [255, 255, 255]


def test_pictures_of_16_bits_are_scaled_to_8():
    file = io.BytesIO()
    Image.fromarray(np.array([[0, 65535], [32768, 257]], dtype=np.uint16)).save(file, "PNG")
    assert decode_picture(file.getvalue(), "x").tolist() == [[0, 255], [127, 1]]


def test_a_picture_that_is_cut_short_is_an_error(animals):
    path = animals / "train" / "cat" / "0.png"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(DataError, match="cannot be read") as caught:
        read(animals)
    assert caught.value.where == str(path)


def test_what_is_no_picture_is_said_without_names_of_objects():
    with pytest.raises(DataError) as caught:
        decode_picture(b"some text", "a.png")
    assert caught.value.message == "this picture cannot be read (no known format)"


def test_a_picture_outside_of_the_class_folders_is_an_error(animals):
    (animals / "train" / "loose.png").write_bytes(png(noise(1)))
    with pytest.raises(DataError, match="in no folder of a class"):
        read(animals)


def test_folders_say_class_and_split():
    assert class_and_split("cifar10/train/cat/1.png") == ("cat", "train")
    assert class_and_split("cats/1.png") == ("cats", "")
    assert class_and_split("test/1.png") == ("", "test")


def test_without_pillow_the_error_says_what_to_install(animals, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(UsageError) as caught:
        read(animals)
    assert caught.value.fix == "pip install 'llmkit[baseline]'"


def test_a_column_of_pictures_in_parquet_and_the_names_of_its_classes(tmp_path):
    values = [{"bytes": png(noise(i)), "path": f"{i}.png"} for i in range(6)]
    table = pa.table({"image": values, "label": [0, 1] * 3, "note": ["x"] * 6})
    features = '{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}'
    path = tmp_path / "train.parquet"
    pq.write_table(table.replace_schema_metadata({b"huggingface": features.encode()}), path)
    data = read(path)
    assert data.classes == ["cat", "dog"]
    assert data.splits["train"].inputs.shape == (6, 3, 6, 6)
    assert any("not used: note" in note for note in data.notes)


def test_a_forecast_of_pictures_is_an_error(animals):
    with pytest.raises(DataError, match="told apart by class"):
        read(animals, task="forecast")


def test_a_set_of_the_hub_brings_pictures_and_the_names_of_its_classes(monkeypatch):
    import datasets

    from llmkit.data import hub

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    rows = {"img": [Image.fromarray(noise(i)) for i in range(6)], "label": [0, 1] * 3}
    found = datasets.Dataset.from_dict(rows, features=features).to_iterable_dataset()
    monkeypatch.setattr(hub, "open_hub", lambda text, commit=None: found)
    data = read("hf:owner/animals")
    assert data.classes == ["cat", "dog"]
    assert np.array_equal(data.splits["train"].inputs[1].numpy(), noise(1).transpose(2, 0, 1))
