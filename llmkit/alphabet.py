"""Tokenizers that learn nothing: a token for each byte, or for each character of a text and bytes for all others."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from llmkit.console import say
from llmkit.errors import DataError
from llmkit.tokenizer import CONTROL_TOKENS, NO_TEXT, SMALLEST_VOCABULARY, check_vocab_size, wrap_tokenizer

NAMES = ("bytes", "chars")

# How byte-level vocabularies write bytes: those that print as themselves, the others from U+0100 on (GPT-2).
PRINTABLE = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
BYTE_OF = {chr(b): b for b in PRINTABLE}
BYTE_OF |= {chr(256 + n): b for n, b in enumerate(b for b in range(256) if b not in PRINTABLE)}
SIGN_OF = {byte: sign for sign, byte in sorted(BYTE_OF.items(), key=lambda item: item[1])}


def is_named(name: str) -> bool:
    """Whether this means a tokenizer made on the spot, `bytes` or `chars`. A folder of that name goes first."""
    if name in NAMES and Path(name).exists():
        say(f"{name}: this is the file or folder here, not llmkit's own tokenizer of {name}")
        return False
    return name in NAMES


def bytes_tokenizer() -> PreTrainedTokenizerFast:
    """260 tokens: the control tokens, and each byte b with the id 4 + b."""
    return build_tokenizer([])


def chars_tokenizer(characters: Sequence[str]) -> PreTrainedTokenizerFast:
    """One token for each of the characters, in their order behind the control tokens, then the bytes for all others.

    An ASCII character is its byte: with all of them, it is 260 tokens as `bytes` has.
    """
    return build_tokenizer([as_signs(character) for character in characters])


def as_signs(text: str) -> str:
    """A text as byte-level vocabularies write it."""
    return "".join(SIGN_OF[byte] for byte in text.encode())


def build_tokenizer(characters: Sequence[str]) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer of these characters, written in signs, and all bytes."""
    tokens = dict.fromkeys([*CONTROL_TOKENS, *characters, *SIGN_OF.values()])
    # Two bytes that make a character are merged. More would need tokens for parts of characters: there each character
    # is a word, and a word that is a token is taken whole. That is right always, but with tokenizers five times slower.
    merges = [(signs[0], signs[1]) for signs in characters if len(signs) == 2]
    is_cut = any(len(signs) > 2 for signs in characters)
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges, ignore_merges=is_cut))
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in CONTROL_TOKENS])
    cut = [pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")] if is_cut else []
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*cut, to_bytes])
    backend.decoder = decoders.ByteLevel()
    return wrap_tokenizer(backend)


def count_characters(texts: Iterable[str]) -> dict[str, int]:
    """How often each character is in the texts, in the order of the characters.

    Raises:
        DataError: There is no text, or half of a surrogate pair in one.
    """
    counts = np.zeros(0x110000, dtype=np.int64)
    for text in texts:
        try:
            codes = np.frombuffer(text.encode("utf-32-le"), dtype=np.uint32)
        except UnicodeEncodeError as error:
            raise DataError(NO_TEXT, where=repr(text)[:80], fix="mend or leave out this text") from error
        np.add.at(counts, codes, 1)
    found = np.flatnonzero(counts)
    if not len(found):
        raise DataError("there is no text to take characters from", fix="name files that hold text")
    return {chr(code): int(counts[code]) for code in found}


def keep_frequent(counts: Mapping[str, int], vocab_size: int) -> list[str]:
    """The characters for which a vocabulary has room: those of ASCII, which are bytes, and the most frequent others.

    Raises:
        UsageError: It has no room for the bytes and the control tokens.
    """
    check_vocab_size(vocab_size)
    others = sorted((c for c in counts if not c.isascii()), key=lambda c: -counts[c])
    return [c for c in counts if c.isascii()] + sorted(others[: vocab_size - SMALLEST_VOCABULARY])
