"""Letters and words of any language."""

from __future__ import annotations

import pytest

from llmkit.data.characters import LETTER, LONE, OTHER, SPACE, code_points, kinds_of, word_spans


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("aZ9ß", [LETTER] * 4),
        ("e\u0301", [LETTER, LETTER]),  # an accent of its own belongs to its letter
        ("-_<=", [OTHER] * 4),
        (" \t\n\u00a0\u3000", [SPACE] * 5),
        ("東ไк", [LONE, LONE, LETTER]),
        ("🙂a\U0001d4b3𠀀", [OTHER, LETTER, LETTER, LONE]),
        ("", []),
    ],
)
def test_each_character_is_of_a_kind(text, kinds):
    assert kinds_of(code_points(text)).tolist() == kinds


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("to be, or not", ["to", "be", "or", "not"]),
        ("  x=42;", ["x", "42"]),
        ("Zoë's", ["Zoë", "s"]),
        ("GPT東京と", ["GPT", "東", "京", "と"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("...", []),
        ("", []),
    ],
)
def test_words_are_runs_of_letters_or_single_signs(text, words):
    starts, ends = word_spans(kinds_of(code_points(text)))
    assert [text[a:b] for a, b in zip(starts, ends, strict=True)] == words
