"""Streams of text within a budget, whatever their length: thinned out evenly, from the beginning to the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from llmkit.console import Progress, say
from llmkit.data.document import Document

CHARACTERS = 2 << 20
"""Training text that is kept, evenly spaced, to tell the bytes per token."""


@dataclass
class Sample:
    """Texts kept evenly spaced out of a stream of unknown length, within a budget of characters."""

    budget: int = CHARACTERS
    texts: list[str] = field(default_factory=list)
    num_seen: int = 0
    size: int = 0
    stride: int = 1

    def add(self, text: str) -> None:
        """Keep every stride-th text; over the budget, leave out every other one and double the stride."""
        if self.num_seen % self.stride == 0:
            self.texts.append(text)
            self.size += len(text)
            while self.size > self.budget and len(self.texts) > 1:
                self.texts = self.texts[::2]
                self.size = sum(map(len, self.texts))
                self.stride *= 2
        self.num_seen += 1


class BudgetedTexts:
    """The texts that a tokenizer learns from: all up to half of the budget, then ever fewer of those to come."""

    def __init__(self, progress: Progress, sample: Sample, budget: int) -> None:
        self.progress = progress
        self.sample = sample
        self.budget = budget
        self.num_documents = self.num_bytes = self.num_kept = 0

    def texts(self, documents: Iterable[Document]) -> Iterator[str]:
        """Each second of the documents once half of the budget is used, each fourth after three quarters, and so on."""
        stride, threshold = 1, self.budget / 2
        for document in documents:
            num_bytes = len(document.text.encode())
            has_room = self.num_kept == 0 or self.num_kept + num_bytes <= self.budget
            if self.num_documents % stride == 0 and has_room:
                self.num_kept += num_bytes
                self.sample.add(document.text)
                yield document.text
            while self.num_kept > threshold and threshold < self.budget - 1:
                stride *= 2
                threshold += (self.budget - threshold) / 2
            self.num_documents += 1
            self.num_bytes += num_bytes
            self.progress.update(note=f"{self.num_bytes / 1e6:,.1f} MB")
        say("finding the tokens")
