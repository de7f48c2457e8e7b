"""Examples as text: the question behind its shots, and what may follow it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from typing import NamedTuple

from llmkit.errors import UsageError
from llmkit.evaluation.task import Example, Task


class Pair(NamedTuple):
    """A context, and the continuation that is scored after it."""

    context: str
    continuation: str
    where: str = ""


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


def render_question(task: Task, example: Example, choice: str | None = None) -> str:
    """The prompt of one example, without answer."""
    return fill(task.prompt, example.fields if choice is None else {**example.fields, "choice": choice})


def render_solved(task: Task, example: Example) -> str:
    """A shot: the prompt with its answer."""
    if example.continuation is not None:
        return render_question(task, example, example.solution) + task.delimiter + example.continuation
    return render_question(task, example) + task.delimiter + example.solution


def render_shots(task: Task, shots: Sequence[Example]) -> str:
    """The shots, each with the separator after it."""
    return "".join(render_solved(task, shot) + task.separator for shot in shots)


def render_context(task: Task, example: Example, shots: Sequence[Example]) -> str:
    """All that precedes the answer: the shots and the question."""
    return render_shots(task, shots) + render_question(task, example)


def render_pairs(task: Task, example: Example, shots: Sequence[Example]) -> list[Pair]:
    """One pair per choice, in their order."""
    if example.continuation is not None:
        after = task.delimiter + example.continuation
        before = render_shots(task, shots)
        return [
            Pair(before + render_question(task, example, choice), after, example.where) for choice in example.choices
        ]
    context = render_context(task, example, shots)
    return [Pair(context, task.delimiter + choice, example.where) for choice in example.choices]
