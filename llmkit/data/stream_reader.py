"""Text as an endless stream of tokens that can be entered anywhere: read, tokenized and begun again at its end."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import chain, islice
from pathlib import Path
from queue import Full, Queue
from threading import Thread, main_thread
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from llmkit.console import is_main_process, say
from llmkit.data import hub
from llmkit.data.document import Document, Record
from llmkit.data.documents import as_rows, choose_column, cut_text, is_python_docs, read_documents, texts_of
from llmkit.data.prepare import place_of
from llmkit.data.records import decode_file, read_rows
from llmkit.data.sources import Source, find_sources, format_of
from llmkit.encoding import TextEncoder
from llmkit.errors import DataError, UsageError
from llmkit.files import write_file
from llmkit.tokenizer import end_of_document_id

PIECE = 1 << 19
"""Characters that are tokenized at once."""
SECONDS_BETWEEN_LOOKS = 0.1
"""How long a thread that has read ahead enough waits before it looks whether the program is over."""
BETWEEN_BOOKMARKS = 1 << 22
"""Tokens. At most as many are tokenized again to reach a place in the stream."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Unit:
    """What is opened at once, and can be left out unread: a file, a shard of a hub data set, or python-docs."""

    name: str
    size: int | None = None
    source: Source | None = None
    shard: int | None = None
    commit: str | None = None
    """Of the hub data set, where it is known."""

    @property
    def identity(self) -> tuple[str, int | str | None, int | None]:
        """What stands for the contents, which are not read: name, and size or commit. Its folder does not count."""
        name = self.name if self.source is None or self.source.path is None else self.source.path.name
        return name, self.size if self.commit is None else self.commit, self.shard


def find_units(text: str, commit: str | None = None) -> list[Unit]:
    """The units of a file, a folder, a glob, python-docs or a hub data set.

    Args:
        text: Names it.
        commit: That of the hub data set to be read; None for the newest.

    Raises:
        UsageError: It is stdin, which cannot be read twice.
        DataError: There is no such thing.
    """
    if text == "-":
        fix = "name files, or prepare it with `llmkit data prepare -`"
        raise UsageError("stdin cannot be streamed: a run that is resumed reads again", where="data.source", fix=fix)
    if hub.is_hub_name(text):
        commit = hub.commit_of(text, commit)
        return [Unit(text, shard=number, commit=commit) for number in range(hub.num_shards(text, commit))]
    if is_python_docs(text):
        return [Unit(text)]
    found = [Unit(s.name, s.path.stat().st_size, s) for s in find_sources([text]) if s.path is not None]
    for unit in found:
        if unit.size == 0:  # not first when it is reached, which may be hours from now
            raise DataError("this is empty", where=unit.name, fix="take it away, or give a file with text in it")
    return found


def read_unit(unit: Unit, text_column: str | None, *, tell: bool = False) -> Iterator[Document]:
    """The documents of a unit, as `read_documents` gives them; which column holds the text is told on demand."""
    records: Iterator[Record]
    if unit.shard is not None:
        records = hub.read_hub(unit.name, shard=unit.shard, commit=unit.commit)
    elif unit.source is None:
        return read_documents([unit.name])
    elif unit.source.format != "text":
        records = read_rows(unit.source)
    elif text_column is not None and unit.source.path is not None and format_of(unit.source.path) is None:
        records = read_rows(as_rows(unit.source))
    else:
        return cut_text(decode_file(unit.source), unit.source.name)
    first = next(records, None)
    if first is None:
        return iter(())
    column = text_column if tell else text_column or choose_column(first)
    return texts_of(chain([first], records), unit.name, column)


@dataclass(frozen=True, order=True)
class Bookmark:
    """A place between two documents.

    Attributes:
        position: Tokens of the stream before it; at the start there is the first end-of-document token.
        cycle: Passes over all units before this one.
        unit: Units before it in this pass.
        document: Documents of its unit before it.
    """

    position: int = 1
    cycle: int = 0
    unit: int = 0
    document: int = 0


@dataclass
class Bookmarks:
    """Places seen so far, in memory, and in a file where one is given: they only spare reading and tokenizing."""

    content_hash: str
    found: list[Bookmark] = field(default_factory=lambda: [Bookmark()])
    path: Path | None = None

    def before(self, position: int) -> Bookmark:
        """The last place with at most so many tokens before it."""
        return self.found[max(0, bisect_right(self.found, position, key=lambda mark: mark.position) - 1)]

    def add(self, mark: Bookmark) -> None:
        """Remember a place, if it is far enough behind the last."""
        if mark.position < self.found[-1].position + BETWEEN_BOOKMARKS:
            return
        self.found.append(mark)
        # An accelerator: a disk that is full must not end a training.
        if self.path is not None and is_main_process():
            with suppress(OSError), self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(asdict(mark)) + "\n")

    def keep_in(self, path: Path) -> None:
        """Take over what a file knows of the same stream, and write there from now on."""
        self.found = sorted({*self.found, *self.read(path)})
        self.path = path
        if is_main_process():
            lines = [{"stream": self.content_hash}, *map(asdict, self.found[1:])]
            write_file(path, "".join(json.dumps(line) + "\n" for line in lines))

    def read(self, path: Path) -> list[Bookmark]:
        """The places in a file; none where it is missing or of another stream. A torn last line is passed over."""
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        values: list[dict[str, Any]] = []
        for line in lines:
            with suppress(ValueError):
                values.append(json.loads(line))
        if not values or values[0] != {"stream": self.content_hash}:
            return []
        return [Bookmark(**value) for value in values[1:] if value.keys() == asdict(Bookmark()).keys()]


