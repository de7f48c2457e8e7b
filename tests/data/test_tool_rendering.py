"""Tools, calls, results and thinking through templates that know them and through those that do not."""

from __future__ import annotations

import json

import pytest
from chat_templates import TEMPLATES, make_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmkit.data.dialogue import make_row
from llmkit.data.messages import Message, ToolCall
from llmkit.data.rendering import HIDDEN_THINKING, renderer_of
from llmkit.data.template_input import PLAIN_CALLS, PLAIN_RESULTS, PLAIN_THINKING, PLAIN_TOOLS
from llmkit.tokenizer import decode_ids

WITH_TOOLS = ["qwen with tools", "llama with tools", "mistral with tools"]

SCHEMA = {
    "type": "function",
    "function": {
        "name": "look",
        "description": 'Says "what" is\nthere: é',
        "parameters": {"type": "object", "properties": {"city": {"type": "string", "enum": ["Oslo", "Århus"]}}},
    },
}
TOOLS = json.dumps([SCHEMA, SCHEMA], ensure_ascii=False)
ARGUMENTS = {"city": 'Århus "by"', "days": 3, "deep": {"list": ["a\nb", None, True]}}
CALL = ToolCall("look", json.dumps(ARGUMENTS))
DIALOGUE = [
    Message("user", "How is it\nthere?"),
    Message("assistant", "", tool_calls=(CALL,)),
    Message("tool", '{"sun": "é"}', name="look"),
    Message("assistant", "It shines."),
]
PLAIN = [
    {"role": "user", "content": "How is it\nthere?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"id": "call00001", "type": "function", "function": {"name": "look", "arguments": ARGUMENTS}},
        ],
    },
    {"role": "tool", "content": '{"sun": "é"}', "name": "look", "tool_call_id": "call00001"},
    {"role": "assistant", "content": "It shines."},
]


@pytest.fixture(scope="module")
def tokenizers(texts):
    return {name: make_tokenizer(name, texts) for name in TEMPLATES}


def encode(tokenizer, messages, tools="", **options):
    renderer = renderer_of(tokenizer)
    rendering = renderer.render(messages, tools=tools, **options)
    encoding = renderer.backend.encode(rendering.text, add_special_tokens=False)
    return rendering, make_row(encoding, rendering, renderer, None)


def trained_text(tokenizer, row):
    return decode_ids(tokenizer, [int(t) for t in row.targets if t >= 0])


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_templates_that_take_tools_get_them(name, tokenizers):
    rendering, row = encode(tokenizers[name], DIALOGUE, TOOLS)
    expected = tokenizers[name].apply_chat_template(PLAIN, tools=[SCHEMA, SCHEMA])["input_ids"]
    assert row.input_ids.tolist() == expected
    assert rendering.notes == ()


TRAINED_CALLS = {
    "qwen with tools": '<tool_call>\n{{"name": "look", "arguments": {arguments}}}\n</tool_call><|im_end|>',
    "llama with tools": '{{"name": "look", "parameters": {arguments}}}<|eot_id|>',
    "mistral with tools": '[TOOL_CALLS] [{{"name": "look", "arguments": {arguments}, "id": "call00001"}}]</s>',
}


@pytest.mark.parametrize("name", WITH_TOOLS)
def test_calls_are_learned_with_the_end_of_their_turn_and_results_are_not(name, tokenizers):
    trained = trained_text(tokenizers[name], encode(tokenizers[name], DIALOGUE, TOOLS)[1])
    call = TRAINED_CALLS[name].format(arguments=json.dumps(ARGUMENTS, ensure_ascii=False))
    assert trained.startswith(call)
    assert trained.removeprefix(call).replace("<think>\n\n</think>\n\n", "").strip(" ").startswith("It shines.")
    assert "sun" not in trained


def test_templates_without_tools_get_them_in_one_plain_way_that_is_said(tokenizers):
    rendering, row = encode(tokenizers["chatml"], DIALOGUE, TOOLS)
    schema = json.dumps(SCHEMA, ensure_ascii=False)
    call = json.dumps({"name": "look", "arguments": ARGUMENTS}, ensure_ascii=False)
    system = (
        f"You can call these tools:\n{schema}\n{schema}\n"
        'To call one, write <tool_call>\n{"name": its name, "arguments": an object}\n</tool_call>'
    )
    plain = [
        {"role": "system", "content": system},
        {"role": "user", "content": "How is it\nthere?"},
        {"role": "assistant", "content": f"<tool_call>\n{call}\n</tool_call>"},
        {"role": "tool", "content": '{"sun": "é"}'},
        {"role": "assistant", "content": "It shines."},
    ]
    assert row.input_ids.tolist() == tokenizers["chatml"].apply_chat_template(plain)["input_ids"]
    assert rendering.notes == (PLAIN_TOOLS, PLAIN_CALLS)


