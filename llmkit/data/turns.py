"""One turn of a dialogue as people write it down, as a Message: role, text or typed parts, thinking, calls of tools."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from llmkit.data.messages import Message, ToolCall

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
    "tool_call": "assistant",
    "tool": "tool",
    "function": "tool",
    "observation": "tool",
    "tool_response": "tool",
}
"""Role names that need no mapping, in any case of letters, and the role that each means."""

SPEAKERS = {"system": "assistant", "agent": "assistant", "wizard": "assistant", "bot": "assistant", "customer": "user"}
"""What speakers of recorded dialogues are called besides: there the system is who answers."""

CALL_ROLES = frozenset({"function_call", "tool_call"})
"""Roles whose text is a call, or a list of calls, in JSON."""

TURN_KEYS = (("role", "content"), ("from", "value"), ("speaker", "utterance"), ("role", "text"), ("role", "value"))
"""The names under which turns keep who speaks and what is said. The first pair that a turn has is taken."""

THINKING_KEYS = ("reasoning_content", "thinking", "reasoning")
TEXT_PARTS = frozenset({"text", "output_text", "input_text"})
THINKING_PARTS = frozenset({"reasoning", "thinking"})
CALL_PARTS = frozenset({"tool_call", "function_call"})
THOUGHT = re.compile(r"\s*<think>(.*?)</think>\s*", re.DOTALL)
"""A thinking part written at the beginning of an answer."""

WEIGHTS = ("train", "weight", "loss_weight")

OTHERS_TRAINED = "messages that are no answers ask to be learned; only answers are"
EMPTY_THOUGHT = "answers begin with an empty thinking part, which is left out"


class RowError(Exception):
    """What is wrong with one row; the caller knows where it stands."""


@dataclass
class DialogueReading:
    """How rows are read, and what is to be told of them in the end.

    Attributes:
        own_roles: Role names of the data, and what each means.
        paths: Which paths of a tree of messages are taken.
        notes: What was met, and how often.
    """

    own_roles: Mapping[str, str] = field(default_factory=dict)
    paths: Literal["best", "all"] = "best"
    notes: Counter[str] = field(default_factory=Counter)

    def role_of(self, name: str, *, is_speaker: bool) -> str | None:
        """The role that a name means: the recipe's word counts most."""
        if name in self.own_roles:
            return self.own_roles[name]
        lowered = name.lower()
        return (SPEAKERS.get(lowered) if is_speaker else None) or KNOWN_ROLES.get(lowered)


class Content(NamedTuple):
    """What the content of a message holds."""

    text: str
    thinking: str
    calls: tuple[ToolCall, ...]


def read_turns(turns: Any, reading: DialogueReading) -> list[Message]:
    """The messages of a list of turns."""
    if not isinstance(turns, list) or not turns:
        raise RowError("there are no messages")
    return [read_turn(turn, number, reading) for number, turn in enumerate(turns, start=1)]


def read_turn(turn: Any, number: int, reading: DialogueReading) -> Message:
    """One message; everything about it that cannot be shown to a model is an error."""
    if not isinstance(turn, Mapping):
        raise RowError(f"message {number} is no object with a role and a content")
    role_key, content_key = keys_of(turn, number)
    name = str(turn[role_key])
    role = reading.role_of(name, is_speaker=role_key == "speaker")
    if role is None:
        known = ", ".join({**KNOWN_ROLES, **reading.own_roles})
        raise RowError(f"message {number} has role {name!r}; known roles are {known}")
    content = turn.get(content_key)
    calls = read_calls(turn, number)
    if name.lower() in CALL_ROLES:
        calls, content = parse_calls(content, number), ""
    text, thinking, more_calls = read_content(content, number, role=role, may_be_empty=bool(calls))
    thinking = read_thinking(turn, number) or thinking
    message = Message(
        role,
        text,
        is_trained=read_weight(turn, number, role, reading),
        thinking=thinking,
        tool_calls=(*calls, *more_calls),
        name=str(turn.get("name") or "") if role == "tool" else "",
        call_id=str(turn.get("tool_call_id") or "") if role == "tool" else "",
    )
    if message.tool_calls and role != "assistant":
        raise RowError(f"message {number} ({role}) calls a tool; only the assistant can")
    return message


def keys_of(turn: Mapping[str, Any], number: int) -> tuple[str, str]:
    """Under which names a turn keeps its role and its content."""
    for role_key, content_key in TURN_KEYS:
        if role_key in turn and content_key in turn:
            return role_key, content_key
    role_keys = [role for role, _ in TURN_KEYS if role in turn]
    if not role_keys:
        raise RowError(f"message {number} has no 'role'; it has {', '.join(map(str, turn)) or 'nothing'}")
    return role_keys[0], "content"


def split_thought(message: Message, reading: DialogueReading) -> Message:
    """A message; of an answer with the thinking part that is written at its beginning taken out."""
    found = THOUGHT.match(message.content)
    if found is None or message.role != "assistant" or message.thinking:
        return message
    thinking = found.group(1).strip("\n")
    reading.notes[EMPTY_THOUGHT] += not thinking.strip()
    return message._replace(content=message.content[found.end() :], thinking=thinking if thinking.strip() else "")


