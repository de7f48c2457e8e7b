"""Ids, masks and losses of every form are those of a slow, obvious computation, made by hand here from the raw rows."""

from __future__ import annotations

import gzip
import json
import os
import re
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from chat_templates import make_tokenizer

from llmkit.batch import IGNORE_INDEX
from llmkit.data.dialogue import DialogueRows
from llmkit.data.dialogue_set import encode_set
from llmkit.data.dialogue_source import read_source
from llmkit.data.messages import Dialogue
from llmkit.data.preference_forms import read_preferences
from llmkit.losses import causal_lm_loss_sum
from llmkit.recipe.schema import FinetuneData

REAL_DATA = Path(os.environ.get("LLMKIT_TEST_DATA", "absent"))
REAL_MODEL = os.environ.get("LLMKIT_TEST_MODEL", "absent")
"""A folder of public data sets, and one of a model with a ChatML template, for whoever has them."""

NUM_ROWS = 20


def turn(role, content, is_trained=None, **rest):
    """A message as a template takes it, and whether it is learned."""
    return {"role": role, "content": content, **rest}, role == "assistant" if is_trained is None else is_trained


# Each reads one raw row by itself, without llmkit: [(message, whether it is learned), ...] of the first dialogue in it.
def alpaca(row):
    says_none = row.get("input", "").strip().lower() in ("", "noinput", "no input", "n/a", "<noinput>", "no input.")
    question = row["instruction"] if says_none else row["instruction"] + "\n\n" + row["input"]
    return [turn("user", question), turn("assistant", row["output"])]


def pair(row):
    return [turn("user", row["prompt"]), turn("assistant", row["completion"].removesuffix("<|endoftext|>"))]


def seed(row):
    return alpaca({"instruction": row["instruction"], **row["instances"][0]})


def sharegpt(row):
    roles = {"human": "user", "gpt": "assistant"}
    return [turn(roles[t["from"]], t["value"]) for t in row["conversations"]]


def parts(row):
    found = []
    for m in row["messages"]:
        text = m["content"] if isinstance(m["content"], str) else "".join(part["value"] for part in m["content"])
        found.append(turn(m["role"], text, m["role"] == "assistant" and m.get("loss_weight", 1) == 1))
    return found


def tree(row):
    node, found = row["prompt"], []
    while node:
        found.append(turn({"prompter": "user"}.get(node["role"], node["role"]), node["text"]))
        replies = sorted(node["replies"], key=lambda reply: 99 if reply.get("rank") is None else reply["rank"])
        node = replies[0] if replies else None
    while found[-1][0]["role"] != "assistant":
        found.pop()
    return found


def speakers(row):
    roles = {"USER": "user", "SYSTEM": "assistant"}
    return [turn(roles[t["speaker"]], t["utterance"]) for t in row["turns"]]


