"""Text as ids, split into context and continuation where lm-evaluation-harness splits it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from llmkit.errors import DataError
from llmkit.evaluation.prompts import Chat, Pair
from llmkit.evaluation.tree import Request
from llmkit.tokenizer import encode_texts, end_of_document_id

PART = 1 << 22
"""Characters that are encoded at once: encodings take some 25 times the memory."""


@dataclass(frozen=True)
class Encoded:
    """Requests, and what had to be done to some of them."""

    requests: list[Request]
    cut: list[int]
    """Numbers of those whose context was longer than the model takes: it was cut from the left."""
    num_apart: int
    """Continuations that merged into the context's last token and were encoded for themselves."""


def encode_pairs(tokenizer: Any, pairs: Sequence[Pair], max_length: int | None, chat: Chat | None = None) -> Encoded:
    """Pairs as ids: both are encoded together, and cut where the context alone would end.

    Spaces at a context's end go to the continuation, for tokenizers join them to the word that follows. An empty
    context becomes the token that begins a text. A continuation that merges wholly into the context's last token is
    encoded for itself and counted.

    Args:
        tokenizer: Text never becomes a control token.
        pairs: Context and continuation.
        max_length: Longest sequence of the model, None for any.
        chat: For contexts that it rendered.

    Raises:
        DataError: A continuation is empty, or longer than the model takes.
    """
    split = [split_spaces(pair) for pair in pairs]
    encode = chat.encode if chat else partial(encode_texts, tokenizer)
    before = encode_distinct(encode, [pair.context for pair in split])
    wholes = encode_distinct(encode, [pair.context + pair.continuation for pair in split])
    merged = [pair.continuation for pair in split if is_merged(pair, before, wholes)]
    alone = encode_distinct(partial(encode_texts, tokenizer), merged)
    start = [] if chat else beginning_ids(tokenizer)
    # Choices share the context's ids: one tuple for all saves most of the memory.
    contexts = {text: (*start, *ids) or (first_id(tokenizer),) for text, ids in before.items()}
    requests: list[Request] = []
    cut = []
    for pair in split:
        context = contexts[pair.context]
        whole = wholes[pair.context + pair.continuation]
        ids = alone[pair.continuation] if is_merged(pair, before, wholes) else whole[len(before[pair.context]) :]
        check_continuation(pair, ids, max_length)
        if max_length is not None and len(context) + len(ids) > max_length + 1:
            cut.append(len(requests))
            context = context[-(max_length + 1 - len(ids)) :]
        requests.append(Request(context, tuple(ids)))
    return Encoded(requests, cut, len(merged))


def encode_distinct(encode: Callable[[list[str]], list[list[int]]], texts: Iterable[str]) -> dict[str, list[int]]:
    """Text -> ids, each text encoded once, some MB at a time."""
    found: dict[str, list[int]] = {}
    part: list[str] = []
    size = 0
    for text in dict.fromkeys(texts):
        part.append(text)
        size += len(text)
        if size > PART:
            found.update(zip(part, encode(part), strict=True))
            part, size = [], 0
    return found | dict(zip(part, encode(part), strict=True))


def is_merged(pair: Pair, before: Mapping[str, list[int]], wholes: Mapping[str, list[int]]) -> bool:
    """Whether nothing is left of the continuation after as many ids as the context has by itself."""
    return len(wholes[pair.context + pair.continuation]) <= len(before[pair.context])


def split_spaces(pair: Pair) -> Pair:
    """The pair with the spaces at the context's end moved to the continuation."""
    context = pair.context.rstrip()
    return Pair(context, pair.context[len(context) :] + pair.continuation, pair.where)


def check_continuation(pair: Pair, ids: Sequence[int], max_length: int | None) -> None:
    """Raise for a continuation that has nothing to score, or that does not fit."""
    if not ids:
        raise DataError(
            "a choice is empty: there is nothing to score", where=pair.where, fix="give every choice a text"
        )
    if max_length is not None and len(ids) > max_length:
        message = f"an answer has {len(ids)} tokens, and the model takes {max_length}"
        raise DataError(message, where=pair.where, fix="shorten it, or take a model with a longer context")


def check_choices(tokenizer: Any, pairs: Iterable[Pair]) -> None:
    """Raise for the first continuation that no id stands for, before anything has been scored.

    Raises:
        DataError: It names the row.
    """
    firsts: dict[str, Pair] = {}
    for pair in pairs:
        firsts.setdefault(pair.continuation, pair)
    for text, ids in encode_distinct(partial(encode_texts, tokenizer), firsts).items():
        check_continuation(firsts[text], ids, None)


def beginning_ids(tokenizer: Any) -> list[int]:
    """What this tokenizer itself puts before any text: its BOS token, or nothing."""
    ids = tokenizer("").input_ids
    return list(ids) if ids and ids == [tokenizer.bos_token_id] else []


def first_id(tokenizer: Any) -> int:
    """What stands before a text that nothing precedes: the BOS token if there is one (as lm-evaluation-harness)."""
    return end_of_document_id(tokenizer) if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)
