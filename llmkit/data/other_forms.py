"""Rows that are something else than instructions or dialogues, told by what they are and what they are good for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from llmkit.errors import DataError

Values = Mapping[str, Any]


PLAIN_TEXT = (
    "go on pretraining with it: `llmkit data prepare FILE --tokenizer MODEL --output DATA`, then "
    "`llmkit pretrain --model MODEL --data DATA --output RUN`"
)
"""What to do with text in which nobody answers."""


class Other(NamedTuple):
    """A kind of rows that cannot be tuned on as it stands: how it is told, what it is, and what to do with it."""

    is_it: Callable[[Values], bool]
    name: str
    fix: str


def is_pair(values: Values) -> bool:
    """Whether a row holds a preferred and a rejected answer."""
    return {"chosen", "rejected"} <= values.keys() or {"chosen_messages", "rejected_messages"} <= values.keys()


def is_judged(values: Values) -> bool:
    """Whether a row holds one dialogue and whether it is good (KTO)."""
    return ("messages" in values or "completion" in values) and isinstance(values.get("label"), bool)


def is_asked_only(values: Values) -> bool:
    """Whether a row holds the user's turns alone (MT-Bench)."""
    turns = values.get("turns")
    return "question_id" in values and isinstance(turns, list) and all(isinstance(turn, str) for turn in turns)


def is_choice(values: Values) -> bool:
    """Whether a row holds a question with choices."""
    return "choices" in values and ("gold" in values or "answer" in values or "label" in values)


def is_labelled(values: Values) -> bool:
    """Whether a row holds a text and its label."""
    return set(values) == {"text", "label"}


def is_text(values: Values) -> bool:
    """Whether a row holds a text, and perhaps what is known about it."""
    return isinstance(values.get("text"), str) and not {"role", "prompt", "instruction"} & values.keys()


MISREAD = (
    Other(is_pair, "preference pairs (a chosen and a rejected answer)", "tune with --set task=prefer"),
    Other(
        is_judged,
        "answers judged good or bad (a column label of true and false): the bad ones would be learned too",
        "keep the rows whose label is true, and take the column away",
    ),
    Other(is_asked_only, "questions without answers (the turns of MT-Bench are the user's)", "give rows with answers"),
    Other(is_choice, "questions with choices", "`llmkit evaluate` asks them; give rows with questions and answers"),
)
"""Rows that may look like a form of dialogues, and are none."""

NO_DIALOGUE = (
    Other(
        is_labelled,
        "texts with labels",
        "tune with --set task=classify, or `llmkit baseline`; or learn to say the label: "
        "--set data.columns.prompt=text --set data.columns.completion=label",
    ),
    Other(is_text, "plain text", PLAIN_TEXT),
)
"""Rows of known kinds that no form of dialogues fits."""


def raise_other_kind(values: Values, where: str, kinds: Sequence[Other]) -> None:
    """Raise for rows of another kind, which would be misread or learned as what they are not.

    Raises:
        DataError: It says what the rows are and what to do with them.
    """
    for other in kinds:
        if other.is_it(values):
            there = ", ".join(map(str, values))
            raise DataError(f"these rows are {other.name}; the columns are {there}", where=where, fix=other.fix)


def suggest_columns(values: Values) -> str:
    """How to name the columns of a row in no known form."""
    lists = [name for name, value in values.items() if isinstance(value, list) and len(value) > 1]
    spoken = [name for name in lists if all(isinstance(item, str | Mapping) for item in values[name])]
    texts = [name for name, value in values.items() if isinstance(value, str)]
    if spoken:
        return f"name the list of turns ({' or '.join(map(str, spoken))}): --set data.columns.turns=COLUMN"
    if len(texts) > 1:
        pair = "--set data.columns.prompt=COLUMN --set data.columns.completion=COLUMN"
        return f"name the columns of question and answer (of {', '.join(map(str, texts))}): {pair}"
    return "give rows with a column for the question and one for the answer"
