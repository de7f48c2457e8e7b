"""A set of examples as rows, with an account of every one of them: used, cut, or dropped and why."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import compress, islice
from typing import Any, Literal, Protocol, TypeVar

import numpy as np

from llmkit.console import Progress, format_table, say, warn
from llmkit.data.dialogue import Row, encode_renderings
from llmkit.data.messages import Dialogue, Message
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


class Example(Protocol):
    """A dialogue, a pair of answers, or a text with its label: where it stands, all that it says, what it asks."""

    @property
    def where(self) -> str: ...
    @property
    def content(self) -> str: ...
    @property
    def question(self) -> str: ...


E = TypeVar("E", bound=Example)


@dataclass
class Account:
    """What became of each row that was read: read = used + dropped; cut rows are used ones.

    A pair of answers counts as one row, as long as both together. Rows that a mix repeats count once here; `per_epoch`
    says how many rows an epoch has of each source.
    """

    name: str
    num_read: int = 0
    max_length: int | None = None
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

    def in_words(self, reason: str) -> str:
        """Why rows were dropped, with the length that it speaks of."""
        is_of_length = reason in (TOO_LONG, CUT_TO_NOTHING) and self.max_length is not None
        return f"{reason} ({self.max_length:,} tokens)" if is_of_length else reason

    def add_held_out(self, examples: Sequence[Example]) -> None:
        """Count rows that were read but left out, since the validation data has them too."""
        self.num_read += len(examples)
        for example in examples:
            self.drop(HELD_OUT, example.where)

    def use_from(self, group: Sequence[Dialogue], rows: Sequence[Row]) -> None:
        """Count the rows of a group that is used, and how often its source is seen."""
        self.use(*rows)
        source = group[0].source
        count, _ = self.per_epoch.get(source, (0, 1))
        self.per_epoch[source] = [count + 1, group[0].times]
        self.num_near_empty += any(is_near_empty(message) for dialogue in group for message in dialogue.messages)

    def use(self, *rows: Row) -> None:
        """Count a row that is used, or the two of a pair as one."""
        self.lengths.append(sum(len(row.input_ids) for row in rows))
        self.num_trained += sum(row.num_targets for row in rows)
        self.num_cut += any(row.is_cut for row in rows)
        self.num_cut_tokens += sum(row.num_tokens - len(row.input_ids) for row in rows)

    def to_json(self) -> dict[str, Any]:
        """The account as it stands in data-report.json."""
        total = sum(self.lengths)
        return {
            "read": self.num_read,
            "used": len(self.lengths),
            "max_length": self.max_length,
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


def open_account(name: str, examples: Sequence[Example]) -> Account:
    """The account of a set before anything became of its rows: how many there are, and how many say the same."""
    return Account(name, len(examples), num_duplicates=len(examples) - len({example.content for example in examples}))


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
    account = open_account(name, dialogues)
    groups = [(dialogue,) for dialogue in dialogues]
    rows: list[Row] = []
    for (dialogue,), (row,) in encode_groups(groups, tokenizer, account, max_length=max_length, overlong=overlong):
        rows += [row] * dialogue.times
    if not rows:
        raise_nothing_left(account)
    return rows, account


def encode_groups(
    groups: Sequence[Sequence[Dialogue]], tokenizer: Any, account: Account, *, max_length: int, overlong: Overlong
) -> Iterator[tuple[Sequence[Dialogue], list[Row]]]:
    """The groups that are used, with the rows of their dialogues; one that cannot be used drops its whole group.

    What becomes of each is counted in `account`.

    Raises:
        DataError: A row is too long, and that is an error.
    """
    account.max_length = max_length
    kept: list[Sequence[Dialogue]] = []
    limit = max_length if overlong == "cut-right" else None
    renderer = renderer_of(tokenizer)
    with Progress(f"encoding {account.name}", total=len(groups), unit="rows") as progress:
        encoded = encode_renderings(render_all(groups, renderer, account, kept), tokenizer, max_length=limit)
        for number, first in enumerate(encoded):
            progress.update()
            group = kept[number]
            rows = [first, *islice(encoded, len(group) - 1)]
            if overlong == "cut-left":
                rows = [shorten(row, one, renderer, max_length) for row, one in zip(rows, group, strict=True)]
            if (reason := fate_of(rows, group[0].where, max_length, overlong)) is not None:
                account.drop(reason, group[0].where)
            else:
                account.use_from(group, rows)
                yield group, rows


def shorten(row: Row, dialogue: Dialogue, renderer: Renderer, max_length: int) -> Row:
    """A longer row cut at its beginning, which still tells how long it was; as it is where that cannot be done."""
    if row.num_tokens <= max_length:
        return row
    shorter = cut_left(dialogue, renderer, max_length)
    return row if shorter is None else shorter._replace(num_tokens=row.num_tokens)


def render_all(
    groups: Sequence[Sequence[Dialogue]], renderer: Renderer, account: Account, kept: list[Sequence[Dialogue]]
) -> Iterator[Rendering]:
    """The renderings of those groups that can be used, which are put into `kept`; the others are counted."""
    usable = []
    for group in groups:
        answers = [[message for message in dialogue.messages if message.is_answer] for dialogue in group]
        if not all(answers):
            account.drop(NO_ANSWER, group[0].where)
        elif any(message.is_empty for learned in answers for message in learned):
            account.drop(EMPTY_ANSWER, group[0].where)
        else:
            usable.append(group)
    renderings = renderer.render_all([(dialogue.messages, dialogue.tools) for group in usable for dialogue in group])
    for group in usable:
        both = list(islice(renderings, len(group)))
        found = [rendering for rendering in both if isinstance(rendering, Rendering)]
        if len(found) < len(group):
            refused = next(error for error in both if isinstance(error, RenderError))
            account.drop(refused.message, group[0].where)
            continue
        account.num_control_like += any(renderer.control.search(text) for dialogue in group for text in dialogue.texts)
        account.notes.update({note for rendering in found for note in rendering.notes})
        kept.append(group)
        yield from found


def fate_of(rows: Sequence[Row], where: str, max_length: int, overlong: Overlong) -> str | None:
    """Why rows that go together are dropped, or None when they are used."""
    longest = max(row.num_tokens for row in rows)
    if longest > max_length and overlong == "error":
        raise DataError(
            f"this row has {longest:,} tokens, data.max_length is {max_length:,}",
            where=where,
            fix="raise data.max_length, or set data.overlong to drop or cut-right",
        )
    if any(row.num_tokens > max_length and not row.is_cut for row in rows):
        return TOO_LONG
    return None if all(row.num_targets for row in rows) else CUT_TO_NOTHING


def is_near_empty(message: Message) -> bool:
    """Whether an answer that is learned says next to nothing."""
    says = message.content.strip()
    return message.is_answer and not message.tool_calls and len(says) < FEW_CHARACTERS


def raise_nothing_left(account: Account) -> None:
    """The error of a set of which no row can be used: the commonest reason, and where it was seen first."""
    if not account.dropped:
        raise DataError("there are no rows", where=account.name, fix="name a file with instructions or dialogues")
    reason, count = account.dropped.most_common(1)[0]
    fixes = {TOO_LONG: "raise data.max_length, or set data.overlong to cut-right"}
    fix = fixes.get(reason, "mend the data, or use a model whose chat template takes it")
    raise DataError(
        f"no row of {account.name} can be used; {count:,} of {account.num_read:,}: {account.in_words(reason)}",
        where=account.first_dropped[reason],
        fix=f"{fix}; or hold out more rows with data.validation" if account.name == "validation" else fix,
    )


def hold_out(examples: Sequence[E], share: float) -> tuple[list[E], list[E]]:
    """Split into training and validation rows by a hash of what each one asks.

    Where a row falls depends on itself alone, so it stays there when rows are added; rows that ask the same are never
    on both sides.
    """
    places = [place_of_question(example.question) for example in examples]
    if share == 0 or len(set(places)) < 2:
        return list(examples), []
    # A small share of few rows may be none at all: then the row that is nearest to it is held out.
    is_held = [place <= max(share, min(places)) for place in places]
    return list(compress(examples, [not held for held in is_held])), list(compress(examples, is_held))


def place_of_question(question: str) -> float:
    """A number in [0, 1) that is a pure function of a text."""
    return int.from_bytes(hashlib.blake2b(question.encode(), digest_size=8).digest(), "big") / 2**64


def drop_shared(train: Sequence[E], validation: Sequence[E]) -> tuple[list[E], list[E]]:
    """The training rows that are not in the validation data, and those that are."""
    known = {example.content for example in validation}
    is_shared = [example.content in known for example in train]
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
        why = account.in_words(reason)
        warn(f"{account.name}: {count:,} rows dropped: {why} (first {account.first_dropped[reason]})")
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
