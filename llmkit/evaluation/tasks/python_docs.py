"""Tasks on the documentation of the Python that runs llmkit."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from llmkit.evaluation.task import Example, TaskRow
from llmkit.evaluation.task_file import TaskFile
from llmkit.evaluation.tasks.built_in import BuiltIn
from llmkit.evaluation.tasks.forms import Form, Said, read_examples

LONGEST_QUESTION = 160
"""Characters. Shots must fit into a small model's context too."""
LONGEST_DESCRIPTION = 100
SHORTEST_DESCRIPTION = 15
NUM_CHOICES = 4
PACKAGES = (
    "asyncio",
    "email",
    "http",
    "idlelib",
    "importlib",
    "logging",
    "multiprocessing",
    "tkinter",
    "unittest",
    "xml",
)
"""The packages that documentation is told apart by."""


def package_examples(rows: Sequence[TaskRow]) -> list[Example]:
    """Documentation cut at a word, with the package it belongs to."""
    return read_examples(rows, (Form(("text", "label"), package),))


def package(values: Mapping[str, Any]) -> Said:
    """One piece of documentation."""
    fields = {"question": shorten(values["text"], LONGEST_QUESTION)}
    return Said(fields=fields, choices=PACKAGES, answer=PACKAGES.index(values["label"]))


def description_examples(rows: Sequence[TaskRow]) -> list[Example]:
    """Functions with the first sentence of their documentation among those of three others.

    What is drawn depends on the function's name alone, so a row stays the same when others come or go.
    """
    described = [(row, first_sentence(row.values["doc"])) for row in rows]
    described = [(row, text) for row, text in described if SHORTEST_DESCRIPTION <= len(text) <= LONGEST_DESCRIPTION]
    texts = sorted({text for _, text in described})
    return [describe(row, text, texts) for row, text in described] if len(texts) >= NUM_CHOICES else []


def describe(row: TaskRow, text: str, texts: Sequence[str]) -> Example:
    """One function with its own description and three of the others, in an order drawn by its name."""
    name = row.values["name"]
    generator = random.Random(f"python-docs-description/{name}")
    others = [other for other in generator.sample(texts, NUM_CHOICES) if other != text][: NUM_CHOICES - 1]
    choices = generator.sample([text, *others], NUM_CHOICES)
    return Example(name, row.where, {"question": row.values["signature"]}, tuple(choices), choices.index(text))


def first_sentence(text: str) -> str:
    """The first sentence of the first paragraph, on one line."""
    paragraph = " ".join(text.strip().partition("\n\n")[0].split())
    sentence, stop, _ = paragraph.partition(". ")
    return sentence + "." if stop else paragraph


def shorten(text: str, limit: int) -> str:
    """The beginning of a text on one line, cut after a word."""
    text = " ".join(text.split())
    return text if len(text) <= limit else text[: limit + 1].rpartition(" ")[0]


PYTHON_DOCS = (
    BuiltIn(
        TaskFile(
            name="python-docs-package",
            kind="label",
            test="python-docs:labelled@test",
            train="python-docs:labelled@train",
            labels=PACKAGES,
            prompt="Documentation: {question}\nPackage:",
            prompts=("{question}\nThis is documentation of the package", "Text: {question}\nLabel:"),
            shots="balanced",
        ),
        about="which of ten packages does this documentation belong to",
        num_choices=len(PACKAGES),
        examples=package_examples,
    ),
    BuiltIn(
        TaskFile(
            name="python-docs-description",
            kind="choice",
            test="python-docs:functions@test",
            train="python-docs:functions@train",
            prompt="Function: {question}\nDescription:",
            prompts=("What does {question} do?\n", 'def {question}:\n    """'),
        ),
        about="which of four descriptions fits this function",
        num_choices=NUM_CHOICES,
        examples=description_examples,
    ),
    BuiltIn(
        TaskFile(name="python-docs-perplexity", kind="perplexity", test="python-docs@test"),
        about="how well held-out Python documentation and source is predicted",
    ),
)

PERPLEXITY = BuiltIn(
    TaskFile(name="perplexity", kind="perplexity"), about="how well a text of your own (--data) is predicted"
)
