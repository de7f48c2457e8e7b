"""Duplicates to the letter, and nearly so."""

from __future__ import annotations

import random

import pytest

from llmkit.data import duplicates
from llmkit.data.duplicates import ExactDuplicates, NearDuplicates, sequence_hashes
from llmkit.errors import UsageError

VOCABULARY = [f"word{i}" for i in range(2000)]


def make_texts(count, length, seed):
    chooser = random.Random(seed)
    return [" ".join(chooser.choices(VOCABULARY, k=length)) for _ in range(count)]


def edited(text, share, seed):
    """The text with a share of its words changed, spread evenly."""
    words = text.split()
    chooser = random.Random(seed)
    for place in chooser.sample(range(len(words)), round(share * len(words))):
        words[place] = "other"
    return " ".join(words)


def test_exact_duplicates_differ_at_most_in_the_space_around_them():
    finder = ExactDuplicates()
    assert finder.flags(["a b", "a  b", " a b\n", "A b"]) == [False, False, True, False]
    assert finder.flags(["a b", "c"]) == [True, False]


def test_sequences_are_those_of_five_words():
    one, other = sequence_hashes(["a b c d e f g", "x, B c D e -- f"])
    assert len(one) == 3
    assert len(other) == 2
    assert set(one.tolist()) & set(other.tolist()) == {one[1]}  # b c d e f


def test_the_order_of_words_counts():
    one, other = sequence_hashes(["a b c d e", "b a c d e"])
    assert one.tolist() != other.tolist()


def test_a_text_is_known_whatever_stands_beside_it():
    texts = make_texts(5, 40, seed=0)
    together = [hashes.tolist() for hashes in sequence_hashes(texts)]
    assert together == [sequence_hashes([text])[0].tolist() for text in texts]


def test_short_texts_and_texts_without_words_are_told_apart():
    short = sequence_hashes(["a b", "a b c", "a c b", "---", "***"])
    assert [len(hashes) for hashes in short] == [1] * 5
    assert len({hashes[0] for hashes in short}) == 5


@pytest.fixture
def near():
    pytest.importorskip("rensa")
    return NearDuplicates()


@pytest.mark.parametrize(("length", "share"), [(100, 0.01), (300, 0.01), (1000, 0.01)])
def test_planted_near_duplicates_are_found(near, length, share):
    texts = make_texts(200, length, seed=length)
    assert not any(near.flags(texts))
    copies = [edited(text, share, seed=i) for i, text in enumerate(texts)]
    assert sum(near.flags(copies)) >= 0.95 * len(copies)


def test_distinct_texts_are_never_taken_for_duplicates(near):
    assert not any(near.flags(make_texts(2000, 60, seed=1)))


def test_texts_that_share_a_half_are_kept(near):
    head = make_texts(1, 100, seed=2)[0]
    assert not any(near.flags([f"{head} {tail}" for tail in make_texts(200, 100, seed=3)]))


def test_case_and_punctuation_do_not_count(near):
    text = make_texts(1, 50, seed=4)[0]
    assert near.flags([text, text.upper().replace(" ", ", "), text + " and more"]) == [False, True, True]


def test_what_was_left_out_is_not_compared_with(near):
    """Else a chain of small steps would lead anywhere."""
    text = make_texts(1, 100, seed=5)[0]
    words = text.split()
    steps = [" ".join(["new"] * changed + words[changed:]) for changed in (0, 8, 16, 40)]
    assert near.flags(steps) == [False, True, False, False]


def test_texts_without_spaces_are_compared_too(near):
    text = "".join(chr(0x4E00 + i * 7 % 3000) for i in range(300))
    assert near.flags([text, text[:100] + "新" + text[101:], text[::-1]]) == [False, True, False]


def test_without_the_library_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr(duplicates.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError) as caught:
        NearDuplicates()
    assert "llmkit[dedupe]" in caught.value.fix
