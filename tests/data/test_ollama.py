"""Chat templates in Ollama's language."""

from __future__ import annotations

import copy

import pytest

from llmkit.data.ollama import find_turns, go_template, modelfile
from llmkit.tokenizer import CHATML_TEMPLATE

SMOLLM = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CHATML_IN_GO = (
    '{{ range .Messages }}{{ if eq .Role "system" }}<|im_start|>system\n{{ .Content }}<|im_end|>\n'
    '{{ else if eq .Role "user" }}<|im_start|>user\n{{ .Content }}<|im_end|>\n'
    '{{ else if eq .Role "assistant" }}<|im_start|>assistant\n{{ .Content }}<|im_end|>\n'
    "{{ end }}{{ end }}<|im_start|>assistant\n"
)


@pytest.fixture
def with_template(tiny_tokenizer):
    """The tiny tokenizer with another template."""

    def make(template):
        tokenizer = copy.deepcopy(tiny_tokenizer)
        tokenizer.chat_template = template
        return tokenizer

    return make


def test_chatml_is_said_in_go(tiny_tokenizer):
    turns = find_turns(tiny_tokenizer)
    assert turns.default_system is None
    assert go_template(turns, adds_bos=False) == CHATML_IN_GO


def test_a_default_system_message_becomes_the_models_own(with_template):
    turns = find_turns(with_template(SMOLLM))
    assert turns.default_system == "Be kind"
    text = modelfile("m.gguf", turns, stops=["<|im_end|>"], adds_bos=False, context=2048)
    assert text == (
        f'FROM ./m.gguf\nTEMPLATE """{CHATML_IN_GO}"""\nSYSTEM """Be kind"""\n'
        'PARAMETER stop "<|im_end|>"\nPARAMETER num_ctx 2048\n'
    )


def test_bos_stands_once_and_not_where_the_tokenizer_puts_it(with_template):
    tokenizer = with_template("{{ bos_token }}" + CHATML_TEMPLATE)
    tokenizer.bos_token = "<|endoftext|>"
    turns = find_turns(tokenizer)
    assert turns.begin == tokenizer.bos_token
    assert go_template(turns, adds_bos=False).startswith(tokenizer.bos_token + "{{ range")
    assert go_template(turns, adds_bos=True).startswith("{{ range")


@pytest.mark.parametrize(
    "template",
    [
        SMOLLM.replace("message['role'] + '\n'", "message['role'] + '\n' + loop.index|string"),
        "{{ raise_exception('no system') if messages[0].role == 'system' }}" + SMOLLM,
        SMOLLM.replace("Be kind", ""),
    ],
    ids=["numbered turns", "refuses a system message", "an empty system message"],
)
def test_what_depends_on_more_than_the_role_is_not_translated(with_template, template):
    assert find_turns(with_template(template)) is None


def test_signs_of_go_in_a_template_are_not_translated(with_template):
    turns = find_turns(with_template(SMOLLM.replace("Be kind", 'Say ""{"" please').replace('""{""', '"""')))
    assert turns is not None
    assert go_template(turns, adds_bos=False) is None
    assert "TEMPLATE" not in modelfile("m.gguf", turns, stops=[], adds_bos=False, context=8)


def test_a_template_that_never_ends_is_given_up(with_template, monkeypatch):
    monkeypatch.setattr("llmkit.data.template.SECONDS", 0.2)
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    assert find_turns(with_template(endless + CHATML_TEMPLATE)) is None
