"""Texts to learn to write: every symbol is predicted once, and bytes are counted."""

from __future__ import annotations

import json

import pytest

from llmkit.batch import IGNORE_INDEX
from llmkit.data.labelled import read_encoder, read_labelled
from llmkit.data.language import EDGE_ID, PAD_ID, SymbolEncoder, cut_stretches, is_list_of_texts
from llmkit.errors import DataError
from llmkit.recipe.schema import BaselineData


def read(path, *, max_words=8, **fields):
    data = BaselineData(source=str(path), task="language", **fields)
    return read_labelled(data, vocab_size=10, max_words=max_words)


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("".join(f"{a}{b}{c}\n" for a in "abcde" for b in "xyz" for c in ("", "nora", "liesel")))
    return path


def spelled(rows, encoder):
    """The text that the targets of all rows stand for."""
    return "".join(encoder.decode([i for i in row if i != IGNORE_INDEX]) for row in rows.targets.tolist())


def test_lines_begin_and_end_at_the_edge():
    encoder = SymbolEncoder("characters", 4, is_lines=True, characters="ab")
    inputs, targets, lengths = encoder.encode(["ab", "babab"])
    a, b = 3, 4
    assert inputs.tolist() == [[EDGE_ID, a, b, PAD_ID], [EDGE_ID, b, a, b], [a, b, PAD_ID, PAD_ID]]
    assert targets.tolist() == [[a, b, EDGE_ID, -100], [b, a, b, a], [b, EDGE_ID, -100, -100]]
    assert lengths == [3, 4, 2]
    assert encoder.count_bytes(["ab", "babab"]) == 9


def test_a_list_of_names_is_read_line_by_line_and_nothing_is_lost(names):
    data = read(names, max_words=4)
    assert (data.task, data.form, data.classes) == ("language", "language", [])
    lines = [line for line in names.read_text().split("\n") if line]
    total = sum(rows.num_bytes for rows in data.splits.values())
    assert total == sum(len(line) + 1 for line in lines)
    counted = sum(int((rows.targets != IGNORE_INDEX).sum()) for rows in data.splits.values())
    assert counted == total
    assert all(len(rows) for rows in data.splits.values())


def test_one_text_is_cut_into_stretches_and_the_end_is_the_test(tmp_path):
    path = tmp_path / "play.txt"
    text = "".join(f"Speaker {i}:\nWhat is your will, my lord?\n\n" for i in range(100))
    path.write_text(text)
    data = read(path, max_words=32)
    whole = "".join(spelled(data.splits[name], data.encoder) for name in ("train", "validation", "test"))
    assert whole == text
    assert sum(rows.num_bytes for rows in data.splits.values()) == len(text)
    assert data.splits["test"].num_bytes / len(text) == pytest.approx(0.2, abs=0.02)


def test_bytes_and_tokens_spell_the_same_text(tmp_path, tiny_model_folder):
    path = tmp_path / "play.txt"
    text = "the model lêarns\n\nto guess 我 next token\n" * 20
    path.write_text(text)
    for symbols in ("bytes", str(tiny_model_folder)):
        data = read(path, max_words=5000, symbols=symbols, validation=0.0, test=0.0)
        assert spelled(data.splits["train"], data.encoder) == text
        assert data.splits["train"].num_bytes == len(text.encode())
        assert int(data.splits["train"].inputs.max()) < data.num_outputs
        stored = json.loads(json.dumps(data.to_json()))
        assert read_encoder(stored["encoder"]).ids_of("the 我") == data.encoder.ids_of("the 我")


def test_batches_are_as_long_as_their_longest(names):
    rows = read(names).splits["train"]
    shortest = min(range(len(rows)), key=lambda i: rows.lengths[i])
    batch = rows.batch([shortest])
    assert batch["inputs"].shape == batch["targets"].shape == (1, rows.lengths[shortest])
    assert str(batch["inputs"].dtype) == str(batch["targets"].dtype) == "torch.int64"


def test_a_prompt_is_what_comes_before():
    encoder = SymbolEncoder("characters", 3, is_lines=True, characters="ab")
    assert encoder.prompt("").tolist() == [[EDGE_ID]]
    assert encoder.prompt("abab").tolist() == [[4, 3, 4]]
    assert encoder.decode([EDGE_ID, 3, 2, 4]) == "a\ufffdb"


@pytest.mark.parametrize(("text", "is_list"), [("emma\nava\n", True), ("a\n\nb\n", False), ("x" * 200 + "\ny", False)])
def test_a_list_is_told_from_a_text(text, is_list):
    assert is_list_of_texts(text) == is_list


def test_stretches_end_at_line_ends():
    text = "abcdefghi\n" * 10
    assert [len(part) for part in cut_stretches(text, validation=0.12, test=0.25)] == [70, 10, 20]


def test_a_validation_file_is_read_as_the_source_is(tmp_path, names):
    other = tmp_path / "other.txt"
    other.write_text("zora\nzoe\n")
    data = read(names, validation=str(other))
    assert len(data.splits["validation"]) == 2
    assert data.encoder.characters.count("z") == 1


def test_an_empty_source_is_an_error(tmp_path):
    path = tmp_path / "x.txt"
    path.write_text("\n \n")
    with pytest.raises(DataError, match="no text"):
        read(path)
