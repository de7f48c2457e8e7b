"""Text to prepared data and back: nothing lost, held out by content, whole or absent."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmkit.data.prepare import ArrayFile, prepare
from llmkit.data.prepared import open_prepared
from llmkit.errors import DataError, LlmkitError, UsageError
from llmkit.tokenizer import decode_ids, encode_text, end_of_document_id, tokenizer_hash


@pytest.fixture
def corpus(tmp_path, texts):
    """200 documents as JSON lines."""
    path = tmp_path / "corpus.jsonl"
    rows = [{"text": f"{i}: {texts[i % len(texts)]}"} for i in range(200)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def documents_of(prepared, name):
    split = prepared.split(name)
    ids = [split.tokens[a : b - 1] for a, b in zip(split.offsets[:-1], split.offsets[1:], strict=True)]
    return [decode_ids(prepared.tokenizer, document.tolist()) for document in ids]


def test_every_document_is_there_to_the_byte(tmp_path, corpus, tiny_tokenizer):
    result = prepare([str(corpus)], tiny_tokenizer, tmp_path / "data", validation=0.2)
    prepared = open_prepared(tmp_path / "data")
    written = {name: documents_of(prepared, name) for name in ("train", "validation")}
    given = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    assert sorted(written["train"] + written["validation"]) == sorted(given)
    assert 20 <= len(written["validation"]) <= 60
    for name, texts in written.items():
        split = prepared.split(name)
        assert split.num_bytes.tolist() == [len(text.encode()) for text in texts]
        counts = {"documents": len(texts), "tokens": len(split.tokens), "bytes": int(split.num_bytes.sum())}
        assert result["splits"][name] == prepared.manifest["splits"][name] == counts


def test_the_stream_has_one_end_of_document_token_before_between_and_after(tmp_path, tiny_tokenizer):
    (tmp_path / "a.jsonl").write_text('{"text": "the model"}\n{"text": "learns"}\n')
    prepare([str(tmp_path / "a.jsonl")], tiny_tokenizer, tmp_path / "data", validation=0)
    split = open_prepared(tmp_path / "data").split("train")
    end = end_of_document_id(tiny_tokenizer)
    first, second = (encode_text(tiny_tokenizer, text) for text in ("the model", "learns"))
    assert split.tokens.tolist() == [end, *first, end, *second, end]
    assert split.tokens.dtype == np.uint16


def test_control_tokens_in_the_text_stay_text(tmp_path, tiny_tokenizer):
    (tmp_path / "a.txt").write_text("before <|endoftext|> after <|im_start|>")
    prepare([str(tmp_path / "a.txt")], tiny_tokenizer, tmp_path / "data", validation=0)
    tokens = open_prepared(tmp_path / "data").split("train").tokens
    assert (tokens == end_of_document_id(tiny_tokenizer)).sum() == 2
    assert documents_of(open_prepared(tmp_path / "data"), "train") == ["before <|endoftext|> after <|im_start|>"]


def test_adding_documents_moves_none_of_the_others(tmp_path, corpus, tiny_tokenizer):
    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(json.dumps({"text": f"new {i}"}) for i in range(50)))
    prepare([str(corpus)], tiny_tokenizer, tmp_path / "before", validation=0.1)
    prepare([str(more), str(corpus)], tiny_tokenizer, tmp_path / "after", validation=0.1)
    for name in ("train", "validation"):
        before, after = (documents_of(open_prepared(tmp_path / folder), name) for folder in ("before", "after"))
        assert set(before) <= set(after)


def test_equal_documents_are_in_one_split(tmp_path, tiny_tokenizer):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"text {i % 20}"}) for i in range(100)))
    prepare([str(tmp_path / "a.jsonl")], tiny_tokenizer, tmp_path / "data", validation=0.3)
    prepared = open_prepared(tmp_path / "data")
    train, validation = documents_of(prepared, "train"), documents_of(prepared, "validation")
    assert len(train) + len(validation) == 100
    assert not set(train) & set(validation)


def test_few_documents_still_have_one_held_out(tmp_path, tiny_tokenizer, capsys):
    texts = ["one", "two two two two two two two two two", "three", "four"]
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    result = prepare([str(tmp_path / "a.jsonl")], tiny_tokenizer, tmp_path / "data", validation=0.0001)
    prepared = open_prepared(tmp_path / "data")
    train, validation = documents_of(prepared, "train"), documents_of(prepared, "validation")
    assert sorted(train + validation) == sorted(texts)
    assert len(validation) == 1
    assert validation != [texts[1]]  # most of the text
    assert result["splits"]["train"]["bytes"] == sum(len(text) for text in train)
    assert "lowest hash" in capsys.readouterr().err


def test_of_a_single_document_the_end_is_held_out(tmp_path, tiny_tokenizer, capsys):
    text = "".join(f"Paragraph {i} of the text.\n\n" for i in range(100))
    (tmp_path / "a.txt").write_text(text)
    prepare([str(tmp_path / "a.txt")], tiny_tokenizer, tmp_path / "data", validation=0.1)
    prepared = open_prepared(tmp_path / "data")
    (train,), (validation,) = documents_of(prepared, "train"), documents_of(prepared, "validation")
    assert train + validation == text
    assert train.endswith("\n\n")
    assert 0.08 < len(validation) / len(text) < 0.12
    assert "single document" in capsys.readouterr().err


def test_a_vocabulary_over_two_bytes_is_kept_in_four(tmp_path, corpus, tiny_tokenizer, monkeypatch):
    class Large:
        def __getattr__(self, name):
            return getattr(tiny_tokenizer, name)

        def __len__(self):
            return 70_000

    monkeypatch.setattr("llmkit.data.prepare.encode_texts", lambda tokenizer, texts: [[66_000] for _ in texts])
    monkeypatch.setattr("llmkit.data.prepare.tokenizer_hash", lambda tokenizer: "x")
    prepare([str(corpus)], Large(), tmp_path / "data", validation=0)
    tokens = open_prepared(tmp_path / "data").split("train").tokens
    assert tokens.dtype == np.uint32
    assert tokens[1] == 66_000


def test_the_manifest_tells_tokenizer_sources_and_files(tmp_path, corpus, tiny_tokenizer):
    prepare([str(corpus)], tiny_tokenizer, tmp_path / "data", validation=0.1)
    prepared = open_prepared(tmp_path / "data")
    manifest = prepared.manifest
    assert manifest["tokenizer"]["sha256"] == tokenizer_hash(tiny_tokenizer) == tokenizer_hash(prepared.tokenizer)
    (source,) = manifest["sources"]
    assert source["documents"] == 200
    assert len(source["sha256"]) == 64
    assert set(manifest["files"]) == {
        f"{kind}-{split}.npy" for kind in ("tokens", "documents") for split in prepared.splits
    }


def test_the_same_inputs_give_the_same_bytes(tmp_path, corpus, tiny_tokenizer):
    for name in ("one", "two"):
        prepare([str(corpus)], tiny_tokenizer, tmp_path / name, validation=0.1)
    manifests = [(tmp_path / name / "manifest.json").read_bytes() for name in ("one", "two")]
    assert manifests[0] == manifests[1]
    assert open_prepared(tmp_path / "one").content_hash == open_prepared(tmp_path / "two").content_hash


def test_a_bad_line_at_the_end_leaves_nothing_behind(tmp_path, corpus, tiny_tokenizer):
    corpus.write_text(corpus.read_text() + '\n{"text": ')
    with pytest.raises(DataError, match="bad line"):
        prepare([str(corpus)], tiny_tokenizer, tmp_path / "data")
    assert [path.name for path in tmp_path.iterdir()] == ["corpus.jsonl"]


def test_a_folder_that_holds_something_is_not_touched(tmp_path, corpus, tiny_tokenizer):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine").write_text("x")
    with pytest.raises(UsageError, match="not empty"):
        prepare([str(corpus)], tiny_tokenizer, tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["mine"]


def test_python_docs_keeps_its_own_splits(tmp_path, tiny_tokenizer, monkeypatch):
    from llmkit.data import python_docs
    from llmkit.data.document import Document

    documents = {split: [Document(f"{split} {i}", "x") for i in range(3)] for split in python_docs.SPLITS}
    monkeypatch.setattr(python_docs, "documents", lambda split: iter(documents[split]))
    prepare(["python-docs"], tiny_tokenizer, tmp_path / "data", validation=0.5)
    prepared = open_prepared(tmp_path / "data")
    for split in python_docs.SPLITS:
        assert documents_of(prepared, split) == [document.text for document in documents[split]]
    with pytest.raises(LlmkitError, match="no split 'dev'"):
        prepare(["python-docs@dev"], tiny_tokenizer, tmp_path / "other")


@pytest.mark.parametrize(("start", "stop"), [(0, 3), (4, 9), (17, 20), (0, 20), (5, 5)])
def test_rows_can_be_taken_out_of_an_array_file(tmp_path, monkeypatch, start, stop):
    monkeypatch.setattr("llmkit.data.prepare.ROWS_AT_ONCE", 4)
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
