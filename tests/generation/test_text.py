"""Text from ids: pieces that are whole, spaces that are right, ends at stop strings."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmkit.generation.text import RowText
from llmkit.tokenizer import encode_text


def word_tokenizer(words, decoder):
    """A tokenizer that knows these pieces by their ids."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token=words[0]))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.decoder = decoder
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=words[0])


def run(tokenizer, prompt, ids, stops=()):
    """The pieces that come out for these ids, and the text that is left."""
    text = RowText(tokenizer, prompt, stop_strings=stops)
    pieces = []
    for token in ids:
        pieces.append(text.push(token))
        if text.is_stopped:
            break
    pieces.append(text.finish())
    return pieces, text


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=30), st.text(max_size=10))
def test_the_pieces_are_the_text_and_none_holds_a_part_of_a_character(tiny_tokenizer, text, prompt):
    text = text.replace("\ufffd", "")
    pieces, row = run(tiny_tokenizer, encode_text(tiny_tokenizer, prompt), encode_text(tiny_tokenizer, text))
    assert "".join(pieces) == row.text == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_a_character_of_four_tokens_comes_at_once(tiny_tokenizer):
    ids = encode_text(tiny_tokenizer, "a🦙b")
    pieces, _ = run(tiny_tokenizer, [], ids)
    assert "🦙" in pieces
    assert [piece for piece in pieces if piece] == ["a", "🦙", "b"]


def test_bytes_that_never_become_a_character_are_left_out_at_the_end(tiny_tokenizer):
    ids = encode_text(tiny_tokenizer, "a🦙")[:-1]
    _, row = run(tiny_tokenizer, [], ids)
    assert row.text == "a"


def test_broken_bytes_in_the_middle_show_as_such_and_do_not_stop_the_stream(tiny_tokenizer):
    ids = encode_text(tiny_tokenizer, "🦙")[:2] + encode_text(tiny_tokenizer, "def the")
    _, row = run(tiny_tokenizer, [], ids)
    assert row.text.endswith("def the")
    assert row.text.startswith("\ufffd")


def test_a_sentencepiece_tokenizer_keeps_the_space_between_prompt_and_text():
    tokenizer = word_tokenizer(["<unk>", "▁Hello", "▁wor", "ld", "▁again"], decoders.Metaspace())
    assert tokenizer.decode([2, 3]) == "world"
    pieces, _ = run(tokenizer, [1], [2, 3, 4])
    assert pieces == [" wor", "ld", " again", ""]


def test_a_wordpiece_tokenizer_joins_the_parts_of_words():
    tokenizer = word_tokenizer(["[UNK]", "play", "##ing", "games", "."], decoders.WordPiece())
    pieces, _ = run(tokenizer, [1], [2, 3, 4])
    assert pieces == ["ing", " games", ".", ""]


def test_control_tokens_are_no_part_of_the_text(tiny_tokenizer):
    end = tiny_tokenizer.convert_tokens_to_ids("<|im_end|>")
    pieces, _ = run(
        tiny_tokenizer, [end], [*encode_text(tiny_tokenizer, "the"), end, *encode_text(tiny_tokenizer, " model")]
    )
    assert "".join(pieces) == "the model"


@settings(max_examples=80, deadline=None)
@given(st.text(alphabet="ab\n", max_size=30), st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3))
def test_the_text_ends_before_the_first_stop_string_and_nothing_of_it_is_shown(tiny_tokenizer, text, stops):
    pieces, row = run(tiny_tokenizer, [], encode_text(tiny_tokenizer, text), stops)
    end = min((text.find(stop) for stop in stops if stop in text), default=len(text))
    assert "".join(pieces) == row.text
    if row.is_stopped:
        # A stop string that ends earlier is seen earlier, even where a longer one begins before it.
        assert any(text.startswith(stop, len(row.text)) for stop in stops)
    else:
        assert row.text == text[:end] == text


@pytest.mark.parametrize("text", ["the model ENDless", "the model EN"])
def test_what_only_looked_like_a_stop_string_is_given_out_after_all(tiny_tokenizer, text):
    pieces, row = run(tiny_tokenizer, [], encode_text(tiny_tokenizer, text), ["END!"])
    assert "".join(pieces) == row.text == text
