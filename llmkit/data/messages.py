"""What a dialogue is made of: messages, the calls of tools in them, and what they think."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import NamedTuple

ROLES = ("system", "user", "assistant", "tool")
"""The only roles that reach a template: a role is text too, and must make no control token."""


class ToolCall(NamedTuple):
    """A call that the assistant makes: the tool's name, its arguments as a JSON object in text, and its id."""

    name: str
    arguments: str
    id: str = ""


class Message(NamedTuple):
    """One turn of a dialogue.

    Attributes:
        role: One of ROLES.
        content: What is said.
        is_trained: Whether an answer is learned; other roles never are.
        thinking: What the assistant thinks before it speaks.
        tool_calls: The calls that the assistant makes after it spoke.
        name: Of a tool's message: the tool's name.
        call_id: Of a tool's message: the id of the call that it answers.
        trains_thinking: Whether the thinking is learned with the answer, or only shown.
    """

    role: str
    content: str
    is_trained: bool = True
    thinking: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    name: str = ""
    call_id: str = ""
    trains_thinking: bool = True

    @property
    def is_answer(self) -> bool:
        """Whether something of this message is to be learned."""
        return self.role == "assistant" and self.is_trained

    @property
    def texts(self) -> tuple[str, ...]:
        """What it says, thinks, calls and is called."""
        calls = (text for call in self.tool_calls for text in (call.name, call.arguments))
        return (self.content, self.thinking, self.name, *calls)

    @property
    def is_empty(self) -> bool:
        """Whether the message neither says nor calls anything."""
        return not self.content.strip() and not self.tool_calls


@dataclass(frozen=True)
class Dialogue:
    """Messages in their order.

    Attributes:
        messages: The messages.
        where: Where the dialogue comes from: `file:line`.
        tools: The tools that the assistant may call, as a JSON array in text; empty when there are none.
        source: The file or data set that the recipe names.
        times: How often an epoch shows it.
    """

    messages: tuple[Message, ...]
    where: str
    tools: str = ""
    source: str = ""
    times: int = 1

    @property
    def opening(self) -> tuple[Message, ...]:
        """All up to the first answer: what a held-out row must not share with a trained one."""
        return tuple(takewhile(lambda message: message.role != "assistant", self.messages))

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts of the data, whatever they are: none of them may make a control token."""
        return (self.tools, *(text for message in self.messages for text in message.texts))

    @property
    def question(self) -> str:
        """What is asked as one text, which dialogues that ask the same share."""
        return content_of(self.opening)

    @property
    def content(self) -> str:
        """All that is said as one text, which dialogues that say the same share."""
        return content_of(self.messages) + self.tools


def content_of(messages: Sequence[Message]) -> str:
    """Roles and contents as one text, which messages that say the same share."""
    return json.dumps([parts_of(message) for message in messages], ensure_ascii=False)


def parts_of(message: Message) -> list[object]:
    """What a message says, without what is learned of it."""
    calls = [(call.name, call.arguments) for call in message.tool_calls]
    rest = [message.thinking, calls] if message.thinking or calls else []
    return [message.role, message.content, *rest]
