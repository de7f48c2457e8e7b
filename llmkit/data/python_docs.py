"""`python-docs`: real text from the Python that runs llmkit, so that everything works with nothing downloaded.

Documents (reference topics, documentation and source of the standard library), instructions, dialogues and labelled
rows. A module or topic is in the same split in all four, so that no validation or test text was ever trained on.
"""

from __future__ import annotations

import functools
import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

from llmkit.data import python_questions
from llmkit.data.document import Document
from llmkit.data.python_source import Definition, Module, read_modules, read_topics
from llmkit.errors import UsageError

SPLITS = ("train", "validation", "test")
SALTS = {
    "asyncio": 96, "email": 503, "http": 33, "idlelib": 262, "importlib": 68, "logging": 77, "multiprocessing": 2639,
    "tkinter": 1032, "unittest": 549, "xml": 88,
}  # fmt: skip
"""Salts of the hash that splits the modules of LABELS: some of these packages have three large modules, and with these
salts each has docstrings in every split, about 70, 12 and 18 % of them."""
LABELS = tuple(SALTS)
"""The packages that docstrings are told apart by: those with many docstrings in more than one module."""

HELP, SOURCE = "python-docs:help/", "python-docs:source/"
SHARES = {"validation": 0.02, "test": 0.02}
LABELLED_SHARES = {"validation": 0.12, "test": 0.16}
"""Shares of held-out modules, in packages of LABELS larger: classification needs enough rows to tell methods apart."""
NEAR_COPIES = {
    "ntpath": "posixpath", "genericpath": "posixpath", "chunk": "wave", "lib2to3.pgen2.tokenize": "tokenize",
    "_pydecimal": "decimal", "_pydatetime": "datetime", "_pyio": "io",
}  # fmt: skip
"""Modules that repeat another's text share its split."""

MOST_PER_MODULE = 60
MOST_PER_LABEL = {"train": 240, "validation": 40, "test": 40}
"""Bounds on labelled rows, so that no package outweighs the others."""
SHORTEST_DOCUMENT = 40
"""Characters. Shorter sources are empty packages."""
SHORTEST_LABELLED = 40
LONGEST_LABELLED = 600


def split_of(name: str) -> str:
    """The split of a module or topic: a pure function of its name, so that new documents move none of the old."""
    name = NEAR_COPIES.get(name, name)
    package = name.partition(".")[0]
    shares = LABELLED_SHARES if package in SALTS else SHARES
    place = int.from_bytes(digest(name, salt=f"{package} {SALTS.get(package, 0)}")[:8]) / 2**64
    if place < shares["test"]:
        return "test"
    return "validation" if place < shares["test"] + shares["validation"] else "train"


def digest(name: str, *, salt: str = "python-docs") -> bytes:
    """Bytes that stand for a name wherever something is chosen or ordered by it."""
    return hashlib.sha256(f"{salt}/{name}".encode()).digest()


def check_split(split: str) -> None:
    """Raise for a split that there is not."""
    if split not in SPLITS:
        raise UsageError(f"python-docs has no split '{split}'", where="python-docs", fix=f"use {', '.join(SPLITS)}")


def documents(split: str | None = None) -> Iterator[Document]:
    """The documents of a split, or all of them, in an order that mixes their kinds.

    The help on a module repeats what its source says. Held-out text has each module once, as its source: what stands
    there twice would be counted twice, and flatter a compressor that remembers the first time.
    """
    if split is not None:
        check_split(split)
    rows = all_documents()
    sources = {group for source, group, _ in rows if source.startswith(SOURCE)}
    for source, group, text in rows:
        is_repeated = split in ("validation", "test") and source.startswith(HELP) and group in sources
        if (split is None or split_of(group) == split) and not is_repeated:
            yield Document(text, source)


@functools.cache
def all_documents() -> tuple[tuple[str, str, str], ...]:
    """(source, module or topic, text) of every document; of identical texts only the first by name."""
    found = [(f"python-docs:topics/{name}", topic_group(name), text) for name, text in read_topics().items()]
    for module in read_modules():
        found.append((f"{HELP}{module.name}", module.name, render_help(module)))
        found.append((f"{SOURCE}{module.name}", module.name, module.source))
    found = [row for row in found if len(row[2].strip()) >= SHORTEST_DOCUMENT]
    unique = {text: (source, group, text) for source, group, text in reversed(found)}
    return tuple(sorted(unique.values(), key=lambda row: digest(row[0])))