def read_content(content: Any, number: int, *, role: str, may_be_empty: bool) -> Content:
    """A message's text; a list of typed parts gives its texts joined, its thinking and its calls."""
    if isinstance(content, str):
        return Content(content, "", ())
    if content is None and may_be_empty:
        return Content("", "", ())
    if role == "tool" and content is not None and not is_parts(content):
        return Content(json.dumps(content, ensure_ascii=False), "", ())
    if not isinstance(content, list):
        raise RowError(
            f"message {number} has no text" if content is None else f"the content of message {number} is no text"
        )
    texts: dict[str, list[str]] = {"text": [], "thinking": []}
    calls: tuple[ToolCall, ...] = ()
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        value = next((part[key] for key in ("text", "value", kind) if key in part), None) if kind in PARTS else None
        if kind in CALL_PARTS and value is not None:
            calls += parse_calls(value, number)
        elif isinstance(value, str):
            texts["thinking" if kind in THINKING_PARTS else "text"].append(value)
        else:
            raise RowError(f"message {number} has a part of type {kind!r}; only text can be used")
    return Content("".join(texts["text"]), "\n".join(texts["thinking"]), calls)


PARTS = TEXT_PARTS | THINKING_PARTS | CALL_PARTS


def read_thinking(turn: Mapping[str, Any], number: int) -> str:
    """What a message thinks, where that has a field of its own: a text, or typed parts like those of a content."""
    key = next((key for key in THINKING_KEYS if turn.get(key)), None)
    if key is None or isinstance(turn[key], str):
        return turn[key] if key else ""
    if not is_parts(turn[key]):
        raise RowError(f"message {number} has {key!r} that is no text")
    said = read_content(turn[key], number, role="assistant", may_be_empty=False)
    return "\n".join(text for text in (said.thinking, said.text) if text)


def is_parts(content: Any) -> bool:
    """Whether a content is a list of typed parts."""
    return isinstance(content, list) and all(isinstance(p, Mapping) and p.get("type") in PARTS for p in content)


def read_calls(turn: Mapping[str, Any], number: int) -> tuple[ToolCall, ...]:
    """The calls under tool_calls, or under function_call as they were written before."""
    calls = turn.get("tool_calls") or turn.get("function_call")
    return parse_calls(calls, number) if calls else ()


def parse_calls(value: Any, number: int) -> tuple[ToolCall, ...]:
    """A call or a list of calls, as JSON or in JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RowError(f"message {number} holds a call that is no JSON ({error})") from error
    calls = value if isinstance(value, list) else [value]
    if not calls:
        raise RowError(f"message {number} holds a call of nothing")
    return tuple(parse_call(call, number) for call in calls)


def parse_call(call: Any, number: int) -> ToolCall:
    """One call: name and arguments, by themselves or under `function`; arguments may be JSON text."""
    outer = call if isinstance(call, Mapping) else {}
    inner = outer.get("function", outer)
    inner = inner if isinstance(inner, Mapping) else {}
    name = inner.get("name")
    if not isinstance(name, str) or not name.strip():
        raise RowError(f"message {number} holds a call without a name")
    arguments = inner.get("arguments", inner.get("parameters"))
    try:
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    except ValueError as error:
        raise RowError(f"message {number} calls {name} with arguments that are no JSON ({error})") from error
    if not isinstance(arguments or {}, dict):
        raise RowError(f"message {number} calls {name} with arguments that are no JSON object")
    return ToolCall(name, json.dumps(arguments or {}, ensure_ascii=False), str(outer.get("id") or ""))


def read_weight(turn: Mapping[str, Any], number: int, role: str, reading: DialogueReading) -> bool:
    """Whether a message is trained, where it says so itself: train, weight or loss_weight."""
    for key in WEIGHTS:
        value = turn.get(key)
        if value is not None:
            if value not in (0, 1):
                raise RowError(f"message {number} has {key} {value!r}; an answer is trained (1) or not (0)")
            reading.notes[OTHERS_TRAINED] += bool(value) and role != "assistant"
            return bool(value)
    return True


def read_tools(value: Any) -> str:
    """The tools of a row, a JSON array or one in text, each as a function with its schema; empty when there are none.

    Raises:
        RowError: It is no array of tools with names.
    """
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError as error:
            raise RowError(f"the tools are no JSON ({error})") from error
    if not value:
        return ""
    if not isinstance(value, list):
        raise RowError("the tools are no list")
    tools = [as_function(tool, number) for number, tool in enumerate(value, start=1)]
    return json.dumps(tools, ensure_ascii=False)


def as_function(tool: Any, number: int) -> dict[str, Any]:
    """A tool as templates take it: {"type": "function", "function": {"name", "description", "parameters"}}."""
    inner = tool.get("function", tool) if isinstance(tool, Mapping) else None
    if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
        raise RowError(f"tool {number} has no name")
    return dict(tool) if "function" in tool else {"type": "function", "function": dict(tool)}
