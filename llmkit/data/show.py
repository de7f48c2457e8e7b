"""Rows as a model will see them, token by token, and what there is of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from llmkit.batch import IGNORE_INDEX
from llmkit.data.dialogue import Row
from llmkit.data.dialogue_set import Account
from llmkit.data.document import Document
from llmkit.data.prepared import PreparedData, TokenRows
from llmkit.tokenizer import decode_ids, encode_texts, end_of_document_id

DOCUMENTS_AT_ONCE = 256
NO_LIMIT = 1 << 30
"""Longer than any row: what is shown is not cut."""
PART_OF_CHARACTER = "·"
PERCENTILES = (5, 50, 95, 100)


@dataclass(frozen=True)
class ShownRow:
    """The ids of a row, and which of them the model has to predict."""

    input_ids: list[int]
    trained: list[bool]

    def to_json(self, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
        """{"input_ids", "trained", "text"}."""
        return {
            "input_ids": self.input_ids,
            "trained": self.trained,
            "text": decode_ids(tokenizer, self.input_ids),
        }


def prepared_rows(prepared: PreparedData, split: str, *, seq_len: int, limit: int) -> list[ShownRow]:
    """The first rows that training cuts from a split."""
    opened = prepared.split(split)
    rows = TokenRows(opened, min(seq_len, len(opened.tokens) - 1))
    batch = rows.batch(range(min(limit, len(rows))))
    found = []
    for ids, targets in zip(batch["input_ids"], batch["targets"], strict=True):
        found.append(ShownRow([int(ids[0]), *targets.tolist()], [False] + [True] * len(targets)))
    return found


def prepared_statistics(prepared: PreparedData) -> dict[str, Any]:
    """Of each split: documents, tokens, bytes, bytes per token, and percentiles of tokens per document."""
    found = {}
    for name in prepared.splits:
        split = prepared.split(name)
        found[name] = summary(split.lengths, num_bytes=int(split.num_bytes.sum()), num_tokens=len(split.tokens))
    return found


def summary(lengths: NDArray[Any], *, num_bytes: int, num_tokens: int) -> dict[str, Any]:
    """Counts, and percentiles of the lengths."""
    return {
        "documents": len(lengths),
        "tokens": num_tokens,
        "bytes": num_bytes,
        "bytes_per_token": round(num_bytes / max(num_tokens, 1), 4),
        "lengths": percentiles(lengths),
    }


def document_rows(
    documents: Iterable[Document], tokenizer: PreTrainedTokenizerFast, *, limit: int
) -> tuple[list[ShownRow], dict[str, Any]]:
    """The first documents between their end-of-document tokens, and the statistics of all."""
    end = end_of_document_id(tokenizer)
    rows: list[ShownRow] = []
    lengths: list[int] = []
    num_bytes = 0
    for texts in in_parts(document.text for document in documents):
        num_bytes += sum(len(text.encode()) for text in texts)
        for ids in encode_texts(tokenizer, texts):
            lengths.append(len(ids))
            if len(rows) < limit:
                rows.append(ShownRow([end, *ids, end], [False] + [True] * (len(ids) + 1)))
    num_tokens = sum(lengths) + len(lengths) + 1
    return rows, summary(np.array(lengths), num_bytes=num_bytes, num_tokens=num_tokens)


def in_parts(texts: Iterator[str]) -> Iterator[list[str]]:
    """Lists of so many texts as are encoded at once."""
    while part := list(islice(texts, DOCUMENTS_AT_ONCE)):
        yield part


def dialogue_row(row: Row) -> ShownRow:
    """A dialogue's row: an id is trained where it is the target of the position before it."""
    trained = [False, *(row.targets[:-1] != IGNORE_INDEX).tolist()]
    return ShownRow(row.input_ids.tolist(), trained)


def dialogue_statistics(rows: Sequence[Row], account: Account) -> dict[str, Any]:
    """Dialogues read, used and left out, tokens, the share of them that is trained, and percentiles of the lengths."""
    about = account.to_json()
    lengths = np.array([row.num_tokens for row in rows])
    names = ("read", "used", "tokens", "trained_tokens", "trained_share", "dropped")
    return {**{name: about[name] for name in names}, "lengths": percentiles(lengths)}


def percentiles(lengths: NDArray[Any]) -> dict[str, int]:
    """Percentiles of lengths in tokens."""
    return {f"p{p}" if p < 100 else "max": int(np.percentile(lengths, p)) for p in PERCENTILES}


def token_texts(tokenizer: PreTrainedTokenizerFast, ids: Sequence[int]) -> list[str]:
    """What each id says. Of a character that several ids share all but the last are shown as a dot."""
    texts: list[str] = []
    start = 0
    for stop in range(1, len(ids) + 1):
        text = decode_ids(tokenizer, ids[start:stop])
        if text.endswith("\ufffd"):
            texts.append(PART_OF_CHARACTER)
        else:
            texts.append(text)
            start = stop
    return texts
