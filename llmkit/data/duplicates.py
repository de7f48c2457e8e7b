"""Texts that were seen before, to the letter or nearly so."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from llmkit.data.characters import code_points, kinds_of, word_spans
from llmkit.errors import UsageError

THRESHOLD = 0.8
"""Share of the five-word sequences of two texts together that stands in both, from which on they are nearly the same.
A changed word changes five of them: texts of 300 words are as near as that with up to 6 words changed."""
WORDS = 5
SIGNATURE = 128
BANDS = 16
"""Of eight signature values each: of pairs at the threshold 5 in 100 are never compared, of those at 0.9 none. With
twice as many bands a text would take 4 KB."""
SEED = 42
LIBRARY = "rensa"

FACTOR = 0x9E3779B97F4A7C15
"""Odd, so that it has an inverse modulo 2 ** 64."""


class ExactDuplicates:
    """Texts seen before, white space at their ends aside. Takes about 100 bytes of memory a text."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()

    def flags(self, texts: Sequence[str]) -> list[bool]:
        """Which texts were seen before, in an earlier call or earlier in this one."""
        found = []
        for text in texts:
            digest = hashlib.sha256(text.strip().encode()).digest()[:16]
            found.append(digest in self.seen)
            self.seen.add(digest)
        return found


class NearDuplicates:
    """Texts of which a nearly equal one was kept before, by MinHash (Broder 1997). About 2.5 KB of memory a text kept.

    Case and punctuation do not count.

    Raises:
        UsageError: The library is not installed.
    """

    def __init__(self) -> None:
        if importlib.util.find_spec(LIBRARY) is None:
            fix = 'pip install "llmkit[dedupe]"'
            raise UsageError(f"finding near duplicates needs {LIBRARY}", where="--dedupe near", fix=fix)
        rensa = importlib.import_module(LIBRARY)
        self.library = f"{LIBRARY} {importlib.metadata.version(LIBRARY)}"
        self.index = rensa.RMinHashDeduplicator(THRESHOLD, SIGNATURE, use_lsh=True, num_bands=BANDS, seed=SEED)
        self.num_texts = 0

    def flags(self, texts: Sequence[str]) -> list[bool]:
        """Which texts are nearly one that was kept, in an earlier call or earlier in this one; those are not kept."""
        sequences = [hashes.view("V8").tolist() for hashes in sequence_hashes(texts)]
        keys = range(self.num_texts, self.num_texts + len(texts))
        self.num_texts += len(texts)
        return [
            not is_new for is_new in self.index.add_pairs([(str(k), s) for k, s in zip(keys, sequences, strict=True)])
        ]


def sequence_hashes(texts: Sequence[str]) -> list[NDArray[np.uint64]]:
    """For each text a number for each sequence of WORDS words; for one with fewer, one number for all there is."""
    lowered = [text.lower() for text in texts]
    codes = code_points("\n".join(lowered))
    starts, ends = word_spans(kinds_of(codes))
    words = word_hashes(codes, starts, ends)
    borders = np.cumsum([0, *(len(text) + 1 for text in lowered)])
    found = []
    for text, (first, end) in zip(texts, pairwise(np.searchsorted(starts, borders).tolist()), strict=True):
        found.append(hashes_of_sequences(words[first:end]) if first < end else hash_of_text(text))
    return found


def hash_of_text(text: str) -> NDArray[np.uint64]:
    """A number for a text without words, so that those are not all the same."""
    return np.frombuffer(hashlib.sha256(text.encode()).digest()[:8], dtype=np.uint64)


def word_hashes(codes: NDArray[np.uint32], starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A number for each word: the polynomial of its code points, as a difference of running sums."""
    powers, inverses = powers_of_factor(1 << (len(codes)).bit_length())
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum((codes + np.uint64(1)) * powers[: len(codes)])])
    return mixed((sums[ends] - sums[starts]) * inverses[starts])


@functools.lru_cache(maxsize=2)
def powers_of_factor(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """The first powers of FACTOR and of its inverse, modulo 2 ** 64."""
    found = []
    for factor in (FACTOR, pow(FACTOR, -1, 1 << 64)):
        powers = np.full(count, factor, dtype=np.uint64)
        powers[0] = 1
        found.append(np.multiply.accumulate(powers))
    return found[0], found[1]


def hashes_of_sequences(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number for each sequence of WORDS numbers, which depends on their order."""
    count = max(1, len(words) - WORDS + 1)
    total = np.zeros(count, dtype=np.uint64)
    for place in range(min(WORDS, len(words))):
        total = mixed(total + words[place : place + count])
    return total


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each number scrambled (the finaliser of MurmurHash3)."""
    values = (values ^ (values >> np.uint64(33))) * np.uint64(0xFF51AFD7ED558CCD)
    return values ^ (values >> np.uint64(29))
