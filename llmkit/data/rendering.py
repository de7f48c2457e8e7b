"""Dialogues as text through a chat template, in such a way that only the template makes control tokens.

A template is taken apart once for each shape of dialogue: it is rendered with random words where the texts of the data
stand, which shows what it puts around them. Each control token that it puts there gets a secret name, under which a
private copy of the tokenizer knows it; the texts are laid in between, and the whole is encoded at once. The ids are
those of `apply_chat_template`, but no text can hold the secret name of a control token. Whatever the template makes of
the real texts is held against that, so a template that alters them, or asks what they say, is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from datetime import date, datetime, time
from functools import cached_property, lru_cache
from typing import Any
from weakref import WeakKeyDictionary

from tokenizers import AddedToken

from llmkit.data.messages import ROLES, Message, ToolCall
from llmkit.data.private_tokenizer import private_backend
from llmkit.data.skeleton import Answer, Fixed, Rendering, Skeleton, lay_in
from llmkit.data.slots import LEFT, RIGHT, Slot, Words, find_slots_between
from llmkit.data.template import RenderError, Template
from llmkit.data.template_input import (
    CALL,
    CONTENT,
    NAME,
    PLAIN_THINKING,
    SCHEMA,
    THINKING,
    TOOLS,
    Leaf,
    Marks,
    TemplateInput,
    Ways,
)
from llmkit.errors import ModelError
from llmkit.tokenizer import CHATML_TEMPLATE, END_OF_TURN, START_OF_TURN

__all__ = ["Answer", "Message", "RenderError", "Renderer", "Rendering", "add_chat_template", "renderer_of", "set_day"]

HIDDEN_THINKING = "rows think in turns in which the chat template leaves that out"

TELLS_DAY = "rows have a chat template that writes the day: it is told {:%Y-%m-%d} (data.date)"

THOUGHT_ENDS = re.compile(r"\s*</?\w*think\w*>\s*|\s*\[/THINK\]\s*")
"""What templates write behind a thinking part."""

DIALOGUES_AT_ONCE = 256
"""Dialogues that are sent to the template's process in one go."""

MOST_SKELETONS = 4096
"""So many are kept. Dialogues with tools have one each."""


EVERYTHING = Ways()


def add_chat_template(tokenizer: Any) -> bool:
    """Give a tokenizer without a chat template ChatML and its two control tokens; whether that was needed."""
    if tokenizer.chat_template:
        return False
    tokens = [AddedToken(name, special=True, normalized=False) for name in (START_OF_TURN, END_OF_TURN)]
    tokenizer.add_tokens(tokens, special_tokens=True)
    tokenizer.chat_template = CHATML_TEMPLATE
    return True


def renderer_of(tokenizer: Any) -> Renderer:
    """The renderer of a tokenizer with its present template and tokens, made once.

    Raises:
        ModelError: It has no chat template.
    """
    template = tokenizer.chat_template
    source = template if isinstance(template, str) else json.dumps(template)
    return cached_renderer(tokenizer, source, len(tokenizer), DAYS.get(tokenizer))


@lru_cache(maxsize=4)
def cached_renderer(tokenizer: Any, template: str, size: int, day: date | None) -> Renderer:
    """A renderer, as long as neither template, size nor day of the tokenizer change."""
    return Renderer(tokenizer, day)


DAYS: WeakKeyDictionary[Any, date] = WeakKeyDictionary()
"""The day that the templates of a tokenizer are told, where that is not today's."""


def set_day(tokenizer: Any, day: date) -> None:
    """Tell the chat templates of this tokenizer a day that stands: rows are the same on whatever day they are made."""
    DAYS[tokenizer] = day


