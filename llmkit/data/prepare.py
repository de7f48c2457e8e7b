"""Text to prepared data: split by content, encoded on all cores, appended to arrays with flat memory."""

from __future__ import annotations

import hashlib
import json
import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from llmkit import __version__
from llmkit.console import Progress, say, warn
from llmkit.data import python_docs
from llmkit.data.document import Document
from llmkit.data.documents import is_python_docs, read_documents
from llmkit.data.prepared import FORMAT
from llmkit.errors import DataError
from llmkit.files import check_output_free, new_folder, sha256_of
from llmkit.tokenizer import encode_texts, end_of_document_id, tokenizer_hash

CHUNK = 4 << 20
"""Characters that are encoded at once: enough for all cores, and some 100 MB of memory."""
ROWS_AT_ONCE = 1 << 20


@dataclass
class Part:
    """A split while it is written: its two files, what is in them, and the place of each document (see `place_of`)."""

    name: str
    tokens: ArrayFile
    documents: ArrayFile
    num_bytes: int = 0
    places: array[float] = field(default_factory=lambda: array("d"))

    def add(self, ids: NDArray[Any], num_bytes: int, place: float) -> None:
        """Append one document, its end-of-document token included."""
        self.places.append(place)
        self.documents.append(np.array([[self.tokens.length, num_bytes]], dtype=np.int64))
        self.tokens.append(ids)
        self.num_bytes += num_bytes

    @property
    def counts(self) -> dict[str, int]:
        """Documents, tokens (end-of-document tokens included) and bytes of text."""
        return {"documents": self.documents.length, "tokens": self.tokens.length, "bytes": self.num_bytes}


class ArrayFile:
    """A .npy file that grows: rows are appended, and the header is written again with the final length."""

    def __init__(self, path: Path, dtype: Any, width: int | None = None) -> None:
        self.path = path
        self.dtype = np.dtype(dtype)
        self.width = width
        self.length = 0
        self.file: BinaryIO = path.open("w+b")
        self.write_header()

    def write_header(self) -> None:
        """Write the header in place. numpy leaves room in it for a longer length."""
        shape = (self.length,) if self.width is None else (self.length, self.width)
        header = {"descr": np.lib.format.dtype_to_descr(self.dtype), "fortran_order": False, "shape": shape}
        self.file.seek(0)
        np.lib.format.write_array_header_1_0(self.file, header)
        self.start = self.file.tell()
        self.file.seek(0, 2)

    def append(self, rows: NDArray[Any]) -> None:
        """Append rows."""
        self.file.write(np.ascontiguousarray(rows, dtype=self.dtype).tobytes())
        self.length += len(rows)

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """The rows from `start` to before `stop`."""
        size = self.dtype.itemsize * (self.width or 1)
        self.file.seek(self.start + start * size)
        rows = np.frombuffer(self.file.read((stop - start) * size), dtype=self.dtype)
        self.file.seek(0, 2)
        return rows if self.width is None else rows.reshape(-1, self.width)

    def remove(self, start: int, stop: int) -> None:
        """Take rows out in place: what follows moves up, a stretch at a time."""
        size = self.dtype.itemsize * (self.width or 1)
        target = start
        for source in range(stop, self.length, ROWS_AT_ONCE):
            rows = self.read(source, min(source + ROWS_AT_ONCE, self.length))
            self.file.seek(self.start + target * size)
            self.file.write(rows.tobytes())
            target += len(rows)
        self.length = target
        self.file.truncate(self.start + target * size)
        self.file.seek(0, 2)

    def close(self) -> None:
        """Write the final length and close."""
        begin = self.start
        self.write_header()
        assert self.start == begin, "the header has grown into the data"
        self.file.close()


@dataclass
class SourceCount:
    """What one input has given: its documents, their bytes, and a hash over their texts."""

    name: str
    num_documents: int = 0
    num_bytes: int = 0
    digest: Any = field(default_factory=hashlib.sha256)

    def add(self, data: bytes) -> None:
        """Count a document."""
        self.num_documents += 1
        self.num_bytes += len(data)
        self.digest.update(len(data).to_bytes(8) + data)

    def to_json(self) -> dict[str, Any]:
        """For the manifest."""
        counts = {"documents": self.num_documents, "bytes": self.num_bytes}
        return {"name": self.name, **counts, "sha256": self.digest.hexdigest()}


