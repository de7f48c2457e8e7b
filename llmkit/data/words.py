"""Texts for classical networks: lower-cased words with ids, the most frequent of the training split."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

PAD_ID = 0
UNKNOWN_ID = 1
NUM_SPECIAL = 2

CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
MARKS = "\u0300-\u036f\u0900-\u0dff\u0e00-\u0e7f"
WORD = re.compile(rf"[{CJK}]|(?:[^\W{CJK}]|[{MARKS}])+|[^\w\s]")
"""A word, a single sign, or one character of a script that writes without spaces. Vowel signs belong to their word."""


def split_words(text: str) -> list[str]:
    """The words and signs of a text, in lower case.

    >>> split_words("Don't PANIC!")
    ['don', "'", 't', 'panic', '!']
    """
    return WORD.findall(text.lower())


@dataclass(frozen=True)
class WordEncoder:
    """Texts as ids of words: 0 is padding, 1 any word that is not known, then `words` in order of frequency."""

    words: list[str]
    max_words: int
    form = "text"

    @classmethod
    def fit(cls, texts: Iterable[list[str]], *, vocab_size: int, max_words: int) -> WordEncoder:
        """The most frequent words of texts (split already), ties by alphabet. A word seen once teaches nothing."""
        counts = Counter(word for words in texts for word in words[:max_words])
        known = sorted((word for word, count in counts.items() if count > 1), key=lambda word: (-counts[word], word))
        return cls(known[: max(0, vocab_size - NUM_SPECIAL)], max_words)

    @cached_property
    def ids(self) -> dict[str, int]:
        """Word -> id."""
        return {word: k for k, word in enumerate(self.words, start=NUM_SPECIAL)}

    @property
    def num_words(self) -> int:
        """How many ids there are, padding and the unknown word included."""
        return len(self.words) + NUM_SPECIAL

    def encode(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Ids (N, longest) int32, padded with 0 on the right, and lengths (N,). No word at all is one unknown word."""
        return self.encode_words([split_words(text) for text in texts])

    def encode_words(self, texts: Sequence[list[str]]) -> tuple[Tensor, Tensor]:
        """The same, for texts that are split already."""
        rows = [[self.ids.get(word, UNKNOWN_ID) for word in words[: self.max_words]] or [UNKNOWN_ID] for words in texts]
        longest = max(map(len, rows), default=0)
        ids = torch.tensor([row + [PAD_ID] * (longest - len(row)) for row in rows], dtype=torch.int32)
        return ids, torch.tensor([len(row) for row in rows], dtype=torch.int64)

    def count_unknown(self, texts: Sequence[list[str]]) -> tuple[int, int]:
        """(words that are not known, all words) of texts, as far as they are read."""
        read = [word for words in texts for word in words[: self.max_words]]
        return sum(word not in self.ids for word in read), len(read)

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, "words": self.words, "max_words": self.max_words}


def describe_texts(encoder: WordEncoder, texts: Sequence[list[str]]) -> list[str]:
    """The size of the vocabulary, and what reading `texts` (split already) leaves out, in sentences."""
    cut, empty = sum(len(words) > encoder.max_words for words in texts), sum(not words for words in texts)
    notes = [
        f"vocabulary: the {len(encoder.words):,} most frequent words of the training split; all others share one vector"
    ]
    if cut:
        notes.append(
            f"{cut:,} of {len(texts):,} texts are cut to their first {encoder.max_words} words (train.seq_len)"
        )
    if empty:
        notes.append(f"{empty:,} texts hold no word and are read as one unknown word")
    return notes
