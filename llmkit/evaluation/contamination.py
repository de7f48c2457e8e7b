"""What of a task stands in the training data: word sequences, and whole items.

An item counts as seen when any LENGTH words in a row of its question and answer stand in the training data, case and
punctuation apart (Brown et al., 2020), or when a training text is the item. Shorter items can only be found whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from accelerate.utils import gather_object
from numpy.typing import NDArray

from llmkit.evaluation.task import Example

LENGTH = 13
WORDS = re.compile(r"\w+")
FACTOR = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Overlap:
    """What was found in the training data."""

    sources: tuple[str, ...]
    """The training data."""
    shares: dict[str, float] = field(default_factory=dict)
    """Id of each item that was seen -> share of its word sequences that were."""
    wholes: set[str] = field(default_factory=set)
    """Ids of items that are a training text."""

    def to_json(self, ids: Sequence[str]) -> dict[str, Any]:
        """For --json and results.json, of the items that were scored."""
        seen = [name for name in ids if name in self.shares]
        return {
            "training_data": list(self.sources),
            "words_in_a_row": LENGTH,
            "seen_items": len(seen),
            "whole_items": sum(name in self.wholes for name in seen),
            "clean_items": len(ids) - len(seen),
        }


class Sought(NamedTuple):
    """What of an item is looked for."""

    task: str
    id: str
    sequences: NDArray[np.uint64]
    """Of question and answer."""
    wholes: list[int]
    """The question alone, and with its answer."""


def find_overlaps(
    tasks: Mapping[str, Sequence[Example]], texts: Iterable[str], sources: Sequence[str], *, num_processes: int = 1
) -> dict[str, Overlap]:
    """What of each task's examples stands in `texts`, which are read once; memory is that of the examples.

    Args:
        tasks: Name -> examples.
        texts: The training data; in a job of several processes the share of this one.
        sources: What they are, for people.
        num_processes: Of the job: what any of them has found, all get.
    """
    sought = [seek(name, example) for name, examples in tasks.items() for example in examples]
    found = search(sought, texts)
    if num_processes > 1:
        # Hashes of words differ between processes; the places of an item's words do not.
        found = np.logical_or.reduce(gather_object([found]))
    ends = np.cumsum([len(item.sequences) + 1 for item in sought], dtype=int)
    overlaps = {name: Overlap(tuple(sources)) for name in tasks}
    for item, marks in zip(sought, np.split(found, ends)[:-1], strict=True):
        is_whole, share = bool(marks[0]), float(marks[1:].mean()) if len(marks) > 1 else 0.0
        if is_whole or share:
            overlaps[item.task].shares[item.id] = 1.0 if is_whole else share
        if is_whole:
            overlaps[item.task].wholes.add(item.id)
    return overlaps


def search(sought: Sequence[Sought], texts: Iterable[str]) -> NDArray[np.bool_]:
    """For each item whether a text is the whole of it, then for each of its word sequences whether a text has it."""
    wanted = np.unique(np.concatenate([np.empty(0, np.uint64), *(item.sequences for item in sought)]))
    found = np.zeros(len(wanted), dtype=bool)
    wanted_wholes = {number for item in sought for number in item.wholes}
    found_wholes: set[int] = set()
    for text in texts:
        words = words_of(text)
        if len(words):
            found_wholes |= {whole_hash(words)} & wanted_wholes
        sequences = hashes_of(words)
        places = np.searchsorted(wanted, sequences)
        is_inside = places < len(wanted)
        places, sequences = places[is_inside], sequences[is_inside]
        found[places[wanted[places] == sequences]] = True
    marks = [np.empty(0, dtype=bool)]
    for item in sought:
        is_whole = not found_wholes.isdisjoint(item.wholes)
        marks += [np.array([is_whole]), found[np.searchsorted(wanted, item.sequences)]]
    return np.concatenate(marks)


def seek(task: str, example: Example) -> Sought:
    """What of an example is looked for: the question as it may stand in a training text, alone and with its answer."""
    question = example.fields.get("question", "")
    forms = [words_of(text) for text in (question, f"{question} {example.solution} {example.continuation or ''}")]
    return Sought(task, example.id, hashes_of(forms[1]), [whole_hash(words) for words in forms if len(words)])


def words_of(text: str) -> NDArray[np.uint64]:
    """A number for each word, case and punctuation apart."""
    words = WORDS.findall(text.lower())
    return np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)


def hashes_of(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A number for each LENGTH words in a row."""
    count = max(0, len(words) - LENGTH + 1)
    total = np.zeros(count, dtype=np.uint64)
    for place in range(LENGTH if count else 0):
        total = total * FACTOR + words[place : place + count]
        total ^= total >> np.uint64(29)
    return total


def whole_hash(words: NDArray[np.uint64]) -> int:
    """A number for all of the words."""
    return hash(words.tobytes())
