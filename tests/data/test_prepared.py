"""Prepared data as it is opened, and the rows that training cuts from it."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmkit.data.prepare import prepare
from llmkit.data.prepared import Split, TokenRows, open_prepared
from llmkit.errors import DataError
from llmkit.tokenizer import train_tokenizer


def make_split(tokens, offsets, num_bytes):
    return Split("train", np.array(tokens, dtype=np.uint16), np.array(offsets), np.array(num_bytes))


SPLIT = make_split([0, 5, 6, 7, 0, 8, 9, 0, 4, 0], [1, 5, 8, 10], [3, 2, 1])
"""Three documents: [5, 6, 7], [8, 9] and [4]."""


@pytest.fixture
def folder(tmp_path, tiny_tokenizer):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"the model {i}"}) for i in range(100)))
    prepare([str(tmp_path / "a.jsonl")], tiny_tokenizer, tmp_path / "data", validation=0.1)
    return tmp_path / "data"


def test_rows_share_one_id_and_targets_are_shifted():
    rows = TokenRows(SPLIT, 3)
    assert len(rows) == 3
    batch = rows.batch([2, 0])
    assert batch["input_ids"].tolist() == [[9, 0, 4], [0, 5, 6]]
    assert batch["targets"].tolist() == [[0, 4, 0], [5, 6, 7]]
    assert str(batch["input_ids"].dtype) == "torch.int64"
    assert batch["targets"].is_contiguous()


def test_every_id_but_the_first_is_a_target_once():
    rows = TokenRows(SPLIT, 3)
    targets = [int(t) for i in range(len(rows)) for t in rows.batch([i])["targets"][0]]
    assert targets == SPLIT.tokens[1:].tolist()


def test_a_split_shorter_than_a_row_is_an_error():
    with pytest.raises(DataError, match="10 tokens, too few"):
        TokenRows(SPLIT, 10)
    assert len(TokenRows(SPLIT, 9)) == 1


@pytest.mark.parametrize(
    ("max_tokens", "count", "num_bytes"), [(1, 5, 3), (5, 5, 3), (7, 5, 3), (8, 8, 5), (10, 10, 6), (99, 10, 6)]
)
def test_the_first_documents_are_whole_and_at_least_one(max_tokens, count, num_bytes):
    stream, size = SPLIT.first_documents(max_tokens)
    assert stream.tolist() == SPLIT.tokens[:count].tolist()
    assert size == num_bytes


def test_lengths_do_not_count_the_end_of_document_token():
    assert SPLIT.lengths.tolist() == [3, 2, 1]


def test_tokens_are_mapped_not_read(folder):
    assert isinstance(open_prepared(folder).split("train").tokens, np.memmap)


def test_a_folder_without_prepared_data_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"no manifest\.json"):
        open_prepared(tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        open_prepared(tmp_path / "absent")


@pytest.mark.parametrize(
    "manifest", ["{", "[]", '{"format": 1}', '{"format": 99, "tokenizer": {}, "splits": {}, "files": {}}']
)
def test_a_manifest_that_is_none_is_an_error(folder, manifest):
    (folder / "manifest.json").write_text(manifest)
    with pytest.raises(DataError, match=r"manifest|format 99"):
        open_prepared(folder)


def test_an_array_that_is_cut_short_or_missing_is_an_error(folder):
    path = folder / "tokens-train.npy"
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match="the manifest says"):
        open_prepared(folder)
    path.unlink()
    with pytest.raises(DataError, match="missing"):
        open_prepared(folder)


def test_an_array_that_is_none_is_an_error(folder):
    path = folder / "tokens-train.npy"
    path.write_bytes(b"x" * path.stat().st_size)
    with pytest.raises(DataError, match="damaged"):
        open_prepared(folder).split("train")


def test_an_unknown_split_is_an_error_with_those_there_are(folder):
    with pytest.raises(DataError, match="only"):
        open_prepared(folder).split("test")
    assert not open_prepared(folder).has_split("test")


def test_another_tokenizer_is_an_error(folder, texts):
    other = train_tokenizer(texts, algorithm="bpe", vocab_size=290)
    with pytest.raises(DataError, match="not the tokenizer"):
        open_prepared(folder).check_tokenizer(other, where="tok")
    other.save_pretrained(folder / "tokenizer")
    with pytest.raises(DataError, match="not the tokenizer"):
        _ = open_prepared(folder).tokenizer


def test_the_content_hash_follows_the_tokens(folder, tmp_path, tiny_tokenizer):
    before = open_prepared(folder).content_hash
    prepare([str(tmp_path / "a.jsonl")], tiny_tokenizer, tmp_path / "other", validation=0.2)
    assert open_prepared(tmp_path / "other").content_hash != before
