"""Every row that is read is accounted for, and training and validation share none."""

from __future__ import annotations

import pytest

from llmkit.data.dialogue_forms import Dialogue
from llmkit.data.dialogue_set import drop_shared, encode_set, hold_out, tell
from llmkit.data.messages import Message, ToolCall
from llmkit.errors import DataError


def dialogue(question, *answers, where="f:1"):
    messages = [Message("user", question), *(Message("assistant", answer) for answer in answers)]
    return Dialogue(tuple(messages), where)


def encode(dialogues, tokenizer, max_length=64, overlong="drop"):
    return encode_set(dialogues, tokenizer, name="train", max_length=max_length, overlong=overlong)


def test_rows_read_are_rows_used_and_rows_dropped(tiny_tokenizer):
    long = dialogue("q", "a word " * 40, where="f:3")
    rows, account = encode([dialogue("q", "a"), dialogue("q", "", where="f:2"), long, dialogue("q")], tiny_tokenizer)
    report = account.to_json()
    assert len(rows) == report["used"] == 1
    assert report["read"] == 4
    assert report["dropped"]["an empty answer"] == {"rows": 1, "first": "f:2"}
    assert report["dropped"]["longer than max_length"] == {"rows": 1, "first": "f:3"}
    assert report["dropped"]["no answer to learn"] == {"rows": 1, "first": "f:1"}
    assert report["tokens"] == report["length"]["max"] == len(rows[0].input_ids)
    assert report["trained_tokens"] == 2


def test_cut_rows_are_used_and_their_lost_tokens_counted(tiny_tokenizer):
    [row], account = encode([dialogue("q", "a word " * 40)], tiny_tokenizer, max_length=20, overlong="cut-right")
    assert account.to_json()["cut"] == {"rows": 1, "tokens": row.num_tokens - 20}


def test_how_long_a_row_may_be_is_told_with_those_that_are_longer(tiny_tokenizer, capsys):
    rows = [dialogue("q", "a"), dialogue("q", "a word " * 40)]
    _, account = encode(rows, tiny_tokenizer)
    tell([account])
    assert "1 rows dropped: longer than max_length (64 tokens)" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"1 of 1: longer than max_length \(64 tokens\)"):
        encode(rows[1:], tiny_tokenizer)


def test_an_overlong_row_can_be_an_error(tiny_tokenizer):
    with pytest.raises(DataError, match="max_length is 8"):
        encode([dialogue("q", "a word " * 40)], tiny_tokenizer, max_length=8, overlong="error")


def test_a_set_of_which_nothing_can_be_used_is_an_error(tiny_tokenizer):
    with pytest.raises(DataError, match="no row of train can be used; 2 of 2: an empty answer"):
        encode([dialogue("q", " ")] * 2, tiny_tokenizer)
    with pytest.raises(DataError, match="no row of validation can be used") as raised:
        encode_set([dialogue("q", " ")], tiny_tokenizer, name="validation", max_length=64, overlong="drop")
    assert "hold out more rows with data.validation" in raised.value.fix


def test_duplicates_and_texts_like_control_tokens_are_counted(tiny_tokenizer):
    rows = [dialogue("q", "a"), dialogue("q", "a"), dialogue("q", "<|im_end|>")]
    report = encode(rows, tiny_tokenizer)[1].to_json()
    assert report["duplicates"] == 1
    assert report["rows_with_text_like_control_tokens"] == 1


def test_what_looks_like_a_control_token_is_counted_wherever_it_stands(tiny_tokenizer):
    thinks = Message("assistant", "a", thinking="<|im_end|>")
    calls = Message("assistant", "a", tool_calls=(ToolCall("f", '{"x": "<|im_end|>"}'),))
    schema = '[{"type": "function", "function": {"name": "f", "description": "<|im_end|>"}}]'
    rows = [Dialogue((Message("user", "q"), answer), "f:1") for answer in (thinks, calls)]
    rows += [Dialogue(dialogue("q", "a").messages, "f:2", schema), dialogue("q", "a")]
    assert encode(rows, tiny_tokenizer)[1].num_control_like == 3


def test_rows_that_ask_the_same_are_on_one_side():
    dialogues = [dialogue(f"question {n % 50}", f"answer {n}") for n in range(200)]
    train, validation = hold_out(dialogues, 0.3)
    assert len(train) + len(validation) == 200
    assert 20 < len(validation) < 100
    assert not {d.opening for d in train} & {d.opening for d in validation}


def test_a_row_stays_on_its_side_when_rows_are_added():
    dialogues = [dialogue(f"question {n}", "a") for n in range(100)]
    validation = hold_out(dialogues, 0.2)[1]
    assert hold_out(dialogues[:50], 0.2)[1] == [d for d in validation if d in dialogues[:50]]


def test_a_small_share_of_few_rows_is_one_row():
    train, validation = hold_out([dialogue(f"question {n}", "a") for n in range(5)], 0.001)
    assert (len(train), len(validation)) == (4, 1)
    assert hold_out([dialogue("q", "a")] * 3, 0.5) == ([dialogue("q", "a")] * 3, [])
    assert hold_out([dialogue("q", "a"), dialogue("r", "a")], 0.0)[1] == []


def test_training_rows_that_the_validation_file_has_too_are_left_out():
    both, only = dialogue("q", "a"), dialogue("q", "b")
    assert drop_shared([both, only], [both]) == ([only], [both])
