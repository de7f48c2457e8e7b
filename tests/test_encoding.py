"""Encoding by tiktoken: the same ids for every tokenizer that it stands in for, and word of it where it cannot."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from llmkit import encoding
from llmkit.alphabet import BYTE_OF, bytes_tokenizer, chars_tokenizer
from llmkit.encoding import SEAMS, StandIn, TextEncoder, UnsuitedError, check_ids, odd_texts, rank_tokens
from llmkit.errors import DataError
from llmkit.tokenizer import CONTROL_TOKENS, control_ids, encode_text, encode_texts, load_tokenizer, train_tokenizer

TEXTS = [f"def name_{i}(value):\n    return value + {i * 37}  # wörter, it's 語 e\u0301\n" for i in range(60)]
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
QWEN_WORDS = LLAMA3_WORDS.replace("{1,3}", "")
TO_BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)


def split_by(pattern, behavior="isolated"):
    """Words by a pattern."""
    return pre_tokenizers.Split(Regex(pattern), behavior)


def cut_by(pattern, behavior="isolated"):
    """Words by a pattern, then bytes."""
    return pre_tokenizers.Sequence([split_by(pattern, behavior), TO_BYTES])


def wrap(backend):
    """A tokenizer around a backend, with the control tokens."""
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=CONTROL_TOKENS[0])


def trained(pre_tokenizer, *, normalizer=None, ignore_merges=False, alphabet=None):
    """A byte-level BPE of 400 tokens with control tokens at the end, as GPT-2, Llama 3 and Qwen have them."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizer, decoders.ByteLevel()
    if normalizer is not None:
        backend.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet() if alphabet is None else alphabet
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    spec = json.loads(backend.to_str())
    spec["model"]["ignore_merges"] = ignore_merges
    return wrap(Tokenizer.from_str(json.dumps(spec)))


SHAPES = {
    "ours": lambda: train_tokenizer(TEXTS, vocab_size=400),
    "gpt2": lambda: trained(GPT2),
    "smollm2": lambda: trained(pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])),
    "llama3": lambda: trained(cut_by(LLAMA3_WORDS), ignore_merges=True),
    "qwen": lambda: trained(cut_by(QWEN_WORDS), normalizer=normalizers.NFC()),
    "bytes": bytes_tokenizer,
    "chars": lambda: chars_tokenizer(sorted(set("".join(TEXTS)))),
    "latin chars": lambda: chars_tokenizer(sorted("abcdefg wörtéß1'")),
}


@pytest.fixture(scope="module", params=SHAPES)
def shape(request):
    """A tokenizer of each shape that tiktoken can stand in for, and the stand-in."""
    tokenizer = SHAPES[request.param]()
    return tokenizer, StandIn(tokenizer)


@pytest.fixture
def any_length(monkeypatch):
    """A text of any length is long enough."""
    monkeypatch.setattr(encoding, "LONG_ENOUGH", 1)


def raw_bpe(merges, *, words=(), ignore_merges=False, **options):
    """A byte-level BPE with these merges, and words that no merge makes."""
    tokens = dict.fromkeys([*BYTE_OF, *("".join(pair) for pair in merges), *words])
    vocab = {token: i for i, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab, merges, ignore_merges=ignore_merges, **options))
    backend.pre_tokenizer, backend.decoder = cut_by(r"\S+|\s+"), decoders.ByteLevel()
    return wrap(backend)


def test_real_and_odd_texts_have_the_same_ids(shape):
    _, stand_in = shape
    check_ids(stand_in, TEXTS)
    check_ids(stand_in, odd_texts()[::12])


def test_all_odd_texts_have_the_same_ids_with_our_own():
    check_ids(StandIn(SHAPES["ours"]()), odd_texts())


@given(text=st.text() | st.lists(st.sampled_from(SEAMS), max_size=20).map("".join))
@settings(max_examples=80, deadline=None)
def test_any_unicode_has_the_same_ids(shape, text):
    tokenizer, stand_in = shape
    assert stand_in.encode(text).tolist() == encode_text(tokenizer, text)


def test_a_control_token_in_a_text_stays_text(shape):
    tokenizer, stand_in = shape
    assert control_ids(tokenizer)
    assert control_ids(tokenizer).isdisjoint(stand_in.encode("a".join(CONTROL_TOKENS) + "\0\0").tolist())


def test_the_encoder_of_a_saved_tokenizer_agrees_too(tmp_path, any_length):
    SHAPES["llama3"]().save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    encoder = TextEncoder(loaded)
    assert [ids.tolist() for ids in encoder.encode(TEXTS)] == encode_texts(loaded, TEXTS)
    assert encoder.stand_in is not None


@given(
    picks=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=2, max_size=9),
    words=st.sets(st.text("abc", min_size=2, max_size=4), max_size=2),
    ignore_merges=st.booleans(),
    texts=st.lists(st.text("abc ", max_size=24), min_size=20, max_size=20),
)
@settings(max_examples=150, deadline=None)
def test_whatever_the_merges_the_ids_are_the_same_or_tiktoken_is_refused(picks, words, ignore_merges, texts):
    tokens, merges = ["a", "b", "c"], []
    for left, right in picks:
        merges.append((tokens[left % len(tokens)], tokens[right % len(tokens)]))
        tokens.append("".join(merges[-1]))
    tokenizer = raw_bpe(merges, words=words, ignore_merges=ignore_merges)
    try:
        stand_in = StandIn(tokenizer)
    except UnsuitedError:
        return
    check_ids(stand_in, [*texts, *tokens])


def test_a_token_that_its_own_bytes_do_not_merge_into_is_left_out():
    tokenizer = raw_bpe([("b", "c"), ("a", "b"), ("ab", "c")])
    assert tokenizer.convert_ids_to_tokens(encode_text(tokenizer, "abc")) == ["a", "bc"]
    assert StandIn(tokenizer).encode("abc").tolist() == encode_text(tokenizer, "abc")


