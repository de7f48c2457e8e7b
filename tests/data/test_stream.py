"""Text tokenized while training: the same rows as prepared, from any place, on any number of processes."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import numpy as np
import pytest

from llmkit.data import stream as stream_module
from llmkit.data import stream_reader
from llmkit.data.prepare import place_of, prepare
from llmkit.data.prepared import TokenRows, open_prepared
from llmkit.data.pretraining import open_pretraining
from llmkit.data.stream import order_in_block
from llmkit.errors import DataError, UsageError
from llmkit.recipe.schema import PretrainData
from llmkit.tokenizer import decode_ids

SEQ_LEN = 8
BLOCK = 64


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Blocks of 64 tokens, pieces of 100 characters, a bookmark every 100 tokens, a tenth held out."""
    monkeypatch.setattr(stream_module, "BLOCK", BLOCK)
    monkeypatch.setattr(stream_module, "HELD_OUT_SHARE", 0.1)
    monkeypatch.setattr(stream_reader, "PIECE", 100)
    monkeypatch.setattr(stream_reader, "BETWEEN_BOOKMARKS", 100)


@pytest.fixture
def tokenizer_folder(tmp_path, tiny_tokenizer):
    tiny_tokenizer.save_pretrained(tmp_path / "tok")
    return tmp_path / "tok"


@pytest.fixture
def corpus(tmp_path, texts):
    """A folder of three files of 30, 1 and 20 documents."""
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [{"text": f"{i} {texts[i % 40]}", "n": i} for i in range(50)]
    (folder / "a.jsonl").write_text("\n".join(map(json.dumps, rows[:30])))
    (folder / "b.txt").write_text("the model learns\n" * 20)
    (folder / "c.csv").write_text("text,n\n" + "".join(f'"{row["text"].strip()}",1\n' for row in rows[30:]))
    return folder


@pytest.fixture
def open_stream(corpus, tokenizer_folder):
    """Open the corpus, or another source, as a stream."""

    def open_source(source=corpus, **fields):
        section = PretrainData(source=str(source), stream=True, tokenizer=str(tokenizer_folder), **fields)
        return open_pretraining(section)

    return open_source


@pytest.fixture
def expected(corpus, tiny_tokenizer, tmp_path):
    """The training tokens of the corpus as `data prepare` writes them."""
    prepare([str(corpus)], tiny_tokenizer, tmp_path / "prepared", validation=0.1)
    return open_prepared(tmp_path / "prepared")


