"""Prepared data: the tokens of a split as one long memory-mapped stream, and the rows that training cuts from it.

A prepared folder holds `manifest.json`, `tokenizer/`, and for each split
    tokens-SPLIT.npy     (N,) uint16 or uint32: end-of-document, document, end-of-document, document, end-of-document
    documents-SPLIT.npy  (D, 2) int64: where each document's first token stands in the stream, and its UTF-8 bytes
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from llmkit.batch import Batch
from llmkit.errors import DataError
from llmkit.tokenizer import load_tokenizer, tokenizer_hash

FORMAT = 1
"""Of the folder; a reader refuses any other."""
FIX_PREPARE = "make it again with `llmkit data prepare`"


@dataclass(frozen=True)
class Split:
    """One split's stream of tokens.

    Attributes:
        tokens: (N,) uint16 or uint32, memory-mapped; an end-of-document token, then each document followed by one.
        offsets: (D + 1,) int64: document i is `tokens[offsets[i] : offsets[i + 1] - 1]`.
        num_bytes: (D,) int64: UTF-8 bytes of each document.
    """

    name: str
    tokens: NDArray[Any]
    offsets: NDArray[np.int64]
    num_bytes: NDArray[np.int64]

    @property
    def num_documents(self) -> int:
        """How many documents there are."""
        return len(self.num_bytes)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(D,) tokens of each document, without the end-of-document token."""
        return np.diff(self.offsets) - 1

    def first_documents(self, max_tokens: int) -> tuple[NDArray[Any], int]:
        """The stream of the first whole documents that fit into `max_tokens`, at least one, and their bytes.

        All its ids but the first are targets, so that nats over bytes are exact bits per byte.
        """
        count = max(1, int(np.searchsorted(self.offsets, max_tokens, side="right")) - 1)
        return self.tokens[: self.offsets[min(count, self.num_documents)]], int(self.num_bytes[:count].sum())


@dataclass(frozen=True)
class PreparedData:
    """A folder that `llmkit data prepare` wrote."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def splits(self) -> list[str]:
        """The names of the splits there are."""
        return list(self.manifest["splits"])

    @property
    def content_hash(self) -> str:
        """SHA-256 over the tokenizer and all arrays: equal where training would see the same."""
        content = [self.manifest["tokenizer"]["sha256"], self.manifest["files"]]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer that the tokens were made with.

        Raises:
            DataError: The copy inside the folder is another one now.
        """
        tokenizer = load_tokenizer(self.folder / "tokenizer")
        self.check_tokenizer(tokenizer, where=str(self.folder / "tokenizer"))
        return tokenizer

    def check_tokenizer(self, tokenizer: PreTrainedTokenizerFast, *, where: str) -> None:
        """Raise DataError unless `tokenizer` is the one the tokens were made with."""
        if tokenizer_hash(tokenizer) != self.manifest["tokenizer"]["sha256"]:
            message = f"this is not the tokenizer that {self.folder} was prepared with"
            raise DataError(message, where=where, fix=f"use {self.folder / 'tokenizer'}, or prepare the data again")

    def has_split(self, name: str) -> bool:
        """Whether there is such a split."""
        return name in self.manifest["splits"]

    def split(self, name: str) -> Split:
        """Open a split.

        Raises:
            DataError: There is no such split, or its arrays are not what the manifest says.
        """
        if not self.has_split(name):
            message = f"there is no split '{name}', only {', '.join(self.splits)}"
            raise DataError(message, where=str(self.folder), fix="prepare it with a larger --validation share")
        counts = self.manifest["splits"][name]
        tokens = open_array(self.folder / f"tokens-{name}.npy", (counts["tokens"],))
        documents = open_array(self.folder / f"documents-{name}.npy", (counts["documents"], 2))
        offsets = np.append(documents[:, 0], len(tokens)).astype(np.int64)
        return Split(name, tokens, offsets, np.array(documents[:, 1], dtype=np.int64))


