"""A set of dialogues as rows, with an account of every one of them: used, cut, or dropped and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Literal

import numpy as np

from llmkit.console import Progress, format_table, say, warn
from llmkit.data.dialogue import Row, encode_renderings
from llmkit.data.messages import Dialogue, Message, content_of
from llmkit.data.overlong import cut_left
from llmkit.data.rendering import Renderer, RenderError, Rendering, renderer_of
from llmkit.errors import DataError

Overlong = Literal["error", "drop", "cut-left", "cut-right"]

NO_ANSWER = "no answer to learn"
EMPTY_ANSWER = "an empty answer"
TOO_LONG = "longer than max_length"
CUT_TO_NOTHING = "nothing of the answer is left when cut to max_length"
HELD_OUT = "also in the validation data"

FEW_CHARACTERS = 3
"""An answer of fewer characters is nearly empty: a letter, a number, a sign."""


@dataclass
class Account:
    """What became of each row that was read: read = used + dropped; cut rows are used ones.

    Rows that a mix repeats count once here; `per_epoch` says how many rows an epoch has of each source.
    """

    name: str
    num_read: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    first_dropped: dict[str, str] = field(default_factory=dict)
    num_cut: int = 0
    num_cut_tokens: int = 0
    num_duplicates: int = 0
    num_control_like: int = 0
    num_near_empty: int = 0
    num_same_questions: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    num_trained: int = 0
    per_epoch: dict[str, list[int]] = field(default_factory=dict)

    def drop(self, reason: str, where: str) -> None:
        """Count a row that is not used."""
        self.dropped[reason] += 1
        self.first_dropped.setdefault(reason, where)

    def add_held_out(self, dialogues: Sequence[Dialogue]) -> None:
        """Count rows that were read but left out, since the validation data has them too."""
        self.num_read += len(dialogues)
        for dialogue in dialogues:
            self.drop(HELD_OUT, dialogue.where)

    def use_from(self, dialogue: Dialogue, row: Row) -> None:
        """Count a row that is used, and how often its source is seen."""
        self.use(row)
        rows, _ = self.per_epoch.get(dialogue.source, (0, 1))
        self.per_epoch[dialogue.source] = [rows + 1, dialogue.times]
        self.num_near_empty += any(is_near_empty(message) for message in dialogue.messages)

    def use(self, row: Row) -> None:
        """Count a row that is used."""
        self.lengths.append(len(row.input_ids))
        self.num_trained += row.num_targets
        self.num_cut += row.is_cut
        self.num_cut_tokens += row.num_tokens - len(row.input_ids)

    def to_json(self) -> dict[str, Any]:
        """The account as it stands in data-report.json."""
        total = sum(self.lengths)
        return {
            "read": self.num_read,
            "used": len(self.lengths),
            "dropped": {r: {"rows": n, "first": self.first_dropped[r]} for r, n in self.dropped.items()},
            "cut": {"rows": self.num_cut, "tokens": self.num_cut_tokens},
            "duplicates": self.num_duplicates,
            "rows_with_near_empty_answers": self.num_near_empty,
            "rows_that_ask_what_training_asks": self.num_same_questions,
            "rows_with_text_like_control_tokens": self.num_control_like,
            "tokens": total,
            "trained_tokens": self.num_trained,
            "trained_share": round(self.num_trained / total, 4) if total else 0.0,
            "length": {name: self.percentile(q) for name, q in (("p50", 50), ("p90", 90), ("p99", 99), ("max", 100))},
            "sources": self.sources(),
            "notes": dict(self.notes),
        }

    def sources(self) -> dict[str, dict[str, Any]]:
        """Of each source: its rows, how often an epoch shows them, and their share of the rows of an epoch."""
        total = sum(rows * times for rows, times in self.per_epoch.values())
        return {
            source: {"rows": rows, "times": times, "share": round(rows * times / total, 4)}
            for source, (rows, times) in self.per_epoch.items()
        }

    def percentile(self, q: int) -> int:
        """A percentile of the rows' lengths in tokens."""
        return int(np.percentile(self.lengths, q, method="higher")) if self.lengths else 0


def encode_set(
    dialogues: Sequence[Dialogue], tokenizer: Any, *, name: str, max_length: int, overlong: Overlong
) -> tuple[list[Row], Account]:
    """All rows of a set, and what became of each dialogue.

    Args:
        dialogues: The set.
        tokenizer: With a chat template.
        name: What the set is called in its account.
        max_length: Longest row in tokens.
        overlong: What is done with a longer row.

    Raises:
        DataError: No dialogue can be used, or one is too long and that is an error.
        RenderError: The chat template takes none of them.
    """
    account = Account(name, num_read=len(dialogues))
    account.num_duplicates = len(dialogues) - len({dialogue.content for dialogue in dialogues})
    kept: list[Dialogue] = []
    rows: list[Row] = []
    limit = max_length if overlong == "cut-right" else None
    renderer = renderer_of(tokenizer)
    with Progress(f"encoding {name}", total=len(dialogues), unit="rows") as progress:
        renderings = render_all(dialogues, renderer, account, kept)
        for number, row in enumerate(encode_renderings(renderings, tokenizer, max_length=limit)):
            progress.update()
            dialogue = kept[number]
            used = shorten(row, dialogue, renderer, max_length) if overlong == "cut-left" else row
            if (reason := fate_of(used, dialogue, max_length, overlong)) is not None:
                account.drop(reason, dialogue.where)
            else:
                account.use_from(dialogue, used)
                rows += [used] * dialogue.times
    if not rows:
        raise_nothing_left(account)
    return rows, account


