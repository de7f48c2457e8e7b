"""Pairs of answers to rows: the same prompt twice, once with the answer that is preferred, once with the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch

from llmkit.batch import Batch
from llmkit.data.dialogue import IdsAndTargets, Row, hash_rows, lay_end_to_end, pad, until_last_target
from llmkit.data.dialogue_set import Account, Overlong, encode_groups, open_account, raise_nothing_left
from llmkit.data.preference_forms import Preference


class Pair(NamedTuple):
    """The two rows of a pair."""

    chosen: Row
    rejected: Row


def encode_pairs(
    preferences: Sequence[Preference], tokenizer: object, *, name: str, max_length: int, overlong: Overlong
) -> tuple[list[Pair], Account]:
    """All pairs of a set, and what became of each; lengths are those of both rows together.

    Raises:
        DataError: No pair can be used, or a row is too long and that is an error.
    """
    account = open_account(name, preferences)
    usable = []
    for preference in preferences:
        if preference.fault is None:
            usable.append(preference.dialogues)
        else:
            account.drop(preference.fault, preference.where)
    encoded = encode_groups(usable, tokenizer, account, max_length=max_length, overlong=overlong)
    pairs = [Pair(*rows) for _, rows in encoded]
    if not pairs:
        raise_nothing_left(account)
    return pairs, account


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
