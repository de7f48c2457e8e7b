"""Text from a causal language model: many prompts at once, or one as a stream."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from llmkit.generation.decode import DecodingRow, FinishReason, Memory, decode, new_row
from llmkit.generation.sampling import SamplingConfig
from llmkit.generation.text import RowText

BATCH_ROWS = 32
"""Prompts side by side unless told otherwise: most of the gain of batching, little memory."""

BATCH_TOKENS = 32_768
"""At most this many positions side by side, prompts and new tokens, so that long prompts do not fill the memory."""


@dataclass(frozen=True)
class Completion:
    """What a model made of one prompt: ids without the stop id, why it ended, the text where a tokenizer was given."""

    ids: list[int]
    finish_reason: FinishReason
    text: str = ""

    @property
    def num_tokens(self) -> int:
        """Tokens made, the stop id apart."""
        return len(self.ids)


def generate_ids(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: SamplingConfig,
    max_new_tokens: int | None,
    stop_ids: Collection[int] = (),
    seed: int = 0,
    first_row: int = 0,
    tokenizer: Any = None,
    stop_strings: Sequence[str] = (),
    batch_rows: int = BATCH_ROWS,
) -> list[Completion]:
    """Continue every prompt, in batches of like length; how they are batched does not change what is drawn.

    Args:
        model: A causal language model of transformers, or a PEFT model. Its training mode is put back afterwards.
        prompts: Ids, at least one each.
        sampling: How the next token is drawn.
        max_new_tokens: At most this many per prompt; None for as many as the model has positions for.
        stop_ids: A row ends before any of these.
        seed: The random numbers of a row are a function of (seed, first_row + its place in `prompts`).
        first_row: See seed; for prompts that come in several calls.
        tokenizer: Decodes the texts of the completions; needed for stop strings.
        stop_strings: A row ends before any of these in its text.
        batch_rows: At most this many prompts side by side.

    Raises:
        UsageError: A prompt is empty, or longer than the model takes.
    """
    rows = [
        new_row(model, prompt, max_new_tokens=max_new_tokens, seed=seed, row=first_row + index)
        for index, prompt in enumerate(prompts)
    ]
    texts: dict[int, RowText] = {}
    if tokenizer is not None:
        texts = {id(row): RowText(tokenizer, row.prompt, stop_strings=stop_strings) for row in rows}
    for batch in split_batches(rows, batch_rows):
        for row in decode(model, batch, sampling=sampling, stop_ids=stop_ids):
            if texts:
                follow(row, texts[id(row)])
    for text in texts.values():
        text.finish()
    return [Completion(r.ids, r.finish_reason or "interrupted", texts[id(r)].text if texts else "") for r in rows]


def split_batches(rows: Sequence[DecodingRow], batch_rows: int) -> Iterator[list[DecodingRow]]:
    """The rows in batches of like length, the longest first: what does not fit in memory shows at once."""
    batch: list[DecodingRow] = []
    width = 0.0
    for row in sorted(rows, key=lambda row: -len(row.prompt)):
        width = max(width, len(row.prompt) + min(row.max_new_tokens, 1024))
        if batch and (len(batch) >= batch_rows or (len(batch) + 1) * width > BATCH_TOKENS):
            yield batch
            batch, width = [], len(row.prompt) + min(row.max_new_tokens, 1024)
        batch.append(row)
    if batch:
        yield batch


def follow(row: DecodingRow, text: RowText) -> str:
    """The new text of `row` after its newest id; ends the row at a stop string."""
    piece = text.push(row.ids[-1])
    if text.is_stopped:
        row.finish_reason = "stop"
    return piece


class CompletionStream:
    """The text of one completion, piece by piece as it is made; `completion` tells the whole, at any time."""

    def __init__(self, row: DecodingRow, text: RowText, rows: Generator[DecodingRow]) -> None:
        self.row = row
        self.text = text
        self.rows = rows

    def __iter__(self) -> Iterator[str]:
        for row in self.rows:
            if piece := follow(row, self.text):
                yield piece
        if piece := self.finish():
            yield piece

    def stop(self) -> str:
        """Make no more; gives out what was held back. The stream's finish_reason is "interrupted"."""
        self.rows.close()
        return self.finish()

    def finish(self) -> str:
        """The rest of the text that was held back, when no more will come."""
        piece = self.text.finish()
        if self.text.is_stopped:
            self.row.finish_reason = "stop"
        return piece

    @property
    def completion(self) -> Completion:
        """What was made so far."""
        return Completion(self.row.ids, self.row.finish_reason or "interrupted", self.text.text)


def stream(
    model: Any,
    tokenizer: Any,
    prompt: Sequence[int],
    *,
    sampling: SamplingConfig,
    max_new_tokens: int | None,
    stop_ids: Collection[int] = (),
    stop_strings: Sequence[str] = (),
    seed: int = 0,
    row: int = 0,
    memory: Memory | None = None,
) -> CompletionStream:
    """Continue one prompt and hand out its text as it comes; no piece ever holds a part of a character.

    The arguments are those of generate_ids; `row` is its first_row, and `memory` keeps the cache for the next stream.

    >>> answer = stream(model, tokenizer, prompt, sampling=SamplingConfig(), max_new_tokens=64, stop_ids=stop_ids)
    >>> for piece in answer:
    ...     console.write(piece, end="")
    >>> answer.completion.finish_reason
    'stop'

    Raises:
        UsageError: The prompt is empty, or longer than the model takes.
    """
    decoding = new_row(model, prompt, max_new_tokens=max_new_tokens, seed=seed, row=row)
    text = RowText(tokenizer, decoding.prompt, stop_strings=stop_strings)
    return CompletionStream(
        decoding, text, decode(model, [decoding], sampling=sampling, stop_ids=stop_ids, memory=memory)
    )
