"""Text to prepared data: split by content, encoded on all cores, appended to arrays with flat memory."""

from __future__ import annotations

import hashlib
import json
import time
from array import array
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from llmkit import __version__
from llmkit.console import Progress, say, warn
from llmkit.data import python_docs
from llmkit.data.array_file import ArrayFile
from llmkit.data.document import Document
from llmkit.data.documents import is_python_docs, read_input
from llmkit.data.prepared import FORMAT
from llmkit.data.quality import Quality
from llmkit.data.selection import NO_TEXT, Dedupe, DocumentAccount, Selection, add_up, describe_dropped
from llmkit.encoding import TextEncoder
from llmkit.errors import DataError
from llmkit.files import check_output_free, new_folder, sha256_of
from llmkit.tokenizer import end_of_document_id, tokenizer_hash

CHUNK = 4 << 20
"""Characters that are encoded at once: enough for all cores, and some 100 MB of memory."""


@dataclass
class OpenSplit:
    """A split while it is written: its two files, what is in them, and the place of each document (see `place_of`)."""

    name: str
    tokens: ArrayFile
    documents: ArrayFile
    num_bytes: int = 0
    places: array[float] = field(default_factory=lambda: array("d"))

    def add(self, ids: Sequence[NDArray[Any]], end: int, num_bytes: Sequence[int], places: Sequence[float]) -> None:
        """Append documents, and an end-of-document token to each."""
        ends = self.tokens.length + np.cumsum([len(document) + 1 for document in ids])
        starts = np.concatenate([[self.tokens.length], ends[:-1]])
        end_token = np.array([end], dtype=ids[0].dtype)
        self.places.extend(places)
        self.documents.append(np.stack([starts, np.array(num_bytes)], axis=1))
        self.tokens.append(np.concatenate([part for document in ids for part in (document, end_token)]))
        self.num_bytes += sum(num_bytes)

    @property
    def counts(self) -> dict[str, int]:
        """Documents, tokens (end-of-document tokens included) and bytes of text."""
        return {"documents": self.documents.length, "tokens": self.tokens.length, "bytes": self.num_bytes}


@dataclass
class SourceCount:
    """What one input has given: its documents, their bytes, a hash over their hashes; and what was left out."""

    name: str
    account: DocumentAccount = field(default_factory=DocumentAccount)
    num_documents: int = 0
    num_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, digest: bytes, num_bytes: int) -> None:
        """Count a document."""
        self.num_documents += 1
        self.num_bytes += num_bytes
        self.digest.update(digest)

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        counts = {"documents": self.num_documents, "bytes": self.num_bytes}
        return {"name": self.name, **counts, "sha256": self.digest.hexdigest(), "dropped": self.account.to_json()}


def prepare(
    inputs: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    *,
    text_column: str | None = None,
    validation: float = 0.01,
    min_length: int = 0,
    dedupe: Dedupe = "none",
) -> dict[str, Any]:
    """Write the inputs into the folder `output` as prepared data (see `prepared`).

    Documents are held out for validation by a hash of their text: adding documents moves none of the others, and equal
    texts are in the same split. `python-docs` has its own splits. Where no document is held out, the one with the
    lowest hash is; and of a single document its end. What is left out is counted by reason (see `Selection`).

    Returns:
        {"output", "splits": {name: {"documents", "tokens", "bytes"}}, "dropped", "quality", "bytes_per_token",
        "vocab_size", "seconds"}.

    Raises:
        UsageError: `output` holds something, or the library that finds near duplicates is missing.
        DataError: An input is missing, empty, or not what its name says; or nothing is left of them.
    """
    check_output_free(output)
    begin = time.monotonic()
    selection = Selection(min_length=min_length, dedupe=dedupe)
    with new_folder(output) as folder:
        with Writer(folder, tokenizer) as writer:
            sources = write_documents(inputs, writer, selection, text_column, validation)
            if validation > 0 and not all(is_python_docs(name) for name in inputs):
                ensure_validation(writer)
        tokenizer.save_pretrained(str(folder / "tokenizer"))
        manifest = describe_data(writer, sources, validation) | {"selection": selection.to_json()}
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    splits = manifest["splits"].values()
    return {
        "output": str(output),
        "splits": manifest["splits"],
        "dropped": add_up([source["dropped"] for source in manifest["sources"]]),
        "quality": manifest["quality"],
        "bytes_per_token": round(sum(s["bytes"] for s in splits) / sum(s["tokens"] for s in splits), 4),
        "vocab_size": len(tokenizer),
        "seconds": round(time.monotonic() - begin, 3),
    }


