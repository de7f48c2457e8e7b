"""Counts of what documents are like, against the slow way."""

from __future__ import annotations

import pytest

from llmkit.data.quality import Quality, describe_quality, has_repeated_lines

PROSE = "The model learns to guess the next token from the text that came before it, and then we ask what comes after."


def found(*texts):
    quality = Quality()
    quality.add(texts)
    return {name: count for name, count in quality.to_json(copies=0)["documents_with"].items() if count}


def test_prose_is_free_of_reproach():
    assert found(PROSE, PROSE * 50) == {}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("x" * 5 + " y" * 20, "short"),
        ("12 | " + "- | - | " * 40, "few_letters"),
        ("data:" + "QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWZnaGlqa2xtbm9wcXJz/" * 3, "long_words"),
        (PROSE + " caf\ufffd", "replacement_characters"),
        ("\n".join([PROSE, "Read more", PROSE, "Read more", "Read more", "Read more"]), "repeated_lines"),
    ],
)
def test_each_fault_is_counted_by_itself(text, name):
    assert found(text) == {name: 1}
    assert found(PROSE, text, PROSE, text) == {name: 2}


@pytest.mark.parametrize(
    "text", ["東京は日本の首都であり、世界最大の都市の一つでもある。" * 5, "नमस्ते दुनिया, यह एक छोटा सा वाक्य है। " * 5]
)
def test_other_scripts_are_not_taken_for_noise(text):
    assert found(text) == {}


def test_totals_are_those_of_the_slow_way():
    texts = ["to be, or not", "x = 42\n", "a b"]
    quality = Quality()
    quality.add(texts[:2])
    quality.add(texts[2:])
    letters = sum(character.isalnum() for text in texts for character in text)
    filled = sum(not character.isspace() for text in texts for character in text)
    about = quality.to_json(copies=7)
    assert about["documents"] == 3
    assert about["characters"] == sum(map(len, texts))
    assert about["letters_share"] == round(letters / filled, 4)
    assert about["mean_word_length"] == round(letters / 8, 2)
    assert about["documents_with"]["copies"] == 7


@pytest.mark.parametrize(
    ("lines", "expected"),
    [("a b c d e", False), ("a a a a", False), ("a a c d e", False), ("a a a d e", True), ("a    a  a d e", True)],
)
def test_lines_repeat_when_over_a_third_stood_there_before(lines, expected):
    assert has_repeated_lines(lines.replace(" ", "\n")) is expected


def test_sentences_tell_only_what_there_is():
    quality = Quality()
    quality.add([PROSE, "short"])
    head, counts = describe_quality(quality.to_json(copies=0))
    assert "letters a word" in head
    assert counts == "of 2 documents: 1 shorter than 100 characters"
