"""Text to prepared data and back: nothing lost, held out by content, whole or absent."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest

from llmkit.data.prepare import prepare
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

    class Encoder:
        def __init__(self, tokenizer):
            pass

        def encode(self, texts):
            return [np.array([66_000], dtype=np.uint32) for _ in texts]

    monkeypatch.setattr("llmkit.data.prepare.TextEncoder", Encoder)
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


def test_what_is_left_out_is_counted_by_input_and_reason(tmp_path, tiny_tokenizer):
    first = ["the model learns", "", "short", "the model learns", " "]
    second = ["the model learns\n", "another text here"]
    for name, texts in (("a.jsonl", first), ("b.jsonl", second)):
        (tmp_path / name).write_text("\n".join(json.dumps({"text": text}) for text in texts))
    inputs = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl")]
    result = prepare(inputs, tiny_tokenizer, tmp_path / "data", validation=0, min_length=10, dedupe="exact")
    prepared = open_prepared(tmp_path / "data")
    assert documents_of(prepared, "train") == ["the model learns", "another text here"]
    one, two = prepared.manifest["sources"]
    assert one["dropped"] == {
        "no text": {"first": f"{inputs[0]}:2", "documents": 2, "bytes": 1},
        "too short": {"first": f"{inputs[0]}:3", "documents": 1, "bytes": 5},
        "exact duplicate": {"first": f"{inputs[0]}:4", "documents": 1, "bytes": 16},
    }
    assert two["dropped"] == {"exact duplicate": {"first": f"{inputs[1]}:1", "documents": 1, "bytes": 17}}
    assert (one["documents"], two["documents"]) == (1, 1)
    assert {reason: about["documents"] for reason, about in result["dropped"].items()} == {
        "no text": 2,
        "too short": 1,
        "exact duplicate": 2,
    }
    assert prepared.manifest["selection"] == {"min_length": 10, "dedupe": "exact"}


def test_copies_that_stay_are_counted(tmp_path, tiny_tokenizer):
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"text": f"text {i % 20}"}) for i in range(100)))
    result = prepare([str(tmp_path / "a.jsonl")], tiny_tokenizer, tmp_path / "data", validation=0.3)
    assert result["quality"]["documents_with"]["copies"] == 80
    assert open_prepared(tmp_path / "data").manifest["quality"] == result["quality"]


def test_near_duplicates_do_not_cross_from_training_to_validation(tmp_path, tiny_tokenizer):
    pytest.importorskip("rensa")
    chooser = random.Random(0)
    texts = [" ".join(f"{number} {chooser.randrange(1000)}" for _ in range(40)) for number in range(30)]
    (tmp_path / "a.jsonl").write_text(
        "\n".join(json.dumps({"text": f"{t} version {i}"}) for i in range(5) for t in texts)
    )
    for dedupe in ("none", "near"):
        prepare([str(tmp_path / "a.jsonl")], tiny_tokenizer, tmp_path / dedupe, validation=0.3, dedupe=dedupe)
    none, near = (open_prepared(tmp_path / dedupe) for dedupe in ("none", "near"))
    numbers = [
        {name: {text.split()[0] for text in documents_of(prepared, name)} for name in prepared.splits}
        for prepared in (none, near)
    ]
    assert numbers[0]["train"] & numbers[0]["validation"]
    assert not numbers[1]["train"] & numbers[1]["validation"]
    assert near.manifest["sources"][0]["dropped"]["near duplicate"]["documents"] == 120
    assert near.manifest["selection"]["library"].startswith("rensa ")


@pytest.mark.parametrize("validation", [0, 0.1])
def test_when_nothing_is_left_the_error_tells_why(tmp_path, corpus, tiny_tokenizer, validation):
    with pytest.raises(DataError, match="no document is left\n  left out, too short: 200 documents"):
        prepare([str(corpus)], tiny_tokenizer, tmp_path / "data", validation=validation, min_length=10_000)
    (tmp_path / "blank.txt").write_text(" \n")
    with pytest.raises(DataError, match="there is no text in it"):
        prepare([str(tmp_path / "blank.txt")], tiny_tokenizer, tmp_path / "data", validation=validation)


def test_what_is_written_does_not_depend_on_the_size_of_chunks(tmp_path, corpus, tiny_tokenizer, monkeypatch):
    prepare([str(corpus)], tiny_tokenizer, tmp_path / "one", validation=0.2)
    monkeypatch.setattr("llmkit.data.prepare.CHUNK", 100)
    prepare([str(corpus)], tiny_tokenizer, tmp_path / "two", validation=0.2)
    assert open_prepared(tmp_path / "one").manifest == open_prepared(tmp_path / "two").manifest
