"""Instructions and dialogues in the forms people keep them in."""

from __future__ import annotations

import json

import pytest

from llmkit.data.dialogue_forms import read_dialogues
from llmkit.data.rendering import Message
from llmkit.errors import DataError

U, A, S, T = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system", "tool"))


def write_rows(folder, *rows):
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


FORMS = {
    "alpaca": ({"instruction": "Add", "input": "1 2", "output": "3"}, [U("Add\n\n1 2"), A("3")]),
    "alpaca without input": ({"instruction": "Sing", "output": "La"}, [U("Sing"), A("La")]),
    "alpaca that says no input": ({"instruction": "Sing", "input": "Noinput", "output": "La"}, [U("Sing"), A("La")]),
    "alpaca with a system column": ({"system": "s", "instruction": "i", "output": "o"}, [S("s"), U("i"), A("o")]),
    "prompt, completion": ({"prompt": "p", "completion": "c"}, [U("p"), A("c")]),
    "question, answer": ({"question": "q", "answer": "a", "id": 7}, [U("q"), A("a")]),
    "prompt and completion as messages": (
        {"prompt": [{"role": "user", "content": "p"}], "completion": [{"role": "assistant", "content": "c"}]},
        [Message("user", "p", False), A("c")],
    ),
    "messages": (
        {"messages": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]},
        [U("u"), A("a")],
    ),
    "typed parts": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "u"}, {"type": "text", "value": "v"}]},
                {"role": "assistant", "content": "a", "loss_weight": 0.0},
            ]
        },
        [U("uv"), Message("assistant", "a", False)],
    ),
    "sharegpt": (
        {"conversations": [{"from": "human", "value": "h"}, {"from": "gpt", "value": "g"}]},
        [U("h"), A("g")],
    ),
    "tool calls in sharegpt": (
        {
            "conversations": [
                {"from": "human", "value": "h"},
                {"from": "function_call", "value": "{}"},
                {"from": "observation", "value": "o"},
                {"from": "gpt", "value": "g"},
            ]
        },
        [U("h"), A("{}"), T("o"), A("g")],
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_recognised_by_its_columns(name, tmp_path, capsys):
    row, expected = FORMS[name]
    [dialogue] = read_dialogues(write_rows(tmp_path, row))
    assert list(dialogue.messages) == expected
    assert dialogue.where.endswith("rows.jsonl:1")
    assert "by its columns" in capsys.readouterr().err


def test_columns_that_are_not_used_are_named(tmp_path, capsys):
    list(read_dialogues(write_rows(tmp_path, {"question": "q", "answer": "a", "source": "x"})))
    assert "not used: source" in capsys.readouterr().err


WRONG = {
    "message 1 has role 'bot'; known roles are": {"messages": [{"role": "bot", "content": "x"}]},
    "message 1 has no 'role'": {"messages": [{"content": "x"}]},
    "there are no messages": {"messages": []},
    "message 1 has no text": {"messages": [{"role": "user", "content": None}]},
    "message 1 has a part of type 'image'": {"messages": [{"role": "user", "content": [{"type": "image"}]}]},
    "message 1 has tool_calls": {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
    "message 1 has weight 0.5": {"messages": [{"role": "assistant", "content": "x", "weight": 0.5}]},
    "column 'output' is empty": {"instruction": "i", "output": None},
    "column 'answer' is dict, not text": {"question": "q", "answer": {}},
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_is_wrong_with_a_row_is_said_with_its_line(reason, tmp_path):
    good = FORMS["messages"][0] if "messages" in WRONG[reason] else dict.fromkeys(WRONG[reason], "x")
    with pytest.raises(DataError) as raised:
        list(read_dialogues(write_rows(tmp_path, good, WRONG[reason])))
    assert raised.value.where.endswith("rows.jsonl:2")
    assert reason in raised.value.message


def test_bad_rows_are_collected_twenty_at_most(tmp_path):
    rows = [FORMS["messages"][0], *[WRONG["there are no messages"]] * 30]
    with pytest.raises(DataError) as raised:
        list(read_dialogues(write_rows(tmp_path, *rows)))
    assert raised.value.message.count("there are no messages") == 20


def test_roles_can_be_mapped(tmp_path):
    row = {"messages": [{"role": "ask", "content": "u"}, {"role": "bot", "content": "a"}]}
    [dialogue] = read_dialogues(write_rows(tmp_path, row), roles={"ask": "user", "bot": "assistant"})
    assert [m.role for m in dialogue.messages] == ["user", "assistant"]


def test_unknown_columns_are_named_with_the_known_forms(tmp_path):
    with pytest.raises(DataError, match="the columns are left, right") as raised:
        list(read_dialogues(write_rows(tmp_path, {"left": "l", "right": "r"})))
    assert "prompt, completion" in raised.value.fix
