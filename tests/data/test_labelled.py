"""Any source to tensors of three splits: what is recognised, what is filled, and who is tested."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from llmkit.data.labelled import SPLITS, TensorRows, read_encoder, read_labelled
from llmkit.data.splits import split_of
from llmkit.data.targets import ClassTarget, NumberTarget, read_target, recognise_task
from llmkit.errors import DataError, UsageError
from llmkit.recipe.schema import BaselineData


def read(source, *, vocab_size=1000, max_words=20, **fields):
    return read_labelled(BaselineData(source=str(source), **fields), vocab_size=vocab_size, max_words=max_words)


def count(data):
    return [len(data.splits[split]) for split in SPLITS]


@pytest.fixture
def people(tmp_path):
    """A table of 200 people, with gaps, a category, an identifier and a constant."""
    lines = ["id,age,city,planet,income"]
    for i in range(200):
        age = "?" if i % 20 == 0 else str(20 + i % 50)
        lines.append(f"{i},{age},{['Bonn', 'Ulm', 'Köln', ''][i % 4]},earth,{'high' if i % 50 > 25 else 'low'}")
    path = tmp_path / "people.csv"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_columns_are_recognised_and_what_is_filled_or_left_out_is_told(people):
    data = read(people)
    told = "\n".join(data.notes)
    assert (data.form, data.task, data.classes) == ("table", "classification", ["high", "low"])
    assert "target: income, 2 classes: high (96), low (104)" in told
    assert "numeric columns (1): age" in told
    assert "categorical columns (1): city (4)" in told
    assert "age: 10 of 200 missing, filled with the median" in told
    assert "id (numbers the rows)" in told
    assert "planet (always the same)" in told


def test_numbers_have_mean_0_and_spread_1_over_the_training_rows(people):
    inputs = read(people).splits["train"].inputs
    ages, gaps, cities = inputs[:, 0], inputs[:, 1], inputs[:, 2:]
    assert set(gaps.tolist()) == {0.0, 1.0}
    assert ages.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert ages.std(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    assert cities.sum(1).tolist() == [1.0] * len(cities)


def test_a_row_stays_in_its_split_when_rows_are_added(people, tmp_path):
    before = read(people)
    lines = people.read_text().splitlines()
    more = tmp_path / "more.csv"
    more.write_text("\n".join([lines[0], "999,77,Ulm,earth,low", *lines[1:]]) + "\n")
    after = read(more)
    assert sum(count(after)) == sum(count(before)) + 1
    assert sum(abs(a - b) for a, b in zip(count(after), count(before), strict=True)) == 1


def test_equal_rows_are_never_on_both_sides():
    data = BaselineData()
    splits = [split_of(f"row {i}", data) for i in range(3000)]
    assert splits == [split_of(f"row {i}", data) for i in range(3000)]
    assert [splits.count(name) / 3000 for name in SPLITS] == pytest.approx([0.7, 0.1, 0.2], abs=0.03)


def test_a_category_that_training_has_not_seen_is_none_of_them(people):
    encoder = read(people).encoder
    known, unknown = encoder.encode([{"age": 30, "city": "Ulm"}, {"age": 30, "city": "Rom"}])
    assert known[2:].sum() == 1
    assert unknown[2:].sum() == 0


def test_named_targets_columns_left_out_and_tasks_are_as_asked(people):
    data = read(people, target="age", leave_out=["city"])
    assert data.task == "regression"
    assert isinstance(data.target, NumberTarget)
    assert sum(count(data)) == 190
    assert any("10 rows without a value in age are left out" in note for note in data.notes)
    assert not any("city" in note for note in data.notes)


def test_a_missing_column_is_an_error_with_the_columns_there_are(people):
    with pytest.raises(DataError, match="no column 'salary'") as caught:
        read(people, target="salary")
    assert "id, age, city, planet, income" in caught.value.fix


@pytest.mark.parametrize(
    ("values", "task"),
    [
        (["a", "b"], "classification"),
        (["1", "2", "2"], "classification"),
        ([1.5, 2.0], "regression"),
        (list(range(30)), "regression"),
        ([True, False], "classification"),
    ],
)
def test_the_task_is_recognised_by_the_target(values, task):
    assert recognise_task(values) == task


def test_classes_are_one_whatever_type_they_have():
    target = ClassTarget(["1", "2", "true"])
    assert target.encode([1, "1", 1.0, " 2 ", True]).tolist() == [0, 0, 0, 1, 2]


def test_a_file_without_a_header_loses_no_row(tmp_path):
    path = tmp_path / "iris.csv"
    path.write_text("".join(f"{4 + i % 7}.{i % 10},{i}.5,{'abc'[i % 3]}\n" for i in range(90)))
    data = read(path)
    assert sum(count(data)) == 90
    assert data.classes == ["a", "b", "c"]
    assert any("no header" in note for note in data.notes)


def test_text_is_found_and_read_as_words(tmp_path):
    path = tmp_path / "reviews.jsonl"
    rows = [
        {"stars": i % 2, "review": f"this film number {i} is very {'good' if i % 2 else 'bad'} indeed , I say"}
        for i in range(80)
    ]
    rows += [{"stars": 1, "review": ""}, {"stars": None, "review": "no stars"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = read(path, target="stars", max_words=8)
    told = "\n".join(data.notes)
    assert (data.form, data.task, data.classes) == ("text", "classification", ["0", "1"])
    assert "text: column review" in told
    assert "80 of 81 texts are cut to their first 8 words" in told
    assert "1 texts hold no word" in told
    assert "1 rows without a value in stars" in told
    assert "number" in data.encoder.words
    assert data.encoder.num_words < 30


def test_equal_texts_are_in_the_same_split_whatever_their_label(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("label,text\n" + "".join(f"{'ab'[i // 60]},word number {i % 60}\n" for i in range(120)))
    data = read(path)
    seen = [{tuple(row) for row in data.splits[split].inputs.tolist()} for split in SPLITS]
    assert all(len(data.splits[split]) % 2 == 0 for split in SPLITS)
    # Rare words are one word: only texts that training knows can be told apart here.
    assert seen[0]


def test_batches_of_texts_are_as_long_as_their_longest():
    ids = torch.tensor([[5, 6, 7], [8, 0, 0], [9, 4, 0]], dtype=torch.int32)
    rows = TensorRows(ids, torch.tensor([0, 1, 2]), [3, 1, 2])
    batch = rows.batch([2, 1])
    assert batch["inputs"].tolist() == [[9, 4], [8, 0]]
    assert batch["inputs"].dtype == torch.int64
    assert batch["targets"].tolist() == [2, 1]


def test_the_documentation_keeps_its_own_splits():
    from llmkit.data import python_docs

    data = read("python-docs:labelled")
    assert count(data) == [len(list(python_docs.labelled(split))) for split in SPLITS]
    assert 8 <= len(data.classes) <= 12


def test_the_digits_are_split_alike_every_time():
    data = read("digits")
    assert data.splits["train"].inputs.shape[1:] == (1, 8, 8)
    assert sum(count(data)) == 1797
    assert data.content_hash == read("digits").content_hash
    assert data.content_hash != read("digits", test=0.3).content_hash


@pytest.mark.parametrize(("name", "task", "width"), [("wine", "classification", 13), ("diabetes", "regression", 10)])
def test_the_classic_tables_are_there(name, task, width):
    data = read(name)
    assert (data.task, data.splits["train"].inputs.shape[1]) == (task, width)


def test_without_scikit_learn_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(UsageError) as caught:
        read("wine")
    assert caught.value.fix == "pip install 'llmkit[baseline]'"


def test_a_slip_in_the_name_of_a_built_in_set_is_pointed_out():
    with pytest.raises(DataError) as caught:
        read("breast_cancer".replace("_", "-") + "s")
    assert "breast-cancer" in caught.value.fix


def test_too_few_rows_for_a_split_are_an_error(tmp_path):
    path = tmp_path / "few.csv"
    path.write_text("x,label\n1,a\n2,b\n3,a\n")
    with pytest.raises(DataError, match="split"):
        read(path)


def test_one_class_alone_is_an_error(tmp_path):
    path = tmp_path / "one.csv"
    path.write_text("x,label\n" + "".join(f"{i % 7},a\n" for i in range(50)))
    with pytest.raises(DataError, match="every row has the same target 'a'"):
        read(path)


@pytest.mark.parametrize("source", ["digits", "wine", "diabetes", "mackey-glass", "python-docs:labelled"])
def test_what_is_stored_with_a_model_encodes_the_same(source):
    data = read(source)
    stored = json.loads(json.dumps(data.to_json()))
    assert read_encoder(stored["encoder"]).to_json() == data.encoder.to_json()
    assert read_target(stored["target"]) == data.target


def test_a_column_to_leave_out_must_be_there(people):
    with pytest.raises(DataError, match="no column 'towns'"):
        read(people, leave_out=["towns"])


def test_classes_of_very_different_sizes_are_pointed_out(tmp_path):
    path = tmp_path / "rare.csv"
    path.write_text("x,label\n" + "".join(f"{i * i % 301},{'rare' if i % 10 == 0 else 'usual'}\n" for i in range(200)))
    data = read(path)
    rare, usual = data.class_counts.tolist()
    assert rare + usual == len(data.splits["train"])
    assert any(f"{usual} are usual, {rare} are rare" in note for note in data.notes)


def test_rows_that_only_a_column_left_out_tells_apart_are_in_the_same_split(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("id,x,y,label\n" + "".join(f"{i},{i % 40},{i % 40 / 3},{'ab'[i % 2]}\n" for i in range(200)))
    data = read(path, leave_out=["id"])
    train, test = ({tuple(row) for row in data.splits[name].inputs.tolist()} for name in ("train", "test"))
    assert test
    assert not train & test
    assert any("160 rows repeat another one" in note for note in data.notes)
