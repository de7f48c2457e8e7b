"""Texts as words for the classical networks."""

from __future__ import annotations

import pytest

from llmkit.data.words import PAD_ID, UNKNOWN_ID, WordEncoder, split_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't PANIC!", ["don", "'", "t", "panic", "!"]),
        ("Äpfel und 3.5", ["äpfel", "und", "3", ".", "5"]),
        ("我学Python", ["我", "学", "python"]),
        ("हिन्दी", ["हिन्दी"]),
        ("", []),
    ],
)
def test_texts_are_split_into_words_and_signs(text, words):
    assert split_words(text) == words


def test_the_most_frequent_words_are_known_and_padding_is_on_the_right():
    texts = ["a b a c", "b a", "d"]
    encoder = WordEncoder.fit(map(split_words, texts), vocab_size=10, max_words=3)
    assert encoder.words == ["a", "b"]
    ids, lengths = encoder.encode([*texts, ""])
    assert ids.tolist() == [[2, 3, 2], [3, 2, PAD_ID], [UNKNOWN_ID, PAD_ID, PAD_ID], [UNKNOWN_ID, PAD_ID, PAD_ID]]
    assert lengths.tolist() == [3, 2, 1, 1]


def test_the_vocabulary_is_no_larger_than_asked():
    words = [["a"] * 3 + ["b"] * 2 + ["c"] * 2]
    assert WordEncoder.fit(words, vocab_size=4, max_words=9).num_words == 4
