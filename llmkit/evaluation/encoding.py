"""Text as ids, split into context and continuation where lm-evaluation-harness splits it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmkit.errors import DataError
from llmkit.evaluation.prompts import Pair
from llmkit.evaluation.tree import Request
from llmkit.tokenizer import encode_texts, end_of_document_id


@dataclass(frozen=True)
class Encoded:
    """Requests, and what had to be done to some of them."""

    requests: list[Request]
    num_cut: int
    """Contexts that were longer than the model takes, cut from the left."""
    num_apart: int
    """Continuations that merged into the context's last token and were encoded for themselves."""


def encode_pairs(tokenizer: Any, pairs: Sequence[Pair], max_length: int | None) -> Encoded:
    """Pairs as ids: both are encoded together, and cut where the context alone would end.

    Spaces at a context's end go to the continuation, for tokenizers join them to the word that follows. An empty
    context becomes the end-of-document token. A continuation that merges wholly into the context's last token is
    encoded for itself and counted.

    Args:
        tokenizer: Text never becomes a control token.
        pairs: Context and continuation.
        max_length: Longest sequence of the model, None for any.

    Raises:
        DataError: A continuation is empty, or longer than the model takes.
    """
    split = [split_spaces(pair) for pair in pairs]
    contexts = dict.fromkeys(pair.context for pair in split)
    before = dict(zip(contexts, encode_texts(tokenizer, contexts), strict=True))
    wholes = encode_texts(tokenizer, [pair.context + pair.continuation for pair in split])
    alone = encode_alone(tokenizer, split, before, wholes)
    start = beginning_ids(tokenizer)
    requests, num_cut = [], 0
    for index, pair in enumerate(split):
        context = [*start, *before[pair.context]] or [end_of_document_id(tokenizer)]
        continuation = alone.get(index) or wholes[index][len(before[pair.context]) :]
        check_continuation(pair, continuation, max_length)
        room = len(context) if max_length is None else max_length + 1 - len(continuation)
        num_cut += room < len(context)
        requests.append(Request(tuple(context[-room:]), tuple(continuation)))
    return Encoded(requests, num_cut, len(alone))


def split_spaces(pair: Pair) -> Pair:
    """The pair with the spaces at the context's end moved to the continuation."""
    context = pair.context.rstrip()
    return Pair(context, pair.context[len(context) :] + pair.continuation, pair.where)


def encode_alone(
    tokenizer: Any, pairs: Sequence[Pair], before: Mapping[str, list[int]], wholes: Sequence[list[int]]
) -> dict[int, list[int]]:
    """Number of a pair -> ids of its continuation by itself, where nothing is left of it after the context's ids."""
    merged = [index for index, pair in enumerate(pairs) if len(wholes[index]) <= len(before[pair.context])]
    return dict(zip(merged, encode_texts(tokenizer, [pairs[index].continuation for index in merged]), strict=True))


def check_continuation(pair: Pair, ids: Sequence[int], max_length: int | None) -> None:
    """Raise for a continuation that has nothing to score, or that does not fit."""
    if not ids:
        raise DataError(
            "a choice is empty: there is nothing to score", where=pair.where, fix="give every choice a text"
        )
    if max_length is not None and len(ids) > max_length:
        message = f"an answer has {len(ids)} tokens, and the model takes {max_length}"
        raise DataError(message, where=pair.where, fix="shorten it, or take a model with a longer context")


def beginning_ids(tokenizer: Any) -> list[int]:
    """What this tokenizer itself puts before any text: its BOS token, or nothing."""
    ids = tokenizer("").input_ids
    return list(ids) if ids and ids == [tokenizer.bos_token_id] else []
