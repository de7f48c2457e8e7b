"""Names of the hub, and rows as `datasets` streams them. A local file stands in for the hub."""

from __future__ import annotations

import json

import datasets
import pytest

from llmkit.data.documents import read_documents, read_records
from llmkit.data.hub import parse_hub_name
from llmkit.errors import DataError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:owner/name", ("owner/name", None, None)),
        ("hf:owner/name:config", ("owner/name", "config", None)),
        ("hf:owner/name@test", ("owner/name", None, "test")),
        ("hf:owner/na.me-1:sub set@train[:10%]", ("owner/na.me-1", "sub set", "train[:10%]")),
        ("hf:squad", ("squad", None, None)),
    ],
)
def test_a_name_of_the_hub_is_taken_apart(text, expected):
    assert parse_hub_name(text) == expected


@pytest.mark.parametrize("text", ["hf:", "hf:a/b/c", "hf:../x", "hf:/tmp/x", "hf:a b"])
def test_what_is_no_name_of_the_hub_is_an_error(text):
    with pytest.raises(DataError, match="not a name"):
        parse_hub_name(text)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """`owner/name` with a split of two rows under each of the given names."""
    load_dataset = datasets.load_dataset

    def offer(*splits: str):
        files = {}
        for split in splits:
            files[split] = str(tmp_path / f"{split}.jsonl")
            rows = [{"text": f"{split} one", "n": 1}, {"text": f"{split} two", "n": 2}]
            (tmp_path / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))

        def load(name, config, *, split, revision, streaming):
            assert (name, config, revision, streaming) == ("owner/name", None, None, True)
            return load_dataset(
                "json", data_files=files, split=split, streaming=True, cache_dir=str(tmp_path / "cache")
            )

        monkeypatch.setattr(datasets, "load_dataset", load)

    return offer


def test_the_rows_of_a_split_arrive_with_their_place(hub):
    hub("train", "test")
    records = list(read_records("hf:owner/name@test"))
    assert [(r.where, r.values["text"]) for r in records] == [
        ("hf:owner/name@test:1", "test one"),
        ("hf:owner/name@test:2", "test two"),
    ]


def test_without_a_split_it_is_train_or_the_only_one(hub):
    hub("train", "test")
    assert [d.text for d in read_documents(["hf:owner/name"])] == ["train one", "train two"]
    hub("validation")
    assert [d.text for d in read_documents(["hf:owner/name"])] == ["validation one", "validation two"]


def test_without_a_train_split_the_splits_are_listed(hub):
    hub("validation", "test")
    with pytest.raises(DataError) as caught:
        list(read_records("hf:owner/name"))
    assert "@validation, @test" in caught.value.fix


def test_what_the_hub_refuses_is_an_error_of_ours(hub):
    hub("train")
    with pytest.raises(DataError) as caught:
        list(read_records("hf:owner/name@nowhere"))
    assert caught.value.where == "hf:owner/name@nowhere"