def test_results_are_given_by_the_user_where_a_template_has_no_turn_for_them(tokenizers):
    two = [*DIALOGUE[:3], Message("tool", "rain"), DIALOGUE[3]]
    rendering, row = encode(tokenizers["zephyr"], two)
    call = json.dumps({"name": "look", "arguments": ARGUMENTS}, ensure_ascii=False)
    results = '<tool_response>\n{"sun": "é"}\n</tool_response>\n<tool_response>\nrain\n</tool_response>'
    plain = [
        {"role": "user", "content": "How is it\nthere?"},
        {"role": "assistant", "content": f"<tool_call>\n{call}\n</tool_call>"},
        {"role": "user", "content": results},
        {"role": "assistant", "content": "It shines."},
    ]
    assert row.input_ids.tolist() == tokenizers["zephyr"].apply_chat_template(plain)["input_ids"]
    assert rendering.notes == (PLAIN_CALLS, PLAIN_RESULTS)


def test_a_template_without_system_messages_has_the_tools_in_the_first_question(tokenizers):
    _, row = encode(tokenizers["gemma"], [Message("user", "Hi"), Message("assistant", "Hello")], TOOLS)
    text = decode_ids(tokenizers["gemma"], row.input_ids.tolist())
    assert text.startswith("<bos><start_of_turn>user\nYou can call these tools:\n")
    assert "</tool_call>\n\nHi<end_of_turn>" in text


def test_a_template_for_tools_beside_the_usual_one_is_taken_when_there_are_tools(texts):
    tokenizer = make_tokenizer("qwen with tools", texts)
    tokenizer.chat_template = {"default": TEMPLATES["chatml"][0], "tool_use": tokenizer.chat_template}
    for tools in ("", TOOLS):
        _, row = encode(tokenizer, DIALOGUE[:1], tools, wants_answer=True)
        options = {"tools": json.loads(tools) if tools else None, "add_generation_prompt": True}
        assert row.input_ids.tolist() == tokenizer.apply_chat_template(PLAIN[:1], **options)["input_ids"]
        assert ("<tools>" in decode_ids(tokenizer, row.input_ids.tolist())) == bool(tools)


def test_the_bytes_of_an_answer_are_those_of_its_text(tokenizers):
    _, row = encode(tokenizers["qwen with tools"], DIALOGUE[:2], TOOLS)
    call = TRAINED_CALLS["qwen with tools"].format(arguments=json.dumps(ARGUMENTS, ensure_ascii=False))
    # What follows the last text of the call belongs to its end; that template writes an empty thought before it.
    shown = "<think>\n\n</think>\n\n" + call[: call.rindex('b"') + 1]
    assert row.num_bytes == len(shown.encode())


THOUGHT = [Message("user", "2 + 2?"), Message("assistant", "4.", thinking="Add\nthem.")]


@pytest.mark.parametrize("name", ["qwen with tools", "chatml"])
def test_thinking_is_learned_or_only_shown(name, tokenizers):
    tokenizer = tokenizers[name]
    rendering, row = encode(tokenizer, THOUGHT)
    assert trained_text(tokenizer, row) == "<think>\nAdd\nthem.\n</think>\n\n4.<|im_end|>"
    assert rendering.notes == (() if name != "chatml" else (PLAIN_THINKING,))
    _, masked = encode(tokenizer, [THOUGHT[0], THOUGHT[1]._replace(trains_thinking=False)])
    assert masked.input_ids.tolist() == row.input_ids.tolist()
    assert trained_text(tokenizer, masked) == "4.<|im_end|>"


def test_thinking_before_a_call_is_learned_or_only_shown_too(tokenizers):
    for name in ("qwen with tools", "chatml"):
        message = Message("assistant", "", thinking="Look.", tool_calls=(ToolCall("look", "{}"),))
        call = '<tool_call>\n{"name": "look", "arguments": {}}\n</tool_call><|im_end|>'
        _, row = encode(tokenizers[name], [THOUGHT[0], message])
        assert trained_text(tokenizers[name], row) == f"<think>\nLook.\n</think>\n\n{call}"
        _, row = encode(tokenizers[name], [THOUGHT[0], message._replace(trains_thinking=False)])
        assert trained_text(tokenizers[name], row) == call