class Renderer:
    """Renders dialogues with one tokenizer and its template. Made by `renderer_of`.

    A template that writes the time is told one and the same from beginning to end: a day, or when this was made.
    """

    def __init__(self, tokenizer: Any, day: date | None = None) -> None:
        if not tokenizer.chat_template:
            raise ModelError(
                "this model has no chat template, so it cannot hold a dialogue",
                where=str(tokenizer.name_or_path) or None,
                fix="tune it on dialogues first: `llmkit finetune` gives it one",
            )
        self.tokenizer = tokenizer
        self.backend, self.secret_names = private_backend(tokenizer)
        self.control_ids = frozenset(int(self.backend.token_to_id(name) or 0) for name in self.secret_names.values())
        names = sorted(self.secret_names, key=len, reverse=True)
        self.control = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self.now = datetime.now() if day is None else datetime.combine(day, time())
        self.templates: dict[str, Template] = {}
        self.skeletons: dict[tuple[str, bool], Skeleton] = {}

    def render(self, messages: Sequence[Message], *, tools: str = "", wants_answer: bool = False) -> Rendering:
        """Lay the texts into their skeleton; with `wants_answer` the header of the assistant's next turn ends it.

        Raises:
            RenderError: The template refuses the dialogue, cannot be taken apart, or would change a text.
        """
        check_roles(messages)
        data = TemplateInput(self.ways_of(messages, tools)).build(messages, tools)
        return self.lay_out(messages, tools, self.apply(data, wants_answer=wants_answer), wants_answer=wants_answer)

    def render_all(self, dialogues: Sequence[tuple[Sequence[Message], str]]) -> Iterator[Rendering | RenderError]:
        """`render` of many dialogues with their tools, in less time; errors are in their places."""
        for start in range(0, len(dialogues), DIALOGUES_AT_ONCE):
            part = dialogues[start : start + DIALOGUES_AT_ONCE]
            inputs = [TemplateInput(self.ways_of(messages, tools)).build(messages, tools) for messages, tools in part]
            for (messages, tools), real in zip(part, self.apply_all(inputs), strict=True):
                try:
                    check_roles(messages)
                    if isinstance(real, RenderError):
                        raise real
                    yield self.lay_out(messages, tools, real, wants_answer=False)
                except RenderError as error:
                    yield error

    def lay_out(self, messages: Sequence[Message], tools: str, real: str, *, wants_answer: bool) -> Rendering:
        """The rendering of a dialogue, held against what the template itself makes of it (`real`)."""
        marks = Marks(lambda number: f"\0{number}")
        ways = self.ways_of(messages, tools)
        key = (json.dumps(TemplateInput(ways, marks).build(messages, tools)), wants_answer)
        if key not in self.skeletons:
            if len(self.skeletons) >= MOST_SKELETONS:
                self.skeletons.clear()
            self.skeletons[key] = self.take_apart(messages, tools, wants_answer=wants_answer)
        skeleton, leaves = self.skeletons[key], marks.leaves
        whole = "".join(p.text if isinstance(p, Fixed) else p.show(leaves[p.leaf].text) for p in skeleton.parts)
        if whole != real:
            raise RenderError(
                "the chat template would change what a message says (it cuts or rewrites part of it)",
                fix="take out of the messages what this template treats as its own, such as thinking parts",
            )
        return lay_in(skeleton, messages, leaves)

    def take_apart(self, messages: Sequence[Message], tools: str, *, wants_answer: bool) -> Skeleton:
        """Find texts and slots by rendering random words, then mark what is learned with each answer."""
        texts, slots, leaves, notes = self.find_slots(messages, tools, wants_answer=wants_answer)
        owners = [leaves[slot.leaf].owner for slot in slots]
        ends: dict[int, tuple[int, int]] = {}
        for number, message in enumerate(messages):
            if message.role == "assistant" and not wants_answer and number in owners:
                first, last = owners.index(number), len(owners) - 1 - owners[::-1].index(number)
                if set(owners[first : last + 1]) != {number}:
                    raise RenderError(f"the chat template shows other messages inside message {number + 1}")
                before = self.learned_before(messages[:number], tools, texts[first])
                has_calls = leaves[slots[last].leaf].kind == CALL
                ends[number] = (before, self.learned_after(texts[last + 1], has_calls=has_calls))
        parts: list[Fixed | Slot] = []
        for text, left, right in zip(texts, [None, *slots], [*slots, None], strict=True):
            parts += self.cut_text(text, left and leaves[left.leaf], right and leaves[right.leaf], ends)
            if right is not None:
                parts.append(right)
        return Skeleton(parts, notes)

    def cut_text(
        self, text: str, left: Leaf | None, right: Leaf | None, ends: dict[int, tuple[int, int]]
    ) -> list[Fixed | Slot]:
        """A text between two slots as what is learned with the left one, with none, and with the right one."""
        if left and right and left.owner == right.owner and left.owner in ends:
            end = start = len(text)
        else:
            end = ends.get(left.owner, (0, 0))[1] if left else 0
            start = len(text) - (ends.get(right.owner, (0, 0))[0] if right else 0)
            # An end of turn is not learned twice where the next answer follows at once.
            start = max(start, end)
        thought = 0
        if left and left.kind == THINKING and (found := THOUGHT_ENDS.match(text, 0, end)):
            thought = found.end()
        pieces = [(text[:thought], left, True), (text[thought:end], left, False), (text[end:start], None, False)]
        pieces.append((text[start:], right, right is not None and right.kind == THINKING))
        return [Fixed(t, self.hide(t), leaf.owner if leaf else None, is_thought) for t, leaf, is_thought in pieces if t]

    def find_slots(
        self, messages: Sequence[Message], tools: str, *, wants_answer: bool
    ) -> tuple[list[str], list[Slot], list[Leaf], tuple[str, ...]]:
        """The template's texts, the slots between them, what they hold, and what is told of it."""
        ways = self.ways_of(messages, tools)
        words = Words()
        marks, wide_marks = Marks(words.word), Marks(lambda number: f"{LEFT}{words.word(number)}{RIGHT}")
        given = TemplateInput(ways, marks)
        data = given.build(messages, tools)
        texts, order = words.split(self.apply(data, wants_answer=wants_answer))
        check_order(order, marks.leaves, messages)
        thoughts = {number for number, leaf in enumerate(marks.leaves) if leaf.kind == THINKING}
        notes = tuple(dict.fromkeys(n for n in given.notes if n != PLAIN_THINKING or thoughts & {*order}))
        notes += (HIDDEN_THINKING,) if thoughts - {*order} else ()
        # A template reads the clock under this name alone.
        notes += (TELLS_DAY.format(self.now),) if "strftime_now" in self.template_for(data).source else ()
        wide = TemplateInput(ways, wide_marks).build(messages, tools)
        wide_texts, wide_order = words.split(self.apply(wide, wants_answer=wants_answer))
        if wide_order != order:
            raise RenderError("the chat template shows messages or not depending on white space in them")
        return texts, find_slots_between(texts, wide_texts, order), marks.leaves, notes

    def learned_before(self, earlier: Sequence[Message], tools: str, before: str) -> int:
        """How many characters before an answer's content are learned with it: all that a prompt does not end with.

        A prompt ends with the header of the turn. What the template puts between header and content (a space, an empty
        thinking part) is not there when the model is asked, so the model has to learn it.
        """
        header = self.header_after(earlier, tools)
        if before.startswith(header):
            return len(before) - len(header)
        if not earlier and before.endswith(header):
            return 0
        raise RenderError(
            f"the chat template writes {before!r} before an answer in training and {header!r} when it asks for one",
            fix="use a template whose generation prompt is the beginning of the assistant's turn",
        )

    def header_after(self, earlier: Sequence[Message], tools: str) -> str:
        """What the template writes between the last text and the assistant's next one when it asks for an answer."""
        if earlier:
            return self.last_text(earlier, tools, wants_answer=True)
        # Nobody asks a template for an answer to nothing: take what asking adds after a question.
        question = [Message("user", "?")]
        asked, done = (self.last_text(question, "", wants_answer=wants) for wants in (True, False))
        return asked.removeprefix(done)

    def last_text(self, messages: Sequence[Message], tools: str, *, wants_answer: bool) -> str:
        """What the template writes behind the last text of the data."""
        words = Words()
        data = TemplateInput(self.ways_of(messages, tools), Marks(words.word)).build(messages, tools)
        return words.split(self.apply(data, wants_answer=wants_answer))[0][-1]

    def learned_after(self, after: str, *, has_calls: bool = False) -> int:
        """How many characters after an answer are learned: up to the end of the first control token.

        Calls of tools may end with control tokens of their own: there it is the one that ends other answers.
        """
        place = after.find(self.end_of_turn) if has_calls else -1
        if place >= 0:
            return place + len(self.end_of_turn)
        found = self.control.search(after)
        if found is None:
            raise RenderError(
                "the chat template ends answers without a control token: the model could not learn to stop",
                fix="use a template that writes an end-of-turn token after each answer",
            )
        return found.end()

    @cached_property
    def end_of_turn(self) -> str:
        """The control token that ends the answer to a question."""
        after = self.last_text([Message("user", "?"), Message("assistant", "!")], "", wants_answer=False)
        return after[: self.learned_after(after)].lstrip()

    def apply(self, data: dict[str, Any], *, wants_answer: bool) -> str:
        """What the template itself makes of its data."""
        return self.template_for(data).render(given(data, wants_answer=wants_answer))

    def apply_all(self, several: Sequence[dict[str, Any]]) -> list[str | RenderError]:
        """The same of many; models may have one template for dialogues with tools and one for others."""
        found: dict[int, str | RenderError] = {}
        for template in {id(t): t for t in map(self.template_for, several)}.values():
            places = [i for i, data in enumerate(several) if self.template_for(data) is template]
            texts = template.render_all([given(several[i], wants_answer=False) for i in places])
            found |= zip(places, texts, strict=True)
        return [found[i] for i in range(len(several))]

    def template_for(self, data: dict[str, Any]) -> Template:
        """The template that these data are rendered with."""
        source = self.tokenizer.get_chat_template(None, data["tools"])
        if source not in self.templates:
            self.templates[source] = Template(source, dict(self.tokenizer.special_tokens_map), self.now)
        return self.templates[source]

    def ways_of(self, messages: Sequence[Message], tools: str) -> Ways:
        """What the template shows of a dialogue; it is tried only when the dialogue has something to show."""
        has_calls = any(message.tool_calls for message in messages)
        return Ways(
            system=not tools or self.shows_system,
            tools=not tools or self.shows_tools,
            calls=not has_calls or self.shows_calls,
            results=all(message.role != "tool" for message in messages) or self.shows_results,
            thinking=not any(message.thinking for message in messages) or self.shows_thinking,
        )

    @cached_property
    def shows_system(self) -> bool:
        """Whether the template has a place for a system message."""
        return self.shows(CONTENT, 0, [Message("system", "!"), QUESTION])

    @cached_property
    def shows_tools(self) -> bool:
        """Whether the template describes tools."""
        return self.shows(SCHEMA, TOOLS, [QUESTION], tools=SOME_TOOLS)

    @cached_property
    def shows_calls(self) -> bool:
        """Whether the template writes the assistant's calls."""
        return self.shows(CALL, 1, [QUESTION, SOME_CALL], tools=SOME_TOOLS if self.shows_tools else "")

    @cached_property
    def shows_results(self) -> bool:
        """Whether the template has a turn for what tools give back."""
        messages = [QUESTION, SOME_CALL, Message("tool", "!"), ANSWER]
        tools = SOME_TOOLS if self.shows_tools else ""
        return self.shows(CONTENT, 2, messages, ways=Ways(calls=self.shows_calls), tools=tools)

    @cached_property
    def shows_thinking(self) -> bool:
        """Whether the template shows what the last answer thought."""
        return self.shows(THINKING, 1, [QUESTION, ANSWER._replace(thinking="!")])

    def shows(
        self, kind: str, owner: int, messages: Sequence[Message], *, ways: Ways = EVERYTHING, tools: str = ""
    ) -> bool:
        """Whether a rendering holds all texts of this kind of a message."""
        words = Words()
        marks = Marks(words.word)
        try:
            _, order = words.split(self.apply(TemplateInput(ways, marks).build(messages, tools), wants_answer=False))
        except RenderError:
            return False
        wanted = {number for number, leaf in enumerate(marks.leaves) if (leaf.owner, leaf.kind) == (owner, kind)}
        return wanted <= set(order)

    def hide(self, text: str) -> str:
        """A template's text with its control tokens under their secret names."""
        return self.control.sub(lambda found: self.secret_names[found.group()], text)


