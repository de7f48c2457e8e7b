"""Who trains, who validates and who tests: by a source's own splits, or by a hash of each row's content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from llmkit.recipe.schema import BaselineData

SPLITS = ("train", "validation", "test")
SPLIT_NAMES = {
    "train": "train", "training": "train",
    "validation": "validation", "valid": "validation", "val": "validation", "dev": "validation",
    "test": "test", "testing": "test", "t10k": "test",
}  # fmt: skip
"""How files, folders and arrays name their splits."""


TOO_GOOD = "the figure for {} is too good"


def split_in_name(name: str) -> str:
    """The split that a name of a file, a folder or an array speaks of, or "".

    >>> split_in_name("in_domain_dev.tsv"), split_in_name("x_train"), split_in_name("restaurants.csv")
    ('validation', 'train', '')
    """
    words = re.split(r"[^a-z0-9]+", name.lower())
    return next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), "")


def share_of(value: float | str) -> float:
    """The share that is held out of the rows themselves; none where a file holds the split."""
    return 0.0 if isinstance(value, str) else value


def split_of(content: str | bytes, data: BaselineData) -> str:
    """The split of a row, by a hash of its content: it stays when rows are added, and equal rows are never apart."""
    return split_at(content, share_of(data.test), share_of(data.validation))


def split_at(content: str | bytes, test: float, validation: float) -> str:
    """The split of a row of which these shares are held out."""
    data = content.encode() if isinstance(content, str) else content
    place = int.from_bytes(hashlib.sha256(data).digest()[:8], "big") / 2**64
    if place < test:
        return "test"
    return "validation" if place < test + validation else "train"


def content_of(row: Mapping[str, Any]) -> str:
    """What the split of a row is a hash of."""
    return json.dumps(row, sort_keys=True, default=str, ensure_ascii=True)


def assign_splits(
    contents: Sequence[str | bytes], given: Sequence[str], data: BaselineData
) -> tuple[list[str], list[str]]:
    """The split of each row, and what there is to tell of it.

    Args:
        contents: What each row is, for the hash.
        given: The split that the source itself names for each row, or "".
        data: The shares to hold out where the source says nothing.
    """
    test = 0.0 if "test" in given else share_of(data.test)
    validation = 0.0 if "validation" in given else share_of(data.validation)
    splits = [
        said if said in ("test", "validation") else split_at(content, test, validation)
        for content, said in zip(contents, given, strict=True)
    ]
    return splits, describe_splits(contents, splits, given)


def describe_splits(contents: Sequence[Hashable], splits: Sequence[str], given: Sequence[str]) -> list[str]:
    """Where the splits come from, and rows that stand on both sides of the source's own ones."""
    named = [split for split in SPLITS if split in given]
    if not named:
        return []
    made = [split for split in ("validation", "test") if split in splits and split not in named]
    notes = [f"splits of the source: {', '.join(named)}" + (f"; cut from the rest: {', '.join(made)}" if made else "")]
    training = {content for content, split in zip(contents, splits, strict=True) if split == "train"}
    for split in named:
        shared = sum(mine == split and content in training for content, mine in zip(contents, splits, strict=True))
        if split != "train" and shared:
            notes.append(f"{shared:,} {split} rows are training rows too: {TOO_GOOD.format(split)}")
    return notes
