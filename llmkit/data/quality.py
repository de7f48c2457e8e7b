"""What the documents are like, counted without knowing their language. Nothing is left out by these counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmkit.data.characters import LETTER, LONE, SPACE, is_word_start, kinds_of_text

SHORT = 100
"""Characters."""
FEW_LETTERS = 0.5
"""Share of letters and digits among the characters that are no space: prose has 0.95, code 0.75."""
LONG_WORDS = 15
"""Letters of the mean word: prose has 4 to 8 in most languages; base64 and minified code have more."""
REPEATED_LINES = 0.3
"""Share of the lines that stand in the document before (Rae et al. 2021, arXiv:2112.11446)."""
FEWEST_LINES = 5
REPLACEMENT = "\ufffd"
"""What a decoder puts for bytes that it could not read."""


class Quality:
    """Counts over documents that are added some at a time."""

    def __init__(self) -> None:
        self.num_documents = 0
        self.characters = 0
        self.filled = 0
        self.letters = 0
        self.words = 0
        self.found: Counter[str] = Counter()

    def add(self, texts: Sequence[str]) -> None:
        """Count documents, none of them empty."""
        for is_ascii in (True, False):
            part = [text for text in texts if text.isascii() == is_ascii]
            if part:
                self.count_characters(part)
        self.found["replacement_characters"] += sum(REPLACEMENT in text for text in texts)
        self.found["repeated_lines"] += sum(map(has_repeated_lines, texts))

    def count_characters(self, texts: Sequence[str]) -> None:
        """Count characters, letters and words, and the documents that have too few of them."""
        sizes = np.array([len(text) for text in texts])
        borders = np.cumsum([0, *(sizes + 1)])
        kinds = kinds_of_text("\n".join(texts))
        letters = count_in_parts((kinds == LETTER) | (kinds == LONE), borders)
        filled = count_in_parts(kinds != SPACE, borders)
        words = count_in_parts(is_word_start(kinds), borders)
        self.num_documents += len(texts)
        self.characters += int(sizes.sum())
        self.filled += int(filled.sum())
        self.letters += int(letters.sum())
        self.words += int(words.sum())
        self.found["short"] += int((sizes < SHORT).sum())
        self.found["few_letters"] += int((letters < FEW_LETTERS * filled).sum())
        self.found["long_words"] += int((letters > LONG_WORDS * np.maximum(words, 1)).sum())

    def to_json(self, *, copies: int) -> dict[str, Any]:
        """For the manifest. `copies` are documents equal to one before them."""
        return {
            "documents": self.num_documents,
            "characters": self.characters,
            "letters_share": round(self.letters / max(self.filled, 1), 4),
            "mean_word_length": round(self.letters / max(self.words, 1), 2),
            "documents_with": {**self.found, "copies": copies},
        }


def count_in_parts(is_counted: NDArray[np.bool_], borders: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many are true between each border and the next. Three times as fast as numpy's reduceat."""
    return np.array([np.count_nonzero(is_counted[a:b]) for a, b in pairwise(borders.tolist())])


def has_repeated_lines(text: str) -> bool:
    """Whether a good part of the lines stands in the document before; blank ones do not count."""
    lines = list(filter(None, map(str.strip, text.split("\n"))))
    return len(lines) >= FEWEST_LINES and len(set(lines)) < (1 - REPEATED_LINES) * len(lines)


def describe_quality(quality: dict[str, Any]) -> list[str]:
    """The counts in sentences; what there is none of is left out."""
    found = quality["documents_with"]
    reasons = {
        "short": f"shorter than {SHORT} characters",
        "few_letters": f"less than {FEW_LETTERS:.0%} letters",
        "long_words": f"words of more than {LONG_WORDS} letters on average",
        "repeated_lines": f"more than {REPEATED_LINES:.0%} repeated lines",
        "replacement_characters": "characters lost in decoding (U+FFFD)",
        "copies": "equal to one before",
    }
    counts = [f"{found[name]:,} {reason}" for name, reason in reasons.items() if found[name]]
    head = f"{quality['letters_share']:.0%} letters, {quality['mean_word_length']:.1f} letters a word"
    return [head, *([f"of {quality['documents']:,} documents: {', '.join(counts)}"] if counts else [])]
