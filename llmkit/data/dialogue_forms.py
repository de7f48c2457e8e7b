"""The forms in which people keep instructions and dialogues, recognised by their columns."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple

from llmkit.console import say
from llmkit.data.documents import read_records
from llmkit.data.rendering import Message
from llmkit.errors import DataError

MOST_ERRORS = 20
"""So many bad rows are named before reading gives up."""

KNOWN_ROLES = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "tool": "tool",
    "observation": "tool",
}
"""Role names that need no mapping, and the role that each means."""

NO_INPUT = frozenset({"no input", "no input.", "noinput", "<noinput>", "<noinput", "n/a"})
"""What authors of alpaca rows write where there is no input."""


@dataclass(frozen=True)
class Dialogue:
    """Messages in their order, and where they come from: `file:line`."""

    messages: tuple[Message, ...]
    where: str

    @property
    def opening(self) -> tuple[Message, ...]:
        """All up to the first answer: what a held-out row must not share with a trained one."""
        return tuple(takewhile(lambda message: message.role != "assistant", self.messages))


def content_of(messages: Sequence[Message]) -> str:
    """Roles and contents as one text, which messages that say the same share."""
    return json.dumps([[m.role, m.content] for m in messages], ensure_ascii=False)


class RowError(Exception):
    """What is wrong with one row; the caller knows where it stands."""


class Form(NamedTuple):
    """A form of rows: its name, the columns that tell it, those it may have besides, and how a row is read."""

    name: str
    columns: tuple[str, ...]
    optional: tuple[str, ...]
    read: Callable[[Mapping[str, Any], Mapping[str, str]], list[Message]]


def read_dialogues(source: str, *, roles: Mapping[str, str] | None = None) -> Iterator[Dialogue]:
    """The dialogues of a file, a folder, a hub data set or the built-in data, in any of FORMS; which one is said.

    Args:
        source: What `read_records` takes: files, `-`, hf:owner/name, `python-docs:instructions|dialogues[@split]`.
        roles: Role names of the data -> system, user, assistant or tool, besides KNOWN_ROLES.

    Raises:
        DataError: Rows are in no known form, or cannot be read: the first 20 of them, by file and line.
    """
    known = {**KNOWN_ROLES, **(roles or {})}
    form: Form | None = None
    problems: list[str] = []
    num_without_input = 0
    for record in read_records(source):
        where, values = record.where, record.values
        if form is None or not all(column in values for column in form.columns):
            form = announce(detect_form(values, where), values, source)
        try:
            messages = tuple(form.read(values, known))
        except RowError as error:
            problems.append(f"{where}: {error}")
            if len(problems) == MOST_ERRORS:
                break
            continue
        num_without_input += form.read is read_alpaca and says_no_input(values.get("input"))
        yield Dialogue(messages, where)
    if problems:
        raise_problems(problems)
    if num_without_input:
        say(f"{source}: {num_without_input:,} rows say in words that they have no input, and are read as having none")


def raise_problems(problems: Sequence[str]) -> None:
    """One error for all rows that cannot be read."""
    where, _, message = problems[0].partition(": ")
    more = "".join(f"\n  {problem}" for problem in problems[1:])
    if len(problems) == MOST_ERRORS:
        more += "\n  (reading stopped here)"
    fix = "mend these rows" if "role" not in message else "rename the role, or map it with data.roles in the recipe"
    raise DataError(message + more, where=where, fix=fix)


def detect_form(values: Mapping[str, Any], where: str) -> Form:
    """The form whose columns a row has; the first of FORMS where several fit."""
    for form in FORMS:
        if all(column in values for column in form.columns):
            return form
    known = "; ".join(", ".join(form.columns) for form in FORMS)
    there = ", ".join(map(str, values)) or "none"
    raise DataError(
        f"no known form of instructions or dialogues: the columns are {there}", where=where, fix=f"known are {known}"
    )


def announce(form: Form, values: Mapping[str, Any], source: str) -> Form:
    """Say which form was recognised by which columns, and which columns are of no use."""
    used = [c for c in (*form.columns, *form.optional) if c in values]
    rest = [str(c) for c in values if c not in used]
    unused = f" (not used: {', '.join(rest)})" if rest else ""
    say(f"{source}: {form.name}, by its columns {', '.join(used)}{unused}")
    return form


def text_of(values: Mapping[str, Any], column: str) -> str:
    """The text in a column."""
    value = values.get(column)
    if not isinstance(value, str):
        kind = "empty" if value is None else f"{type(value).__name__}, not text"
        raise RowError(f"column {column!r} is {kind}")
    return value


def system_turn(values: Mapping[str, Any]) -> list[Message]:
    """The system message of a row that has a column for it."""
    system = values.get("system") or values.get("system_prompt")
    return [Message("system", system)] if isinstance(system, str) and system.strip() else []


def read_alpaca(values: Mapping[str, Any], roles: Mapping[str, str]) -> list[Message]:
    """Instruction and output, with or without input; the input follows the instruction after an empty line."""
    question = text_of(values, "instruction")
    extra = text_of(values, "input") if values.get("input") is not None else ""
    if extra.strip() and not says_no_input(extra):
        question = f"{question}\n\n{extra}"
    return [*system_turn(values), Message("user", question), Message("assistant", text_of(values, "output"))]


def says_no_input(text: Any) -> bool:
    """Whether the input of an alpaca row says that there is none."""
    return isinstance(text, str) and text.strip().lower() in NO_INPUT


def read_pair(question: str, answer: str) -> Callable[[Mapping[str, Any], Mapping[str, str]], list[Message]]:
    """A reader of rows with one column for the question and one for the answer; either may hold a list of messages."""

    def read(values: Mapping[str, Any], roles: Mapping[str, str]) -> list[Message]:
        if isinstance(values[question], list) and isinstance(values[answer], list):
            asked = [m._replace(is_trained=False) for m in read_turns(values[question], "role", "content", roles)]
            return asked + read_turns(values[answer], "role", "content", roles)
        return [
            *system_turn(values),
            Message("user", text_of(values, question)),
            Message("assistant", text_of(values, answer)),
        ]

    return read


def read_messages(values: Mapping[str, Any], roles: Mapping[str, str]) -> list[Message]:
    """Messages: a list of role and content."""
    return [*system_turn(values), *read_turns(values["messages"], "role", "content", roles)]


def read_conversations(values: Mapping[str, Any], roles: Mapping[str, str]) -> list[Message]:
    """Conversations: a list of from and value (sharegpt), or of role and content."""
    turns = values["conversations"]
    names = ("role", "content") if isinstance(turns, list) and turns and "role" in turns[0] else ("from", "value")
    return [*system_turn(values), *read_turns(turns, *names, roles)]


def read_turns(turns: Any, role_key: str, content_key: str, roles: Mapping[str, str]) -> list[Message]:
    """The messages of a list of turns."""
    if not isinstance(turns, list) or not turns:
        raise RowError("there are no messages")
    return [read_turn(turn, number, role_key, content_key, roles) for number, turn in enumerate(turns, start=1)]


def read_turn(turn: Any, number: int, role_key: str, content_key: str, roles: Mapping[str, str]) -> Message:
    """One message; everything about it that cannot be shown to a model is an error."""
    if not isinstance(turn, Mapping) or role_key not in turn:
        raise RowError(f"message {number} has no {role_key!r}")
    role = roles.get(str(turn[role_key]))
    if role is None:
        raise RowError(f"message {number} has role {turn[role_key]!r}; known roles are {', '.join(roles)}")
    if turn.get("tool_calls"):
        raise RowError(f"message {number} has tool_calls; write the calls into its content")
    return Message(role, read_content(turn.get(content_key), number), read_weight(turn, number))


def read_content(content: Any, number: int) -> str:
    """A message's text; a list of typed parts is joined."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise RowError(
            f"message {number} has no text" if content is None else f"the content of message {number} is no text"
        )
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        text = part.get("text", part.get("value")) if kind == "text" else None
        if not isinstance(text, str):
            raise RowError(f"message {number} has a part of type {kind!r}; only text can be used")
        texts.append(text)
    return "".join(texts)