def render_help(module: Module) -> str:
    """The documentation of a module and what is in it, each under its signature; nothing where there is none."""
    parts = []
    for item in module.items:
        if item.kind == "module":
            parts.append(f"module {item.name}\n\n{item.doc}\n")
        else:
            inside = item.doc.replace("\n", "\n    ").replace("    \n", "\n")
            parts.append(f"{item.kind} {headline(item)}\n    {inside}\n")
    return "\n".join(parts)


def headline(item: Definition) -> str:
    """The full name with its parameters, where they are known."""
    return (
        item.spoken.rpartition(".")[0] + "." * ("." in item.spoken) + (item.signature or item.spoken.rpartition(".")[2])
    )


@functools.cache
def topic_group(name: str) -> str:
    """The longest topic that holds most of this one: whole chapters are topics, and so are their sections."""
    topics = read_topics()
    parts = paragraphs(topics[name])
    holders = [other for other, text in topics.items() if len(parts & paragraphs(text)) > len(parts) / 2]
    return max(holders, key=lambda other: (len(topics[other]), other))


@functools.cache
def paragraphs(text: str) -> frozenset[str]:
    """The paragraphs of a text."""
    return frozenset(part.strip() for part in text.split("\n\n"))


@functools.cache
def all_items() -> tuple[Definition, ...]:
    """Everything documented, sorted by name; where words are the same only the first, public ones before private."""
    found = (item for module in read_modules() for item in module.items)
    unique: dict[str, Definition] = {}
    for item in sorted(found, key=lambda item: (not item.is_public, item.name)):
        said = without_labels(python_questions.trim(item.doc, python_questions.LONGEST_ANSWER))
        unique.setdefault(" ".join(said.lower().split()), item)
    return tuple(sorted(unique.values(), key=lambda item: item.name))


def items(split: str) -> list[Definition]:
    """Everything in the modules of a split that has documentation of its own, sorted by name."""
    check_split(split)
    return [item for item in all_items() if split_of(item.module) == split]


def instructions(split: str) -> list[dict[str, str]]:
    """Questions with their real documentation as the answer: instruction, input (often empty), output."""
    check_split(split)
    rows = [row for item in items(split) for row in python_questions.instructions(item)]
    topics = ((name, text) for name, text in read_topics().items() if split_of(topic_group(name)) == split)
    rows += [row for name, text in topics for row in python_questions.topic_instructions(name, text)]
    return sorted(rows, key=lambda row: digest(row["instruction"] + row["input"]))


def dialogues(split: str) -> list[dict[str, Any]]:
    """Dialogues of several turns about one thing: what it is, its signature, and what one asks then."""
    neighbours: dict[str, list[Definition]] = defaultdict(list)
    for item in items(split):
        neighbours[item.name.rpartition(".")[0]].append(item)
    found = ((item, python_questions.dialogue(item, neighbours)) for item in items(split))
    rows = [(item.name, messages) for item, messages in found if messages]
    return [{"messages": messages} for _, messages in sorted(rows, key=lambda row: digest(row[0]))]


def labelled(split: str) -> list[dict[str, str]]:
    """Docstrings (text) and the package each belongs to (label).

    The names of the packages are taken out of all texts, for they would give the label away.
    """
    chosen: list[tuple[str, str, str]] = []
    for item in items(split):
        text = without_labels(python_questions.trim(item.doc, LONGEST_LABELLED))
        if item.package in LABELS and len(text) >= SHORTEST_LABELLED:
            chosen.append((item.name, item.module, text))
    chosen.sort(key=lambda row: digest(row[0]))
    chosen = at_most(chosen, (module for _, module, _ in chosen), MOST_PER_MODULE)
    chosen = at_most(chosen, (module.partition(".")[0] for _, module, _ in chosen), MOST_PER_LABEL[split])
    return [{"text": text, "label": module.partition(".")[0]} for _, module, text in chosen]


def without_labels(text: str) -> str:
    """The text with every name of LABELS, and the path that follows it, taken out."""
    return re.sub(rf"\b({'|'.join(LABELS)})\b(\.\w+)*", "_", text, flags=re.IGNORECASE)


def at_most(rows: list[tuple[str, str, str]], keys: Iterable[str], limit: int) -> list[tuple[str, str, str]]:
    """The first `limit` rows of each key."""
    seen: Counter[str] = Counter()
    kept = []
    for row, key in zip(rows, keys, strict=True):
        seen[key] += 1
        if seen[key] <= limit:
            kept.append(row)
    return kept