def prepare(
    inputs: Sequence[str],
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    *,
    text_column: str | None = None,
    validation: float = 0.01,
) -> dict[str, Any]:
    """Write the inputs into the folder `output` as prepared data (see `prepared`).

    Documents are held out for validation by a hash of their text: adding documents moves none of the others, and equal
    texts are in the same split. `python-docs` has its own splits. Where no document is held out, the one with the
    lowest hash is; and of a single document its end.

    Returns:
        {"output", "splits": {name: {"documents", "tokens", "bytes"}}, "bytes_per_token", "vocab_size", "seconds"}.

    Raises:
        UsageError: `output` holds something.
        DataError: An input is missing, empty, or not what its name says.
    """
    check_output_free(output)
    begin = time.monotonic()
    with new_folder(output) as folder:
        with Writer(folder, tokenizer) as writer:
            sources = write_documents(inputs, writer, text_column, validation)
            if validation > 0 and not all(is_python_docs(name) for name in inputs):
                ensure_validation(writer)
        tokenizer.save_pretrained(str(folder / "tokenizer"))
        splits = {name: part.counts for name, part in writer.parts.items()}
        manifest = {
            "format": FORMAT,
            "llmkit": __version__,
            "tokenizer": {
                "sha256": tokenizer_hash(tokenizer),
                "vocab_size": len(tokenizer),
                "end_of_document": writer.end,
            },
            "dtype": writer.dtype.name,
            "validation": validation,
            "sources": [source.to_json() for source in sources],
            "splits": splits,
            "files": {path.name: {"bytes": path.stat().st_size, "sha256": sha256_of(path)} for path in writer.paths},
        }
        (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    return {
        "output": str(output),
        "splits": splits,
        "bytes_per_token": round(
            sum(s["bytes"] for s in splits.values()) / sum(s["tokens"] for s in splits.values()), 4
        ),
        "vocab_size": len(tokenizer),
        "seconds": round(time.monotonic() - begin, 3),
    }


class Writer:
    """Encodes documents in chunks and appends them to the arrays of their split."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.end = end_of_document_id(tokenizer)
        self.dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
        self.parts: dict[str, Part] = {}
        self.waiting: list[tuple[str, str, int, float]] = []  # split, text, bytes, place
        self.num_waiting = 0

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: TracebackType | None) -> None:
        for part in self.parts.values():
            part.tokens.close()
            part.documents.close()

    @property
    def paths(self) -> list[Path]:
        """The files of all splits."""
        return [array.path for part in self.parts.values() for array in (part.tokens, part.documents)]

    def part(self, split: str) -> Part:
        """The split's files, opened when its first document comes; the stream begins with an end-of-document token."""
        if split not in self.parts:
            tokens = ArrayFile(self.folder / f"tokens-{split}.npy", self.dtype)
            documents = ArrayFile(self.folder / f"documents-{split}.npy", np.int64, width=2)
            tokens.append(np.array([self.end]))
            self.parts[split] = Part(split, tokens, documents)
        return self.parts[split]

    def add(self, split: str, text: str, num_bytes: int, place: float) -> None:
        """Take a document; full chunks are encoded and written."""
        self.waiting.append((split, text, num_bytes, place))
        self.num_waiting += len(text)
        if self.num_waiting >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Encode and write what is waiting."""
        encoded = encode_texts(self.tokenizer, [text for _, text, _, _ in self.waiting])
        for (split, _, num_bytes, place), ids in zip(self.waiting, encoded, strict=True):
            self.part(split).add(np.array([*ids, self.end], dtype=self.dtype), num_bytes, place)
        self.waiting, self.num_waiting = [], 0


def write_documents(
    inputs: Sequence[str], writer: Writer, text_column: str | None, validation: float
) -> list[SourceCount]:
    """Encode and write all documents; what each input has given."""
    sources = [SourceCount(name) for name in inputs]
    begin = time.monotonic()
    num_bytes = 0
    with Progress("encoding", unit="documents") as progress:
        for source, split, document in split_documents(inputs, text_column, validation):
            data = document.text.encode()
            sources[source].add(data)
            place = place_of(data)
            split = split or ("validation" if place < validation else "train")
            writer.add(split, document.text, len(data), place)
            num_bytes += len(data)
            megabytes = num_bytes / 1e6
            rate = megabytes / max(time.monotonic() - begin, 1e-9)
            progress.update(note=f"{megabytes:,.1f} MB, {rate:.1f} MB/s")
        writer.flush()
    return sources


def split_documents(
    inputs: Sequence[str], text_column: str | None, validation: float
) -> Iterator[tuple[int, str | None, Document]]:
    """(number of its input, split or None for that of its content, document)."""
    for number, name in enumerate(inputs):
        splits = python_docs.SPLITS if name == "python-docs" else (name.partition("@")[2] or None,)
        if is_python_docs(name):
            for split in splits:
                of_split = [f"{name}@{split}"] if name == "python-docs" else [name]
                yield from ((number, split, document) for document in read_documents(of_split))
            continue
        documents = read_documents([name], text_column=text_column)
        if len(inputs) == 1 and validation > 0:
            yield from ((0, split, document) for split, document in spare_the_end(documents, validation))
        else:
            yield from ((number, None, document) for document in documents)


def spare_the_end(documents: Iterator[Document], validation: float) -> Iterator[tuple[str | None, Document]]:
    """The documents as they are; of a single one the end is held out, for there is nothing else to hold out."""
    first = next(documents)
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
    return int.from_bytes(hashlib.sha256(data).digest()[:8]) / 2**64


def ensure_validation(writer: Writer) -> None:
    """Hold out the document with the lowest hash if none is, and there is more than one.

    Raises:
        DataError: All documents are held out.
    """
    train = writer.parts.get("train")
    if train is None:
        names = ", ".join(writer.parts)
        raise DataError(f"no document is left to train on, all are in {names}", fix="lower --validation")
    if "validation" in writer.parts:
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
        writer.part("validation").add(ids, num_bytes, train.places.pop(i))
    say(f"no document fell to validation: the one with the lowest hash is held out ({num_bytes:,} bytes)")


def take_out(part: Part, index: int) -> tuple[NDArray[Any], int]:
    """Cut a document out of a split's files: its ids with the end-of-document token, and its bytes."""
    documents = part.documents.read(0, part.documents.length)
    start, num_bytes = documents[index].tolist()
    end = int(documents[index + 1, 0]) if index + 1 < len(documents) else part.tokens.length
    ids = part.tokens.read(start, end)
    part.tokens.remove(start, end)
    part.documents.remove(0, len(documents))
    rest = np.delete(documents, index, axis=0)
    rest[index:, 0] -= end - start
    part.documents.append(rest)
    part.num_bytes -= num_bytes
    return ids, num_bytes
