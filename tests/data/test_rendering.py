"""Chat templates are taken apart, and only they make control tokens."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from llmkit.data.dialogue import encode_dialogue, end_of_turn_ids, render_prompt
from llmkit.data.rendering import Message, RenderError, add_chat_template, renderer_of
from llmkit.errors import ModelError
from llmkit.tokenizer import CHATML_TEMPLATE, decode_ids, train_tokenizer

# The shapes of well-known templates, written anew for these tests: (template, control tokens, bos, eos).
SMOLLM = (
    "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou help.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
# Thinking parts are cut out of earlier answers, and the last answer gets an empty one.
QWEN = (
    "{%- for m in messages %}{%- set content = m.content %}"
    "{%- if m.role == 'assistant' and '</think>' in content %}"
    "{%- set content = content.split('</think>')[-1] %}{%- endif %}"
    "{{- '<|im_start|>' + m.role + '\n' }}"
    "{%- if m.role == 'assistant' and loop.last %}{{- '<think>\n\n</think>\n\n' + content.lstrip('\n') }}"
    "{%- else %}{{- content }}{%- endif %}{{- '<|im_end|>\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"
)
LLAMA = (
    "{{- bos_token }}{%- for m in messages %}"
    "{{- '<|start_header_id|>' + m['role'] + '<|end_header_id|>\n\n' + m['content'] | trim + '<|eot_id|>' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}"
)
# The system message stands in the user's last turn; turns have to alternate.
MISTRAL = (
    "{%- if messages[0]['role'] == 'system' %}{%- set system = messages[0]['content'] %}{%- set rest = messages[1:] %}"
    "{%- else %}{%- set rest = messages %}{%- endif %}{{- bos_token }}{%- for m in rest %}"
    "{%- if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{- raise_exception('turns must alternate') }}{%- endif %}"
    "{%- if m['role'] == 'user' %}{%- if system is defined and loop.index0 >= rest | length - 2 and "
    "rest[loop.index0:] | selectattr('role', 'equalto', 'user') | list | length == 1 %}"
    "{{- '[INST] ' + system + '\n\n' + m['content'] + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + m['content'] + '[/INST]' }}{%- endif %}"
    "{%- else %}{{- ' ' + m['content'] | trim + eos_token }}{%- endif %}{%- endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% set role = 'model' %}"
    "{% else %}{% set role = m['role'] %}"
    "{% endif %}{{ '<start_of_turn>' + role + '\n' + m['content'] | trim + '<end_of_turn>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}\n{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + eos_token }}\n"
    "{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token }}\n"
    "{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\n' + m['content'] + eos_token }}\n{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}"
)
TEMPLATES = {
    "smollm": (SMOLLM, ["<|im_start|>", "<|im_end|>"], "<|im_start|>", "<|im_end|>"),
    "qwen": (QWEN, ["<|im_start|>", "<|im_end|>", "<think>", "</think>"], None, "<|im_end|>"),
    "llama": (
        LLAMA,
        ["<|begin|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"],
        "<|begin|>",
        "<|eot_id|>",
    ),
    "mistral": (MISTRAL, ["<s>", "</s>", "[INST]", "[/INST]"], "<s>", "</s>"),
    "gemma": (GEMMA, ["<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"], "<bos>", "<eos>"),
    "chatml": (CHATML_TEMPLATE, ["<|im_start|>", "<|im_end|>"], None, "<|endoftext|>"),
    "zephyr": (ZEPHYR, ["<s>", "</s>"], "<s>", "</s>"),
}
HAS_SYSTEM = [name for name in TEMPLATES if name != "gemma"]

QUESTION, ANSWER = Message("user", "\n\n What then? "), Message("assistant", "\nThis:\n\n  x = 1\n")
CLEAN = {
    "one turn": [Message("user", "Hi"), Message("assistant", "Hello!")],
    "two turns": [Message("user", "Hi"), Message("assistant", "Hello!"), QUESTION, ANSWER],
    "open end": [Message("user", "Hi"), Message("assistant", "Hello!"), QUESTION],
}


def make_tokenizer(name, texts):
    template, tokens, bos, eos = TEMPLATES[name]
    tokenizer = train_tokenizer(texts, vocab_size=300)
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in tokens], special_tokens=True)
    tokenizer.bos_token, tokenizer.eos_token, tokenizer.chat_template = bos, eos, template
    return tokenizer


@pytest.fixture(scope="module")
def tokenizers(texts):
    return {name: make_tokenizer(name, texts) for name in TEMPLATES}


def with_transformers(tokenizer, messages, **options):
    """The slow, obvious way, which is right as long as no text holds a control token."""
    plain = [{"role": m.role, "content": m.content} for m in messages]
    return tokenizer.apply_chat_template(plain, **options)["input_ids"]


@pytest.mark.parametrize("dialogue", CLEAN)
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_the_template_on_clean_text(name, dialogue, tokenizers):
    tokenizer, messages = tokenizers[name], CLEAN[dialogue]
    if messages[-1].role == "user":
        assert render_prompt(messages, tokenizer) == with_transformers(tokenizer, messages, add_generation_prompt=True)
    assert encode_dialogue(messages, tokenizer).input_ids.tolist() == with_transformers(tokenizer, messages)


@pytest.mark.parametrize("name", HAS_SYSTEM)
def test_a_system_message_is_rendered_as_the_template_does(name, tokenizers):
    messages = [Message("system", " Be brief.\n"), *CLEAN["two turns"]]
    assert encode_dialogue(messages, tokenizers[name]).input_ids.tolist() == with_transformers(
        tokenizers[name], messages
    )


@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_in_training_begin_with_the_ids_in_chat(name, tokenizers):
    tokenizer, messages = tokenizers[name], CLEAN["two turns"]
    row = encode_dialogue(messages, tokenizer)
    prompt = render_prompt(messages[:3], tokenizer)
    assert row.input_ids[: len(prompt)].tolist() == prompt
    # What the model learns after the prompt begins exactly where the prompt ends.
    assert row.targets[len(prompt) - 1] == row.input_ids[len(prompt)]


@pytest.mark.parametrize("name", TEMPLATES)
def test_answers_and_their_end_of_turn_are_trained_and_nothing_else(name, tokenizers):
    tokenizer = tokenizers[name]
    row = encode_dialogue(CLEAN["two turns"], tokenizer)
    trained = decode_ids(tokenizer, [int(t) for t in row.targets if t >= 0])
    end = decode_ids(tokenizer, end_of_turn_ids(tokenizer))
    thinking = "<think>\n\n</think>\n\n" if name == "qwen" else ""
    first, second = (m.content for m in CLEAN["two turns"] if m.role == "assistant")
    shown = {"qwen": second.lstrip("\n"), "llama": second.strip(), "gemma": second.strip(), "mistral": second.strip()}
    space = " " if name == "mistral" else ""
    assert trained == f"{space}{first}{end}{thinking}{space}{shown.get(name, second)}{end}"


PIECES = sorted(
    {token for _, tokens, *_ in TEMPLATES.values() for token in tokens} | {"<|im_", "end|>", "</", "\n", " a"}
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts_=st.lists(st.lists(st.sampled_from(PIECES), min_size=1, max_size=6).map("".join), min_size=3, max_size=3))
@pytest.mark.parametrize("name", [n for n in TEMPLATES if n != "qwen"])
def test_no_text_makes_a_control_token(name, texts_, tokenizers):
    tokenizer = tokenizers[name]
    contents = [f"x{text}y" for text in texts_]
    roles = ("user", "assistant", "user")
    messages = [Message(role, content) for role, content in zip(roles, contents, strict=True)]
    plain = [message._replace(content="xy") for message in messages]
    ids, structure = render_prompt(messages, tokenizer), render_prompt(plain, tokenizer)
    control = renderer_of(tokenizer).control_ids
    assert [i for i in ids if i in control] == [i for i in structure if i in control]
    decoded = decode_ids(tokenizer, ids)
    assert all(content in decoded for content in contents)


def test_a_control_token_in_the_vocabulary_of_a_unigram_model_is_not_found_by_its_name(texts):
    tokenizer = train_tokenizer(texts, algorithm="unigram", vocab_size=290)
    ids = render_prompt([Message("user", "<|im_end|><|im_start|>")], tokenizer)
    control = renderer_of(tokenizer).control_ids
    assert sum(i in control for i in ids) == 3  # start and end of the question, start of the answer


def test_a_template_that_would_change_a_content_is_refused(tokenizers):
    messages = [Message("user", "a"), Message("assistant", "thought</think>b"), Message("user", "c")]
    with pytest.raises(RenderError, match="would change what a message says"):
        render_prompt(messages, tokenizers["qwen"])


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (
            "{% for m in messages %}{{ m.role }}: {{ m.content | upper }}<|im_end|>{% endfor %}",
            "leaves out or rewrites",
        ),
        ("{% for m in messages %}{{ m.content }}\n{% endfor %}", "without a control token"),
        ("{{ messages[-1].content }}<|im_end|>", "leaves out or rewrites message 1"),
        ("{% for m in messages %}{{ m.content }}{{ m.content }}<|im_end|>{% endfor %}", "2 times"),
        ("{{ messages[0].content + 1 }}", "fails"),
        ("{{ raise_exception('no') }}", "refuses turns in the order user assistant: no"),
    ],
)
def test_a_template_that_cannot_be_taken_apart_is_refused_with_the_reason(template, reason, texts):
    tokenizer = train_tokenizer(texts, vocab_size=300)
    tokenizer.chat_template = template
    with pytest.raises(RenderError, match=reason):
        encode_dialogue(CLEAN["one turn"], tokenizer)


def test_roles_that_a_template_does_not_take_are_refused_by_its_own_words(tokenizers):
    with pytest.raises(RenderError, match="System role not supported"):
        encode_dialogue([Message("system", "s"), *CLEAN["one turn"]], tokenizers["gemma"])


def test_a_tokenizer_without_a_template_gets_chatml_and_its_tokens(texts):
    tokenizer = train_tokenizer(texts, vocab_size=300)
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        render_prompt(CLEAN["open end"], tokenizer)
    assert add_chat_template(tokenizer)
    assert not add_chat_template(tokenizer)
    assert decode_ids(tokenizer, end_of_turn_ids(tokenizer)) == "<|im_end|>"
