"""Text that is tokenized while training: for what is larger than the disk, or not worth preparing.

Row p is a pure function of the text and of p, so a run that is resumed sees the rows that it would have seen.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import weakref
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from llmkit.batch import Batch
from llmkit.console import warn
from llmkit.data.prepare import place_of
from llmkit.data.prepared import token_batch
from llmkit.data.stream_reader import Bookmark, Bookmarks, ReadAhead, TextStream, find_units
from llmkit.tokenizer import encode_texts, end_of_document_id, tokenizer_hash

if TYPE_CHECKING:
    from llmkit.data.pretraining import HeldOut

BLOCK = 1 << 20
"""Tokens. Rows are shuffled within such a stretch of the stream."""
KEPT_BLOCKS = 2
PIECES_AHEAD = 8
"""About another block, read and tokenized before it is asked for."""
LOOK = 1 << 25
"""Characters at the beginning of the stream whose held-out documents are the validation."""
HELD_OUT_SHARE = 0.01
BOOKMARKS = "stream.jsonl"


class StreamedText:
    """Files, python-docs or a hub data set as training rows without an end.

    Of all documents HELD_OUT_SHARE, chosen by their content as `data prepare` does, is never trained on.
    `commit` is that of a hub data set to be read; None for the newest.

    Raises:
        UsageError: The source is stdin.
        DataError: There is no such source, or its beginning cannot be read.
    """

    def __init__(
        self,
        source: str,
        tokenizer: PreTrainedTokenizerFast,
        *,
        text_column: str | None = None,
        document_mask: bool = False,
        commit: str | None = None,
    ) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.text_column = text_column
        self.start_id = end_of_document_id(tokenizer) if document_mask else None
        self.units = find_units(source, commit)
        self.commit = self.units[0].commit
        content = [
            tokenizer_hash(tokenizer),
            [unit.identity for unit in self.units],
            text_column,
            HELD_OUT_SHARE,
            BLOCK,
        ]
        # Of names, and sizes or a commit: the text itself cannot be read beforehand.
        self.content_hash = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @functools.cached_property
    def held_out(self) -> tuple[float, list[str]]:
        """The bound below which a document's place is held out, and the held-out texts of the first LOOK characters.

        Where there is none among them, the document with the lowest place is held out.
        """
        look = TextStream(self.units, self.tokenizer, text_column=self.text_column, bound=0.0, tells_columns=True)
        texts: list[str] = []
        lowest, highest, size = (1.0, ""), 0.0, 0
        for text, _ in look.one_pass(Bookmark()):
            place = place_of(text.encode())
            if place < HELD_OUT_SHARE:
                texts.append(text)
            lowest, highest, size = min(lowest, (place, text)), max(highest, place), size + len(text)
            if size >= LOOK:
                break
        if texts or lowest[0] == highest:
            return HELD_OUT_SHARE, texts
        return math.nextafter(lowest[0], 1.0), [lowest[1]]

    def rows(self, seq_len: int, *, folder: Path | None = None) -> StreamRows:
        """Rows without an end. `folder` is that of the run: bookmarks in it spare tokenizing when it is resumed."""
        stream = TextStream(self.units, self.tokenizer, text_column=self.text_column, bound=self.held_out[0])
        bookmarks = Bookmarks(self.content_hash)
        if folder is not None:
            bookmarks.keep_in(folder / BOOKMARKS)
        return StreamRows(stream, bookmarks, seq_len, start_id=self.start_id)

    def validation(self, max_tokens: int) -> HeldOut | None:
        """The held-out documents of the stream's beginning."""
        texts = self.held_out[1]
        if not texts:
            warn(f"nothing is held out for validation: there is one document only in {self.source}")
            return None
        end = end_of_document_id(self.tokenizer)
        encoded = [np.array([*ids, end]) for ids in encode_texts(self.tokenizer, texts)]
        ends = 1 + np.cumsum([len(ids) for ids in encoded])
        count = max(1, int(np.searchsorted(ends, max_tokens, side="right")))
        return np.concatenate([np.array([end]), *encoded[:count]]), sum(len(text.encode()) for text in texts[:count])

    def validation_parts(self, max_tokens: int) -> dict[str, HeldOut]:
        """It is one source."""
        return {}

    def describe(self, seq_len: int) -> list[str]:
        """What there is, and what of it is known beforehand."""
        sizes = [unit.size for unit in self.units if unit.size is not None]
        what = f"files, {sum(sizes) / 1e6:,.1f} MB" if sizes else "shards"
        known = "it is told from other text by names and sizes, not by content"
        if self.commit is not None:
            known = f"commit {self.commit}, and a run that goes on reads the same"
        return [f"a stream, tokenized while training: {self.source} ({len(self.units):,} {what}); {known}"]


