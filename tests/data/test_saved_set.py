"""Data sets that `datasets` has saved in a folder."""

from __future__ import annotations

import io
import json

import datasets
import numpy as np
import pytest
from PIL import Image

from llmkit.data.documents import read_documents, read_records
from llmkit.data.labelled import read_labelled
from llmkit.data.new_rows import read_new_rows
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData

NAMES = ["left", "top"]


def read(folder, **fields):
    return read_labelled(BaselineData(source=str(folder), **fields), vocab_size=100, max_words=10)


def picture(number):
    """Bright on one side, by its class; no two alike."""
    pixels = np.full((6, 6), number % 50, dtype=np.uint8)
    if number % 2:
        pixels[:3] += 150
    else:
        pixels[:, :3] += 150
    pixels[5, 5] = number
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def pictures(numbers):
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=NAMES)})
    rows = {"image": [{"bytes": picture(i), "path": None} for i in numbers], "label": [i % 2 for i in numbers]}
    return datasets.Dataset.from_dict(rows, features=features)


@pytest.fixture
def folder(tmp_path):
    """Pictures in two splits."""
    datasets.DatasetDict(train=pictures(range(60)), test=pictures(range(60, 80))).save_to_disk(tmp_path / "set")
    return tmp_path / "set"


def test_pictures_keep_their_splits_and_the_names_of_their_classes(folder):
    labelled = read(folder)
    assert labelled.classes == NAMES
    assert {name: len(rows) for name, rows in labelled.splits.items()}["test"] == 20
    assert len(labelled.splits["train"]) + len(labelled.splits["validation"]) == 60
    assert len(read(folder / "test", test=0.5).splits["test"]) < 20


def test_a_table_keeps_its_splits_too(tmp_path):
    rows = {"text": [f"a text about {i} things" for i in range(30)], "label": [i % 2 for i in range(30)]}
    whole = datasets.Dataset.from_dict(rows)
    datasets.DatasetDict(train=whole.select(range(20)), validation=whole.select(range(20, 30))).save_to_disk(
        tmp_path / "o"
    )
    labelled = read(tmp_path / "o", test=0.3)
    assert labelled.form == "text"
    assert len(labelled.splits["validation"]) == 10


def test_new_pictures_of_a_column_are_read_and_scaled(folder, tmp_path):
    stored = read(folder).to_json()
    pictures(range(80, 83)).to_parquet(tmp_path / "new.parquet")
    found = read_new_rows(stored, str(tmp_path / "new.parquet"))
    assert found.rows.inputs.shape == (3, 1, 6, 6)
    assert read_new_rows(stored, str(folder / "test")).rows.inputs.shape == (20, 1, 6, 6)
    large = datasets.Dataset.from_dict(
        {"image": [Image.new("L", (12, 12))]}, features=datasets.Features(image=datasets.Image())
    )
    large.to_parquet(tmp_path / "large.parquet")
    found = read_new_rows(stored, str(tmp_path / "large.parquet"))
    assert found.rows.inputs.shape == (1, 1, 6, 6)
    assert found.notes == ["1 of 1 pictures are scaled to 6 x 6, their middle kept"]
    datasets.Dataset.from_dict({"text": ["no picture"]}).to_parquet(tmp_path / "texts.parquet")
    with pytest.raises(DataError, match="none of its columns holds pictures"):
        read_new_rows(stored, str(tmp_path / "texts.parquet"))


def test_every_verb_reads_the_rows_of_the_training_split(tmp_path):
    train = datasets.Dataset.from_dict({"text": ["one", "two"]})
    datasets.DatasetDict(test=train.select([0]), train=train).save_to_disk(tmp_path / "set")
    assert [record.values for record in read_records(str(tmp_path / "set"))] == [{"text": "one"}, {"text": "two"}]
    assert [document.text for document in read_documents([str(tmp_path / "set" / "test")])] == ["one"]


def test_without_a_training_split_one_must_be_named(tmp_path):
    some = datasets.Dataset.from_dict({"text": ["one"]})
    datasets.DatasetDict(a=some, b=some).save_to_disk(tmp_path / "set")
    with pytest.raises(DataError, match="no split 'train'") as caught:
        list(read_records(str(tmp_path / "set")))
    assert str(tmp_path / "set" / "b") in caught.value.fix


def test_a_set_that_is_not_whole_is_an_error(folder):
    next((folder / "test").glob("*.arrow")).unlink()
    with pytest.raises(DataError, match="cannot be opened"):
        read(folder)
    (folder / "dataset_dict.json").write_text(json.dumps({}))
    with pytest.raises(DataError, match="cannot be opened"):
        read(folder)
