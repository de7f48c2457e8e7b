"""What is measured of a tokenizer, worked out by hand."""

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmkit.evaluation.compression import (
    BATCH_CHARACTERS,
    batches,
    file_of,
    find_mismatch,
    measure_tokenizers,
    token_texts,
)
from llmkit.tokenizer import encode_text


@pytest.fixture
def characters():
    """One token for each of a, b, c, ü and space; capitals are lost, as is every other character."""
    backend = Tokenizer(models.WordLevel({sign: i for i, sign in enumerate("?abcü d")}, unk_token="?"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    backend.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_rates_are_sums_over_sums(characters):
    documents = [("ab cü", "one.txt"), ("a b", "two.txt:7"), ("c", "two.txt:9")]
    (report,) = measure_tokenizers(documents, [characters])
    # 5 + 3 + 1 characters and tokens; ü has two bytes; words: ab, cü, a, b, c
    assert (report["documents"], report["bytes"], report["tokens"]) == (3, 10, 9)
    assert report["bytes_per_token"] == 10 / 9
    assert report["chars_per_token"] == 1
    assert report["tokens_per_word"] == 9 / 5
    assert report["round_trip"] == 1
    assert report["mismatch"] is None


def test_files_are_told_apart_and_lines_are_not(characters):
    (report,) = measure_tokenizers([("ab", "x.txt"), ("a", "y.txt:1"), ("b", "y.txt:2")], [characters])
    assert [(row["file"], row["documents"], row["tokens"]) for row in report["files"]] == [
        ("x.txt", 1, 2),
        ("y.txt", 2, 2),
    ]


def test_unused_is_the_share_of_the_vocabulary_that_never_occurs(characters):
    (report,) = measure_tokenizers([("abab", "x"), ("a", "x")], [characters])
    assert report["vocab_size"] == 7
    assert report["unused"] == pytest.approx(5 / 7)


def test_control_tokens_do_not_count_as_unused(tiny_tokenizer):
    (report,) = measure_tokenizers([("a", "x")], [tiny_tokenizer])
    assert report["unused"] == pytest.approx(1 - 1 / (len(tiny_tokenizer) - 4))


def test_what_does_not_come_back_is_counted_and_the_first_is_shown(characters):
    (report,) = measure_tokenizers([("ab", "x"), ("a Bc", "y:3"), ("C", "y:4")], [characters])
    assert report["round_trip"] == pytest.approx(1 / 3)
    assert report["mismatch"] == {"source": "y:3", "position": 2, "text": "a Bc", "decoded": "a bc"}


def test_plain_bytes_are_the_reference():
    (report,) = measure_tokenizers([("aü", "x")], [None])
    assert (report["tokens"], report["bytes_per_token"], report["round_trip"]) == (3, 1, 1)
    assert (report["vocab_size"], report["unused"]) == (256, 1 - 3 / 256)


def test_a_text_without_words_has_no_tokens_per_word(characters):
    (report,) = measure_tokenizers([(" ", "x")], [characters])
    assert report["tokens_per_word"] is None


def test_a_mismatch_at_the_end_is_found():
    assert find_mismatch("abc", "ab", "x").position == 2
    assert find_mismatch("ab", "abc", "x").position == 2


@pytest.mark.parametrize(
    ("source", "file"),
    [
        ("a/b.jsonl:12", "a/b.jsonl"),
        ("a/b.txt", "a/b.txt"),
        ("C:name", "C:name"),
        ("python-docs:help/json", "python-docs:help"),
    ],
)
def test_the_file_of_a_source_is_known(source, file):
    assert file_of(source) == file


def test_batches_hold_everything_once_and_stay_small():
    documents = [("x" * (BATCH_CHARACTERS // 3), str(i)) for i in range(10)]
    found = list(batches(documents))
    assert [document for batch in found for document in batch] == documents
    assert [len(batch) for batch in found] == [4, 4, 2]


def test_the_text_of_a_token_shows_parts_of_characters_as_bytes(tiny_tokenizer):
    assert token_texts(tiny_tokenizer, [*encode_text(tiny_tokenizer, "Q ü"), 2]) == [
        "Q",
        " ",
        "\\xc3",
        "\\xbc",
        "<|im_end|>",
    ]


def test_the_text_of_a_sentencepiece_token_has_its_space_back():
    backend = Tokenizer(models.BPE({"▁a": 0, "<0xC3>": 1, "<0x0A>": 2}, [], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    assert token_texts(tokenizer, [0, 1, 2]) == [" a", "\\xc3", "\n"]