def describe_data(writer: Writer, sources: Sequence[SourceCount], validation: float) -> dict[str, Any]:
    """The manifest."""
    places = np.concatenate([np.array(split.places) for split in writer.splits.values()])
    return {
        "format": FORMAT,
        "llmkit": __version__,
        "tokenizer": {
            "sha256": tokenizer_hash(writer.tokenizer),
            "vocab_size": len(writer.tokenizer),
            "end_of_document": writer.end,
        },
        "dtype": writer.dtype.name,
        "validation": validation,
        "sources": [source.to_json() for source in sources],
        "splits": {name: split.counts for name, split in writer.splits.items()},
        # Equal texts have equal places.
        "quality": writer.quality.to_json(copies=len(places) - len(np.unique(places))),
        "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in writer.paths},
    }


class Waiting(NamedTuple):
    """A document that is not encoded yet."""

    split: str
    text: str
    num_bytes: int
    place: float


class Writer:
    """Encodes documents in chunks and appends them to the arrays of their split.

    A chunk is encoded, outside of Python's lock, while the next one is read.
    """

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.encoder = TextEncoder(tokenizer)
        self.end = end_of_document_id(tokenizer)
        self.dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
        self.splits: dict[str, OpenSplit] = {}
        self.quality = Quality()
        self.waiting: list[Waiting] = []
        self.num_waiting = 0
        self.worker = ThreadPoolExecutor(1)
        self.coming: tuple[list[Waiting], Future[list[NDArray[np.uint32]]]] | None = None

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        self.worker.shutdown()
        for split in self.splits.values():
            split.tokens.close()
            split.documents.close()

    @property
    def paths(self) -> list[Path]:
        """The files of all splits."""
        return [array.path for split in self.splits.values() for array in (split.tokens, split.documents)]

    def open_split(self, split: str) -> OpenSplit:
        """The split's files, opened when its first document comes; the stream begins with an end-of-document token."""
        if split not in self.splits:
            tokens = ArrayFile(self.folder / f"tokens-{split}.npy", self.dtype)
            documents = ArrayFile(self.folder / f"documents-{split}.npy", np.int64, width=2)
            tokens.append(np.array([self.end]))
            self.splits[split] = OpenSplit(split, tokens, documents)
        return self.splits[split]

    def add(self, document: Waiting) -> None:
        """Take a document; full chunks are encoded and written."""
        self.waiting.append(document)
        self.num_waiting += len(document.text)
        if self.num_waiting >= CHUNK:
            self.encode_waiting()

    def encode_waiting(self) -> None:
        """Begin to encode what is waiting, and meanwhile count what it is like."""
        self.write_encoded()
        texts = [document.text for document in self.waiting]
        if texts:
            self.coming = self.waiting, self.worker.submit(self.encoder.encode, texts)
            self.quality.add(texts)
        self.waiting, self.num_waiting = [], 0

    def write_encoded(self) -> None:
        """Write the chunk that is being encoded, once it is."""
        if self.coming is None:
            return
        documents, encoded = self.coming[0], self.coming[1].result()
        self.coming = None
        for split in dict.fromkeys(document.split for document in documents):
            own = [(d, ids) for d, ids in zip(documents, encoded, strict=True) if d.split == split]
            self.open_split(split).add(
                [ids for _, ids in own], self.end, [d.num_bytes for d, _ in own], [d.place for d, _ in own]
            )

    def finish(self) -> None:
        """Encode and write the rest."""
        self.encode_waiting()
        self.write_encoded()


def write_documents(
    inputs: Sequence[str], writer: Writer, selection: Selection, text_column: str | None, validation: float
) -> list[SourceCount]:
    """Encode and write all documents that are selected; what each input has given."""
    sources = [SourceCount(name) for name in inputs]
    begin = time.monotonic()
    num_bytes = 0
    with Progress("encoding", unit="documents") as progress:
        for source in sources:
            for split, document in split_documents(
                source, selection, text_column, validation, is_alone=len(inputs) == 1
            ):
                data = document.text.encode()
                digest = hashlib.sha256(data).digest()
                source.add(digest, len(data))
                place = place_of_digest(digest)
                split = split or ("validation" if place < validation else "train")
                writer.add(Waiting(split, document.text, len(data), place))
                num_bytes += len(data)
                megabytes = num_bytes / 1e6
                rate = megabytes / max(time.monotonic() - begin, 1e-9)
                progress.update(note=f"{megabytes:,.1f} MB, {rate:.1f} MB/s")
            if not source.num_documents and set(source.account.dropped) <= {NO_TEXT}:
                raise DataError("there is no text in it", where=source.name)
        writer.finish()
    if not writer.splits:
        dropped = describe_dropped(add_up([source.account.to_json() for source in sources]))
        message = "\n  ".join(["no document is left", *dropped])
        raise DataError(message, where=", ".join(inputs), fix="lower --min-length, or give more text")
    return sources


