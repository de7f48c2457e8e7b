"""A dialogue as chat templates take it, with every text of the data in a place that is known.

Templates that know nothing of tools or thinking get them written into the contents, in one plain way that is said.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from llmkit.data.messages import Message, ToolCall

TOOLS = -1
"""The owner of the texts in the tools' descriptions; those of a message belong to its number."""

THINKING = "thinking"
CONTENT = "content"
CALL = "call"
NAME = "name"
SCHEMA = "schema"

PLAIN_TOOLS = "rows have tools, which the chat template does not take: they stand in the first message as JSON"
PLAIN_CALLS = "rows call tools, which the chat template does not show: calls stand in <tool_call> as JSON"
PLAIN_RESULTS = "rows have results of tools, for which the chat template has no turn: the user gives them"
PLAIN_THINKING = "rows think, which the chat template does not show: it stands in <think> before the answer"

TOOLS_HEAD = "You can call these tools:\n"
TOOLS_TAIL = '\nTo call one, write <tool_call>\n{"name": its name, "arguments": an object}\n</tool_call>'

WORDS_OF_SCHEMAS = frozenset(
    re.findall(
        r"\w+",
        "type function name description parameters properties required items enum default title format anyOf oneOf "
        "allOf additionalProperties minimum maximum return returns nullable strict const examples pattern minItems "
        "maxItems object string integer number boolean array null dict str int float bool list any id arguments",
    )
)
"""Words that tools are described with. Templates ask for them by name, so they are shown to them as they are."""


class Ways(NamedTuple):
    """What a chat template knows how to show."""

    system: bool = True
    tools: bool = True
    calls: bool = True
    results: bool = True
    thinking: bool = True


class Leaf(NamedTuple):
    """A text of the data: whose it is, what it is, and how it reads."""

    owner: int
    kind: str
    text: str


class Marks:
    """Puts marks in the place of texts, and remembers what they stand for. Blank texts stay: templates look at them."""

    def __init__(self, mark: Callable[[int], str]) -> None:
        self.mark = mark
        self.leaves: list[Leaf] = []
        self.known: dict[str, int] = {}

    def __call__(self, owner: int, kind: str, text: str) -> str:
        """The mark of a text; equal texts of tools share one, since templates compare them."""
        if not text.strip():
            return text
        if owner == TOOLS and text in self.known:
            return self.mark(self.known[text])
        number = len(self.leaves)
        self.leaves.append(Leaf(owner, kind, text))
        if owner == TOOLS:
            self.known[text] = number
        return self.mark(number)


Show = Callable[[int, str, str], str]
"""What stands in the place of a text: (owner, kind, text) -> text."""


def show_text(owner: int, kind: str, text: str) -> str:
    """The text itself."""
    return text


class TemplateInput:
    """Builds what a template is given for a dialogue."""

    def __init__(self, ways: Ways, show: Show = show_text) -> None:
        self.ways = ways
        self.show = show
        self.notes: list[str] = []
        self.calls: deque[str] = deque()
        self.ids: dict[str, str] = {}
        self.num_calls = 0
        self.previous = ""

    def build(self, messages: Sequence[Message], tools: str = "") -> dict[str, Any]:
        """{"messages", "tools"}, as `apply_chat_template` takes them."""
        schemas = json.loads(tools) if tools else []
        head = ""
        if schemas and not self.ways.tools:
            self.notes.append(PLAIN_TOOLS)
            lines = [json.dumps(self.walk(TOOLS, SCHEMA, schema), ensure_ascii=False) for schema in schemas]
            head = TOOLS_HEAD + "\n".join(lines) + TOOLS_TAIL
        built: list[dict[str, Any]] = []
        if head and self.ways.system and messages[0].role != "system":
            built.append({"role": "system", "content": head})
            head = ""
        for number, message in enumerate(messages):
            self.add(built, number, message, head)
            self.previous, head = message.role, ""
        shown = [self.walk(TOOLS, SCHEMA, schema) for schema in schemas] if schemas and self.ways.tools else None
        return {"messages": built, "tools": shown}

    def add(self, built: list[dict[str, Any]], number: int, message: Message, head: str) -> None:
        """One message more; `head` stands before what it says."""
        content = self.show(number, CONTENT, message.content)
        if message.role == "tool":
            self.add_result(built, number, message, content)
            return
        turn: dict[str, Any] = {"role": message.role}
        thinking = self.show(number, THINKING, message.thinking)
        calls = [self.call(number, call) for call in message.tool_calls]
        if thinking.strip() and self.ways.thinking:
            turn["thinking"] = turn["reasoning_content"] = thinking
        if calls and self.ways.calls:
            turn["tool_calls"] = calls
        elif calls:
            self.notes.append(PLAIN_CALLS)
            written = [f"<tool_call>\n{json.dumps(c['function'], ensure_ascii=False)}\n</tool_call>" for c in calls]
            content = "\n".join([content, *written] if content.strip() else written)
        if thinking.strip() and not self.ways.thinking:
            self.notes.append(PLAIN_THINKING)
            content = f"<think>\n{thinking}\n</think>\n\n{content}"
        turn["content"] = f"{head}\n\n{content}" if head else content
        built.append(turn)

    def add_result(self, built: list[dict[str, Any]], number: int, message: Message, content: str) -> None:
        """A tool's result: a turn of its own, or the user's where the template has none."""
        call_id = self.ids.get(message.call_id) or (self.calls[0] if self.calls else "")
        if call_id in self.calls:
            self.calls.remove(call_id)
        if self.ways.results:
            name = {"name": self.show(number, NAME, message.name)} if message.name else {}
            identity = {"tool_call_id": call_id} if call_id else {}
            built.append({"role": "tool", "content": content} | name | identity)
            return
        self.notes.append(PLAIN_RESULTS)
        text = f"<tool_response>\n{content}\n</tool_response>"
        if self.previous == "tool":
            built[-1]["content"] += f"\n{text}"
        else:
            built.append({"role": "user", "content": text})

    def call(self, number: int, call: ToolCall) -> dict[str, Any]:
        """A call with an id of nine letters, which all templates take that look at it: ids carry no meaning."""
        self.num_calls += 1
        call_id = f"call{self.num_calls:05}"
        self.calls.append(call_id)
        if call.id:
            self.ids[call.id] = call_id
        name = self.show(number, CALL, call.name)
        arguments = self.walk(number, CALL, json.loads(call.arguments))
        return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}

    def walk(self, owner: int, kind: str, value: Any) -> Any:
        """JSON whose texts are shown, names of fields included; the words of schemas stay."""
        if isinstance(value, str):
            return value if value in WORDS_OF_SCHEMAS else self.show(owner, kind, value)
        if isinstance(value, dict):
            return {self.walk(owner, kind, key): self.walk(owner, kind, item) for key, item in value.items()}
        return [self.walk(owner, kind, item) for item in value] if isinstance(value, list) else value
