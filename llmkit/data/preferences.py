"""Pairs of answers to rows: the same prompt twice, once with the answer that is preferred, once with the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from llmkit.batch import Batch
from llmkit.console import Progress
from llmkit.data.dialogue import (
    IdsAndTargets,
    Row,
    encode_renderings,
    hash_rows,
    lay_end_to_end,
    pad,
    until_last_target,
)
from llmkit.data.dialogue_set import TOO_LONG, Account, Overlong, raise_nothing_left
from llmkit.data.preference_forms import Preference
from llmkit.data.rendering import RenderError, Rendering, renderer_of
from llmkit.errors import DataError

NOTHING_LEFT = "nothing of an answer is left when cut to max_length"


class Pair(NamedTuple):
    """The two rows of a pair."""

    chosen: Row
    rejected: Row

    @property
    def whole(self) -> Row:
        """Both, one after the other, for the account."""
        ids, targets = (np.concatenate(part) for part in zip(*((r.input_ids, r.targets) for r in self), strict=True))
        return Row(ids, targets, self.chosen.num_bytes, self.chosen.num_tokens + self.rejected.num_tokens)


def encode_pairs(
    preferences: Sequence[Preference], tokenizer: object, *, name: str, max_length: int, overlong: Overlong
) -> tuple[list[Pair], Account]:
    """All pairs of a set, and what became of each; lengths are those of both rows together.

    Raises:
        DataError: No pair can be used, or a row is too long and that is an error.
    """
    account = Account(name, num_read=len(preferences))
    account.num_duplicates = len(preferences) - len({p.content for p in preferences})
    kept: list[Preference] = []
    pairs: list[Pair] = []
    limit = max_length if overlong == "cut-right" else None
    with Progress(f"encoding {name}", total=len(preferences), unit="pairs") as progress:
        rows = encode_renderings(render_pairs(preferences, tokenizer, account, kept), tokenizer, max_length=limit)
        for number, pair in enumerate(map(Pair._make, zip(rows, rows, strict=True))):
            progress.update()
            if (reason := fate_of(pair, kept[number], max_length, overlong)) is not None:
                account.drop(reason, kept[number].where)
            else:
                account.use(pair.whole)
                pairs.append(pair)
    if not pairs:
        raise_nothing_left(account)
    return pairs, account


def render_pairs(
    preferences: Iterable[Preference], tokenizer: object, account: Account, kept: list[Preference]
) -> Iterator[Rendering]:
    """Two renderings for each pair that can be used, which is put into `kept`; the others are counted."""
    renderer = renderer_of(tokenizer)
    for preference in preferences:
        if (fault := preference.fault) is not None:
            account.drop(fault, preference.where)
            continue
        # What comes before the two answers is not judged.
        prompt = [message._replace(is_trained=False) for message in preference.prompt]
        answers = ([*prompt, *answer] for answer in (preference.chosen, preference.rejected))
        try:
            both = [renderer.render(messages, tools=preference.tools) for messages in answers]
        except RenderError as error:
            account.drop(error.message, preference.where)
            continue
        kept.append(preference)
        yield from both


def fate_of(pair: Pair, preference: Preference, max_length: int, overlong: Overlong) -> str | None:
    """Why a pair is dropped, or None when it is used."""
    longest = max(pair.chosen.num_tokens, pair.rejected.num_tokens)
    if longest > max_length and overlong == "error":
        raise DataError(
            f"a row of this pair has {longest:,} tokens, data.max_length is {max_length:,}",
            where=preference.where,
            fix="raise data.max_length, or set data.overlong to drop or cut-right",
        )
    if longest > max_length and overlong != "cut-right":
        return TOO_LONG
    return None if pair.chosen.num_targets and pair.rejected.num_targets else NOTHING_LEFT


class PairRows:
    """Pairs, stacked by index: two documents each, first the preferred one.

    `reference`, where it is set, holds the log-likelihoods (N, 2) of all answers under the model as it was.
    """

    unit = "pairs"

    def __init__(self, pairs: Sequence[Pair], *, is_flat: bool = False) -> None:
        self.documents: list[IdsAndTargets] = [until_last_target(row) for pair in pairs for row in pair]
        self.num_targets = [sum(row.num_targets for row in pair) for pair in pairs]
        self.is_stream = False
        self.is_flat = is_flat
        sizes = [len(ids) for ids, _ in self.documents]
        # Padded, both rows of a pair are as long as the longer one.
        join = sum if is_flat else double_max
        self.lengths: Sequence[int] | None = [join(sizes[i : i + 2]) for i in range(0, len(sizes), 2)]
        self.reference: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.documents) // 2

    @property
    def content_hash(self) -> str:
        """SHA-256 over all ids and targets, in their order."""
        return hash_rows(self.documents)

    def batch(self, indices: Sequence[int]) -> Batch:
        """The pairs with these indices.

        `answers` (B, T) is what each position predicts in an answer, `documents` (B, T) which row it belongs to; there
        is one of the `targets` (P,) to a pair, so that the loss is normalised by pairs.
        """
        rows = [self.documents[2 * i + side] for i in indices for side in (0, 1)]
        batch = lay_end_to_end(rows) if self.is_flat else pad(rows)
        batch["answers"] = batch["targets"]
        numbers = torch.arange(len(rows))
        if self.is_flat:
            batch["documents"] = numbers.repeat_interleave(torch.tensor([len(ids) for ids, _ in rows]))[None]
        else:
            batch["documents"] = numbers[:, None].expand_as(batch["answers"]).contiguous()
        batch["targets"] = torch.zeros(len(indices), dtype=torch.int64)
        if self.reference is not None:
            batch["reference"] = self.reference[torch.tensor(list(indices))]
        return batch


def double_max(sizes: Sequence[int]) -> int:
    """Positions that a padded pair takes."""
    return 2 * max(sizes)