def shorten(row: Row, dialogue: Dialogue, renderer: Renderer, max_length: int) -> Row:
    """A longer row cut at its beginning, which still tells how long it was; as it is where that cannot be done."""
    if row.num_tokens <= max_length:
        return row
    shorter = cut_left(dialogue, renderer, max_length)
    return row if shorter is None else shorter._replace(num_tokens=row.num_tokens)


def render_all(
    dialogues: Iterable[Dialogue], renderer: Renderer, account: Account, kept: list[Dialogue]
) -> Iterator[Rendering]:
    """The renderings of those dialogues that can be used, which are put into `kept`; the others are counted."""
    usable = []
    for dialogue in dialogues:
        answers = [message for message in dialogue.messages if message.is_answer]
        if not answers:
            account.drop(NO_ANSWER, dialogue.where)
        elif any(message.is_empty for message in answers):
            account.drop(EMPTY_ANSWER, dialogue.where)
        else:
            usable.append(dialogue)
    renderings = renderer.render_all([(dialogue.messages, dialogue.tools) for dialogue in usable])
    for dialogue, rendering in zip(usable, renderings, strict=True):
        if isinstance(rendering, RenderError):
            account.drop(rendering.message, dialogue.where)
            continue
        account.num_control_like += any(renderer.control.search(m.content) for m in dialogue.messages)
        account.notes.update(rendering.notes)
        kept.append(dialogue)
        yield rendering


def fate_of(row: Row, dialogue: Dialogue, max_length: int, overlong: Overlong) -> str | None:
    """Why a row is dropped, or None when it is used."""
    if row.num_tokens > max_length and overlong == "error":
        raise DataError(
            f"this row has {row.num_tokens:,} tokens, data.max_length is {max_length:,}",
            where=dialogue.where,
            fix="raise data.max_length, or set data.overlong to drop, cut-left or cut-right",
        )
    is_cut = len(row.input_ids) < row.num_tokens
    if row.num_tokens > max_length and not is_cut:
        return TOO_LONG
    return None if row.num_targets else CUT_TO_NOTHING


def is_near_empty(message: Message) -> bool:
    """Whether an answer that is learned says next to nothing."""
    says = message.content.strip()
    return message.is_answer and not message.tool_calls and len(says) < FEW_CHARACTERS


def raise_nothing_left(account: Account) -> None:
    """The error of a set of which no row can be used: the commonest reason, and where it was seen first."""
    if not account.dropped:
        raise DataError("there are no rows", where=account.name, fix="name a file with instructions or dialogues")
    reason, count = account.dropped.most_common(1)[0]
    message = f"no row can be used; {count:,} of {account.num_read:,}: {reason}"
    fixes = {TOO_LONG: "raise data.max_length, or set data.overlong to cut-left or cut-right"}
    raise DataError(
        message,
        where=account.first_dropped[reason],
        fix=fixes.get(reason, "mend the data, or use a model whose chat template takes it"),
    )


def hold_out(dialogues: Sequence[Dialogue], share: float) -> tuple[list[Dialogue], list[Dialogue]]:
    """Split into training and validation rows by a hash of what comes before the first answer.

    Where a row falls depends on itself alone, so it stays there when rows are added; rows that ask the same are never
    on both sides.
    """
    places = [place_of(dialogue) for dialogue in dialogues]
    # A small share of few rows may be none at all: then the row that is nearest to it is held out.
    bound = max(share, min(places)) if share > 0 and len(set(places)) > 1 else share
    train = [d for d, place in zip(dialogues, places, strict=True) if place > bound or share == 0]
    validation = [d for d, place in zip(dialogues, places, strict=True) if place <= bound and share > 0]
    return train, validation


def place_of(dialogue: Dialogue) -> float:
    """A number in [0, 1) that is a pure function of what a dialogue asks."""
    digest = hashlib.blake2b(content_of(dialogue.opening).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def drop_shared(train: Sequence[Dialogue], validation: Sequence[Dialogue]) -> tuple[list[Dialogue], list[Dialogue]]:
    """The training dialogues that are not in the validation data, and those that are."""
    known = {dialogue.content for dialogue in validation}
    is_shared = [dialogue.content in known for dialogue in train]
    return list(compress(train, [not shared for shared in is_shared])), list(compress(train, is_shared))


def tell(accounts: Sequence[Account]) -> None:
    """Say what became of the rows of each set, before the first step."""
    headers = ["rows", "read", "used", "dropped", "cut", "twice", "tokens", "trained", "share", "p50", "p99", "longest"]
    table = []
    for account in accounts:
        values = account.to_json()
        length = values["length"]
        numbers = [
            values["read"],
            values["used"],
            sum(account.dropped.values()),
            values["cut"]["rows"],
            values["duplicates"],
        ]
        sums = [values["tokens"], values["trained_tokens"], f"{values['trained_share']:.0%}"]
        table.append([account.name, *numbers, *sums, length["p50"], length["p99"], length["max"]])
    say(format_table(headers, table))
    for account in accounts:
        tell_findings(account)


def tell_findings(account: Account) -> None:
    """Say what was dropped, cut, or is not as one may think."""
    for reason, count in account.dropped.most_common():
        warn(f"{account.name}: {count:,} rows dropped: {reason} (first {account.first_dropped[reason]})")
    if account.num_cut:
        warn(f"{account.name}: {account.num_cut:,} rows were cut at max_length: {account.num_cut_tokens:,} tokens")
    for note, count in account.notes.items():
        say(f"{account.name}: {count:,} {note}")
    if account.num_near_empty:
        say(f"{account.name}: {account.num_near_empty:,} rows have an answer of 1 or 2 characters")
    if account.num_control_like:
        warn(
            f"{account.name}: {account.num_control_like:,} rows hold text that looks like a control token; "
            "it stays text, and the model learns to write it"
        )
