"""Ids, masks and losses of every form are those of a slow, obvious computation, made by hand here from the raw rows."""

from __future__ import annotations

import gzip
import json
import os
import re
from functools import cache, partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from chat_templates import make_tokenizer

from llmkit.batch import IGNORE_INDEX
from llmkit.data.dialogue import DialogueRows
from llmkit.data.dialogue_set import encode_set
from llmkit.data.dialogue_source import read_pairs, read_source
from llmkit.data.preferences import encode_pairs
from llmkit.losses import causal_lm_loss_sum
from llmkit.recipe.schema import FinetuneData

REAL_DATA = Path(os.environ.get("LLMKIT_TEST_DATA", "absent"))
REAL_MODEL = os.environ.get("LLMKIT_TEST_MODEL", "absent")
"""A folder of public data sets, and one of a model with a ChatML template, for whoever has them."""

NUM_ROWS = 20

HEADER = "<|im_start|>assistant\n"


def turn(role, content, is_trained=None, **rest):
    """A message as a template takes it, and whether it is learned."""
    return {"role": role, "content": content, **rest}, role == "assistant" if is_trained is None else is_trained


# Each reads one dialogue of a raw row by itself, without llmkit: [(message, whether it is learned), ...].
def alpaca(row):
    says_none = row.get("input", "").strip().lower() in ("", "noinput", "no input", "n/a", "<noinput>", "no input.")
    question = row["instruction"] if says_none else row["instruction"] + "\n\n" + row["input"]
    return [turn("user", question), turn("assistant", row["output"])]


def pair(row, question, answer):
    return [turn("user", row[question]), turn("assistant", row[answer].removesuffix("<|endoftext|>"))]


def seed(row):
    return alpaca({"instruction": row["instruction"], **row["instances"][0]})


def sharegpt(row):
    roles = {"human": "user", "gpt": "assistant"}
    return [turn(roles[t["from"]], t["value"]) for t in row["conversations"]]


def parts(row, column="messages"):
    found = []
    for m in row[column]:
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


def thoughts(row):
    found, number = [], 0
    for m in row["messages"]:
        said = {kind: [p["value"] for p in m["content"] if p["type"] == kind] for kind in ("text", "reasoning")}
        calls = []
        for function in (json.loads(p["value"]) for p in m["content"] if p["type"] == "tool_call"):
            number += 1
            calls.append({"id": f"call{number:05}", "type": "function", "function": function})
        rest = {"reasoning_content": "\n".join(said["reasoning"]), "tool_calls": calls}
        found.append(turn(m["role"], "".join(said["text"]), **{key: value for key, value in rest.items() if value}))
    return found


def answered(row, side):
    roles = {"system": "system", "human": "user", "gpt": "assistant"}
    asked = [turn(roles[t["from"]], t["value"], False) for t in row["conversations"]]
    return [*asked, turn("assistant", row[side]["value"])]


def transcript(row, side):
    turns = re.findall(r"\n\n(Human|Assistant):(.*?)(?=\n\nHuman:|\n\nAssistant:|\Z)", row[side], re.DOTALL)
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
ANSWER = {"role": "assistant", "text": "that", "rank": 0, "replies": []}
for text, answer in (("and then?", "the model"), ("why?", "we ask it")):
    ANSWER["replies"].append({"role": "prompter", "text": text, "replies": [{"role": "assistant", "text": answer}]})