def alternating(row):
    return [turn("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(row["turns"])]


def tool_calls(row):
    found, number = [], 0
    for t in row["conversations"]:
        if t["from"] == "function_call":
            number += 1
            function = {key: json.loads(t["value"])[key] for key in ("name", "arguments")}
            call = {"id": f"call{number:05}", "type": "function", "function": function}
            found.append(turn("assistant", "", tool_calls=[call]))
        elif t["from"] == "observation":
            found.append(turn("tool", t["value"], tool_call_id=f"call{number:05}"))
        else:
            found.append(turn({"human": "user", "gpt": "assistant"}[t["from"]], t["value"]))
    return found


def transcript(row):
    turns = re.findall(r"\n\n(Human|Assistant):(.*?)(?=\n\nHuman:|\n\nAssistant:|\Z)", row["chosen"], re.DOTALL)
    messages = [turn({"Human": "user"}.get(who, "assistant"), text.strip(), False) for who, text in turns]
    return [*messages[:-1], turn("assistant", messages[-1][0]["content"])]


MESSAGES = [
    {"role": "system", "content": [{"type": "text", "value": " Be brief.\n"}]},
    {"role": "user", "content": "\n the model"},
    {"role": "assistant", "content": "learns to guess\n", "loss_weight": 0},
    {"role": "user", "content": [{"type": "text", "value": "next "}, {"type": "text", "value": "token"}]},
    {"role": "assistant", "content": "from text…", "loss_weight": 1},
]
TREE = {"prompt": {"role": "prompter", "text": "what comes?", "replies": []}}
TREE["prompt"]["replies"] = [
    {"role": "assistant", "text": "worse", "rank": 1, "replies": []},
    {"role": "assistant", "text": "that\n\n1. the model", "rank": 0, "replies": [dict(TREE["prompt"], replies=[])]},
]
CALLS = [
    {"from": "human", "value": "what comes?"},
    {"from": "function_call", "value": '{"name": "ask", "arguments": {"text": "the \\"next\\" é", "n": 2}}'},
    {"from": "observation", "value": '{"token": "def"}'},
    {"from": "gpt", "value": "def comes"},
]
SCHEMA = {"name": "ask", "description": "asks it", "parameters": {"type": "object", "properties": {"text": {}}}}
MADE = {
    "alpaca": (alpaca, {"instruction": "guess the token", "input": "the a model", "output": " learns\n\nto guess"}),
    "prompt and completion": (pair, {"prompt": "what?\n", "completion": "\n that"}),
    "seed tasks": (seed, {"instruction": "ask", "instances": [{"input": "", "output": "we"}]}),
    "sharegpt": (sharegpt, {"conversations": [CALLS[0], CALLS[3], CALLS[0], CALLS[3]]}),
    "messages with parts and weights": (parts, {"messages": MESSAGES}),
    "tree": (tree, TREE),
    "speakers": (speakers, {"turns": [{"speaker": "USER", "utterance": "a"}, {"speaker": "SYSTEM", "utterance": "b"}]}),
    "alternating": (alternating, {"turns": ["the", "model", "learns", "then"]}),
    "tool calls": (tool_calls, {"conversations": CALLS, "tools": json.dumps([SCHEMA])}),
}
REAL = {
    "instruction/alpaca_1500.json": alpaca,
    "instruction/t0_sample_6000.jsonl.gz": pair,
    "instruction/seed_tasks.jsonl": seed,
    "instruction/identity.json": alpaca,
    "dialogue/dummy_conversation.json": sharegpt,
    "dialogue/v1_sft_messages.jsonl": parts,
    "dialogue/dailydialog_bn_messages.jsonl": parts,
    "dialogue/oasst_en_100_tree.jsonl": tree,
    "dialogue/sgd_dialogues_007.json.gz": speakers,
    "dialogue/glaive_toolcall_en.json": tool_calls,
    "preference/hh_harmless_1000.jsonl.gz": transcript,
}


def slow_row(tokenizer, turns, tools):
    """Ids by `apply_chat_template`; learned is what follows each prompt up to the end of its turn in the text."""
    messages = [message for message, _ in turns]

    def render(upto, *, asks):
        options = {"tools": tools, "tokenize": False, "add_generation_prompt": asks}
        return tokenizer.apply_chat_template(messages[:upto], **options)

    text = render(len(messages), asks=False)
    learned = []
    for i, (_, is_learned) in enumerate(turns):
        if is_learned:
            start = len(render(i, asks=True))
            learned.append((start, text.index("<|im_end|>", start) + len("<|im_end|>")))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert encoded.input_ids == tokenizer.apply_chat_template(messages, tools=tools)["input_ids"]
    trained = [any(a < end and b > start for start, end in learned) for a, b in encoded.offset_mapping]
    return encoded.input_ids, trained


def check(dialogues, raw, by_hand, tokenizer, model, tools_of):
    """Ids and masks of each row, and the summed loss of all, against the slow computation."""
    rows, account = encode_set(dialogues, tokenizer, name="rows", max_length=1 << 20, overlong="error")
    assert len(rows) == len(raw), account.dropped
    expected = torch.zeros((), dtype=torch.float64)
    for row, values in zip(rows, raw, strict=True):
        ids, trained = slow_row(tokenizer, by_hand(values), tools_of(values))
        assert row.input_ids.tolist() == ids
        assert [False, *(row.targets[:-1] != IGNORE_INDEX).tolist()] == trained
        places = torch.tensor([t for t in range(1, len(ids)) if trained[t]])
        with torch.no_grad():
            log_probabilities = F.log_softmax(model(torch.tensor([ids])).logits[0, places - 1].float(), dim=-1)
        expected -= log_probabilities.double().gather(1, torch.tensor(ids)[places][:, None]).sum()
    batches = DialogueRows(rows)
    with torch.no_grad():
        loss = sum(causal_lm_loss_sum(model, batches.batch([i])).double() for i in range(len(rows)))
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)


def schemas_of(row):
    """The tools of a row as `apply_chat_template` takes them."""
    tools = json.loads(row.get("tools") or "[]")
    return [{"type": "function", "function": tool} for tool in tools] or None


def random_model(tokenizer):
    """A small model of this vocabulary with random weights, in fp32."""
    from llmkit.models.causal_lm import build_causal_lm
    from llmkit.recipe.schema import ModelSection

    section = ModelSection(num_layers=1, hidden_size=16, num_heads=2)
    model = build_causal_lm(section, vocab_size=len(tokenizer), seq_len=4096, tokenizer=tokenizer, seed=0)
    return model.eval()


@pytest.mark.parametrize("name", MADE)
def test_a_form_is_learned_as_the_slow_computation_says(name, texts, tmp_path):
    by_hand, row = MADE[name]
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    tokenizer = make_tokenizer("qwen with tools" if "tools" in row else "chatml", texts)
    dialogues = read_source(str(path), FinetuneData())
    check(dialogues, [row], by_hand, tokenizer, random_model(tokenizer), schemas_of)


@cache
def real_setting():
    """A real tokenizer, and a small model of its vocabulary."""
    from llmkit.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(REAL_MODEL)
    return tokenizer, random_model(tokenizer)


def read_raw(path):
    """Rows of a file that are neither nearly empty nor long, which would take its time and show nothing more."""
    text = (gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()).decode()
    rows = json.loads(text) if text.startswith("[") else [json.loads(line) for line in text.split("\n") if line]
    start = len(rows) // 5
    return sorted(rows, key=lambda row: len(json.dumps(row)))[start : start + NUM_ROWS]


@pytest.mark.skipif(not (REAL_DATA.is_dir() and Path(REAL_MODEL).is_dir()), reason="no real data here")
@pytest.mark.parametrize("name", REAL)
def test_real_rows_of_a_form_are_learned_as_the_slow_computation_says(name, texts, tmp_path, monkeypatch):
    tokenizer, model = real_setting()
    if "tool" in name:
        monkeypatch.setattr(tokenizer, "chat_template", make_tokenizer("qwen with tools", texts).chat_template)
    raw = read_raw(REAL_DATA / name)
    assert len(raw) == NUM_ROWS
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in raw), encoding="utf-8")
    if "preference" in name:
        pairs = read_preferences(str(path))
        dialogues = [Dialogue((*pair.prompt, *pair.chosen), pair.where) for pair in pairs]
    else:
        dialogues = read_source(str(path), FinetuneData(strip=["<|endoftext|>"]))
    check(dialogues, raw, REAL[name], tokenizer, model, schemas_of)
