"""New rows for a trained network: read by what was stored beside it, and encoded as in training."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from llmkit.data.labelled import read_labelled
from llmkit.data.new_rows import encode_new_rows, read_new_rows
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData


def train(source, *, max_words=20, **fields):
    """The training data, and what is stored with the network."""
    fields = {"validation": 0.0, "test": 0.0, **fields}
    data = read_labelled(BaselineData(source=str(source), **fields), vocab_size=1000, max_words=max_words)
    return data, json.loads(json.dumps(data.to_json()))


def inputs_of(new):
    return new.rows.batch(range(len(new.rows)))["inputs"]


@pytest.fixture
def people(tmp_path):
    path = tmp_path / "people.csv"
    lines = [f"{20 + i % 30},{['Ulm', 'Bonn'][i % 2]},{'high' if i % 5 else 'low'}" for i in range(60)]
    path.write_text("\n".join(["age,city,income", *lines]) + "\n")
    return path


def test_the_training_file_itself_gives_the_training_tensors(people):
    data, stored = train(people)
    new = read_new_rows(stored, str(people))
    assert torch.equal(inputs_of(new), data.splits["train"].inputs)
    assert new.answers[:2] == ["low", "high"]
    assert new.names[0] == f"{people}:2"


@pytest.mark.parametrize(
    "text",
    [
        "city,age\nUlm,33\nRom,\n",
        '{"age": 33, "city": "Ulm"}\n{"city": "Rom"}\n',
        "33,Ulm\n?,Rom\n",
        "33,Ulm,high\n?,Rom,low\n",
    ],
)
def test_csv_json_and_rows_without_names_are_the_same_rows(people, tmp_path, text):
    _, stored = train(people)
    path = tmp_path / "new.txt"
    path.write_text(text)
    new = read_new_rows(stored, str(path))
    told = "\n".join(new.notes)
    expected = encode_new_rows(stored, [{"age": 33, "city": "Ulm"}, {"age": None, "city": "Rom"}])
    assert torch.equal(inputs_of(new), inputs_of(expected))
    assert "age: 1 of 2 missing, filled with the median" in told
    assert "city: 1 values are new ('Rom'), read as none of those known" in told


def test_a_column_that_is_not_there_is_an_error(people, tmp_path):
    _, stored = train(people)
    path = tmp_path / "new.jsonl"
    path.write_text('{"age": 33}\n')
    with pytest.raises(DataError, match="not there: city"):
        read_new_rows(stored, str(path))
    (tmp_path / "new.csv").write_text("1,2,3,4,5\n")
    with pytest.raises(DataError, match="it has 5 fields"):
        read_new_rows(stored, str(tmp_path / "new.csv"))


@pytest.fixture
def spam(tmp_path):
    path = tmp_path / "spam"
    path.write_text("".join(f"ham\tsee you at home {i}\nspam\twin a prize {i}\n" for i in range(20)))
    return path


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("x.txt", "win a home\nsee strange prize\n"),
        ("x.tsv", "?\twin a home\n?\tsee strange prize\n"),
        ("x.csv", "win a home\nsee strange prize\n"),
        ("x.jsonl", '{"column-2": "win a home"}\n{"column-2": "see strange prize"}\n'),
    ],
)
def test_texts_may_come_by_the_line_or_in_columns(spam, tmp_path, name, text):
    data, stored = train(spam)
    path = tmp_path / name
    path.write_text(text)
    new = read_new_rows(stored, str(path))
    words = [data.encoder.ids[word] for word in ["win", "a", "home", "see", "prize"]]
    assert inputs_of(new).tolist() == [words[:3], [words[3], 1, words[4]]]
    assert any("1 of 6 words are not known" in note for note in new.notes)


def test_a_sentence_that_holds_the_name_of_the_column_is_no_header(spam, tmp_path):
    _, stored = train(spam)
    path = tmp_path / "new.txt"
    path.write_text("This text was good, but win a home\n")
    assert len(read_new_rows(stored, str(path)).raws) == 1


def test_texts_of_several_columns_are_joined_as_in_training(tmp_path):
    path = tmp_path / "news.csv"
    rows = [
        f'"{i % 2 + 1}","title {i} of the news today","what {i} happened in the far country of old"' for i in range(40)
    ]
    path.write_text("\n".join(rows) + "\n")
    data, stored = train(path)
    new = read_new_rows(stored, str(path))
    assert torch.equal(inputs_of(new), data.splits["train"].inputs.long())


def test_pictures_are_scaled_and_turned_to_what_the_network_takes(tmp_path):
    for k, label in enumerate(("a", "b")):
        (tmp_path / "set" / label).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), 100 + k, dtype=np.uint8)).save(tmp_path / "set" / label / "1.png")
    data, stored = train(tmp_path / "set")
    pixels = np.zeros((8, 16, 3), dtype=np.uint8)
    pixels[:, 2:14] = 101
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    new = read_new_rows(stored, str(tmp_path / "wide.png"))
    assert torch.equal(inputs_of(new)[0], data.splits["train"].batch([1])["inputs"][0])
    assert "1 of 1 pictures are scaled to 4 x 4" in "\n".join(new.notes)
    assert "1 pictures are turned into grey" in "\n".join(new.notes)
    folder = read_new_rows(stored, str(tmp_path / "set"))
    assert folder.names == ["a/1.png", "b/1.png"]
    assert torch.equal(inputs_of(folder), data.splits["train"].batch([0, 1])["inputs"])


def test_pictures_that_are_there_already_are_bytes_or_arrays(tmp_path):
    _, stored = train("digits")
    array = np.arange(64, dtype=np.uint8).reshape(8, 8) % 17
    file = io.BytesIO()
    Image.fromarray(array).save(file, "PNG")
    new = encode_new_rows(stored, [array, file.getvalue()])
    assert torch.equal(*inputs_of(new))
    with pytest.raises(DataError, match="5 x 5, the network takes 8 x 8"):
        encode_new_rows(stored, [np.zeros((5, 5), dtype=np.uint8)])


def test_a_series_is_forecast_from_its_last_window(tmp_path):
    path = tmp_path / "sales.csv"
    path.write_text("day,a,b\n" + "".join(f"2024-01-{i:02},{i},{i * i}\n" for i in range(1, 31)))
    data, stored = train(path, task="forecast", look_back=3, target="b")
    new = read_new_rows(stored, str(path))
    assert len(new.rows) == 1
    assert new.last.tolist() == [[900.0]]
    standard = (np.array([[28, 784], [29, 841], [30, 900]]) - data.encoder.means) / data.encoder.scales
    assert inputs_of(new)[0].numpy() == pytest.approx(standard, abs=1e-5)
    # A network that answers 0 forecasts the last value.
    assert data.target.decode(torch.zeros(1, 1), new.last).tolist() == [[900.0]]
    path.write_text("day,a,b\n2024-01-01,1,1\n")
    with pytest.raises(DataError, match="1 rows are too few"):
        read_new_rows(stored, str(path))


def test_prompts_of_a_language_are_beginnings(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("emma\nava\nmae\n")
    data, stored = train(path, task="language")
    (tmp_path / "begin.txt").write_text("em\nazm\n")
    new = read_new_rows(stored, str(tmp_path / "begin.txt"))
    a, e, m = (data.encoder.ids[sign] for sign in "aem")
    assert inputs_of(new).tolist() == [[1, e, m, 0], [1, a, 2, m]]
    assert new.notes == ["1 characters are not known"]


@pytest.mark.parametrize("names", [("x", "y"), ("train_images", "train_labels"), ("My-X", "My-y")])
def test_an_array_file_of_training_is_one_for_new_rows_whatever_its_arrays_are_called(tmp_path, names):
    path = tmp_path / "set.npz"
    pictures = np.random.default_rng(0).integers(0, 256, (10, 4, 4), dtype=np.uint8)
    np.savez(path, **{names[0]: pictures, names[1]: np.arange(10) % 2})
    data, stored = train(path)
    new = read_new_rows(stored, str(path))
    assert torch.equal(inputs_of(new), data.splits["train"].batch(range(10))["inputs"])
    assert new.names[0] == f"{path}:1"


def test_all_arrays_of_a_file_are_read_and_told_apart(tmp_path):
    path = tmp_path / "set.npz"
    x, y = np.random.default_rng(0).integers(0, 256, (6, 4, 4), dtype=np.uint8), np.arange(6) % 2
    np.savez(path, x_train=x[:4], y_train=y[:4], x_test=x[4:], y_test=y[4:])
    _, stored = train(path)
    new = read_new_rows(stored, str(path))
    assert len(new.rows) == 6
    assert [new.names[0], new.names[-1]] == [f"{path}:x_train:1", f"{path}:x_test:2"]


def test_rows_of_a_table_come_from_arrays_too(tmp_path):
    path = tmp_path / "table.npz"
    x = np.random.default_rng(0).normal(size=(20, 3))
    np.savez(path, x=x, y=np.arange(20) % 2)
    data, stored = train(path)
    np.savez(tmp_path / "new.npz", features=x[:5])
    new = read_new_rows(stored, str(tmp_path / "new.npz"))
    assert torch.equal(inputs_of(new), data.splits["train"].inputs[:5])
    np.savez(tmp_path / "new.npz", features=x[:5, None])
    with pytest.raises(DataError, match="5x1x3 holds no rows"):
        read_new_rows(stored, str(tmp_path / "new.npz"))
    np.savez(tmp_path / "new.npz", rest=x)
    with pytest.raises(DataError, match="to be read by its name: rest"):
        read_new_rows(stored, str(tmp_path / "new.npz"))