def test_all_ways_to_make_a_token_may_be_listed_as_in_llama_3():
    tokenizer = raw_bpe([("a", "b"), ("b", "c"), ("ab", "c"), ("a", "bc")], ignore_merges=True)
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    assert rank_tokens(spec)[256:] == ["ab", "bc", "abc"]
    check_ids(StandIn(tokenizer), ["abc", "xabc", "aabcc", "bcabcab"])


def with_words(tokenizer):
    """A tokenizer with an added token that is plain text."""
    tokenizer.add_tokens([AddedToken("    ", special=False, normalized=False)])
    return tokenizer


UNSUITED = {
    "model is Unigram": lambda: train_tokenizer(TEXTS, algorithm="unigram", vocab_size=300),
    "has a dropout": lambda: raw_bpe([("a", "b")], dropout=0.5),
    "changes the text": lambda: trained(GPT2, normalizer=normalizers.NFKC()),
    "1 added tokens that are plain text, such as '    '": lambda: with_words(trained(GPT2)),
    "not those of a byte-level tokenizer": lambda: trained(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "by another rule than a pattern": lambda: trained(cut_by(r"\s+", behavior="removed")),
    "with several patterns": lambda: trained(pre_tokenizers.Sequence([split_by(r"\s+"), split_by("a"), TO_BYTES])),
    "no meaning there": lambda: trained(cut_by(r"\X")),
    "merges do not make": lambda: raw_bpe([("b", "c"), ("a", "b"), ("ab", "c")], ignore_merges=True),
    "do not stand together": lambda: raw_bpe([("a", "b"), ("b", "c"), ("ab", "c"), ("c", "c"), ("a", "bc")]),
}


@pytest.mark.parametrize("reason", UNSUITED)
def test_what_tiktoken_cannot_stand_in_for_is_encoded_as_ever_and_told(reason, any_length, capsys):
    tokenizer = UNSUITED[reason]()
    encoder = TextEncoder(tokenizer)
    found = [ids.tolist() for ids in encoder.encode(TEXTS)]
    assert reason in capsys.readouterr().err
    assert encoder.stand_in is None
    if "dropout" not in reason:
        assert found == encode_texts(tokenizer, TEXTS)


def test_ids_that_differ_in_the_texts_at_hand_are_found_and_told(any_length, capsys):
    # The pattern compiles in both, but ^ is the beginning of a line in tokenizers, of the text in tiktoken.
    backend = raw_bpe([("a", "b")]).backend_tokenizer
    backend.pre_tokenizer = cut_by(r"^ab|[\s\S]")
    tokenizer = wrap(backend)
    texts = ["c\nab"] * 3
    encoder = TextEncoder(tokenizer)
    assert [ids.tolist() for ids in encoder.encode(texts)] == encode_texts(tokenizer, texts)
    assert r"the ids of a text differ, 'c\nab'" in capsys.readouterr().err
    assert encoder.stand_in is None
    assert encoder.encode(["ab"])[0].tolist() == encode_text(tokenizer, "ab")
    assert capsys.readouterr().err == "", "told once"


def test_a_pattern_that_passes_over_some_characters_is_found_by_odd_texts():
    with pytest.raises(UnsuitedError, match="differ"):
        check_ids(StandIn(trained(cut_by(r"[\p{L}\s\p{P}]+|\p{N}"))), odd_texts())


def test_a_byte_that_the_vocabulary_lacks_is_left_to_the_tokenizer():
    signs = sorted(BYTE_OF)
    signs.remove("ª")  # 0xAA, in 語 but not in ö
    tokenizer = trained(GPT2, alphabet=signs)
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec["model"]["vocab"].pop("ª", None)
    spec["model"]["merges"] = [pair for pair in spec["model"]["merges"] if "ª" not in "".join(pair)]
    tokenizer = wrap(Tokenizer.from_str(json.dumps(spec)))
    assert StandIn(tokenizer).lacks_bytes
    check_ids(StandIn(tokenizer), ["wörter", "a 語", "語"])


def test_what_tiktoken_refuses_is_left_to_the_tokenizer():
    tokenizer = SHAPES["ours"]()
    text = "a" + " " * 300_000 + "b"
    assert StandIn(tokenizer).encode(text).tolist() == encode_text(tokenizer, text)


def test_a_little_text_is_encoded_without_tables_and_checks():
    encoder = TextEncoder(SHAPES["ours"]())
    found = encoder.encode(TEXTS)
    assert not encoder.is_settled
    assert [ids.tolist() for ids in found] == encode_texts(encoder.tokenizer, TEXTS)
    assert {ids.dtype for ids in found} == {np.dtype(np.uint32)}


def test_much_text_in_small_portions_is_much_text(monkeypatch):
    monkeypatch.setattr(encoding, "LONG_ENOUGH", 3 * sum(map(len, TEXTS)))
    encoder = TextEncoder(SHAPES["ours"]())
    settled = []
    for _ in range(4):
        encoder.encode(TEXTS)
        settled.append(encoder.is_settled)
    assert settled == [False, False, True, True]


@pytest.mark.parametrize("texts", [[], [""], ["a", "", "b"], TEXTS * 5])
def test_texts_keep_their_order_over_all_threads(texts):
    tokenizer = bytes_tokenizer()
    assert [ids.tolist() for ids in StandIn(tokenizer).encode_all(texts)] == encode_texts(tokenizer, texts)


def test_half_a_surrogate_pair_is_an_error_that_shows_the_text(shape):
    with pytest.raises(DataError, match="ud800"):
        shape[1].encode_all(["fine", "bad \ud800"])