WIDE_TREE = {"prompt": {"role": "prompter", "text": "what comes?"}}
WIDE_TREE["prompt"]["replies"] = [{"role": "assistant", "text": "worse", "rank": 1}, ANSWER]
# The best ranked first; the answer that two paths share is learned in the first of them.
PATHS = [
    [turn("user", "what comes?"), turn("assistant", "that"), turn("user", "and then?"), turn("assistant", "the model")],
    [
        turn("user", "what comes?"),
        turn("assistant", "that", False),
        turn("user", "why?"),
        turn("assistant", "we ask it"),
    ],
    [turn("user", "what comes?"), turn("assistant", "worse")],
]
CALLS = [
    {"from": "human", "value": "what comes?"},
    {"from": "function_call", "value": '{"name": "ask", "arguments": {"text": "the \\"next\\" é", "n": 2}}'},
    {"from": "observation", "value": '{"token": "def"}'},
    {"from": "gpt", "value": "def comes"},
]
SCHEMA = {"name": "ask", "description": "asks it", "parameters": {"type": "object", "properties": {"text": {}}}}
THINKING = [
    ("user", {"text": "what comes?"}),
    ("assistant", {"reasoning": "a guess", "text": "that"}),
    ("user", {"text": "and then?"}),
    ("assistant", {"reasoning": "ask\n\nthe next", "tool_call": '{"name": "ask", "arguments": {"text": "é"}}'}),
    ("tool", {"text": "def"}),
    ("assistant", {"reasoning": "we ask it", "text": "def comes"}),
]
THOUGHTS = [{"role": role, "content": [{"type": k, "value": v} for k, v in said.items()]} for role, said in THINKING]
PAIR = {"conversations": [CALLS[0], CALLS[3], CALLS[0]], "chosen": {"from": "gpt", "value": "that\n"}}
LISTS = {"chosen_messages": MESSAGES, "rejected_messages": [*MESSAGES[:-1], {"role": "assistant", "content": "a"}]}
TRANSCRIPT = "\n\nHuman: what?\n\nAssistant: a\n\nHuman: why?\n\nAssistant: we ask"
SIDES = ("chosen", "rejected")


def made(row, *readers, **fields):
    """A row, a reader for each of its dialogues, and how the recipe says that it is read."""
    return row, readers, FinetuneData(**fields)


MADE = {
    "alpaca": made({"instruction": "guess the token", "input": "the a model", "output": " learns\n\nto guess"}, alpaca),
    "prompt and completion": made(
        {"prompt": "what?\n", "completion": "\n that"}, partial(pair, question="prompt", answer="completion")
    ),
    "question and answer": made(
        {"question": " what?\n", "answer": "we ask\n#### it"}, partial(pair, question="question", answer="answer")
    ),
    "inputs and targets": made(
        {"inputs": "guess:\n\nthe", "targets": "next\n"}, partial(pair, question="inputs", answer="targets")
    ),
    "seed tasks": made({"instruction": "ask", "instances": [{"input": "", "output": "we"}]}, seed),
    "sharegpt": made({"conversations": [CALLS[0], CALLS[3], CALLS[0], CALLS[3]]}, sharegpt),
    "messages with parts and weights": made({"messages": MESSAGES}, parts),
    "tree": made(TREE, tree),
    "tree with all paths": made(WIDE_TREE, *(lambda row, path=path: path for path in PATHS), paths="all"),
    "speakers": made(
        {"turns": [{"speaker": "USER", "utterance": "a"}, {"speaker": "SYSTEM", "utterance": "b"}]}, speakers
    ),
    "alternating": made({"turns": ["the", "model", "learns", "then"]}, alternating),
    "tool calls": made({"conversations": CALLS, "tools": json.dumps([SCHEMA])}, tool_calls),
    "thinking": made({"messages": THOUGHTS, "tools": json.dumps([SCHEMA])}, thoughts),
    "thinking that is masked": made({"messages": THOUGHTS, "tools": json.dumps([SCHEMA])}, thoughts, thinking="mask"),
    "preference pair of answers": made(
        PAIR | {"rejected": {"from": "gpt", "value": "\n the a"}}, *(partial(answered, side=side) for side in SIDES)
    ),
    "preference pair of lists": made(LISTS, *(partial(parts, column=f"{side}_messages") for side in SIDES)),
    "preference pair of transcripts": made(
        {"chosen": TRANSCRIPT, "rejected": f"{TRANSCRIPT} it then"}, *(partial(transcript, side=side) for side in SIDES)
    ),
}
REAL = {
    "instruction/alpaca_1500.json": [alpaca],
    "instruction/t0_sample_6000.jsonl.gz": [partial(pair, question="prompt", answer="completion")],
    "instruction/seed_tasks.jsonl": [seed],
    "instruction/identity.json": [alpaca],
    "eval/gsm8k_train.jsonl.gz": [partial(pair, question="question", answer="answer")],
    "dialogue/dummy_conversation.json": [sharegpt],
    "dialogue/v1_sft_messages.jsonl": [parts],
    "dialogue/dailydialog_bn_messages.jsonl": [parts],
    "dialogue/oasst_en_100_tree.jsonl": [tree],
    "dialogue/sgd_dialogues_007.json.gz": [speakers],
    "dialogue/glaive_toolcall_en.json": [tool_calls],
    "dialogue/reason_tool_use_50.jsonl": [thoughts],
    "preference/hh_harmless_1000.jsonl.gz": [partial(transcript, side=side) for side in SIDES],
    "preference/dpo_en.json": [partial(answered, side=side) for side in SIDES],
    "preference/v1_dpo.jsonl": [partial(parts, column=f"{side}_messages") for side in SIDES],
}


