"""Preference pairs in the forms people keep them in."""

from __future__ import annotations

import json

import pytest

from llmkit.data.messages import Message
from llmkit.data.preference_forms import read_preferences
from llmkit.errors import DataError

U, A, S = (lambda text, role=role: Message(role, text) for role in ("user", "assistant", "system"))


def asked(*messages):
    return [message._replace(is_trained=False) for message in messages]


def as_turns(*messages):
    return [{"role": m.role, "content": m.content} for m in messages]


def write_rows(folder, *rows):
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


PROMPT = asked(U("p"))
FORMS = {
    "texts": ({"prompt": "p", "chosen": "c", "rejected": "r"}, PROMPT),
    "texts with a system message": (
        {"system": "s", "question": "p", "chosen": "c", "rejected": "r"},
        asked(S("s"), U("p")),
    ),
    "messages with a prompt": (
        {"prompt": as_turns(U("p")), "chosen": as_turns(A("c")), "rejected": as_turns(A("r"))},
        PROMPT,
    ),
    "whole dialogues": ({"chosen": as_turns(U("p"), A("c")), "rejected": as_turns(U("p"), A("r"))}, PROMPT),
    "whole dialogues beside their prompt": (
        {"prompt": "p", "chosen": as_turns(U("p"), A("c")), "rejected": as_turns(U("p"), A("r"))},
        PROMPT,
    ),
    "sharegpt": (
        {
            "conversations": [{"from": "human", "value": "p"}],
            "chosen": {"from": "gpt", "value": "c"},
            "rejected": {"from": "gpt", "value": "r"},
        },
        PROMPT,
    ),
    "two lists": (
        {"chosen_messages": as_turns(U("p"), A("c")), "rejected_messages": as_turns(U("p"), A("r"))},
        PROMPT,
    ),
    "transcripts": (
        {
            "chosen": "\n\nHuman: o\n\nAssistant: k\n\nHuman: p\n\nAssistant: c",
            "rejected": "\n\nHuman: o\n\nAssistant: k\n\nHuman: p\n\nAssistant: r ",
        },
        asked(U("o"), A("k"), U("p")),
    ),
    "a prompt that is a transcript": (
        {"prompt": "\n\nHuman: o\n\nAssistant: k\n\nHuman: p\n\nAssistant:", "chosen": "c", "rejected": "r"},
        asked(U("o"), A("k"), U("p")),
    ),
    "transcripts beside their prompt": (
        {
            "prompt": "p",
            "chosen": "\n\nHuman: p\n\nAssistant: c",
            "rejected": "\n\nHuman: p\n\nAssistant: r",
        },
        PROMPT,
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_of_pairs_is_recognised_and_what_both_share_is_the_prompt(name, tmp_path, capsys):
    row, prompt = FORMS[name]
    [pair] = read_preferences(write_rows(tmp_path, row))
    assert (pair.prompt, pair.chosen, pair.rejected) == (prompt, [A("c")], [A("r")])
    assert pair.fault is None
    assert "preference pairs" in capsys.readouterr().err


def test_dialogues_that_part_early_go_on_by_themselves(tmp_path):
    chosen, rejected = as_turns(U("p"), A("c"), U("q"), A("d")), as_turns(U("p"), A("r"), U("q"), A("s"))
    [pair] = read_preferences(write_rows(tmp_path, {"chosen": chosen, "rejected": rejected}))
    assert pair.prompt == PROMPT
    assert pair.chosen == [A("c"), U("q"), A("d")]


@pytest.mark.parametrize(
    ("chosen", "rejected", "fault"), [("c", "c", "both answers are the same"), (" ", "r", "an answer says nothing")]
)
def test_pairs_that_teach_nothing_say_why(chosen, rejected, fault, tmp_path):
    [pair] = read_preferences(write_rows(tmp_path, {"prompt": "p", "chosen": chosen, "rejected": rejected}))
    assert pair.fault == fault


def test_columns_and_roles_can_be_mapped(tmp_path):
    row = {"q": "p", "good": [{"role": "bot", "content": "c"}], "bad": [{"role": "bot", "content": "r"}]}
    columns = {"prompt": "q", "chosen": "good", "rejected": "bad"}
    [pair] = read_preferences(write_rows(tmp_path, row), columns=columns, roles={"bot": "assistant"})
    assert (pair.prompt, pair.chosen) == (PROMPT, [A("c")])


WRONG = {
    "these rows are no preference pairs: the columns are prompt, completion": {"prompt": "p", "completion": "c"},
    "there is nothing that both answers answer": {"chosen": "c", "rejected": "r"},
    "judged good or bad one by one .KTO.": {"messages": as_turns(U("p"), A("c")), "label": True},
    "column 'rejected' is empty": {"prompt": "p", "chosen": "c", "rejected": None},
}


@pytest.mark.parametrize("reason", WRONG)
def test_what_is_no_pair_is_said(reason, tmp_path):
    with pytest.raises(DataError, match=reason):
        list(read_preferences(write_rows(tmp_path, WRONG[reason])))