class StreamRows:
    """Rows of a stream of tokens, shuffled within blocks: row p is in block p // rows_per_block.

    Block n is tokens n * size to (n + 1) * size of the stream, the last one included: neighbours share one token, as
    rows do. Rows are asked for about in order, and the next block is read and tokenized meanwhile, in a thread. To go
    back, or far ahead, begins anew at a bookmark.
    """

    lengths: Sequence[int] | None = None
    is_stream: bool = True

    def __init__(self, stream: TextStream, bookmarks: Bookmarks, seq_len: int, *, start_id: int | None = None) -> None:
        self.stream = stream
        self.bookmarks = bookmarks
        self.seq_len = seq_len
        self.start_id = start_id
        self.rows_per_block = max(1, BLOCK // seq_len)
        self.block_size = self.rows_per_block * seq_len
        self.blocks: dict[int, NDArray[Any]] = {}
        self.pieces: ReadAhead[tuple[NDArray[Any], Bookmark]] | None = None
        self.position = 0
        self.rest = np.empty(0, dtype=stream.dtype)
        self.lock = Lock()

    def __len__(self) -> int:
        return 0

    def batch(self, indices: Sequence[int]) -> Batch:
        """Cut the rows with these indices."""
        rows = [self.row(int(index)) for index in indices]
        return token_batch(torch.from_numpy(np.stack(rows).astype(np.int64)), self.start_id)

    def row(self, index: int) -> NDArray[Any]:
        """(seq_len + 1,) ids."""
        number, place = divmod(index, self.rows_per_block)
        start = int(order_in_block(number, self.rows_per_block)[place]) * self.seq_len
        return self.block(number)[start : start + self.seq_len + 1]

    def block(self, number: int) -> NDArray[Any]:
        """A block, from those at hand or from the stream."""
        with self.lock:
            if number not in self.blocks:
                self.blocks[number] = self.read_block(number * self.block_size)
                for other in sorted(self.blocks, key=lambda n: abs(n - number))[KEPT_BLOCKS:]:
                    del self.blocks[other]
            return self.blocks[number]

    def read_block(self, start: int) -> NDArray[Any]:
        """The block that begins at `start`: `rest` are the tokens at hand, from `position` on."""
        # The token before a bookmark always ends a document, so it is known without reading.
        mark = self.bookmarks.before(start + 1)
        if self.pieces is None or start < self.position or mark.position > self.position + len(self.rest):
            self.begin(mark)
        self.drop_before(start)
        while self.position + len(self.rest) <= start + self.block_size:
            self.add_piece()
            self.drop_before(start)
        self.position, block = start + self.block_size, self.rest[: self.block_size + 1]
        self.rest = self.rest[self.block_size :]
        return block

    def begin(self, mark: Bookmark) -> None:
        """Go on at a bookmark."""
        if self.pieces is not None:
            self.pieces.close()
        self.position, self.rest = mark.position - 1, np.array([self.stream.end], dtype=self.stream.dtype)
        self.pieces = ReadAhead(self.stream.pieces(mark), PIECES_AHEAD)
        weakref.finalize(self, self.pieces.close)

    def drop_before(self, start: int) -> None:
        """Let tokens of `rest` go that come before `start`."""
        skipped = min(max(start - self.position, 0), len(self.rest))
        self.position, self.rest = self.position + skipped, self.rest[skipped:]

    def add_piece(self) -> None:
        """Append the next piece of the stream to `rest`."""
        assert self.pieces is not None
        try:
            ids, behind = self.pieces.take()
        except BaseException:
            self.pieces = None  # what has failed cannot go on: the next call begins anew
            raise
        self.rest = np.concatenate([self.rest, ids])
        self.bookmarks.add(behind)


@functools.lru_cache(maxsize=KEPT_BLOCKS)
def order_in_block(number: int, num_rows: int) -> NDArray[np.int64]:
    """The order of the rows of a block: a pure function of its number, whatever the seed of the run."""
    return np.random.Generator(np.random.Philox(key=number)).permutation(num_rows)