def test_thinking_that_the_template_leaves_out_of_earlier_turns_is_said(tokenizers):
    rendering, row = encode(tokenizers["qwen with tools"], [*THOUGHT, *THOUGHT])
    assert rendering.notes == (HIDDEN_THINKING,)
    assert trained_text(tokenizers["qwen with tools"], row).count("Add") == 1


def test_a_template_that_cuts_thinking_out_of_all_answers_is_said(tokenizers):
    rendering, row = encode(tokenizers["qwen"], THOUGHT)
    assert rendering.notes == (HIDDEN_THINKING,)
    assert "Add" not in decode_ids(tokenizers["qwen"], row.input_ids.tolist())


PIECES = sorted(
    {token for _, tokens, *_ in TEMPLATES.values() for token in tokens}
    | {token[:cut] for _, tokens, *_ in TEMPLATES.values() for token in tokens for cut in (1, len(token) // 2, -1)}
    | {token[cut:] for _, tokens, *_ in TEMPLATES.values() for token in tokens for cut in (1, len(token) // 2, -1)}
    | {"\n", " ", "a", "user", "assistant", '"', "}", "\\"}
)
WILD = st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join).filter(str.strip)
UNALTERED = [name for name in TEMPLATES if name != "qwen"]  # that one reads thinking out of answers
FAST = settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def control_of(tokenizer, row):
    control = renderer_of(tokenizer).control_ids
    return [int(i) for i in row.input_ids if int(i) in control]


@FAST
@given(contents=st.lists(WILD, min_size=4, max_size=4))
@pytest.mark.parametrize("name", UNALTERED)
def test_no_content_makes_a_control_token_alone_or_over_borders(name, contents, tokenizers):
    tokenizer, roles = tokenizers[name], ("user", "assistant", "user", "assistant")
    _, row = encode(tokenizer, [Message(role, text) for role, text in zip(roles, contents, strict=True)])
    _, structure = encode(tokenizer, [Message(role, "x") for role in roles])
    assert control_of(tokenizer, row) == control_of(tokenizer, structure)
    decoded = decode_ids(tokenizer, row.input_ids.tolist())
    assert all(text.strip() in decoded for text in contents)


@FAST
@given(fields=st.lists(WILD, min_size=8, max_size=8, unique=True))
@pytest.mark.parametrize("name", [*WITH_TOOLS, "chatml", "zephyr"])
def test_no_field_of_tools_calls_and_thinking_makes_a_control_token(name, fields, tokenizers):
    tokenizer = tokenizers[name]

    def encode_with(fields):
        label, about, field, value, argument, result, answer, thought = fields
        schema = {"name": label, "description": about, "parameters": {"properties": {field: {"enum": [value]}}}}
        messages = [
            Message("user", "x"),
            Message("assistant", "", tool_calls=(ToolCall(label, json.dumps({field: argument})),)),
            Message("tool", result, name=label),
            Message("assistant", answer, thinking=thought),
        ]
        return encode(tokenizer, messages, json.dumps([{"type": "function", "function": schema}]))[1]

    row = encode_with(fields)
    assert control_of(tokenizer, row) == control_of(tokenizer, encode_with([f"f{i}" for i in range(8)]))
    decoded = decode_ids(tokenizer, row.input_ids.tolist())
    for text in fields:
        escaped = json.dumps(text, ensure_ascii=False)[1:-1]
        assert text.strip() in decoded or escaped.strip() in decoded


CALM = st.text(alphabet="ab \n\t.é漢{}%'\"", max_size=12)


@FAST
@given(contents=st.lists(CALM, min_size=3, max_size=3))
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_the_template_on_any_text_without_control_tokens(name, contents, tokenizers):
    roles = ("user", "assistant", "user")
    messages = [Message(role, text) for role, text in zip(roles, contents, strict=True)]
    plain = [{"role": m.role, "content": m.content} for m in messages]
    _, row = encode(tokenizers[name], messages, wants_answer=True)
    assert (
        row.input_ids.tolist() == tokenizers[name].apply_chat_template(plain, add_generation_prompt=True)["input_ids"]
    )
