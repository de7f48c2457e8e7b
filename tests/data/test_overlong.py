"""Rows cut at their beginning are whole dialogues still."""

from __future__ import annotations

import pytest

from llmkit.data.dialogue import encode_dialogue
from llmkit.data.dialogue_set import encode_set
from llmkit.data.messages import Dialogue, Message
from llmkit.tokenizer import decode_ids

SYSTEM = Message("system", "be brief")
TURNS = [m for n in range(4) for m in (Message("user", f"the question {n}"), Message("assistant", f"the answer {n}"))]
WHOLE = Dialogue((SYSTEM, *TURNS), "f:1")


def cut(dialogue, tokenizer, max_length):
    rows, account = encode_set([dialogue], tokenizer, name="train", max_length=max_length, overlong="cut-left")
    return rows[0], account.to_json()


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_the_oldest_turns_go_first_and_the_system_message_stays(kept, tiny_tokenizer):
    expected = encode_dialogue([SYSTEM, *TURNS[-2 * kept :]], tiny_tokenizer)
    row, account = cut(WHOLE, tiny_tokenizer, len(expected.input_ids) + 3)
    assert row.input_ids.tolist() == expected.input_ids.tolist()
    assert row.targets.tolist() == expected.targets.tolist()
    whole = encode_dialogue(WHOLE.messages, tiny_tokenizer).num_tokens
    assert account["cut"] == {"rows": 1, "tokens": whole - len(row.input_ids)}


def test_then_the_question_loses_its_beginning_and_the_answer_nothing(tiny_tokenizer):
    question = "what comes after that " * 10
    dialogue = Dialogue((SYSTEM, Message("user", question), Message("assistant", "the next token")), "f:1")
    row, _ = cut(dialogue, tiny_tokenizer, 60)
    assert len(row.input_ids) in range(57, 61)
    text = decode_ids(tiny_tokenizer, row.input_ids.tolist())
    head, asked = text.split("<|im_start|>user\n")
    asked, answer = asked.split("<|im_end|>\n<|im_start|>assistant\n")
    assert head == "<|im_start|>system\nbe brief<|im_end|>\n"
    assert question.endswith(asked)
    assert answer == "the next token<|im_end|>\n"
    assert decode_ids(tiny_tokenizer, [int(t) for t in row.targets if t >= 0]) == "the next token<|im_end|>"


def test_an_answer_that_is_too_long_by_itself_is_dropped(tiny_tokenizer):
    long = Dialogue((Message("user", "q"), Message("assistant", "a word " * 40)), "f:1")
    rows, account = encode_set([long, WHOLE], tiny_tokenizer, name="t", max_length=70, overlong="cut-left")
    assert len(rows) == 1
    assert account.to_json()["dropped"]["longer than max_length"]["rows"] == 1


def test_what_follows_the_last_answer_is_let_go_before_an_answer(tiny_tokenizer):
    messages = (*TURNS[:2], Message("user", "a question that nobody answered"))
    expected = encode_dialogue(TURNS[:2], tiny_tokenizer)
    row, _ = cut(Dialogue(messages, "f:1"), tiny_tokenizer, len(expected.input_ids))
    assert row.input_ids.tolist() == expected.input_ids.tolist()
