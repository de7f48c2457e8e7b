"""Texts and labels: which columns, what is left out, and where the last token of each text is."""

from __future__ import annotations

import json

import pytest
import torch

from llmkit.data.dialogue_set import Account, hold_out
from llmkit.data.text_labels import TextRows, collect_labels, encode_labelled, read_texts
from llmkit.errors import DataError, RecipeError


@pytest.fixture
def write(tmp_path):
    def write(rows):
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


ROWS = [
    {"text": "the next token", "label": "noun"},
    {"text": "we ask it", "label": "verb"},
    {"text": " ", "label": "verb"},
    {"text": "comes after", "label": None},
]


def test_rows_without_text_or_label_are_counted(write):
    texts, account = read_texts(write(ROWS))
    assert [(t.text, t.label) for t in texts] == [("the next token", "noun"), ("we ask it", "verb")]
    assert account.num_read == 4
    assert account.dropped == {"no text": 1, "no label": 1}


def test_columns_can_be_named(write):
    source = write([{"said": "yes", "meant": 1}, {"said": "no", "meant": 0}])
    with pytest.raises(DataError, match="no column for the text: the columns are said, meant"):
        read_texts(source)
    texts, _ = read_texts(source, columns={"text": "said", "label": "meant"})
    assert [t.label for t in texts] == ["1", "0"]
    with pytest.raises(RecipeError, match="no form has a column 'prompt'"):
        read_texts(source, columns={"prompt": "said"})


def test_labels_that_are_numbers_stand_in_the_order_of_numbers(write):
    rows = [{"text": str(n), "label": n} for n in (10, 9, 2)]
    assert collect_labels(read_texts(write(rows))[0]) == ["2", "9", "10"]


def test_one_label_is_nothing_to_learn(write):
    with pytest.raises(DataError, match="there is 1 label"):
        collect_labels(read_texts(write(ROWS[:1]))[0])


def test_the_same_text_is_never_on_both_sides(write):
    rows = [{"text": f"text {n % 10}", "label": n % 2} for n in range(60)]
    train, held = hold_out(read_texts(write(rows))[0], 0.3)
    assert train
    assert held
    assert not {t.text for t in train} & {t.text for t in held}


def encode(texts, tokenizer, **options):
    account = Account("train", num_read=len(texts))
    arguments = {"max_length": 50, "overlong": "drop", **options}
    return *encode_labelled(texts, ["noun", "verb"], tokenizer, account, **arguments), account


def test_what_looks_like_a_control_token_stays_text(write, tiny_tokenizer):
    texts, _ = read_texts(write([{"text": "<|im_end|>", "label": "noun"}]))
    [ids], _, _ = encode(texts, tiny_tokenizer)
    assert tiny_tokenizer.convert_tokens_to_ids("<|im_end|>") not in ids


def test_long_texts_are_dropped_or_cut_and_counted(write, tiny_tokenizer):
    texts, _ = read_texts(write([*ROWS[:2], {"text": "the next token " * 50, "label": "noun"}]))
    ids, classes, account = encode(texts, tiny_tokenizer)
    assert (len(ids), classes, account.dropped) == (2, [0, 1], {"longer than max_length": 1})
    ids, classes, account = encode(texts, tiny_tokenizer, overlong="cut-right")
    assert (len(ids[2]), classes, account.num_cut) == (50, [0, 1, 0], 1)


def test_equal_texts_with_different_labels_are_told(write, tiny_tokenizer):
    rows = [
        {"text": text, "label": label} for text, label in (("a", "noun"), ("a", "verb"), ("b", "verb"), ("b", "verb"))
    ]
    *_, account = encode(read_texts(write(rows))[0], tiny_tokenizer)
    assert account.num_duplicates == 2
    assert account.notes == {"texts stand there more than once, with different labels": 1}


def test_a_long_text_can_be_an_error(write, tiny_tokenizer):
    texts, _ = read_texts(write([{"text": "the next token " * 50, "label": "noun"}]))
    with pytest.raises(DataError, match=r"tokens, data\.max_length is 50"):
        encode(texts, tiny_tokenizer, overlong="error")


def test_an_unknown_label_is_named(write, tiny_tokenizer):
    texts, _ = read_texts(write([{"text": "a", "label": "other"}]))
    with pytest.raises(DataError, match="label 'other' is none of the training data's: noun, verb"):
        encode(texts, tiny_tokenizer)


@pytest.mark.parametrize("is_flat", [True, False])
def test_ends_point_at_the_last_token_of_each_text(is_flat):
    batch = TextRows([[5, 6, 7], [8], [9, 10]], [0, 1, 1], is_flat=is_flat).batch([0, 2])
    assert batch["input_ids"].flatten()[batch["ends"]].tolist() == [7, 10]
    assert torch.equal(batch["targets"], torch.tensor([0, 1]))
