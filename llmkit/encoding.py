"""Many texts to ids, on all cores: by tiktoken where it gives the same ids, three times as fast, else by tokenizers."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import Any

import numpy as np
import tiktoken
from numpy.typing import NDArray
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from llmkit.alphabet import BYTE_OF
from llmkit.console import say
from llmkit.tokenizer import encode_text, encode_texts, text_backend

LONG_ENOUGH = 1 << 22
"""Characters from which on it pays to build tiktoken's tables and to check its ids (0.5 s)."""
SAMPLE = 1 << 20
"""Characters of the texts at hand on which both must agree."""

GPT2_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# Digits one by one, and GPT-2's words in what is between them: an end of such a stretch is like an end of the text.
GPT2_WORDS_AND_DIGITS = r"\p{N}|'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?[^\s\p{L}\p{N}]+|\s+(?![^\s\p{N}])|\s+"

NO_ID = 2**32 - 1
"""In the place of an id: the byte is not in the vocabulary."""

SEAMS = [
    *(" ", "  ", "\t", "\n", "\r\n", "\r", "\u00a0", "\u2028", "\u3000", "\x85", "\x1c", "\ufeff", "\0", "\u200d"),
    *("'s", "'S", "'\u017f", "'ll", "'LL", "'Re", "\u2019s", "'", '"', "<|endoftext|>", "_", ".", "...", "/", "=="),
    *("a", "The", "Zoë", "e\u0301", "ǅ", "ß", "語", "한국", "नमस्ते", "ไทย", "العربية", "🦙", "👩\u200d👧", "🏽"),
    *("1", "2024", "123456", "٣", "Ⅷ", "½", "²"),
]