QUESTION, ANSWER = Message("user", "?"), Message("assistant", "!")
SOME_CALL = Message("assistant", "", tool_calls=(ToolCall("look", '{"city": "Oslo"}'),))
SOME_TOOLS = json.dumps([{"type": "function", "function": {"name": "look", "description": "!", "parameters": {}}}])


def given(data: dict[str, Any], *, wants_answer: bool) -> dict[str, Any]:
    """All that a template is given."""
    return {**data, "documents": None, "add_generation_prompt": wants_answer}


def check_roles(messages: Sequence[Message]) -> None:
    """Raise for a role that is none: its name would reach the template."""
    for number, message in enumerate(messages, start=1):
        if message.role not in ROLES:
            raise RenderError(f"message {number} has role {message.role!r}; roles are {', '.join(ROLES)}")


def check_order(order: Sequence[int], leaves: Sequence[Leaf], messages: Sequence[Message]) -> None:
    """Raise when the template leaves out something of a message but its thinking, or shows an answer more than once."""
    for number, leaf in enumerate(leaves):
        times = order.count(number)
        if leaf.owner == TOOLS or leaf.kind == NAME:
            continue
        what = f"message {leaf.owner + 1} ({messages[leaf.owner].role})"
        if times == 0 and leaf.kind != THINKING:
            raise RenderError(f"the chat template leaves out or rewrites {what}")
        if times > 1 and messages[leaf.owner].role == "assistant":
            raise RenderError(f"the chat template shows {what} {times} times")