class TextStream:
    """The units' documents as one endless stream of tokens: end, document, end, document, end, and on from the start.

    Documents without text, and those whose `place_of` is below `bound` (they are held out), are left out.
    """

    def __init__(
        self,
        units: list[Unit],
        tokenizer: PreTrainedTokenizerFast,
        *,
        text_column: str | None,
        bound: float,
        tells_columns: bool = False,
    ) -> None:
        self.units = units
        self.encoder = TextEncoder(tokenizer)
        self.text_column = text_column
        self.bound = bound
        self.tells_columns = tells_columns
        self.end = end_of_document_id(tokenizer)
        self.dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
        self.is_end_told = False

    def one_pass(self, mark: Bookmark) -> Iterator[tuple[str, Bookmark]]:
        """Texts to train on from a bookmark to the last unit, and the place behind each; its position is not known."""
        for number in range(mark.unit, len(self.units)):
            documents = read_unit(self.units[number], self.text_column, tell=self.tells_columns)
            passed = mark.document if number == mark.unit else 0
            for count, document in enumerate(islice(documents, passed, None), passed + 1):
                if document.text.strip() and place_of(document.text.encode()) >= self.bound:
                    yield document.text, Bookmark(0, mark.cycle, number, count)

    def documents(self, mark: Bookmark) -> Iterator[tuple[str, Bookmark]]:
        """`one_pass` after the other, without end.

        Raises:
            DataError: There is no document to train on, or one cannot be read.
        """
        is_empty = mark == Bookmark()
        while True:
            for found in self.one_pass(mark):
                is_empty = False
                yield found
            if is_empty:
                raise DataError("there is no text in it to train on", where="data.source", fix="give more text")
            mark = Bookmark(0, mark.cycle + 1)

    def pieces(self, mark: Bookmark) -> Iterator[tuple[NDArray[Any], Bookmark]]:
        """Tokens of whole documents from a bookmark on, some at a time, and the bookmark behind them."""
        waiting: list[str] = []
        size, position, behind = 0, mark.position, mark
        for text, place in self.documents(mark):
            is_new_pass = place.cycle > behind.cycle
            if waiting and (size >= PIECE or is_new_pass):
                ids = self.encode(waiting)
                position += len(ids)
                yield ids, replace(behind, position=position)
                waiting, size = [], 0
            if is_new_pass:
                self.tell_end(place.cycle, position)
            waiting.append(text)
            size += len(text)
            behind = place

    def tell_end(self, cycle: int, position: int) -> None:
        """Say once that there is no more text."""
        if not self.is_end_told:
            self.is_end_told = True
            say(f"the stream has come to its end, and starts again: pass {cycle + 1} begins after {position:,} tokens")

    def encode(self, texts: list[str]) -> NDArray[Any]:
        """The ids of the texts, each followed by the end-of-document token."""
        end = np.array([self.end], dtype=self.dtype)
        return np.concatenate([part for ids in self.encoder.encode(texts) for part in (ids.astype(self.dtype), end)])


class ReadAhead(Generic[Item]):
    """Takes items from an endless iterator in a thread, a few before they are asked for."""

    def __init__(self, items: Iterator[Item], depth: int) -> None:
        self.items = items
        self.queue: Queue[Item | BaseException] = Queue(depth)
        self.is_closed = False
        # Not a daemon: a thread that is inside the tokenizer when Python goes away takes the process down.
        self.thread = Thread(target=self.run, name="read-ahead")
        self.thread.start()

    def run(self) -> None:
        """In the thread: put items, or what was raised, into the queue until nobody wants them."""
        try:
            for item in self.items:
                if not self.put(item):
                    return
        except BaseException as error:
            self.put(error)

    def put(self, item: Item | BaseException) -> bool:
        """Wait for room; False when the reading is over, because of `close` or the end of the program."""
        while not self.is_closed and main_thread().is_alive():
            with suppress(Full):
                self.queue.put(item, timeout=SECONDS_BETWEEN_LOOKS)
                return True
        return False

    def take(self) -> Item:
        """The next item; what the iterator raised is raised here."""
        item = self.queue.get()
        if isinstance(item, BaseException):
            raise item
        return item

    def close(self) -> None:
        """Let the thread end."""
        self.is_closed = True
