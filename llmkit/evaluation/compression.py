"""How tokenizers cut a text: their tokens beside its bytes, characters and words, and whether it comes back exactly."""

from __future__ import annotations

import json
import re
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from llmkit.alphabet import BYTE_OF
from llmkit.tokenizer import control_ids, encode_texts

BATCH_CHARACTERS = 1 << 20
"""Text that is encoded at once: encodings take some 25 times as much memory."""

EXCERPT = 40
"""Characters of a text that a mismatch shows."""


@dataclass
class Tally:
    """Sums over documents. `num_words` counts what white space separates, `num_exact` documents that came back."""

    num_documents: int = 0
    num_bytes: int = 0
    num_chars: int = 0
    num_words: int = 0
    num_tokens: int = 0
    num_exact: int = 0

    def add(self, other: Tally) -> None:
        """Add another's sums to these."""
        for field in fields(Tally):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))

    def rates(self) -> dict[str, float | int | None]:
        """The sums and what follows from them; None where a text has no words or tokens."""
        return {
            "documents": self.num_documents,
            "bytes": self.num_bytes,
            "tokens": self.num_tokens,
            "bytes_per_token": divide(self.num_bytes, self.num_tokens),
            "chars_per_token": divide(self.num_chars, self.num_tokens),
            "tokens_per_word": divide(self.num_tokens, self.num_words),
            "round_trip": divide(self.num_exact, self.num_documents),
        }


def divide(part: int, whole: int) -> float | None:
    """The quotient, None when there is nothing to divide by."""
    return part / whole if whole else None


@dataclass(frozen=True)
class Mismatch:
    """A document that did not come back: where the first difference is, what stood there, and what came back."""

    source: str
    position: int
    text: str
    decoded: str


class Meter:
    """What one tokenizer makes of the documents it is fed; without a tokenizer, each byte is a token."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast | None) -> None:
        self.tokenizer = tokenizer
        self.files: dict[str, Tally] = defaultdict(Tally)
        self.is_used = np.zeros(256 if tokenizer is None else len(tokenizer), dtype=bool)
        self.mismatch: Mismatch | None = None
        self.seconds = 0.0

    def feed(self, texts: Sequence[str], sources: Sequence[str]) -> None:
        """Encode and decode a batch of documents."""
        begin = time.perf_counter()
        if self.tokenizer is None:
            ids: Sequence[Sequence[int]] = [text.encode() for text in texts]
        else:
            ids = encode_texts(self.tokenizer, texts)
        self.seconds += time.perf_counter() - begin
        if self.tokenizer is None:
            decoded = list(texts)
        else:
            decoded = self.tokenizer.backend_tokenizer.decode_batch(list(ids), skip_special_tokens=False)
        for text, source, row, back in zip(texts, sources, ids, decoded, strict=True):
            self.count(text, source, row, back)

    def count(self, text: str, source: str, ids: Sequence[int], decoded: str) -> None:
        """Add one document to the sums of its file."""
        self.is_used[np.unique(np.asarray(list(ids), dtype=np.int64))] = True
        self.files[file_of(source)].add(
            Tally(1, len(text.encode()), len(text), len(text.split()), len(ids), int(decoded == text))
        )
        if decoded != text and self.mismatch is None:
            self.mismatch = find_mismatch(text, decoded, source)

    def total(self) -> Tally:
        """The sums over all files."""
        total = Tally()
        for tally in self.files.values():
            total.add(tally)
        return total

    def report(self) -> dict[str, Any]:
        """Everything measured, ready for JSON; `unused` is the share of the vocabulary, control tokens aside."""
        total = self.total()
        num_control = 0 if self.tokenizer is None else len(control_ids(self.tokenizer))
        mismatch = self.mismatch and {
            "source": self.mismatch.source,
            "position": self.mismatch.position,
            "text": self.mismatch.text,
            "decoded": self.mismatch.decoded,
        }
        return {
            "vocab_size": len(self.is_used),
            **total.rates(),
            "unused": 1 - int(self.is_used.sum()) / max(len(self.is_used) - num_control, 1),
            "megabytes_per_second": total.num_bytes / 1e6 / self.seconds if self.seconds else None,
            "mismatch": mismatch,
            "files": [{"file": name, **tally.rates()} for name, tally in self.files.items()],
        }


def measure_tokenizers(
    documents: Iterable[tuple[str, str]], tokenizers: Sequence[PreTrainedTokenizerFast | None]
) -> list[dict[str, Any]]:
    """Measure each tokenizer on the same documents, given as (text, source), which are read once.

    Returns:
        A report for each tokenizer, in their order; see `Meter.report`. None stands for plain bytes.
    """
    meters = [Meter(tokenizer) for tokenizer in tokenizers]
    for batch in batches(documents):
        texts, sources = zip(*batch, strict=True)
        for meter in meters:
            meter.feed(texts, sources)
    return [meter.report() for meter in meters]


def batches(documents: Iterable[tuple[str, str]]) -> Iterator[list[tuple[str, str]]]:
    """The documents in lists of about BATCH_CHARACTERS."""
    batch: list[tuple[str, str]] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document[0])
        if size >= BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def file_of(source: str) -> str:
    """The file of a document's source: without the line, and of `python-docs:help/json` the kind alone."""
    if source.startswith("python-docs:"):
        return source.partition("/")[0]
    name, _, line = source.rpartition(":")
    return name if name and line.isdigit() else source


def find_mismatch(text: str, decoded: str, source: str) -> Mismatch:
    """The first place at which a text and what came back differ, with a few characters before it."""
    pairs = enumerate(zip(text, decoded, strict=False))
    position = next((i for i, (a, b) in pairs if a != b), min(len(text), len(decoded)))
    begin = max(position - EXCERPT // 4, 0)
    return Mismatch(source, position, text[begin : begin + EXCERPT], decoded[begin : begin + EXCERPT])


def token_texts(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> list[str]:
    r"""What each id stands for, on its own: text, and `\xe2` for a byte that is no character without its neighbours."""
    backend = tokenizer.backend_tokenizer
    added = backend.get_added_tokens_decoder()
    is_byte_level = "ByteLevel" in json.dumps(json.loads(backend.to_str())["decoder"])

    def text_of(index: int) -> str:
        token = str(backend.id_to_token(index))
        byte = re.fullmatch(r"<0x([0-9A-F]{2})>", token)
        if index in added:
            return token
        if is_byte_level and all(sign in BYTE_OF for sign in token):
            return bytes(BYTE_OF[sign] for sign in token).decode("utf-8", "backslashreplace")
        return bytes.fromhex(byte[1]).decode("utf-8", "backslashreplace") if byte else token.replace("▁", " ")

    return [text_of(index) for index in ids]
