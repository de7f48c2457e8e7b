"""Documents and rows from wherever they are: files, folders, globs, stdin, python-docs, the hub."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

from llmkit.console import say
from llmkit.data import hub, python_docs, saved_set
from llmkit.data.document import Document, Record
from llmkit.data.records import decode_file, kind_of, read_rows
from llmkit.data.sources import Source, find_sources, format_of
from llmkit.errors import DataError, UsageError

__all__ = ["Document", "Record", "read_documents", "read_records"]

LONG = 1 << 20
PIECE = 1 << 16
"""Characters. A text longer than LONG becomes several documents of about PIECE, cut at blank lines: memory stays flat,
and something of a single large file can be held out."""
TEXT_COLUMNS = ("text", "content", "document", "body")
PYTHON_DOCS = "python-docs"
ROWS_OF_PYTHON_DOCS = ("instructions", "dialogues", "labelled")


class PlainTextError(DataError):
    """Rows are needed, and this is plain text."""


def read_documents(inputs: Sequence[str], *, text_column: str | None = None) -> Iterator[Document]:
    """The documents of all inputs in order, with flat memory; empty ones are left out.

    Args:
        inputs: Files, folders, globs, `-`, `python-docs[@SPLIT]` (the training split unless given),
            `hf:owner/name[:config][@split]`.
        text_column: The column of tables and rows that holds the text; found by its name where not given.

    Raises:
        DataError: Something is missing, empty, not UTF-8 or not what its name says.
    """
    num_empty = 0
    is_empty = True
    for text in inputs:
        for document in read_input(text, text_column):
            if document.text.strip():
                is_empty = False
                yield document
            else:
                num_empty += 1
    if num_empty:
        say(f"left out {num_empty:,} documents without text")
    if is_empty:
        raise DataError("there is no text in it", where=", ".join(inputs) or "inputs")


def read_input(text: str, text_column: str | None) -> Iterator[Document]:
    """The documents of one input."""
    if is_python_docs(text):
        name, split = parse_python_docs(text)
        if name:
            raise UsageError(f"{PYTHON_DOCS}:{name} are rows, not documents", where=text, fix=f"use {PYTHON_DOCS}")
        yield from python_docs.documents(split)
    elif hub.is_hub_name(text):
        yield from texts_of(hub.read_hub(text), text, text_column)
    elif saved_set.is_saved(text):
        yield from texts_of(saved_set.read_saved(text), text, text_column)
    else:
        if text_column is not None and Path(text).is_file() and format_of(Path(text)) == "text":
            say(f"{text}: plain text has no columns, it is read as it stands")
        for source in find_sources([text]):
            yield from source_documents(source, text_column)


def source_documents(source: Source, text_column: str | None) -> Iterator[Document]:
    """The documents of one file or of stdin."""
    if source.format != "text":
        yield from texts_of(read_rows(source), source.name, text_column)
    elif text_column is not None and (source.path is None or format_of(source.path) is None):
        yield from texts_of(read_rows(as_rows(source)), source.name, text_column)
    else:
        yield from cut_text(decode_file(source), source.name)


def as_rows(source: Source) -> Source:
    """A source without a telling name, read as JSON lines: a column was asked for."""
    return Source(source.name, "jsonl", source.path)


def cut_text(blocks: Iterator[str], name: str) -> Iterator[Document]:
    """Text as one document, or where it is long as several whose texts in a row are the whole, to the character."""
    text = ""
    line = 1
    is_cut = False
    for block in chain(blocks, [""]):
        text += block
        is_cut = is_cut or len(text) > LONG
        while is_cut and len(text) > (PIECE if block else 0):
            cut = place_to_cut(text)
            yield Document(text[:cut], f"{name}:{line}")
            line += text.count("\n", 0, cut)
            text = text[cut:]
    if text:
        yield Document(text, name)


def place_to_cut(text: str) -> int:
    """After the last blank line of the first PIECE characters, else the last line, else the last space."""
    if len(text) <= PIECE:
        return len(text)
    for end in ("\n\n", "\r\n\r\n", "\n", " "):
        place = text.rfind(end, PIECE // 2, PIECE)
        if place >= 0:
            return place + len(end)
    return PIECE


def texts_of(records: Iterator[Record], name: str, text_column: str | None) -> Iterator[Document]:
    """The text column of rows. Which column it is, where nobody said it, is decided at the first row and told."""
    column = text_column
    for record in records:
        if column is None:
            column = choose_column(record)
            say(f"{name}: the text is in column '{column}'")
        if column not in record.values:
            columns = ", ".join(record.values)
            fix = f"the columns are: {columns}" + ("" if text_column == column else "; name one with --text-column")
            raise DataError(f"there is no column '{column}'", where=record.where, fix=fix)
        text = record.values[column]
        if not isinstance(text, str):
            message = f"column '{column}' holds {kind_of(text)}, not text"
            raise DataError(message, where=record.where, fix="choose another column with --text-column")
        yield Document(text, record.where)


def choose_column(record: Record) -> str:
    """The column with a name that texts have, or the only one that holds a string."""
    for name in TEXT_COLUMNS:
        if isinstance(record.values.get(name), str):
            return name
    strings = [name for name, value in record.values.items() if is_prose(value)]
    if len(strings) == 1:
        return strings[0]
    columns = ", ".join(record.values)
    message = f"none of its columns is {' or '.join(TEXT_COLUMNS)}, and it is not plain which holds the text"
    raise DataError(message, where=record.where, fix=f"name one with --text-column; the columns are: {columns}")


def is_prose(value: object) -> bool:
    """Whether a value may be a text: words, not a number, a date or an identifier."""
    if not isinstance(value, str) or not any(character.isalpha() for character in value):
        return False
    return not value.isascii() or any(character.isspace() for character in value)


def read_records(source: str) -> Iterator[Record]:
    """The rows of jsonl, json, csv, tsv and parquet files, and of all that is not a file.

    Args:
        source: A file, a folder, a glob, `-`, a folder that `datasets` has saved, `hf:owner/name[:config][@split]`,
            or `python-docs:instructions|dialogues|labelled[@SPLIT]`.

    Raises:
        DataError: Something is missing or empty; or bad lines, up to 20 in one error, at the end of their file.
    """
    if is_python_docs(source):
        yield from python_docs_rows(source)
    elif hub.is_hub_name(source):
        yield from hub.read_hub(source)
    elif saved_set.is_saved(source):
        yield from saved_set.read_saved(source)
    else:
        for found in find_sources([source]):
            yield from read_rows(as_rows(found) if found.is_stdin or looks_like_rows(found) else found)


def looks_like_rows(source: Source) -> bool:
    """Whether a file of no known kind begins with a JSON value. Plain text has no rows.

    Raises:
        DataError: It does not.
    """
    if source.format != "text":
        return False
    begin = next(decode_file(source), "").lstrip()[:1]
    if begin not in {"{", "["}:
        message = "this is plain text, and rows are needed"
        fix = "give jsonl, json, csv, tsv or parquet, named by its ending"
        raise PlainTextError(message, where=source.name, fix=fix)
    return True


def is_python_docs(text: str) -> bool:
    """Whether an input is the built-in data."""
    return text.partition("@")[0].partition(":")[0] == PYTHON_DOCS


def parse_python_docs(text: str) -> tuple[str, str]:
    """(rows or nothing, split) of `python-docs[:ROWS][@SPLIT]`."""
    name, _, split = text.partition("@")
    name = name.partition(":")[2]
    split = split or "train"
    python_docs.check_split(split)
    if name not in {"", *ROWS_OF_PYTHON_DOCS}:
        fix = f"use {', '.join(f'{PYTHON_DOCS}:{rows}' for rows in ROWS_OF_PYTHON_DOCS)}"
        raise UsageError(f"{PYTHON_DOCS} has no '{name}'", where=text, fix=fix)
    return name, split


def python_docs_rows(text: str) -> Iterator[Record]:
    """The rows of `python-docs:ROWS[@SPLIT]`."""
    name, split = parse_python_docs(text)
    if not name:
        fix = f"use {', '.join(f'{PYTHON_DOCS}:{rows}' for rows in ROWS_OF_PYTHON_DOCS)}"
        raise UsageError(f"{PYTHON_DOCS} are documents, not rows", where=text, fix=fix)
    rows = {
        "instructions": python_docs.instructions,
        "dialogues": python_docs.dialogues,
        "labelled": python_docs.labelled,
    }
    for number, values in enumerate(rows[name](split), 1):
        yield Record(f"{text}:{number}", dict(values))
