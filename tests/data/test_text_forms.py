"""Labelled texts that are no tables, each in the form that a known set has."""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile

import pytest

from llmkit.data.open_source import open_source
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData


def open_it(source, **fields):
    return open_source(BaselineData(source=str(source), **fields))


def pairs(table):
    """(text, label) of each row."""
    return [(row["text"], row["label"]) for row in table.rows]


def test_labels_before_a_colon_with_finer_ones_behind(tmp_path):
    path = tmp_path / "TREC.train"
    path.write_bytes(b"DESC:manner How did it develop ?\nENTY:food What is \xf0 ?\n" * 5)
    table = open_it(path, encoding="latin-1")
    assert table.rows[1] == {"label": "ENTY", "fine": "ENTY:food", "text": "What is ð ?"}
    assert table.target == "label"
    assert any("2 finer labels" in note for note in table.notes)


def test_labels_before_a_colon_without_finer_ones(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("good: I like it\nbad: no: never\n" * 4)
    assert pairs(open_it(path))[:2] == [("I like it", "good"), ("no: never", "bad")]


def test_one_line_of_another_form_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("good: I like it\nbad: no\n" * 20 + "what is this\n")
    with pytest.raises(DataError, match="no label with a colon") as caught:
        open_it(path)
    assert "x.txt:41" in str(caught.value)


@pytest.mark.parametrize("source", ["rt-polarity.pos", "rt-polarity.*", "."])
def test_one_file_per_class_by_either_file_a_pattern_or_the_folder(tmp_path, source):
    (tmp_path / "rt-polarity.pos").write_bytes(b"good \x85 film\ncaf\xe9\n")
    (tmp_path / "rt-polarity.neg").write_bytes(b"bad film\n\n")
    table = open_it(tmp_path / source, encoding="cp1252")
    assert pairs(table) == [("bad film", "neg"), ("good … film", "pos"), ("café", "pos")]
    assert table.notes[0] == "form: a file per class (neg, pos), a text per line"


def test_text_files_of_one_folder_are_classes_by_their_names(tmp_path):
    for name in ("happy", "sad"):
        (tmp_path / f"{name}.txt").write_text(f"so {name}\n")
    assert pairs(open_it(tmp_path)) == [("so happy", "happy"), ("so sad", "sad")]


def test_labels_beside_texts_and_their_names_are_found_by_name(tmp_path):
    (tmp_path / "tweets_text.txt.gz").write_bytes(gzip.compress(b"go\nsad day\nhi\n"))
    (tmp_path / "tweets_labels.txt").write_text("1\n0\n1\n")
    (tmp_path / "tweets_mapping.txt").write_text("0\t\u2764\t_red_heart_\t\n1\t\u2600\t_sun_\t\n")
    table = open_it(tmp_path / "tweets_text.txt.gz")
    assert pairs(table) == [("go", "1"), ("sad day", "0"), ("hi", "1")]
    assert table.class_names == {"0": "red_heart", "1": "sun"}


def test_labels_and_names_may_be_named(tmp_path):
    (tmp_path / "a.txt").write_text("go\nsad day\n")
    (tmp_path / "b.txt").write_text("2\n1\n")
    (tmp_path / "c.txt").write_text("bad\ngood\n")
    fields = {"labels": str(tmp_path / "b.txt"), "class_names": str(tmp_path / "c.txt")}
    table = open_it(tmp_path / "a.txt", **fields)
    assert [table.class_names[label] for _, label in pairs(table)] == ["good", "bad"]


def test_as_many_labels_as_texts_are_needed(tmp_path):
    (tmp_path / "a.txt").write_text("go\nsad day\n")
    (tmp_path / "b.txt").write_text("2\n")
    with pytest.raises(DataError, match="1 labels for 2 texts"):
        open_it(tmp_path / "a.txt", labels=str(tmp_path / "b.txt"))


def test_names_that_do_not_fit_the_classes_are_an_error(tmp_path):
    (tmp_path / "a.csv").write_text("x,label\n1,a\n2,b\n")
    (tmp_path / "n.txt").write_text("bad\ngood\n")
    with pytest.raises(DataError, match="no names for the classes a, b"):
        open_it(tmp_path / "a.csv", class_names=str(tmp_path / "n.txt"))


def test_a_folder_of_split_files_keeps_the_splits_and_names_the_classes(tmp_path):
    (tmp_path / "train.csv").write_text('"1","a b","c"\n"2","d","e"\n"1","f","g"\n"1","f","h"\n')
    (tmp_path / "test.csv").write_text('"2","x","y"\n"1","x","y"\n"2","z","y"\n"2","z","y"\n')
    (tmp_path / "classes.txt").write_text("World\nSports\n")
    table = open_it(tmp_path)
    assert sorted(table.splits) == ["test"] * 4 + ["train"] * 4
    assert table.class_names == {"1": "World", "2": "Sports"}


def test_class_folders_of_texts_in_an_archive(tmp_path):
    path = tmp_path / "reviews.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for name, text in {"txt/pos/1.txt": "good", "txt/neg/1.txt": "bad", "README": "about"}.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    table = open_it(path)
    assert pairs(table) == [("bad", "neg"), ("good", "pos")]
    assert any("left out: 1 other files (README)" in note for note in table.notes)


def test_class_folders_below_train_and_test(tmp_path):
    for split in ("train", "test"):
        for label in ("pos", "neg"):
            folder = tmp_path / split / label
            folder.mkdir(parents=True)
            (folder / "1.txt").write_text(f"{split} {label}")
    table = open_it(tmp_path)
    assert {(row["text"], split) for row, split in zip(table.rows, table.splits, strict=True)} == {
        (f"{split} {label}", split) for split in ("train", "test") for label in ("pos", "neg")
    }


def test_a_test_file_of_its_own_form(tmp_path):
    (tmp_path / "train.tsv").write_text("good film\t1\nbad film\t0\n" * 3)
    (tmp_path / "heldout.tsv").write_text("fine film\t1\npoor film\t0\n" * 2)
    table = open_it(tmp_path / "train.tsv", test=str(tmp_path / "heldout.tsv"))
    assert table.splits == [""] * 6 + ["test"] * 4


def test_two_test_splits_are_an_error(tmp_path):
    for name in ("train", "test"):
        (tmp_path / f"{name}.tsv").write_text("good film\t1\nbad film\t0\n" * 3)
    with pytest.raises(DataError, match="a test split of its own"):
        open_it(tmp_path, test=str(tmp_path / "test.tsv"))


def test_plain_text_without_labels_says_what_is_known(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("emma\nolivia\n")
    with pytest.raises(DataError, match="not plain where its labels are") as caught:
        open_it(path)
    assert "data.task=language" in caught.value.fix


def test_parts_of_one_set_in_a_folder_are_read_as_one(tmp_path):
    for i in range(2):
        (tmp_path / f"part-{i}.jsonl").write_text(f'{{"text": "t {i}", "label": "a"}}\n')
    table = open_it(tmp_path)
    assert [row["text"] for row in table.rows] == ["t 0", "t 1"]


def test_an_encoding_for_json_is_an_error_as_json_has_one(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n')
    with pytest.raises(DataError, match="no file in latin-1"):
        open_it(path, encoding="latin-1")


def test_a_table_in_an_archive_is_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("sms/train.tsv", "ham\thi you {i}\nspam\twin it\n" * 3)
        archive.writestr("sms/readme.txt", "about")
    table = open_it(tmp_path / "x.zip")
    assert table.splits == ["train"] * 6
