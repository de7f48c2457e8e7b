"""Examples as text: the question behind its shots, plain or as a dialogue, and what may follow it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from string import Formatter
from typing import NamedTuple

from llmkit.errors import UsageError
from llmkit.evaluation.task import Example, Task


class Pair(NamedTuple):
    """A context, and the continuation that is scored after it."""

    context: str
    continuation: str
    where: str = ""


class Turn(NamedTuple):
    """A turn of a dialogue: its role is system, user or assistant."""

    role: str
    content: str


@dataclass(frozen=True)
class Chat:
    """How a model takes part in a dialogue. Commands make it of the model's chat template."""

    render: Callable[[Sequence[Turn]], str]
    """The turns as text up to where the assistant is to speak; control tokens stand there under names of their own."""
    encode: Callable[[Sequence[str]], list[list[int]]]
    """Such texts as ids; nothing is put before them."""
    show: Callable[[str], str]
    """Such a text for people, with the names that control tokens have."""
    stop_ids: frozenset[int] = frozenset()
    """With what an assistant's turn ends."""
    is_one_turn: bool = False
    """Whether the shots stand in the question's turn, and not as turns of their own."""
    day: str | None = None
    """The day that its template is told, where it writes one: prompts are others on another."""


def fill(template: str, fields: Mapping[str, str]) -> str:
    """The template with its {names} replaced; what is put in is not looked at again.

    Raises:
        UsageError: A name that is not there.
    """
    parts = []
    for text, name, _, _ in parse_template(template):
        parts.append(text)
        if name is not None and name not in fields:
            known = ", ".join(f"{{{key}}}" for key in fields)
            raise UsageError(f"the prompt asks for {{{name}}}, which no row has", where="prompt", fix=f"use {known}")
        if name is not None:
            parts.append(fields[name])
    return "".join(parts)


def parse_template(template: str) -> list[tuple[str, str | None, str | None, str | None]]:
    """The pieces of a template: (text, name that follows it or None, ...).

    Raises:
        UsageError: Its braces do not pair up.
    """
    try:
        return list(Formatter().parse(template))
    except ValueError as error:
        raise UsageError(
            f"the prompt is no template: {error}", where="prompt", fix="write {{ and }} for plain braces"
        ) from error


def join(before: str, after: str, between: str) -> str:
    """Two texts with `between` between them, unless one is empty or white space is there already."""
    if not before or not after or before[-1].isspace() or after[0].isspace():
        return before + after
    return before + between + after


def render_question(task: Task, example: Example, choice: str | None = None) -> str:
    """The prompt of one example, without answer."""
    return fill(task.prompt, example.fields if choice is None else {**example.fields, "choice": choice})


def text_of_example(task: Task, example: Example) -> str:
    """All that an example asks, without its answer."""
    if example.continuation is None:
        return render_question(task, example)
    return " ".join(render_question(task, example, choice) for choice in example.choices) + example.continuation


def question_and_answer(task: Task, example: Example) -> tuple[str, str]:
    """An example as it stands in a shot: its prompt, and its answer without what every answer begins with."""
    if example.continuation is not None:
        return render_question(task, example, example.solution), example.continuation
    return render_question(task, example), example.solution


def begin_answer(task: Task, question: str) -> str:
    """A prompt with what every answer begins with."""
    return join(question, task.answer_prefix, task.delimiter)


def render_solved(task: Task, example: Example) -> str:
    """A shot: the prompt with its answer, set apart as they are where the answer is asked for."""
    question, answer = question_and_answer(task, example)
    return begin_answer(task, question) + delimiter_of(task, None) + answer


def render_system(task: Task, example: Example) -> str:
    """What precedes all else; nothing where the task has no such text."""
    return fill(task.system, example.fields) if task.system else ""


def render_before(task: Task, example: Example, shots: Sequence[Example]) -> str:
    """Plain text before the question: the system text, and the shots, each with the separator after it."""
    solved = "".join(render_solved(task, shot) + task.separator for shot in shots)
    system = render_system(task, example)
    return system + (task.separator if system and not system[-1].isspace() else "") + solved


def render_context(
    task: Task, example: Example, shots: Sequence[Example], chat: Chat | None = None, choice: str | None = None
) -> str:
    """All that precedes the answer: the system text, the shots, the question, and what every answer begins with."""
    question = render_question(task, example, choice)
    if chat is None:
        return render_before(task, example, shots) + begin_answer(task, question)
    return chat.render(dialogue_of(task, example, shots, question, chat)) + task.answer_prefix


def dialogue_of(task: Task, example: Example, shots: Sequence[Example], question: str, chat: Chat) -> list[Turn]:
    """The turns of a prompt."""
    system = render_system(task, example)
    turns = [Turn("system", system)] if system else []
    if chat.is_one_turn:
        solved = "".join(render_solved(task, shot) + task.separator for shot in shots)
        return [*turns, Turn("user", solved + question)]
    for shot in shots:
        asked, answered = question_and_answer(task, shot)
        said = task.answer_prefix + delimiter_of(task, chat) + answered
        turns += [Turn("user", asked), Turn("assistant", said)]
    return [*turns, Turn("user", question)]


def delimiter_of(task: Task, chat: Chat | None) -> str:
    """What stands right before an answer: nothing at the beginning of an assistant's turn, nor after white space."""
    if not task.answer_prefix:
        return "" if chat else task.delimiter
    return "" if task.answer_prefix[-1].isspace() else task.delimiter


def render_pairs(task: Task, example: Example, shots: Sequence[Example], chat: Chat | None = None) -> list[Pair]:
    """One pair per choice, in their order."""
    delimiter = delimiter_of(task, chat)
    if example.continuation is not None:
        contexts = [render_context(task, example, shots, chat, choice) for choice in example.choices]
        return [Pair(context, delimiter + example.continuation, example.where) for context in contexts]
    context = render_context(task, example, shots, chat)
    return [Pair(context, delimiter + choice, example.where) for choice in example.choices]
