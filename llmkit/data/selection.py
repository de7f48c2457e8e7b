"""Which documents are left out on purpose, and an account of every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from itertools import compress
from typing import Any, Literal

from llmkit.data.document import Document
from llmkit.data.duplicates import ExactDuplicates, NearDuplicates

Dedupe = Literal["none", "exact", "near"]

NO_TEXT = "no text"
TOO_SHORT = "too short"
EXACT = "exact duplicate"
NEAR = "near duplicate"

AT_ONCE = 1 << 20
"""Characters that are looked at together."""


@dataclass
class Dropped:
    """Documents left out for one reason, their bytes, and where the first of them stands."""

    first: str
    documents: int = 0
    bytes: int = 0


@dataclass
class DocumentAccount:
    """What was left out of one input, by reason."""

    dropped: dict[str, Dropped] = field(default_factory=dict)

    def drop(self, document: Document, reason: str) -> None:
        """Count a document that is left out."""
        about = self.dropped.setdefault(reason, Dropped(document.source))
        about.documents += 1
        about.bytes += len(document.text.encode())

    def to_json(self) -> dict[str, dict[str, Any]]:
        """{reason: {"documents", "bytes", "first"}}."""
        return {reason: asdict(about) for reason, about in self.dropped.items()}


class Selection:
    """Keeps documents that hold text, are long enough, and were not seen before: over all inputs, the first one stays.

    Args:
        min_length: Characters, white space at the ends aside.
        dedupe: `exact` leaves out texts that were kept before, `near` also those that nearly were.
    """

    def __init__(self, *, min_length: int = 0, dedupe: Dedupe = "none") -> None:
        self.min_length = min_length
        self.dedupe = dedupe
        self.exact = None if dedupe == "none" else ExactDuplicates()
        self.near = NearDuplicates() if dedupe == "near" else None

    def of(self, documents: Iterator[Document], account: DocumentAccount) -> Iterator[Document]:
        """The documents that stay, in their order; the others are counted."""
        for part in in_parts(documents):
            kept = [document for document in part if self.is_long_enough(document, account)]
            for finder, reason in ((self.exact, EXACT), (self.near, NEAR)):
                if finder is None or not kept:
                    continue
                flags = finder.flags([document.text for document in kept])
                for document in compress(kept, flags):
                    account.drop(document, reason)
                kept = [document for document, is_known in zip(kept, flags, strict=True) if not is_known]
            yield from kept

    def is_long_enough(self, document: Document, account: DocumentAccount) -> bool:
        """Whether there is text, and enough of it; what is dropped is counted."""
        length = len(document.text.strip())
        if length >= max(self.min_length, 1):
            return True
        account.drop(document, TOO_SHORT if length else NO_TEXT)
        return False

    def to_json(self) -> dict[str, Any]:
        """What was asked for, for the manifest."""
        library = {} if self.near is None else {"library": self.near.library}
        return {"min_length": self.min_length, "dedupe": self.dedupe, **library}


def in_parts(documents: Iterator[Document]) -> Iterator[list[Document]]:
    """The documents some at a time, about AT_ONCE characters."""
    part: list[Document] = []
    size = 0
    for document in documents:
        part.append(document)
        size += len(document.text)
        if size >= AT_ONCE:
            yield part
            part, size = [], 0
    if part:
        yield part


def describe_dropped(dropped: dict[str, dict[str, Any]]) -> list[str]:
    """One sentence a reason."""
    return [
        f"left out, {reason}: {about['documents']:,} documents, {about['bytes']:,} bytes (first: {about['first']})"
        for reason, about in dropped.items()
    ]


def add_up(accounts: list[dict[str, dict[str, Any]]]) -> dict[str, dict[str, Any]]:
    """What several inputs left out, as one."""
    total: dict[str, dict[str, Any]] = {}
    for account in accounts:
        for reason, about in account.items():
            of_reason = total.setdefault(reason, {"first": about["first"], "documents": 0, "bytes": 0})
            of_reason["documents"] += about["documents"]
            of_reason["bytes"] += about["bytes"]
    return total
