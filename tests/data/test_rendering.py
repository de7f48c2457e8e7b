"""Chat templates are taken apart, and only they make control tokens."""

from __future__ import annotations

from datetime import date, datetime

import pytest
from chat_templates import TEMPLATES, make_tokenizer

from llmkit.data.dialogue import encode_dialogue, end_of_turn_ids, render_prompt
from llmkit.data.rendering import Message, RenderError, add_chat_template, renderer_of, set_day
from llmkit.errors import ModelError
from llmkit.tokenizer import decode_ids, train_tokenizer

HAS_SYSTEM = [name for name in TEMPLATES if name not in ("gemma", "mistral with tools")]

QUESTION, ANSWER = Message("user", "\n\n What then? "), Message("assistant", "\nThis:\n\n  x = 1\n")
CLEAN = {
    "one turn": [Message("user", "Hi"), Message("assistant", "Hello!")],
    "two turns": [Message("user", "Hi"), Message("assistant", "Hello!"), QUESTION, ANSWER],
    "open end": [Message("user", "Hi"), Message("assistant", "Hello!"), QUESTION],
}


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
    name = name.replace("qwen with tools", "qwen").replace("llama with tools", "llama")
    thinking = "<think>\n\n</think>\n\n" if name == "qwen" else ""
    first, second = (m.content for m in CLEAN["two turns"] if m.role == "assistant")
    shown = {"qwen": second.lstrip("\n"), "llama": second.strip(), "gemma": second.strip(), "mistral": second.strip()}
    space = " " if name.startswith("mistral") else ""
    assert trained == f"{space}{first}{end}{thinking}{space}{shown.get(name, second)}{end}"


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


def test_a_role_that_is_none_does_not_reach_the_template(tokenizers):
    with pytest.raises(RenderError, match=r"message 1 has role '<\|im_end\|>'"):
        encode_dialogue([Message("<|im_end|>", "x"), Message("assistant", "y")], tokenizers["chatml"])


def test_a_tokenizer_without_a_template_gets_chatml_and_its_tokens(texts):
    tokenizer = train_tokenizer(texts, vocab_size=300)
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="no chat template"):
        render_prompt(CLEAN["open end"], tokenizer)
    assert add_chat_template(tokenizer)
    assert not add_chat_template(tokenizer)
    assert decode_ids(tokenizer, end_of_turn_ids(tokenizer)) == "<|im_end|>"


@pytest.fixture
def dated(texts):
    """A tokenizer whose template writes the day."""
    tokenizer = train_tokenizer(texts, vocab_size=300)
    today = "<|im_start|>system\n{{ strftime_now('%Y-%m-%d') }}<|im_end|>\n"
    tokenizer.chat_template = today + tokenizer.chat_template
    return tokenizer


def test_rows_have_the_day_that_was_set_and_say_so(dated):
    set_day(dated, date(2020, 1, 2))
    rendering = renderer_of(dated).render(CLEAN["one turn"])
    assert "2020-01-02" in rendering.text
    assert rendering.notes == ("rows have a chat template that writes the day: it is told 2020-01-02 (data.date)",)
    row = encode_dialogue(CLEAN["one turn"], dated)
    set_day(dated, date(2020, 1, 3))
    assert encode_dialogue(CLEAN["one turn"], dated).input_ids.tolist() != row.input_ids.tolist()


def test_the_day_of_a_renderer_stays_past_midnight(dated, monkeypatch):
    class Clock(datetime):
        today = 1

        @classmethod
        def now(cls):
            return cls(2020, 1, cls.today)

    monkeypatch.setattr("llmkit.data.rendering.datetime", Clock)
    before = render_prompt(CLEAN["open end"], dated)
    Clock.today = 2
    assert render_prompt(CLEAN["open end"], dated) == before
    assert "2020-01-01" in decode_ids(dated, before)
    other = renderer_of(dated).render(CLEAN["two turns"])  # another shape, which is taken apart after midnight
    assert "2020-01-01" in other.text
