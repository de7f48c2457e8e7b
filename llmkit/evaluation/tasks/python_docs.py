"""Tasks on the documentation of the Python that runs llmkit."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from llmkit.evaluation.task import Row

LONGEST_QUESTION = 160
"""Characters. Shots must fit into a small model's context too."""
LONGEST_DESCRIPTION = 100
SHORTEST_DESCRIPTION = 15
NUM_CHOICES = 4


@dataclass(frozen=True)
class ShapedRow:
    """A row made of another, which keeps its place."""

    where: str
    values: dict[str, Any]


def shape_package(rows: Sequence[Row]) -> list[Row]:
    """Documentation cut at a word, with the package it belongs to."""
    return [
        ShapedRow(row.where, {"question": shorten(row.values["text"], LONGEST_QUESTION), "answer": row.values["label"]})
        for row in rows
    ]


def shape_description(rows: Sequence[Row]) -> list[Row]:
    """Functions with the first sentence of their documentation among those of three others.

    What is drawn depends on the function's name alone, so a row stays the same when others come or go.
    """
    described = [(row, first_sentence(row.values["doc"])) for row in rows]
    described = [(row, text) for row, text in described if SHORTEST_DESCRIPTION <= len(text) <= LONGEST_DESCRIPTION]
    texts = sorted({text for _, text in described})
    return [describe(row, text, texts) for row, text in described] if len(texts) >= NUM_CHOICES else []


def describe(row: Row, text: str, texts: Sequence[str]) -> ShapedRow:
    """One function with its own description and three of the others, in an order drawn by its name."""
    name = row.values["name"]
    generator = random.Random(f"python-docs-description/{name}")
    others = [other for other in generator.sample(texts, NUM_CHOICES) if other != text][: NUM_CHOICES - 1]
    choices = generator.sample([text, *others], NUM_CHOICES)
    values = {"id": name, "question": row.values["signature"], "choices": choices, "answer": choices.index(text)}
    return ShapedRow(row.where, values)


def first_sentence(text: str) -> str:
    """The first sentence of the first paragraph, on one line."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + "." if stop else paragraph


def shorten(text: str, limit: int) -> str:
    """The beginning of a text on one line, cut after a word."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit + 1].rpartition(" ")[0]
