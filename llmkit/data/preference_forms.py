"""Preference pairs in the forms people keep them in: what was asked, the chosen answer, and the rejected one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from llmkit.data.dialogue_forms import SYSTEM, messages_of, system_turn, text_of, with_input
from llmkit.data.forms import Form, Values, read_forms
from llmkit.data.messages import Dialogue, Message, content_of
from llmkit.data.other_forms import is_judged
from llmkit.data.turns import DialogueReading, RowError, read_tools, read_turn, read_turns, split_thought
from llmkit.errors import DataError

TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")
"""What begins a turn in a transcript of HH."""

QUESTIONS = ("prompt", "question", "instruction", "query", "input")
"""Columns that may hold what was asked. The first that a row has is taken."""

SAME = "both answers are the same"
NO_CHOICE = "an answer says nothing"


@dataclass(frozen=True)
class Preference:
    """A prompt and two ways to go on with it, of which the first is preferred.

    Attributes:
        where: Where it comes from: `file:line`.
        prompt: What both have in common, learned in neither.
        chosen: What is preferred.
        rejected: What is not.
        tools: The tools that the assistant may call, as a JSON array in text.
        source: The file or data set that the recipe names.
    """

    where: str
    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: str = ""
    source: str = ""

    @property
    def dialogues(self) -> tuple[Dialogue, Dialogue]:
        """The prompt with each of the answers, the chosen one first; what comes before them is not judged."""
        prompt = [message._replace(is_trained=False) for message in self.prompt]
        return (
            Dialogue((*prompt, *self.chosen), self.where, self.tools, self.source),
            Dialogue((*prompt, *self.rejected), self.where, self.tools, self.source),
        )

    @property
    def question(self) -> str:
        """What is asked as one text, which pairs that ask the same share."""
        return content_of(self.prompt)

    @property
    def content(self) -> str:
        """All that is said as one text, which pairs that say the same share."""
        return content_of([*self.prompt, *self.chosen]) + content_of(self.rejected) + self.tools

    @property
    def fault(self) -> str | None:
        """Why nothing can be learned from the pair, or None."""
        if not has_answer(self.chosen) or not has_answer(self.rejected):
            return NO_CHOICE
        return SAME if content_of(self.chosen) == content_of(self.rejected) else None


def read_preferences(
    source: str, *, columns: Mapping[str, str] | None = None, roles: Mapping[str, str] | None = None
) -> Iterator[Preference]:
    """The preference pairs of a file, a folder or a hub data set, in any of PAIR_FORMS; which one is said.

    Args:
        source: What `read_records` takes.
        columns: Column of a form -> its name in the data, where that is another.
        roles: Role names of the data -> system, user, assistant or tool, besides those that are known.

    Raises:
        DataError: Rows are no pairs, or cannot be read: the first 20 of them, by file and line.
        RecipeError: `columns` names a column that no form has.
    """
    reading = DialogueReading(roles or {})

    def read(form: Form, values: Values, where: str) -> Iterator[Preference]:
        both = ([split_thought(m, reading) for m in messages] for messages in form.read(values, reading))
        yield split_pair(where, *both, tools=read_tools(values.get("tools")), source=source)

    return read_forms(source, columns or {}, reading, known=PAIR_COLUMNS, detect=detect_pairs, read=read)


def detect_pairs(values: Values, where: str) -> Form:
    """The form whose columns a row has, with those that its question is taken from.

    Raises:
        DataError: It is no pair.
    """
    if is_judged(values):
        message = (
            "these rows are answers judged good or bad one by one (KTO); DPO and ORPO hold two answers to each other"
        )
        fix = "give pairs; or keep the rows whose label is true, take that column away, and tune with task=instruct"
        raise DataError(message, where=where, fix=fix)
    found = next((form for form in PAIR_FORMS if form.is_form_of(values)), None)
    if found is None:
        there = ", ".join(map(str, values)) or "none"
        fix = "name them: --set data.columns.chosen=COLUMN --set data.columns.rejected=COLUMN"
        raise DataError(f"these rows are no preference pairs: the columns are {there}", where=where, fix=fix)
    question = asked_column(values)
    if found.read is not read_answers or question is None:
        return found
    return found._replace(optional=(question, *(["input"] if question == "instruction" else []), *SYSTEM))


def split_pair(where: str, chosen: list[Message], rejected: list[Message], *, tools: str, source: str) -> Preference:
    """A pair of dialogues as the prompt that they share and two ways to go on, the first turn of each an answer."""
    same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))))
    while same and (same == len(chosen) or same == len(rejected) or chosen[same].role != "assistant"):
        same -= 1
    # An answer is never part of the prompt's end: whoever is asked has the word.
    while same and chosen[same - 1].role == "assistant" and chosen[same - 1].tool_calls == ():
        same -= 1
    prompt = [message._replace(is_trained=False) for message in chosen[:same]]
    if not prompt:
        raise RowError("there is nothing that both answers answer: no prompt, and no turn that they share")
    return Preference(where, prompt, chosen[same:], rejected[same:], tools, source)


def has_answer(messages: list[Message]) -> bool:
    """Whether there is an answer, and none is empty."""
    answers = [message for message in messages if message.role == "assistant"]
    return bool(answers) and not any(message.is_empty for message in answers)


def read_transcripts(values: Values, reading: DialogueReading) -> tuple[list[Message], list[Message]]:
    """Two whole dialogues, each one text with Human: and Assistant: before the turns."""
    return parse_transcript(text_of(values, "chosen")), parse_transcript(text_of(values, "rejected"))


def parse_transcript(text: str) -> list[Message]:
    """The turns of a transcript, without the white space around them."""
    pieces = TURN.split(text)
    if pieces[0].strip() or len(pieces) < 3:
        raise RowError("this is no transcript: it does not begin with Human: or Assistant:")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [Message(roles[name], said.strip()) for name, said in zip(pieces[1::2], pieces[2::2], strict=True)]


def is_transcript(values: Values) -> bool:
    """Whether a row holds two transcripts; beside a column with the question they begin with that once more."""
    begins = [isinstance(text, str) and TURN.match(text) for text in (values.get("chosen"), values.get("rejected"))]
    return all(found and (found[1] == "Human" or not asked_column(values)) for found in begins)


def read_answers(values: Values, reading: DialogueReading) -> tuple[list[Message], list[Message]]:
    """A prompt, as a text or messages, and two answers, as texts, single messages or lists of messages."""
    asked = asked_messages(values, reading)
    chosen, rejected = (answer_messages(values[name], name, reading) for name in ("chosen", "rejected"))
    # Whole dialogues beside a prompt hold the prompt once more.
    if chosen[0].role != "assistant":
        head = [message for message in asked if message.role == "system" and chosen[0].role != "system"]
        return [*head, *chosen], [*head, *rejected]
    return [*asked, *chosen], [*asked, *rejected]


def asked_column(values: Values) -> str | None:
    """The column that holds what was asked."""
    return next((name for name in ("conversations", "messages", *QUESTIONS) if name in values), None)


def asked_messages(values: Values, reading: DialogueReading) -> list[Message]:
    """What was asked; nothing where the answers are whole dialogues."""
    column = asked_column(values)
    if column is None:
        return system_turn(values)
    if column == "instruction":
        question = with_input(text_of(values, column), values.get("input"), reading)
        return [*system_turn(values), Message("user", question)]
    if isinstance(values[column], str) and TURN.match(values[column]):
        turns = parse_transcript(values[column])
        # A prompt of HH ends with what asks for the answer.
        return [*system_turn(values), *(turns[:-1] if turns[-1] == Message("assistant", "") else turns)]
    return [*system_turn(values), *messages_of(values[column], "user", column, reading)]


def answer_messages(value: Any, column: str, reading: DialogueReading) -> list[Message]:
    """An answer: a text, one message, or a list of them."""
    if isinstance(value, Mapping):
        return [read_turn(value, 1, reading)]
    return messages_of(value, "assistant", column, reading)


def read_both(values: Values, reading: DialogueReading) -> tuple[list[Message], list[Message]]:
    """Two whole dialogues as lists of messages."""
    return read_turns(values["chosen_messages"], reading), read_turns(values["rejected_messages"], reading)


PAIR_FORMS = (
    Form("preference pairs (two dialogues)", ("chosen_messages", "rejected_messages"), (), read_both),
    Form("preference pairs (transcripts)", ("chosen", "rejected"), (), read_transcripts, is_transcript),
    Form("preference pairs (answers)", ("chosen", "rejected"), SYSTEM, read_answers),
)
"""All known forms of pairs. The first that fits is taken."""

PAIR_COLUMNS = (
    *("chosen", "rejected", "chosen_messages", "rejected_messages", "conversations", "messages"),
    *(*QUESTIONS, "system", "system_prompt", "tools"),
)
"""The columns that data.columns can name."""
