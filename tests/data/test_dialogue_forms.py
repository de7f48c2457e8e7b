"""Instructions and dialogues in the forms people keep them in."""

from __future__ import annotations

import json

import pytest

from llmkit.data.dialogue_forms import read_dialogues
from llmkit.data.messages import Message, ToolCall
from llmkit.errors import DataError, RecipeError

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
                {"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
                {"from": "observation", "value": "o"},
                {"from": "gpt", "value": "g"},
            ]
        },
        [U("h"), Message("assistant", "", tool_calls=(ToolCall("f", '{"x": 1}'),)), T("o"), A("g")],
    ),
    "tool calls as OpenAI has them": (
        {
            "messages": [
                {"role": "user", "content": "u"},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [
                        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
                    ],
                },
                {"role": "tool", "tool_call_id": "c1", "name": "f", "content": {"y": "é"}},
            ],
            "tools": '[{"name": "f"}]',
        },
        [
            U("u"),
            Message("assistant", "", tool_calls=(ToolCall("f", '{"x": 1}', "c1"),)),
            Message("tool", '{"y": "é"}', name="f", call_id="c1"),
        ],
    ),
    "typed thinking and calls": (
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": [
                        {"type": "reasoning", "value": "hm"},
                        {"type": "text", "value": "a"},
                        {"type": "tool_call", "value": '{"name": "f", "arguments": {}}'},
                    ],
                }
            ]
        },
        [Message("assistant", "a", thinking="hm", tool_calls=(ToolCall("f", "{}"),))],
    ),
    "thinking written into the answer": (
        {"prompt": "p", "completion": "<think>\nhm\n</think>\n\na"},
        [U("p"), Message("assistant", "a", thinking="hm")],
    ),
    "thinking in a field": (
        {"messages": [{"role": "assistant", "content": "a", "reasoning_content": "hm"}]},
        [Message("assistant", "a", thinking="hm")],
    ),
    "thinking in a field of typed parts": (
        {"messages": [{"role": "assistant", "content": "a", "reasoning": [{"type": "text", "text": "hm"}]}]},
        [Message("assistant", "a", thinking="hm")],
    ),
    "speakers": (
        {"turns": [{"speaker": "USER", "utterance": "u"}, {"speaker": "SYSTEM", "utterance": "a"}]},
        [U("u"), A("a")],
    ),
    "texts by turns": ({"dialog": ["u", "a", "v"]}, [U("u"), A("a"), U("v")]),
    "T0": ({"inputs": "i", "targets": "t"}, [U("i"), A("t")]),
    "dolly": ({"instruction": "i", "context": "c", "response": "r"}, [U("i\n\nc"), A("r")]),
    "a tree": (
        {
            "prompt": {
                "text": "u",
                "role": "prompter",
                "replies": [
                    {"text": "worse", "role": "assistant", "rank": 1, "replies": []},
                    {
                        "text": "best",
                        "role": "assistant",
                        "rank": 0,
                        "replies": [{"text": "v", "role": "prompter", "replies": []}],
                    },
                ],
            }
        },
        [U("u"), A("best")],
    ),
}


def test_seed_tasks_are_a_dialogue_for_each_instance(tmp_path):
    row = {"instruction": "Add", "instances": [{"input": "1 2", "output": "3"}, {"input": "", "output": "?"}]}
    dialogues = list(read_dialogues(write_rows(tmp_path, row)))
    assert [list(d.messages) for d in dialogues] == [[U("Add\n\n1 2"), A("3")], [U("Add"), A("?")]]


TREE = {
    "text": "u",
    "role": "prompter",
    "replies": [
        {"text": "b", "role": "assistant", "rank": 1, "replies": []},
        {
            "text": "a",
            "role": "assistant",
            "rank": 0,
            "replies": [
                {"text": "v", "role": "prompter", "replies": [{"text": "c", "role": "assistant", "replies": []}]},
                {"text": "w", "role": "prompter", "replies": [{"text": "d", "role": "assistant", "replies": []}]},
                {"text": "x", "role": "prompter", "deleted": True, "replies": []},
            ],
        },
    ],
}


def test_all_paths_of_a_tree_learn_each_answer_once(tmp_path, capsys):
    dialogues = list(read_dialogues(write_rows(tmp_path, {"prompt": TREE}), paths="all"))
    unlearned = Message("assistant", "a", False)
    assert [list(d.messages) for d in dialogues] == [
        [U("u"), A("a"), U("v"), A("c")],
        [U("u"), unlearned, U("w"), A("d")],
        [U("u"), A("b")],
    ]
    assert "1 deleted messages of trees are left out" in capsys.readouterr().err


def test_messages_of_trees_in_rows_of_their_own_are_put_together(tmp_path, capsys):
    numbers = iter(range(100))

    def flat(node, parent):
        own = str(next(numbers))
        yield {"message_id": own, "parent_id": parent, **{k: v for k, v in node.items() if k != "replies"}}
        for reply in node["replies"]:
            yield from flat(reply, own)

    stray = {"message_id": "x", "parent_id": "gone", "text": "t", "role": "assistant"}
    path = write_rows(tmp_path, *flat(TREE, None), stray)
    [dialogue] = read_dialogues(path)
    assert list(dialogue.messages) == [U("u"), A("a"), U("v"), A("c")]
    assert "1 messages answer one that is not there (the first: gone)" in capsys.readouterr().err


