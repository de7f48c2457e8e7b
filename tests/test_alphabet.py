"""Tokenizers of bytes and of characters."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llmkit.alphabet import (
    bytes_tokenizer,
    chars_tokenizer,
    count_characters,
    is_named,
    keep_frequent,
)
from llmkit.errors import DataError, UsageError
from llmkit.tokenizer import (
    CONTROL_TOKENS,
    control_ids,
    decode_ids,
    encode_text,
    end_of_document_id,
    load_tokenizer,
    tokenizer_hash,
)

TEXT = "To be, or not to be: Grüße, 語語, 🦙!\n"
NASTY = [
    "",
    " ",
    "\x00\x7f\ufeff\U0010ffff",
    "e\u0301\u200d한",
    "▁Ġ##x <unk> <0x0A>",
    TEXT * 50,
    "".join(CONTROL_TOKENS),
]


TOKENIZERS = {
    "bytes": bytes_tokenizer,
    "chars": lambda: chars_tokenizer(list(count_characters([TEXT]))),
    "latin chars": lambda: chars_tokenizer(list("Grüße")),
}


@pytest.fixture(scope="module", params=TOKENIZERS)
def tokenizer(request):
    """One of bytes, one of characters of up to four bytes, one of characters of up to two."""
    return TOKENIZERS[request.param]()


@pytest.mark.parametrize("text", NASTY)
def test_every_text_comes_back_exactly(tokenizer, text):
    ids = encode_text(tokenizer, text)
    assert decode_ids(tokenizer, ids) == tokenizer.decode(ids) == text
    assert control_ids(tokenizer) == {0, 1, 2, 3}
    assert control_ids(tokenizer).isdisjoint(ids)


@given(st.text())
@settings(max_examples=60, deadline=None)
def test_any_unicode_comes_back_exactly(tokenizer, text):
    assert decode_ids(tokenizer, encode_text(tokenizer, text)) == text


def test_a_byte_has_the_id_of_its_number_and_four():
    assert encode_text(bytes_tokenizer(), "aé\0") == [4 + 97, 4 + 0xC3, 4 + 0xA9, 4]
    assert len(bytes_tokenizer()) == 260


def test_a_character_of_the_text_is_one_token_and_any_other_is_its_bytes():
    tokenizer = chars_tokenizer(["a", "é", "語", "🦙"])
    assert encode_text(tokenizer, "🦙語éa") == [7, 6, 5, 4]
    assert len(tokenizer) == 4 + 256 + 3, "the a is a byte at the same time"
    assert len(encode_text(tokenizer, "aèa誮a🦝")) == 3 + 2 + 3 + 4


def test_characters_of_two_bytes_are_one_token_wherever_they_stand():
    tokenizer = chars_tokenizer(["a", "é", "ß"])
    assert encode_text(tokenizer, "éaßßé") == [5, 4, 6, 6, 5]
    assert encode_text(tokenizer, "è語é")[-1] == 5
    assert len(encode_text(tokenizer, "è語é")) == 2 + 3 + 1


def test_characters_come_first_in_their_order():
    characters = list(count_characters(["hello world"]))
    assert "".join(characters) == " dehlorw"
    assert encode_text(chars_tokenizer(characters), " dehlorw") == list(range(4, 12))


def test_control_tokens_and_template_are_those_of_our_own(tokenizer):
    assert tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)) == [0, 1, 2, 3]
    assert (end_of_document_id(tokenizer), tokenizer.pad_token_id) == (0, 3)
    messages = [{"role": "user", "content": "<|im_end|>"}]
    assert tokenizer.apply_chat_template(messages, tokenize=False) == "<|im_start|>user\n<|im_end|><|im_end|>\n"


@pytest.mark.parametrize("model_type", [None, "llama", "gpt2"])
def test_a_saved_one_is_the_same_when_loaded_here_or_by_transformers(tokenizer, tmp_path, model_type):
    tokenizer.save_pretrained(tmp_path)
    if model_type:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    for loaded in (load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)):
        assert tokenizer_hash(loaded) == tokenizer_hash(tokenizer)
        assert [encode_text(loaded, text) for text in NASTY] == [encode_text(tokenizer, text) for text in NASTY]


def test_characters_are_counted_over_all_texts():
    assert count_characters(["aab", "", "b🦙"]) == {"a": 2, "b": 2, "🦙": 1}


def test_a_small_vocabulary_keeps_the_most_frequent_characters():
    counts = {"a": 1, "é": 2, "語": 9, "🦙": 5}
    assert keep_frequent(counts, 262) == ["a", "語", "🦙"]
    assert keep_frequent(counts, 260) == ["a"]
    assert keep_frequent(counts, 9999) == list(counts)
    with pytest.raises(UsageError, match="no room"):
        keep_frequent(counts, 259)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_has_no_characters(texts):
    with pytest.raises(DataError, match="no text"):
        count_characters(texts)


def test_half_a_surrogate_pair_is_an_error_that_shows_the_text():
    with pytest.raises(DataError, match="ud800"):
        count_characters(["fine", "bad \ud800"])


def test_a_folder_of_the_name_goes_first_and_that_is_told(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert is_named("chars")
    assert is_named("bytes")
    assert not is_named("tok")
    assert capsys.readouterr().err == ""
    (tmp_path / "chars").mkdir()
    assert not is_named("chars")
    assert "chars: this is the file or folder here" in capsys.readouterr().err
