"""The forms in which people keep instructions and dialogues, recognised by their columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from llmkit.data.forms import Form, Values, read_forms
from llmkit.data.messages import Dialogue, Message, content_of
from llmkit.data.other_forms import MISREAD, NO_DIALOGUE, raise_other_kind, suggest_columns
from llmkit.data.trees import is_flat, read_tree
from llmkit.data.turns import DialogueReading, RowError, read_tools, read_turns, split_thought
from llmkit.errors import DataError

__all__ = ["FORMS", "Dialogue", "Message", "content_of", "is_dialogue", "read_dialogues"]

NO_INPUT = frozenset({"no input", "no input.", "noinput", "<noinput>", "<noinput", "n/a"})
"""What authors of alpaca rows write where there is no input."""

SAYS_NO_INPUT = "rows say in words that they have no input, and are read as having none"


def read_dialogues(
    source: str,
    *,
    roles: Mapping[str, str] | None = None,
    columns: Mapping[str, str] | None = None,
    paths: Literal["best", "all"] = "best",
) -> Iterator[Dialogue]:
    """The dialogues of a file, a folder, a hub data set or the built-in data, in any of FORMS; which one is said.

    Args:
        source: What `read_records` takes: files, `-`, hf:owner/name, `python-docs:instructions|dialogues[@split]`.
        roles: Role names of the data -> system, user, assistant or tool, besides those that are known.
        columns: Column of a form -> its name in the data, where that is another.
        paths: Of trees of messages, the path of the best ranked answers or all.

    Raises:
        DataError: Rows are in no known form, or cannot be read: the first 20 of them, by file and line.
        RecipeError: `columns` names a column that no form has, or that the data have not.
    """
    reading = DialogueReading(roles or {}, paths)

    def read(form: Form, values: Values, where: str) -> Iterator[Dialogue]:
        tools = read_tools(values.get("tools"))
        for messages in form.read(values, reading):
            yield Dialogue(tuple(split_thought(message, reading) for message in messages), where, tools, source)

    return read_forms(source, columns or {}, reading, known=COLUMNS, detect=detect_form, read=read)


def is_dialogue(values: Values) -> bool:
    """Whether a row is in a form of instructions or dialogues."""
    return is_flat(values) or any(form.is_form_of(values) for form in FORMS)


def detect_form(values: Values, where: str) -> Form:
    """The form whose columns a row has; the first of FORMS where several fit.

    Raises:
        DataError: It is in none of them; the error names what it found instead.
    """
    raise_other_kind(values, where, MISREAD)
    for form in FORMS:
        if form.is_form_of(values):
            return form
    raise_other_kind(values, where, NO_DIALOGUE)
    known = "; ".join(dict.fromkeys(", ".join(form.columns) for form in FORMS[1:]))
    there = ", ".join(map(str, values)) or "none"
    raise DataError(
        f"no known form of instructions or dialogues: the columns are {there}",
        where=where,
        fix=f"{suggest_columns(values)}; known are {known}",
    )


def text_of(values: Values, column: str) -> str:
    """The text in a column."""
    value = values.get(column)
    if not isinstance(value, str):
        kind = "empty" if value is None else f"{type(value).__name__}, not text"
        raise RowError(f"column {column!r} is {kind}")
    return value


def system_turn(values: Values) -> list[Message]:
    """The system message of a row that has a column for it."""
    column = next((name for name in SYSTEM if values.get(name)), None)
    system = "" if column is None else text_of(values, column)
    return [Message("system", system)] if system.strip() else []


def with_input(question: str, extra: Any, reading: DialogueReading) -> str:
    """An instruction and its input, which follows after an empty line where there is one."""
    if extra is None:
        return question
    if not isinstance(extra, str):
        raise RowError(f"column 'input' is {type(extra).__name__}, not text")
    if extra.strip().lower() in NO_INPUT:
        reading.notes[SAYS_NO_INPUT] += 1
        return question
    return f"{question}\n\n{extra}" if extra.strip() else question


def read_instruction(answer: str) -> Callable[[Values, DialogueReading], list[list[Message]]]:
    """A reader of an instruction with its answer in another column, with or without input."""

    def read(values: Values, reading: DialogueReading) -> list[list[Message]]:
        if values.get("input") and values.get("context"):
            raise RowError("columns 'input' and 'context' both say something; one of them goes with the instruction")
        extra = values.get("input") or values.get("context")
        question = with_input(text_of(values, "instruction"), extra, reading)
        return [[*system_turn(values), Message("user", question), Message("assistant", text_of(values, answer))]]

    return read


def read_seed(values: Values, reading: DialogueReading) -> list[list[Message]]:
    """An instruction with instances, each an input and its output: a dialogue for each."""
    instances = values["instances"]
    if not isinstance(instances, list) or not all(isinstance(one, Mapping) for one in instances) or not instances:
        raise RowError("column 'instances' is no list of inputs and outputs")
    dialogues = []
    for one in instances:
        question = with_input(text_of(values, "instruction"), one.get("input"), reading)
        dialogues.append([Message("user", question), Message("assistant", text_of(one, "output"))])
    return dialogues


def read_pair(question: str, answer: str) -> Callable[[Values, DialogueReading], list[list[Message]]]:
    """A reader of rows with one column for the question and one for the answer; either may hold a list of messages."""

    def read(values: Values, reading: DialogueReading) -> list[list[Message]]:
        if isinstance(values[question], list) or isinstance(values[answer], list):
            asked = messages_of(values[question], "user", question, reading)
            answers = messages_of(values[answer], "assistant", answer, reading)
            return [[*system_turn(values), *(m._replace(is_trained=False) for m in asked), *answers]]
        asked = [Message("user", text_of(values, question))]
        return [[*system_turn(values), *asked, Message("assistant", text_of(values, answer))]]

    return read


def messages_of(value: Any, role: str, column: str, reading: DialogueReading) -> list[Message]:
    """A column with a list of messages, or with the text of one."""
    return read_turns(value, reading) if isinstance(value, list) else [Message(role, text_of({column: value}, column))]


def read_list(column: str) -> Callable[[Values, DialogueReading], list[list[Message]]]:
    """A reader of a list of messages, each with its role."""

    def read(values: Values, reading: DialogueReading) -> list[list[Message]]:
        return [[*system_turn(values), *read_turns(values[column], reading)]]

    return read


def read_alternating(column: str) -> Callable[[Values, DialogueReading], list[list[Message]]]:
    """A reader of a list of texts, which user and assistant say by turns."""

    def read(values: Values, reading: DialogueReading) -> list[list[Message]]:
        said = enumerate(values[column])
        return [[*system_turn(values), *(Message(("user", "assistant")[i % 2], text) for i, text in said)]]

    return read


def holds(column: str, kind: type) -> Callable[[Values], bool]:
    """Whether a column has a list of values of this kind."""
    return lambda values: (
        isinstance(values[column], list)
        and bool(values[column])
        and all(isinstance(value, kind) for value in values[column])
    )


SYSTEM = ("system", "system_prompt")

LISTS = ("conversation", "dialogue", "dialog", "turns", "utterances")

FORMS = (
    Form("trees of messages (OASST)", ("prompt",), (), read_tree, lambda values: isinstance(values["prompt"], Mapping)),
    Form("dialogues (messages)", ("messages",), SYSTEM, read_list("messages")),
    Form("dialogues (sharegpt)", ("conversations",), SYSTEM, read_list("conversations")),
    *(Form(f"dialogues ({name})", (name,), SYSTEM, read_list(name), holds(name, Mapping)) for name in LISTS),
    *(Form("dialogues by turns", (name,), SYSTEM, read_alternating(name), holds(name, str)) for name in LISTS),
    Form("seed tasks", ("instruction", "instances"), (), read_seed),
    Form("instructions (alpaca)", ("instruction", "output"), ("input", "context", *SYSTEM), read_instruction("output")),
    Form("instructions", ("instruction", "response"), ("input", "context", *SYSTEM), read_instruction("response")),
    Form("prompts and completions", ("prompt", "completion"), SYSTEM, read_pair("prompt", "completion")),
    Form("prompts and responses", ("prompt", "response"), SYSTEM, read_pair("prompt", "response")),
    Form("questions and answers", ("question", "answer"), SYSTEM, read_pair("question", "answer")),
    Form("questions and responses", ("question", "response"), SYSTEM, read_pair("question", "response")),
    Form("queries and responses", ("query", "response"), SYSTEM, read_pair("query", "response")),
    Form("problems and solutions", ("problem", "solution"), SYSTEM, read_pair("problem", "solution")),
    Form("inputs and targets", ("inputs", "targets"), SYSTEM, read_pair("inputs", "targets")),
    Form("inputs and targets", ("input", "target"), SYSTEM, read_pair("input", "target")),
    Form("inputs and outputs", ("input", "output"), SYSTEM, read_pair("input", "output")),
)
"""All known forms. The first whose columns a row has is taken."""

COLUMNS = tuple(dict.fromkeys(c for form in FORMS for c in (*form.columns, *form.optional, "tools")))
"""The columns that data.columns can name."""