def open_prepared(folder: str | Path) -> PreparedData:
    """Open a folder that `llmkit data prepare` wrote, without reading its tokens.

    Raises:
        DataError: It is none, was written by another version, or its arrays are cut short.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    prepared = PreparedData(folder, manifest)
    for name, about in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != about["bytes"]:
            message = (
                "this file is missing" if size is None else f"{size:,} bytes, the manifest says {about['bytes']:,}"
            )
            raise DataError(message, where=str(path), fix=FIX_PREPARE)
    return prepared


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a prepared folder, checked for what readers need."""
    path = folder / "manifest.json"
    if not path.is_file():
        message = "this is not prepared data (no manifest.json)" if folder.is_dir() else "there is no such folder"
        raise DataError(message, where=str(folder), fix="name a folder that `llmkit data prepare` wrote")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"the manifest is not JSON ({error})", where=str(path), fix=FIX_PREPARE) from error
    keys = {"format", "tokenizer", "splits", "files"}
    if not isinstance(manifest, dict) or not keys <= manifest.keys():
        raise DataError("this is not the manifest of prepared data", where=str(path), fix=FIX_PREPARE)
    if manifest["format"] != FORMAT:
        message = f"this data is of format {manifest['format']}, this llmkit reads format {FORMAT}"
        raise DataError(message, where=str(path), fix=FIX_PREPARE)
    return manifest


def open_array(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Memory-map an array and check its shape."""
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"this array is damaged ({error})", where=str(path), fix=FIX_PREPARE) from error
    if array.shape != shape:
        message = f"an array of shape {array.shape}, the manifest says {shape}"
        raise DataError(message, where=str(path), fix=FIX_PREPARE)
    return array


class TokenRows:
    """Rows of `seq_len` targets cut from a split's stream one after the other; neighbours share one id.

    The last tokens, too few for a row, are left out. With `start_id`, the token that begins each document, a batch
    also has `position_ids`, which start again with each document (see `losses.causal_lm_loss_sum`).

    Raises:
        DataError: The split is shorter than one row.
    """

    lengths: Sequence[int] | None = None
    is_stream: bool = False

    def __init__(self, split: Split, seq_len: int, *, start_id: int | None = None) -> None:
        self.tokens = split.tokens
        self.seq_len = seq_len
        self.start_id = start_id
        self.num_rows = (len(self.tokens) - 1) // seq_len
        if self.num_rows == 0:
            message = f"the split '{split.name}' has {len(self.tokens):,} tokens, too few for one row of {seq_len} + 1"
            raise DataError(message, where="train.seq_len", fix="give more text, or a smaller train.seq_len")

    def __len__(self) -> int:
        return self.num_rows

    def batch(self, indices: Sequence[int]) -> Batch:
        """Cut the rows with these indices.

        With seq_len 2 row 1 of the stream [0, 5, 6, 7, 0] is input_ids [6, 7], targets [7, 0].
        """
        starts = np.asarray(indices, dtype=np.int64)[:, None] * self.seq_len
        ids = torch.from_numpy(self.tokens[starts + np.arange(self.seq_len + 1)].astype(np.int64))  # (B, T + 1)
        return token_batch(ids, self.start_id)


def token_batch(ids: Tensor, start_id: int | None) -> Batch:
    """(B, T + 1) ids as inputs and targets, with positions that start again at each `start_id` where one is given."""
    batch = {"input_ids": ids[:, :-1].contiguous(), "targets": ids[:, 1:].contiguous()}
    if start_id is not None:
        batch["position_ids"] = restarting_positions(batch["input_ids"], start_id)
    return batch


def restarting_positions(input_ids: Tensor, start_id: int) -> Tensor:
    """(B, T) -> (B, T): how far each token is from the beginning of its document, or of its row.

    >>> restarting_positions(torch.tensor([[7, 7, 0, 7, 7, 0, 7]]), 0).tolist()
    [[0, 1, 0, 1, 2, 0, 1]]
    """
    places = torch.arange(input_ids.shape[1]).expand_as(input_ids)
    return places - torch.where(input_ids == start_id, places, 0).cummax(dim=1).values