def slow_row(tokenizer, turns, tools, *, masks_thinking):
    """Ids by `apply_chat_template`; learned is what follows each header up to the end of its turn in the text."""
    messages = [message for message, _ in turns]
    text = tokenizer.apply_chat_template(messages, tools=tools, tokenize=False)
    starts = [found.end() for found in re.finditer(re.escape(HEADER), text)]
    learned = []
    for start, (message, is_learned) in zip(starts, [t for t in turns if t[0]["role"] == "assistant"], strict=True):
        end = text.index("<|im_end|>", start) + len("<|im_end|>")
        thought = text.find("</think>\n\n", start, end) if masks_thinking and "reasoning_content" in message else -1
        if is_learned:
            learned.append((start if thought < 0 else thought + len("</think>\n\n"), end))
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    assert encoded.input_ids == tokenizer.apply_chat_template(messages, tools=tools)["input_ids"]
    trained = [any(a < end and b > start for start, end in learned) for a, b in encoded.offset_mapping]
    return encoded.input_ids, trained


def rows_of(path, data, tokenizer, *, has_pairs):
    """The rows that are trained on; of a pair those of both answers, the chosen one first."""
    options = {"name": "rows", "max_length": 1 << 20, "overlong": "error"}
    if has_pairs:
        pairs, account = encode_pairs(read_pairs(str(path), data), tokenizer, **options)
        return [row for both in pairs for row in both], account
    return encode_set(read_source(str(path), data), tokenizer, **options)


def check(path, raw, readers, data, tokenizer, model):
    """Ids and masks of each row, and the summed loss of all, against the slow computation."""
    path.write_text("".join(json.dumps(values) + "\n" for values in raw), encoding="utf-8")
    rows, account = rows_of(path, data, tokenizer, has_pairs={"chosen", "chosen_messages"} & raw[0].keys())
    dialogues = [(read(values), schemas_of(values)) for values in raw for read in readers]
    assert len(rows) == len(dialogues), account.dropped
    expected = torch.zeros((), dtype=torch.float64)
    for row, (turns, tools) in zip(rows, dialogues, strict=True):
        ids, trained = slow_row(tokenizer, turns, tools, masks_thinking=data.thinking == "mask")
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
    return [tool if "function" in tool else {"type": "function", "function": tool} for tool in tools] or None


def random_model(tokenizer):
    """A small model of this vocabulary with random weights, in fp32."""
    from llmkit.models.causal_lm import build_causal_lm
    from llmkit.recipe.schema import ModelSection

    section = ModelSection(num_layers=1, hidden_size=16, num_heads=2)
    model = build_causal_lm(section, vocab_size=len(tokenizer), seq_len=4096, tokenizer=tokenizer, seed=0)
    return model.eval()


@pytest.mark.parametrize("name", MADE)
def test_a_form_is_learned_as_the_slow_computation_says(name, texts, tmp_path):
    row, readers, data = MADE[name]
    tokenizer = make_tokenizer("qwen with tools" if "tools" in row else "chatml", texts)
    check(tmp_path / "rows.jsonl", [row], readers, data, tokenizer, random_model(tokenizer))


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
    assert len(raw) == NUM_ROWS or name == "preference/v1_dpo.jsonl"  # which has ten
    data = FinetuneData(strip=["<|endoftext|>"])
    check(tmp_path / "rows.jsonl", raw, REAL[name], data, tokenizer, model)