def split_documents(
    source: SourceCount, selection: Selection, text_column: str | None, validation: float, *, is_alone: bool
) -> Iterator[tuple[str | None, Document]]:
    """(split or None for that of its content, document) of one input, if they are selected."""
    name = source.name
    if is_python_docs(name):
        splits = [f"{name}@{split}" for split in python_docs.SPLITS] if name == "python-docs" else [name]
        for of_split in splits:
            split = of_split.partition("@")[2] or None
            yield from ((split, document) for document in selection.of(read_input(of_split, None), source.account))
        return
    documents = selection.of(read_input(name, text_column), source.account)
    if is_alone and validation > 0:
        yield from spare_the_end(documents, validation)
    else:
        yield from ((None, document) for document in documents)


def spare_the_end(documents: Iterator[Document], validation: float) -> Iterator[tuple[str | None, Document]]:
    """The documents as they are; of a single one the end is held out, for there is nothing else to hold out."""
    first = next(documents, None)
    if first is None:
        return
    second = next(documents, None)
    if second is not None:
        yield from ((None, document) for document in (first, second))
        yield from ((None, document) for document in documents)
        return
    text = first.text
    goal = int(len(text) * (1 - validation))
    cut = max(text.rfind(end, 0, goal) + len(end) if end in text[:goal] else 0 for end in ("\n\n", "\n", " "))
    if not text[:cut].strip() or not text[cut:].strip():
        yield None, first
        return
    warn(f"{first.source} is a single document: its last {len(text) - cut:,} characters are held out for validation")
    yield "train", Document(text[:cut], first.source)
    yield "validation", Document(text[cut:], first.source)


def place_of(data: bytes) -> float:
    """A number in [0, 1) that a text alone decides."""
    return place_of_digest(hashlib.sha256(data).digest())


def place_of_digest(digest: bytes) -> float:
    """`place_of` a text with this SHA-256."""
    return int.from_bytes(digest[:8]) / 2**64


def ensure_validation(writer: Writer) -> None:
    """Hold out the document with the lowest hash if none is, and there is more than one.

    Raises:
        DataError: All documents are held out.
    """
    train = writer.splits.get("train")
    if train is None:
        names = ", ".join(writer.splits)
        raise DataError(f"no document is left to train on, all are in {names}", fix="lower --validation")
    if "validation" in writer.splits:
        return
    if train.documents.length < 2:
        warn("nothing is held out for validation: there is one document only")
        return
    sizes = train.documents.read(0, train.documents.length)[:, 1]
    # Not the one that holds most of the text: training needs it.
    index = min(np.flatnonzero(2 * sizes <= sizes.sum()).tolist(), key=lambda i: train.places[i])
    place = train.places[index]
    # Equal texts have one place, and go together: what is held out must not stay in training.
    same = [i for i, other in enumerate(train.places) if other == place]
    if len(same) == len(train.places):
        warn("nothing is held out for validation: all documents are the same")
        return
    for i in reversed(same):
        ids, num_bytes = take_out(train, i)
        writer.open_split("validation").add([ids[:-1]], writer.end, [num_bytes], [train.places.pop(i)])
    say(f"no document fell to validation: the one with the lowest hash is held out ({num_bytes:,} bytes)")


def take_out(split: OpenSplit, index: int) -> tuple[NDArray[Any], int]:
    """Cut a document out of a split's files: its ids with the end-of-document token, and its bytes."""
    documents = split.documents.read(0, split.documents.length)
    start, num_bytes = documents[index].tolist()
    end = int(documents[index + 1, 0]) if index + 1 < len(documents) else split.tokens.length
    ids = split.tokens.read(start, end)
    split.tokens.remove(start, end)
    split.documents.remove(0, len(documents))
    rest = np.delete(documents, index, axis=0)
    rest[index:, 0] -= end - start
    split.documents.append(rest)
    split.num_bytes -= num_bytes
    return ids, num_bytes