def endless(tokens, count):
    """The first tokens of a stream that goes round and round."""
    turns = -(-count // (len(tokens) - 1))
    return np.concatenate([tokens[:1], *[tokens[1:]] * turns])[:count]


def expected_row(tokens, index, seq_len=SEQ_LEN):
    """A row by its definition: shuffled within its block, cut from the endless stream."""
    rows_per_block = BLOCK // seq_len
    block, place = divmod(index, rows_per_block)
    number = block * rows_per_block + order_in_block(block, rows_per_block)[place]
    return endless(tokens, (number + 1) * seq_len + 1)[number * seq_len :].tolist()


def row_of(rows, index):
    batch = rows.batch([index])
    assert batch["input_ids"][0, 1:].tolist() == batch["targets"][0, :-1].tolist()
    return [int(batch["input_ids"][0, 0]), *batch["targets"][0].tolist()]


def test_the_rows_of_a_pass_are_those_of_the_prepared_text(open_stream, expected):
    prepared = TokenRows(expected.split("train"), SEQ_LEN)
    rows = open_stream().rows(SEQ_LEN)
    count = len(prepared) // 8 * 8
    assert count > 40
    assert sorted(row_of(rows, i) for i in range(count)) == sorted(row_of(prepared, i) for i in range(count))


def test_rows_go_on_from_the_beginning_when_the_text_is_at_its_end(open_stream, expected, capsys):
    tokens = np.array(expected.split("train").tokens)
    rows = open_stream().rows(SEQ_LEN)
    for index in range(3 * len(tokens) // SEQ_LEN):
        assert row_of(rows, index) == expected_row(tokens, index)
    said = capsys.readouterr().err
    assert said.count("starts again") == 1
    assert f"pass 2 begins after {len(tokens):,} tokens" in said


@pytest.mark.parametrize("start", [1, 7, 8, 9, 100, 333])
def test_rows_asked_for_from_the_middle_are_the_same(open_stream, expected, start):
    tokens = np.array(expected.split("train").tokens)
    rows = open_stream().rows(SEQ_LEN)
    for index in range(start, start + 20):
        assert row_of(rows, index) == expected_row(tokens, index)


def test_rows_can_be_asked_for_in_any_order(open_stream, expected):
    tokens = np.array(expected.split("train").tokens)
    rows = open_stream().rows(SEQ_LEN)
    for index in (0, 500, 1, 250, 249, 17, 16, 3, 900, 0):
        assert row_of(rows, index) == expected_row(tokens, index)


def test_a_piece_may_be_longer_than_several_blocks(open_stream, expected, monkeypatch):
    monkeypatch.setattr(stream_reader, "PIECE", 10_000)
    tokens = np.array(expected.split("train").tokens)
    rows = open_stream().rows(SEQ_LEN)
    for index in (0, 40, 41, 60, 61, 200):
        assert row_of(rows, index) == expected_row(tokens, index)


def test_the_thread_ends_with_its_rows(open_stream):
    rows = open_stream().rows(SEQ_LEN)
    row_of(rows, 0)
    thread = rows.pieces.thread
    del rows
    gc.collect()
    thread.join(timeout=5)
    assert not thread.is_alive()


def test_two_processes_share_the_rows_of_one(open_stream, expected):
    tokens = np.array(expected.split("train").tokens)
    one, *ranks = (open_stream().rows(SEQ_LEN) for _ in range(3))
    for step in range(20):
        indices = list(range(step * 6, step * 6 + 6))
        whole = one.batch(indices)["targets"].tolist()
        parts = [rows.batch(indices[rank::2])["targets"].tolist() for rank, rows in enumerate(ranks)]
        assert [row for pair in zip(*parts, strict=True) for row in pair] == whole
        assert whole == [expected_row(tokens, index)[1:] for index in indices]


def test_rows_of_any_length_are_cut_from_the_same_stream(open_stream, expected):
    tokens = np.array(expected.split("train").tokens)
    for seq_len in (1, 16, 64):
        rows = open_stream().rows(seq_len)
        assert [row_of(rows, i) for i in range(40)] == [expected_row(tokens, i, seq_len) for i in range(40)]
    longer = open_stream().rows(100)  # than a block
    assert [row_of(longer, i) for i in range(6)] == [
        endless(tokens, i * 100 + 101)[i * 100 :].tolist() for i in range(6)
    ]


def test_bookmarks_of_a_run_spare_reading_what_lies_before(open_stream, expected, tmp_path, monkeypatch):
    tokens = np.array(expected.split("train").tokens)
    rows = open_stream().rows(SEQ_LEN, folder=tmp_path)
    for index in range(200):
        row_of(rows, index)
    path = tmp_path / "stream.jsonl"
    path.write_text(path.read_text() + '{"position": 99')  # killed while writing
    opened = []
    read_unit = stream_reader.read_unit
    data = open_stream()
    _ = data.held_out
    monkeypatch.setattr(
        stream_reader, "read_unit", lambda unit, *a, **k: opened.append(unit) or read_unit(unit, *a, **k)
    )
    again = data.rows(SEQ_LEN, folder=tmp_path)
    last = again.bookmarks.found[-1]
    assert last.position > 900
    index = last.position // SEQ_LEN + 9
    assert row_of(again, index) == expected_row(tokens, index)
    assert opened[0] == data.units[last.unit]
    lines = path.read_text().splitlines()
    assert json.loads(lines[0]) == {"stream": data.content_hash}
    assert all(set(json.loads(line)) == {"position", "cycle", "unit", "document"} for line in lines[1:])


def test_bookmarks_of_other_text_are_not_used(open_stream, corpus, tmp_path):
    rows = open_stream().rows(SEQ_LEN, folder=tmp_path)
    for index in range(100):
        row_of(rows, index)
    assert len(rows.bookmarks.found) > 1
    (corpus / "b.txt").write_text("something else")
    assert len(open_stream().rows(SEQ_LEN, folder=tmp_path).bookmarks.found) == 1


def test_held_out_documents_are_the_validation_and_never_trained_on(open_stream, expected, tiny_tokenizer):
    data = open_stream()
    stream, num_bytes = data.validation(10**6)
    held_out = expected.split("validation")
    assert stream.tolist() == held_out.tokens.tolist()
    assert num_bytes == held_out.num_bytes.sum()
    few, _ = data.validation(60)
    assert few.tolist() == held_out.first_documents(60)[0].tolist()


def test_where_no_document_is_held_out_the_lowest_one_is(open_stream, tmp_path, monkeypatch, tiny_tokenizer):
    monkeypatch.setattr(stream_module, "HELD_OUT_SHARE", 1e-9)
    path = tmp_path / "few.jsonl"
    texts = ["one two", "three four", "five six"]
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    data = open_stream(path)
    stream, num_bytes = data.validation(100)
    lowest = min(texts, key=lambda text: place_of(text.encode()))
    assert decode_ids(tiny_tokenizer, stream.tolist()) == f"<|endoftext|>{lowest}<|endoftext|>"
    assert num_bytes == len(lowest)
    trained = decode_ids(tiny_tokenizer, data.rows(BLOCK).batch([0])["targets"][0].tolist())
    assert set(trained.split("<|endoftext|>")[:-1]) == set(texts) - {lowest}


def test_a_single_document_is_trained_on_and_nothing_held_out(open_stream, tmp_path, capsys):
    (tmp_path / "one.txt").write_text("the model learns")
    data = open_stream(tmp_path / "one.txt")
    assert data.validation(100) is None
    assert "one document only" in capsys.readouterr().err
    assert data.rows(SEQ_LEN).batch([0])["input_ids"].shape == (1, SEQ_LEN)


def test_the_column_is_told_once(open_stream, capsys):
    rows = open_stream().rows(SEQ_LEN)
    for index in range(200):
        row_of(rows, index)
    assert capsys.readouterr().err.count("a.jsonl: the text is in column 'text'") == 1


def test_a_bad_line_is_an_error_where_it_is_reached_and_again_when_asked_again(open_stream, tmp_path, monkeypatch):
    monkeypatch.setattr(stream_module, "LOOK", 100)
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join([*(json.dumps({"text": f"{i} the model learns"}) for i in range(99)), '{"text": ']))
    rows = open_stream(path).rows(SEQ_LEN)
    assert len(row_of(rows, 0)) == SEQ_LEN + 1
    for _ in range(2):
        with pytest.raises(DataError, match="bad line"):
            rows.batch([10_000])


def test_a_stream_is_known_by_names_and_sizes(open_stream, corpus):
    before = open_stream().content_hash
    assert open_stream().content_hash == before
    moved = corpus.rename(corpus.with_name("moved"))
    assert open_stream(moved).content_hash == before
    (moved / "b.txt").write_text("x")
    assert open_stream(moved).content_hash != before


def test_documents_are_told_apart_when_asked_to(open_stream):
    batch = open_stream(document_mask=True).rows(SEQ_LEN).batch(range(8))
    assert (batch["position_ids"][batch["input_ids"] == 0] == 0).all()
    assert batch["position_ids"].max() > 0


def test_stdin_and_a_missing_tokenizer_are_errors(corpus, open_stream):
    with pytest.raises(UsageError, match="stdin"):
        open_stream("-")
    with pytest.raises(UsageError, match="needs a tokenizer"):
        open_pretraining(PretrainData(source=str(corpus), stream=True))
    with pytest.raises(DataError, match="no such file"):
        open_stream("absent.jsonl")


def test_the_models_tokenizer_serves_where_none_is_named(corpus, tokenizer_folder, open_stream):
    section = PretrainData(source=str(corpus), stream=True)
    data = open_pretraining(section, tokenizer_source=str(tokenizer_folder))
    assert data.content_hash == open_stream().content_hash


def test_the_shards_of_a_hub_data_set_are_units(open_stream, tmp_path, local_hub):
    local_hub.push("one")
    data = open_stream("hf:owner/name")
    assert [unit.shard for unit in data.units] == [0, 1, 2]
    from_hub, from_files = data.rows(SEQ_LEN), open_stream(tmp_path / "[012].jsonl").rows(SEQ_LEN)
    for index in (0, 1, 40, 90):
        assert row_of(from_hub, index) == row_of(from_files, index)


def test_another_commit_of_a_hub_data_set_is_another_stream(open_stream, local_hub):
    local_hub.push("one")
    first = open_stream("hf:owner/name")
    assert open_stream("hf:owner/name").content_hash == first.content_hash
    local_hub.push("two")
    assert open_stream("hf:owner/name").content_hash != first.content_hash
    assert "commit one," in first.describe(SEQ_LEN)[0]


def test_a_commit_that_is_wanted_is_read_after_another_was_pushed(tokenizer_folder, local_hub):
    section = PretrainData(source="hf:owner/name", stream=True, tokenizer=str(tokenizer_folder))
    local_hub.push("one")
    first = open_pretraining(section)
    local_hub.push("two")
    local_hub.read.clear()
    again = open_pretraining(section, commit=first.commit)
    row_of(again.rows(SEQ_LEN), 0)
    assert set(local_hub.read) == {"one"}
    assert again.content_hash == first.content_hash


def test_a_hub_that_cannot_be_asked_is_told_and_the_cache_is_read(open_stream, local_hub, capsys):
    local_hub.error = OSError("no network\nhere")
    data = open_stream("hf:owner/name")
    assert (
        "which commit this is (no network): a run that goes on cannot tell whether it changed"
        in capsys.readouterr().err
    )
    assert (data.commit, set(local_hub.read)) == (None, {None})
    assert len(row_of(data.rows(SEQ_LEN), 0)) == SEQ_LEN + 1
    (unit, *_) = stream_reader.find_units("hf:owner/name", "one")
    assert "still one is not checked" in capsys.readouterr().err
    assert unit.commit == "one"


def test_python_docs_are_streamed_from_their_training_split(open_stream, monkeypatch, tiny_tokenizer):
    from llmkit.data import python_docs
    from llmkit.data.document import Document

    monkeypatch.setattr(python_docs, "documents", lambda split: (Document(f"{split} {i}", "x") for i in range(9)))
    data = open_stream("python-docs")
    text = decode_ids(tiny_tokenizer, data.rows(BLOCK).batch([0])["targets"][0].tolist())
    assert "train 1" in text
    assert "validation" not in text


def test_an_empty_file_is_an_error_before_anything_is_read(open_stream, corpus):
    (corpus / "d.txt").write_text("")
    with pytest.raises(DataError, match="empty"):
        open_stream(corpus / "d.txt")
    names = [Path(unit.name).name for unit in stream_reader.find_units(str(corpus))]
    assert names == ["a.jsonl", "b.txt", "c.csv"]


def test_the_plan_says_what_is_streamed(open_stream, corpus):
    (line,) = open_stream().describe(SEQ_LEN)
    assert line.startswith(f"a stream, tokenized while training: {corpus} (3 files, 0.0 MB)")