def test_a_tree_whose_root_is_deleted_is_left_out(tmp_path, capsys):
    good = {"prompt": {**TREE, "text": "other"}}
    found = list(read_dialogues(write_rows(tmp_path, {"prompt": {**TREE, "deleted": True}}, good), paths="best"))
    assert [d.messages[0].content for d in found] == ["other"]
    assert "2 deleted messages of trees are left out" in capsys.readouterr().err


def test_messages_of_trees_in_a_table_are_put_together(tmp_path):
    path = tmp_path / "messages.csv"
    path.write_text(
        "message_id,parent_id,text,role,rank,deleted\n"
        "1,,u,prompter,,False\n"
        "2,1,worse,assistant,1.0,False\n"
        "3,1,best,assistant,0.0,False\n"
        "4,1,gone,assistant,,True\n"
    )
    [dialogue] = read_dialogues(str(path))
    assert list(dialogue.messages) == [U("u"), A("best")]


def test_plain_text_is_sent_to_pretraining(tmp_path):
    path = tmp_path / "corpus.txt"
    path.write_text("The model learns.\n")
    with pytest.raises(DataError, match="this is plain text, and rows are needed") as raised:
        list(read_dialogues(str(path)))
    assert "llmkit pretrain --model MODEL" in raised.value.fix


def test_a_form_is_said_once_however_often_rows_change_it(tmp_path, capsys):
    list(read_dialogues(write_rows(tmp_path, *[FORMS["alpaca"][0], FORMS["messages"][0]] * 3)))
    assert capsys.readouterr().err.count("by its columns") == 2


def test_columns_can_be_named(tmp_path, capsys):
    path = write_rows(tmp_path, {"q": "p", "prompt": "other", "a": "c"})
    [dialogue] = read_dialogues(path, columns={"prompt": "q", "completion": "a"})
    assert list(dialogue.messages) == [U("p"), A("c")]
    assert "columns prompt (q), completion (a)" in capsys.readouterr().err


def test_columns_that_are_not_there_are_errors(tmp_path):
    path = write_rows(tmp_path, {"q": "p", "a": "c"})
    with pytest.raises(DataError, match="there is no column 'z'"):
        list(read_dialogues(path, columns={"prompt": "z"}))
    with pytest.raises(RecipeError, match="no form has a column 'promt'") as raised:
        list(read_dialogues(path, columns={"promt": "q"}))
    assert "did you mean 'prompt'?" in raised.value.fix


OTHERS = {
    "these rows are preference pairs": {"prompt": "p", "completion": "c", "chosen": "c", "rejected": "r"},
    "these rows are answers judged good or bad": {"messages": [{"role": "user", "content": "x"}], "label": False},
    "these rows are questions without answers": {"question_id": 1, "turns": ["q", "r"]},
    "these rows are questions with choices": {"question": "q", "choices": ["a"], "answer": 0},
    "these rows are plain text": {"text": "t", "url": "u"},
    "these rows are texts with labels": {"text": "t", "label": 1},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_rows_of_another_kind_are_named(kind, tmp_path):
    with pytest.raises(DataError, match=kind):
        list(read_dialogues(write_rows(tmp_path, OTHERS[kind])))


def test_turns_that_say_who_spoke_are_a_dialogue_whatever_stands_beside_them(tmp_path):
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    (dialogue,) = read_dialogues(write_rows(tmp_path, {"question_id": 1, "turns": turns}))
    assert list(dialogue.messages) == [U("q"), A("a")]


def test_an_unknown_form_says_which_columns_could_be_named(tmp_path):
    with pytest.raises(DataError) as raised:
        list(read_dialogues(write_rows(tmp_path, {"id": "1", "turns_en": ["a", "b"]})))
    assert "data.columns.turns=COLUMN" in raised.value.fix
    assert "turns_en" in raised.value.fix


def test_a_user_who_asks_to_be_learned_is_counted_and_is_not(tmp_path, capsys):
    row = {"messages": [{"role": "user", "content": "u", "weight": 1}, {"role": "assistant", "content": "a"}]}
    list(read_dialogues(write_rows(tmp_path, row)))
    assert "1 messages that are no answers ask to be learned; only answers are" in capsys.readouterr().err


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
    "message 1 holds a call without a name": {"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]},
    "message 1 holds a call that is no JSON": {"messages": [{"role": "function_call", "content": "f(1)"}]},
    "message 1 (user) calls a tool": {"messages": [{"role": "user", "content": "", "tool_calls": [{"name": "f"}]}]},
    "the tools are no JSON": {"messages": [{"role": "user", "content": "u"}], "tools": "f, g"},
    "tool 1 has no name": {"messages": [{"role": "user", "content": "u"}], "tools": [{"title": "f"}]},
    "message 1 has 'reasoning' that is no text": {
        "messages": [{"role": "assistant", "content": "x", "reasoning": {"effort": "high"}}]
    },
    "column 'system' is list, not text": {"prompt": "p", "completion": "c", "system": ["s"]},
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


def test_an_instruction_with_both_input_and_context_is_an_error(tmp_path):
    row = {"instruction": "i", "output": "o", "input": "x", "context": "y"}
    with pytest.raises(DataError, match="columns 'input' and 'context' both say something"):
        list(read_dialogues(write_rows(tmp_path, row)))


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
