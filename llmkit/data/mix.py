"""Several prepared folders as one set of rows, mixed by weight while training: nothing is written anew."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from llmkit.batch import Batch, Rows
from llmkit.errors import DataError

if TYPE_CHECKING:
    from llmkit.data.pretraining import HeldOut, PreparedTokens

LONGEST_EPOCH = 1 << 28
"""Rows. The order of an epoch takes eight bytes a row."""


class MixedTokens:
    """Prepared folders of one tokenizer, and the share of the rows that each one gives.

    Raises:
        DataError: Two folders were prepared with different tokenizers.
    """

    commit: str | None = None

    def __init__(self, parts: Mapping[str, PreparedTokens], weights: Mapping[str, float]) -> None:
        check_one_tokenizer(parts)
        total = sum(weights.values())
        self.parts = dict(parts)
        self.shares = {name: weights[name] / total for name in parts}
        self.tokenizer = next(iter(parts.values())).tokenizer
        content = [[part.content_hash, self.shares[name]] for name, part in parts.items()]
        self.content_hash = hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def rows(self, seq_len: int, *, folder: Path | None = None) -> MixRows:
        """Rows of the training splits, mixed."""
        return MixRows({name: part.rows(seq_len) for name, part in self.parts.items()}, self.shares)

    def validation_parts(self, max_tokens: int) -> dict[str, HeldOut]:
        """Of each folder that holds something out: its first held-out documents, as many as its share allows."""
        held = [name for name, part in self.parts.items() if part.prepared.has_split("validation")]
        total = sum(self.shares[name] for name in held)
        limits = {name: int(max_tokens * self.shares[name] / total) for name in held}
        found = {name: self.parts[name].validation(limit) for name, limit in limits.items()}
        return {name: part for name, part in found.items() if part is not None}

    def validation(self, max_tokens: int) -> HeldOut | None:
        """The held-out documents of all folders, one after the other."""
        parts = list(self.validation_parts(max_tokens).values())
        if not parts:
            return None
        # Each begins with the end-of-document token that the one before it ends with.
        streams = [parts[0][0], *(stream[1:] for stream, _ in parts[1:])]
        return np.concatenate(streams), sum(num_bytes for _, num_bytes in parts)

    def describe(self, seq_len: int) -> list[str]:
        """For each folder: its share of the rows, and how often an epoch sees it."""
        rows = self.rows(seq_len)
        found = []
        for name, count in rows.counts.items():
            own = len(rows.sources[name])
            found.append(f"{name}: {count / len(rows):.1%} of the rows; its {own:,} are seen {count / own:.2f} times")
        return [f"a mix of {len(found)}, an epoch has {len(rows):,} rows", *found]


class MixRows:
    """Rows of several sources as one long epoch, in which each has its share: the small ones repeat.

    The epoch is the shortest that sees every source whole. Its rows are laid out source by source, and row i of a
    source's stretch is row i modulo its length.

    >>> mixed = MixRows({"a": four_rows, "b": two_rows}, {"a": 0.5, "b": 0.5})  # doctest: +SKIP
    >>> mixed.counts  # doctest: +SKIP
    {'a': 4, 'b': 4}

    Raises:
        DataError: The weights are so far apart that an epoch would have more than LONGEST_EPOCH rows.
    """

    lengths: Sequence[int] | None = None
    is_stream: bool = False

    def __init__(self, sources: Mapping[str, Rows], shares: Mapping[str, float]) -> None:
        self.sources = dict(sources)
        longest, name = max((len(rows) / shares[name], name) for name, rows in sources.items())
        if longest > LONGEST_EPOCH:
            message = f"with this weight of {name} an epoch that sees all of it has {longest:,.0f} rows"
            raise DataError(message, where="data.mix", fix=f"give {name} more weight, or leave it out")
        self.counts = {name: round(shares[name] * longest) for name in sources}
        self.starts = np.cumsum([0, *self.counts.values()])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def batch(self, indices: Sequence[int]) -> Batch:
        """Stack the rows with these indices: each source gives its own in one batch."""
        positions = np.asarray(indices, dtype=np.int64)
        owners = np.searchsorted(self.starts, positions, side="right") - 1
        stacked: Batch = {}
        for owner, source in enumerate(self.sources.values()):
            places = np.flatnonzero(owners == owner)
            if len(places):
                rows = (positions[places] - self.starts[owner]) % len(source)
                put_rows(stacked, source.batch(rows.tolist()), places, total=len(positions))
        return stacked


def put_rows(stacked: Batch, part: Batch, places: NDArray[np.int64], *, total: int) -> None:
    """Write the rows of `part` to these places of a batch of `total` rows."""
    for name, tensor in part.items():
        if name not in stacked:
            stacked[name] = tensor.new_empty((total, *tensor.shape[1:]))
        stacked[name][places] = tensor


def check_one_tokenizer(parts: Mapping[str, PreparedTokens]) -> None:
    """Raise DataError that names the folder whose tokenizer is not that of the others."""
    hashes = {name: part.prepared.manifest["tokenizer"]["sha256"] for name, part in parts.items()}
    usual = Counter(hashes.values()).most_common(1)[0][0]
    same = next(name for name, value in hashes.items() if value == usual)
    for name, value in hashes.items():
        if value != usual:
            message = f"this was prepared with another tokenizer than {same}"
            raise DataError(message, where=name, fix="prepare all folders of a mix with one tokenizer")