class TextEncoder:
    """`encode_text` of many texts, as arrays: the same ids, by whichever library is the faster.

    tiktoken takes over when there is much text, the tokenizer is one that it can stand in for, and its ids agree on a
    sample of the texts and on odd ones. That it does not take over is told.

    >>> TextEncoder(tokenizer).encode(["the model", "learns"])
    [array([290, 262], dtype=uint32), array([301, 84], dtype=uint32)]
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.tokenizer = tokenizer
        self.num_seen = 0
        self.is_settled = False
        self.stand_in: StandIn | None = None

    def encode(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of each text. Hand over a few MB at a time.

        Raises:
            DataError: A text holds half of a surrogate pair.
        """
        self.num_seen += sum(map(len, texts))
        if not self.is_settled and self.num_seen >= LONG_ENOUGH:
            self.settle(texts)
        if self.stand_in is None:
            return [np.array(ids, dtype=np.uint32) for ids in encode_texts(self.tokenizer, texts)]
        return self.stand_in.encode_all(texts)

    def settle(self, texts: Sequence[str]) -> None:
        """Decide who encodes from now on."""
        self.is_settled = True
        try:
            stand_in = StandIn(self.tokenizer)
            check_ids(stand_in, texts[:: 1 + sum(map(len, texts)) // SAMPLE])
            check_ids(stand_in, odd_texts())
        except UnsuitedError as reason:
            say(f"encoding with the tokenizers library; tiktoken, which is faster, cannot stand in: {reason}")
        else:
            self.stand_in = stand_in


class UnsuitedError(Exception):
    """Why tiktoken's ids would not be this tokenizer's."""


class StandIn:
    """tiktoken with a tokenizer's words and merges.

    Raises:
        UnsuitedError: It is no plain byte-level BPE.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        backend = text_backend(tokenizer)
        spec = json.loads(backend.to_str())
        require_plain(spec)
        tokens = rank_tokens(spec)
        ranks = {bytes(BYTE_OF[sign] for sign in token): rank for rank, token in enumerate(tokens)}
        self.tokenizer = tokenizer
        self.ids = np.array([spec["model"]["vocab"].get(token, NO_ID) for token in tokens], dtype=np.uint32)
        self.lacks_bytes = NO_ID in self.ids
        self.normalize: Callable[[str], str] | None = backend.normalizer and backend.normalizer.normalize_str
        try:
            # Without any special token tiktoken tries an empty pattern at each character: a quarter of the speed.
            self.encoding = tiktoken.Encoding(
                "stand-in", pat_str=word_pattern(spec), mergeable_ranks=ranks, special_tokens={"\0\0": len(ranks)}
            )
        except ValueError as error:
            raise UnsuitedError(f"its pattern of words has no meaning there ({error})") from error

    def encode(self, text: str) -> NDArray[np.uint32]:
        """The ids of a text.

        A text that tiktoken refuses (one with 200,000 spaces in a row), or with a byte that the vocabulary lacks, is
        left to the tokenizer itself.
        """
        try:
            if self.normalize is not None and not text.isascii():
                text = self.normalize(text)
            # No special token is allowed: what looks like one stays text.
            found: NDArray[np.uint32] = self.ids[self.encoding.encode_to_numpy(text, disallowed_special=())]
            has_all = not self.lacks_bytes or not (found == NO_ID).any()
        except (ValueError, TypeError):
            has_all = False
        return found if has_all else np.array(encode_text(self.tokenizer, text), dtype=np.uint32)

    def encode_all(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The ids of each text, on all cores: tiktoken works outside of Python's lock."""
        num_threads = available_cores()
        stride = max(1, min(len(texts), 4 * num_threads))
        found: list[Any] = [None] * len(texts)

        def encode_some(start: int) -> None:
            found[start::stride] = [self.encode(text) for text in texts[start::stride]]

        with ThreadPoolExecutor(num_threads) as pool:
            list(pool.map(encode_some, range(stride)))
        return found


def available_cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def require_plain(spec: dict[str, Any]) -> None:
    """Raise unless text goes through words, bytes and BPE alone; see `text_backend` for the added tokens."""
    model = spec["model"]
    if model["type"] != "BPE":
        raise UnsuitedError(f"its model is {model['type']}, not byte pair encoding")
    for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback"):
        if model.get(name):
            raise UnsuitedError(f"its byte pair encoding has a {name}")
    if spec["normalizer"] is not None and spec["normalizer"]["type"] != "NFC":
        raise UnsuitedError("it changes the text before it encodes it")
    words = [token["content"] for token in spec["added_tokens"] if not token["content"].startswith("\0")]
    if words:
        raise UnsuitedError(f"it has {len(words)} added tokens that are plain text, such as {words[0]!r}")


def word_pattern(spec: dict[str, Any]) -> str:
    """The pattern that cuts a text into words."""
    steps = spec["pre_tokenizer"] or {"type": "None"}
    *splits, last = steps.get("pretokenizers", [steps])
    patterns = [pattern_of(split) for split in splits]
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        raise UnsuitedError("its words are not those of a byte-level tokenizer")
    if last["use_regex"]:
        patterns.append(GPT2_WORDS)
    if patterns == [r"\p{N}", GPT2_WORDS]:
        return GPT2_WORDS_AND_DIGITS
    if len(patterns) > 1:
        raise UnsuitedError("it cuts words with several patterns, one after the other")
    return patterns[0] if patterns else r"[\s\S]+"


def pattern_of(split: dict[str, Any]) -> str:
    """The pattern of one step that cuts a text."""
    if split["type"] == "Digits" and split["individual_digits"]:
        return r"\p{N}"
    pattern = split.get("pattern", {}).get("Regex")
    if split["type"] != "Split" or split["behavior"] != "Isolated" or split["invert"] or pattern is None:
        raise UnsuitedError("it cuts words by another rule than a pattern")
    return str(pattern)


def rank_tokens(spec: dict[str, Any]) -> list[str]:
    """The tokens of a vocabulary in the order in which tiktoken must merge them, so that its ids are always the same.

    tokenizers joins listed pairs, in their order; tiktoken joins any pair that makes a token, in the order of tokens.
    Both agree on every word if the pairs of a token stand together in the list, and tokens that their own bytes do not
    merge into are left out: a pair can only stand side by side within a word as the last step of merging the bytes of
    its token alone, which is one and the same pair each time. With `ignore_merges` a word that is a token is taken
    whole by both; such a token may be out of reach of merging, but not by one step: tiktoken would take that.
    """
    model = spec["model"]
    merged = ["".join(pair) for pair in model["merges"]]
    in_order = [token for token, _ in groupby(merged)]
    if len(set(in_order)) < len(in_order):
        raise UnsuitedError("the merges of a token do not stand together")
    bpe = models.BPE(vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]])
    if not model.get("ignore_merges"):
        return [*BYTE_OF, *(token for token in in_order if len(bpe.tokenize(token)) == 1)]
    words = {token for token in model["vocab"] if BYTE_OF.keys() >= set(token)}
    in_order += sorted(words - {*BYTE_OF, *in_order})
    if any(len(bpe.tokenize(token)) == 2 for token in in_order):
        raise UnsuitedError("some of its tokens are words that its merges do not make")
    return [*BYTE_OF, *in_order]


def check_ids(stand_in: StandIn, texts: Sequence[str]) -> None:
    """Raise unless the ids of all texts are the tokenizer's own."""
    for text, ids in zip(texts, encode_texts(stand_in.tokenizer, texts), strict=True):
        if stand_in.encode(text).tolist() != ids:
            raise UnsuitedError(f"the ids of a text differ, {text[:30]!r}")


def odd_texts() -> list[str]:
    """Texts that no corpus has: characters of all kinds side by side with others, and mixtures of what words end at."""
    points = [*range(0x800), *range(0x2000, 0x2100), *range(0x800, 0x34000, 31), 0xE0067, 0xFFFF, 0xF0000, 0x10FFFF]
    around = [f"a{c}1 {c}{c}'s\n{c} !{c}" for c in map(chr, points) if not 0xD800 <= ord(c) < 0xE000]
    dice = random.Random(0)
    return around + ["".join(dice.choices(SEAMS, k=40)) for _ in range(1000)]