def read_weight(turn: Mapping[str, Any], number: int) -> bool:
    """Whether a message is trained, where it says so itself: train, weight or loss_weight."""
    for key in ("train", "weight", "loss_weight"):
        value = turn.get(key)
        if value is not None:
            if value not in (0, 1):
                raise RowError(f"message {number} has {key} {value!r}; an answer is trained (1) or not (0)")
            return bool(value)
    return True


SYSTEM = ("system", "system_prompt")

FORMS = (
    Form("dialogues (messages)", ("messages",), SYSTEM, read_messages),
    Form("dialogues (sharegpt)", ("conversations",), SYSTEM, read_conversations),
    Form("instructions (alpaca)", ("instruction", "output"), ("input", *SYSTEM), read_alpaca),
    Form("instructions", ("instruction", "response"), SYSTEM, read_pair("instruction", "response")),
    Form("prompts and completions", ("prompt", "completion"), SYSTEM, read_pair("prompt", "completion")),
    Form("prompts and responses", ("prompt", "response"), SYSTEM, read_pair("prompt", "response")),
    Form("questions and answers", ("question", "answer"), SYSTEM, read_pair("question", "answer")),
    Form("inputs and targets", ("input", "target"), SYSTEM, read_pair("input", "target")),
    Form("inputs and outputs", ("input", "output"), SYSTEM, read_pair("input", "output")),
)
"""All known forms. The first whose columns a row has is taken."""
