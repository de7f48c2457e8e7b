"""What is wrong, doubtful or worth knowing about dialogues before a model learns from them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from llmkit.data.dialogue import Row
from llmkit.data.dialogue_set import EMPTY_ANSWER, NO_ANSWER, TOO_LONG, Account
from llmkit.data.messages import ROLES, Dialogue
from llmkit.data.preference_forms import NO_CHOICE, SAME
from llmkit.data.rendering import QUESTION, Renderer
from llmkit.errors import LlmkitError

Level = Literal["serious", "warning", "note"]

PLACEHOLDER = re.compile(r"\{\{\s*\w+\s*\}\}")
HEADER = re.compile(rf"^[<|\s]*(?:{'|'.join(ROLES)})[|>:]*(?:\n|$)")
"""The name of a role at the beginning of a turn."""

MANY_DROPPED = 0.1
"""A reason that drops more than this share of the rows is serious."""

SOME_ENDS = 0.01
"""Control tokens written out at the ends of more than this share of the rows are serious: they were meant as such."""

LITTLE_TRAINED = 0.05
"""A smaller share of trained tokens than this makes most of the computing serve nothing."""

MANY_TWICE = 0.1


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        name: What it is, in a word that does not change.
        level: How bad it is.
        rows: How many rows it concerns; 0 where it concerns the whole.
        message: What is true.
        first: Where it was seen first.
        fix: What to do about it.
    """

    name: str
    level: Level
    rows: int
    message: str
    first: str | None = None
    fix: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        return asdict(self)


def unusable(error: LlmkitError) -> Finding:
    """The finding of data that cannot be read, or of which nothing can be used."""
    return Finding("unusable", "serious", 0, error.message, error.where, error.fix)


def find_all(
    dialogues: Sequence[Dialogue], rows: Sequence[Row], account: Account, renderer: Renderer
) -> Iterator[Finding]:
    """All findings about dialogues that were encoded."""
    yield from find_dropped(account)
    yield from find_control_tokens(dialogues, renderer)
    yield from find_unknown(rows, renderer)
    yield from find_placeholders(dialogues)
    yield from find_counts(account)
    for note, count in account.notes.items():
        yield Finding("shown-otherwise", "note", count, note)
    added = text_before(renderer)
    if added:
        yield Finding("added-text", "note", 0, f"the chat template begins every dialogue with its own: {added}")


def find_dropped(account: Account) -> Iterator[Finding]:
    """Rows that would not be learned from, by reason."""
    fixes = {
        TOO_LONG: "raise data.max_length, or set data.overlong to cut-right",
        EMPTY_ANSWER: "take these rows out",
        NO_ANSWER: "take these rows out, or look at data.train_on and at the weights of messages",
        SAME: "take these pairs out",
        NO_CHOICE: "take these pairs out",
    }
    names = {TOO_LONG: "too-long", EMPTY_ANSWER: "empty-answer", NO_ANSWER: "no-answer"}
    names |= {SAME: "idle-pair", NO_CHOICE: "idle-pair"}
    for reason, count in account.dropped.most_common():
        is_refused = reason not in names
        level: Level = "serious" if is_refused or count > MANY_DROPPED * account.num_read else "warning"
        name, fix = names.get(reason, "refused"), fixes.get(reason, "mend these rows, or use another model's template")
        yield Finding(name, level, count, f"dropped: {account.in_words(reason)}", account.first_dropped[reason], fix)


def find_control_tokens(dialogues: Sequence[Dialogue], renderer: Renderer) -> Iterator[Finding]:
    """Control tokens that are written out in texts, at the ends of answers or elsewhere."""
    ends: list[tuple[str, str]] = []
    inside: list[str] = []
    for dialogue in dialogues:
        last = None
        for message in dialogue.messages:
            found = list(renderer.control.finditer(message.content))
            if found and message.is_answer and found[-1].end() == len(message.content.rstrip()):
                last = found[-1].group()
        if last is not None:
            ends.append((dialogue.where, last))
        elif any(renderer.control.search(text) for text in dialogue.texts):
            inside.append(dialogue.where)
    if ends:
        where, token = ends[0]
        level: Level = "serious" if len(ends) > SOME_ENDS * len(dialogues) else "warning"
        what = f"answers end with {token} written out: the model would learn to spell it"
        yield Finding("written-end", level, len(ends), what, where, f"take it off: --set 'data.strip=[\"{token}\"]'")
    if inside:
        what = "texts hold what looks like a control token; it stays text, and the model learns to write it"
        yield Finding("control-like-text", "warning", len(inside), what, inside[0])


def find_unknown(rows: Sequence[Row], renderer: Renderer) -> Iterator[Finding]:
    """Rows with the unknown token: text that the tokenizer cannot write."""
    tokenizer = renderer.tokenizer
    unknown = tokenizer.unk_token_id
    # GPT-2 names one token for all three, and knows all bytes.
    if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.bos_token_id):
        return
    count = sum(bool((row.input_ids == unknown).any()) for row in rows)
    if count:
        message = f"texts hold characters that the tokenizer cannot write: they become {tokenizer.unk_token}"
        yield Finding("unknown-characters", "serious", count, message, fix="use a model whose tokenizer knows them")


def find_placeholders(dialogues: Sequence[Dialogue]) -> Iterator[Finding]:
    """Answers with blanks that nobody has filled in."""
    found = [
        (dialogue.where, blank.group())
        for dialogue in dialogues
        if (blank := next((b for m in dialogue.messages if m.is_answer and (b := PLACEHOLDER.search(m.content))), None))
    ]
    if found:
        where, first_blank = found[0]
        message = f"answers hold blanks such as {first_blank}, which the model would learn to say"
        yield Finding("placeholder", "warning", len(found), message, where, "fill them in")


def find_counts(account: Account) -> Iterator[Finding]:
    """What the account tells: duplicates, answers that say next to nothing, few trained tokens."""
    about = account.to_json()
    if account.num_duplicates:
        level: Level = "warning" if account.num_duplicates > MANY_TWICE * account.num_read else "note"
        yield Finding("duplicates", level, account.num_duplicates, "rows say what a row before them says")
    if account.num_near_empty:
        yield Finding("near-empty-answer", "note", account.num_near_empty, "rows have an answer of 1 or 2 characters")
    if account.num_cut:
        message = f"rows are cut at max_length: {account.num_cut_tokens:,} tokens are lost"
        yield Finding("cut", "warning", account.num_cut, message)
    if about["trained_share"] < LITTLE_TRAINED:
        message = f"only {about['trained_share']:.1%} of the tokens are trained: the rest is computed for nothing else"
        yield Finding("little-trained", "note", 0, message)


def text_before(renderer: Renderer) -> str:
    """What the chat template says by itself before a question; empty where that is only the header of the turn."""
    text = renderer.find_slots([QUESTION], "", wants_answer=False)[0][0]
    said = (piece.strip() for piece in renderer.control.split(text))
    return " ".join(HEADER.sub("", piece).strip() for piece in said if HEADER.sub("", piece).strip())
