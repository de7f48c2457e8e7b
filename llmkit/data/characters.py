"""Letters and words of any language, found for millions of characters at once."""

from __future__ import annotations

import functools
import unicodedata

import numpy as np
from numpy.typing import NDArray

OTHER, LETTER, LONE, SPACE = range(4)
"""Kinds of characters. Letters include marks and digits; a LONE letter is a word, as its script has no spaces."""

WITHOUT_SPACES = (
    (0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800), (0x3040, 0x3100), (0x3400, 0x4DC0), (0x4E00, 0xA000),
    (0xF900, 0xFB00), (0x20000, 0x40000),
)  # fmt: skip
"""Thai and Lao, Burmese, Khmer, kana, Chinese characters."""
NO_CHARACTER = 0x3FFFF
"""Behind all letters that there are; stands for what is beyond."""


def code_points(text: str) -> NDArray[np.uint32]:
    """(N,) the code point of each character."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)


def kinds_of_text(text: str) -> NDArray[np.uint8]:
    """The kind of each character of a text; three times as fast where all of them are ASCII."""
    if text.isascii():
        return np.frombuffer(text.encode().translate(ascii_table()), dtype=np.uint8)
    return kinds_of(code_points(text))


def kinds_of(codes: NDArray[np.uint32]) -> NDArray[np.uint8]:
    """(N,) -> (N,): the kind of each character."""
    return kind_table()[np.minimum(codes, NO_CHARACTER)]


@functools.cache
def ascii_table() -> bytes:
    """The kind of each byte of an ASCII text, for bytes.translate."""
    return kind_table()[:256].tobytes()


@functools.cache
def kind_table() -> NDArray[np.uint8]:
    """The kind of each code point."""
    codes = range(NO_CHARACTER + 1)
    table = np.fromiter((kind_of_character(chr(code)) for code in codes), dtype=np.uint8, count=len(codes))
    for first, end in WITHOUT_SPACES:
        stretch = table[first:end]
        stretch[stretch == LETTER] = LONE
    return table


def kind_of_character(character: str) -> int:
    """LETTER, SPACE or OTHER."""
    if unicodedata.category(character)[0] in "LMN":
        return LETTER
    return SPACE if character.isspace() else OTHER


def word_spans(kinds: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where each word begins, and where it ends.

    >>> starts, ends = word_spans(kinds_of(code_points("to be, 東京")))
    >>> list(zip(starts.tolist(), ends.tolist()))
    [(0, 2), (3, 5), (7, 8), (8, 9)]
    """
    is_lone = kinds == LONE
    borders = np.diff((kinds == LETTER).view(np.int8), prepend=np.int8(0), append=np.int8(0))
    starts = np.flatnonzero((borders[:-1] == 1) | is_lone)
    ends = np.flatnonzero((borders[1:] == -1) | is_lone) + 1
    return starts, ends


def is_word_start(kinds: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """(N,) -> (N,): where a word begins."""
    is_letter = kinds == LETTER
    starts: NDArray[np.bool_] = is_letter | (kinds == LONE)
    starts[1:] &= (kinds[1:] == LONE) | ~is_letter[:-1]
    return starts
