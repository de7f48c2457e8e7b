"""Texts to be predicted: WikiText."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from llmkit.evaluation.task import PlainRow
from llmkit.evaluation.task_file import TaskFile
from llmkit.evaluation.tasks.built_in import BuiltIn
from llmkit.evaluation.tasks.forms import Form, Lines, Said, read_examples

SPACED = ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."))
"""Separators within numbers and words, as WikiText writes them."""
MARKS = tuple((f" {mark} ", f"{mark} ") for mark in ":;.!?,")
PAIRS = (
    (r"\(", r"\)", r"(\1)"),
    (r"\[", r"\]", r"[\1]"),
    ("{", "}", r"{\1}"),
    ('"', '"', r'"\1"'),
    ("'", "'", r"'\1'"),
)
ENDS = (
    *(("= = = =", "===="), ("= = =", "==="), ("= =", "==")),
    *((f" {chr(176)} ", chr(176)), (" \n", "\n"), ("\n ", "\n"), (" N ", " 1 "), (" 's", "'s")),
)


def detokenise(page: str) -> str:
    """WikiText without the spaces that its tokenizer put in, by the rules that perplexities on it are compared with."""
    text = page.replace("s '", "s'")
    for spaced, joined in (*SPACED, *MARKS):
        text = text.replace(spaced, joined)
    for left, right, kept in PAIRS:
        inner = right.removeprefix("\\")
        text = re.sub(rf"{left}\s*([^{re.escape(inner)}]*?)\s*{right}", kept, text)
    for spaced, joined in ENDS:
        text = text.replace(spaced, joined)
    return text


def page(values: Mapping[str, Any]) -> Said:
    """An article; its words and bytes are counted before its spaces are put right."""
    return Said(fields={"question": detokenise(values["page"])}, counted=values["page"])


def pages_of_lines(lines: Lines) -> Iterator[PlainRow]:
    """The articles of a file, each from its title (`= Title =`) on; what precedes the first is one too."""
    begun: list[str] = []
    place = ""
    for where, line in lines:
        if is_title(line) and begun:
            if "".join(begun).strip():
                yield PlainRow(place, {"page": "\n".join(begun)})
            begun = []
        if not begun:
            place = where
        begun.append(line)
    if "".join(begun).strip():
        # The last line of a file has an end too.
        yield PlainRow(place, {"page": "\n".join([*begun, ""])})


def is_title(line: str) -> bool:
    """Whether a line is the title of an article, not of one of its parts."""
    text = line.replace("= = =", "===").replace("= =", "==").strip()
    return text.startswith("= ") and text.endswith(" =")


TEXTS = (
    BuiltIn(
        TaskFile(
            name="wikitext", kind="perplexity", test="hf:EleutherAI/wikitext_document_level:wikitext-2-raw-v1@test"
        ),
        about="articles of Wikipedia; perplexity per word and per byte of the text as published",
        examples=partial(read_examples, forms=(Form(("page",), page),)),
        lines=pages_of_lines,
        test_files=(
            *("wiki.test.raw", "wikitext-2-raw/wiki.test.raw", "wikitext-2/wiki.test.raw", "wikitext-2/test.txt"),
            *("wiki.test.tokens", "wikitext-2/wiki.test.tokens", "wikitext-2/valid.txt"),
        ),
    ),
)
