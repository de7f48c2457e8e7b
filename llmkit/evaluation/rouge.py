"""ROUGE-1, ROUGE-2 and ROUGE-L of a summary, as the rouge-score package defines them (Lin, 2004)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

WORD = re.compile(r"[a-z0-9]+")


def rouge(prediction: str, references: Sequence[str]) -> dict[str, float]:
    """The F-measures against the best of the references, each metric by itself.

    Words are runs of Latin letters without accents and digits, as the original counts them, and are not stemmed: texts
    in other scripts score 0.
    """
    said = words_of(prediction)
    scores = [rouge_of_words(said, words_of(reference)) for reference in references]
    return {name: max(score[name] for score in scores) for name in ("rouge1", "rouge2", "rougeL")}


def words_of(text: str) -> list[str]:
    """The words that ROUGE counts."""
    return WORD.findall(text.lower())


def rouge_of_words(said: Sequence[str], wanted: Sequence[str]) -> dict[str, float]:
    """The F-measures of one pair."""
    return {
        "rouge1": overlap(said, wanted, 1),
        "rouge2": overlap(said, wanted, 2),
        "rougeL": f_measure(longest_common(said, wanted), len(said), len(wanted)),
    }


def overlap(said: Sequence[str], wanted: Sequence[str], size: int) -> float:
    """F-measure over the bags of runs of `size` words."""
    first, second = (Counter(zip(*(words[start:] for start in range(size)), strict=False)) for words in (said, wanted))
    return f_measure((first & second).total(), first.total(), second.total())


def f_measure(shared: int, num_said: int, num_wanted: int) -> float:
    """The harmonic mean of precision and recall, 0 where nothing is shared."""
    return 2 * shared / (num_said + num_wanted) if shared else 0.0


def longest_common(said: Sequence[str], wanted: Sequence[str]) -> int:
    """The length of the longest sequence of words that both hold in this order, gaps allowed."""
    lengths = [0] * (len(wanted) + 1)
    for word in said:
        diagonal = 0
        for place, other in enumerate(wanted, start=1):
            above = lengths[place]
            lengths[place] = diagonal + 1 if word == other else max(above, lengths[place - 1])
            diagonal = above
    return lengths[-1]
