"""Dialogues as text through a chat template, in such a way that only the template makes control tokens.

A template is taken apart once for each shape of dialogue: it is rendered with random words where the contents stand,
which shows what it puts around them. Each control token that it puts there gets a secret name, under which a private
copy of the tokenizer knows it; the contents are laid in between, and the whole is encoded at once. The ids are those of
`apply_chat_template`, but no content can hold the secret name of a control token.
"""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise, product
from typing import Any, NamedTuple

from jinja2.exceptions import TemplateError
from tokenizers import AddedToken, Tokenizer

from llmkit.errors import ModelError
from llmkit.tokenizer import CHATML_TEMPLATE, END_OF_TURN, START_OF_TURN, is_control, rename_entries

LEFT, RIGHT = "\n\x0c", "\x0b\n"
"""Put around a content to see what the template strips: line feeds outside, other white space inside."""

STRIPS: tuple[str | None, ...] = ("", "\n", None)
"""What templates strip from an end of a content, as `str.strip` takes it: nothing, line feeds, all white space."""


class Message(NamedTuple):
    """One turn of a dialogue. `is_trained` says whether an answer is learned; other roles never are."""

    role: str
    content: str
    is_trained: bool = True


class RenderError(ModelError):
    """A dialogue that the chat template refuses, or would not show as it stands."""


class Slot(NamedTuple):
    """Where a message's content stands, and what the template strips from its ends (see STRIPS)."""

    message: int
    left: str | None = ""
    right: str | None = ""

    def strip(self, content: str) -> str:
        """The content as the template shows it."""
        content = content if self.left == "" else content.lstrip(self.left)
        return content if self.right == "" else content.rstrip(self.right)


class Fixed(NamedTuple):
    """Text of the template: as it is, and with control tokens under their secret names.

    `answer` is the message that it is learned with: what an answer needs around its content, up to its end of turn.
    """

    text: str
    coded: str
    answer: int | None = None


class Answer(NamedTuple):
    """A stretch of a rendering that is learned: [start, end), in which the content ends at `content_end`."""

    start: int
    content_end: int
    end: int


class Rendering(NamedTuple):
    """A dialogue as text in which control tokens stand under their secret names, and where the answers are in it."""

    text: str
    answers: list[Answer]


Shape = tuple[tuple[str, str | None], ...]
"""Role of each message, and its content where that is blank: templates may have their own way with blank contents."""


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
    return cached_renderer(tokenizer, template if isinstance(template, str) else json.dumps(template), len(tokenizer))


@lru_cache(maxsize=4)
def cached_renderer(tokenizer: Any, template: str, size: int) -> Renderer:
    """A renderer, as long as neither template nor size of the tokenizer change."""
    return Renderer(tokenizer)


class Renderer:
    """Renders dialogues with one tokenizer and its template. Made by `renderer_of`."""

    def __init__(self, tokenizer: Any) -> None:
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
        self.skeletons: dict[tuple[Shape, bool], list[Fixed | Slot]] = {}

    def render(self, messages: Sequence[Message], *, wants_answer: bool = False) -> Rendering:
        """Lay the contents into their skeleton; with `wants_answer` the header of the assistant's next turn ends it.

        Raises:
            RenderError: The template refuses the dialogue, cannot be taken apart, or would change a content.
        """
        shape = tuple((m.role, None if m.content.strip() else m.content) for m in messages)
        skeleton = self.skeleton(shape, wants_answer=wants_answer)
        contents = [m.content for m in messages]
        whole = "".join(
            part.text if isinstance(part, Fixed) else part.strip(contents[part.message]) for part in skeleton
        )
        if whole != self.apply(messages, wants_answer=wants_answer):
            raise RenderError(
                "the chat template would change what a message says (it cuts or rewrites part of it)",
                fix="take out of the messages what this template treats as its own, such as thinking parts",
            )
        return lay_in(skeleton, messages)

    def skeleton(self, shape: Shape, *, wants_answer: bool) -> list[Fixed | Slot]:
        """What the template puts around the contents of dialogues of this shape."""
        key = (shape, wants_answer)
        if key not in self.skeletons:
            self.skeletons[key] = self.take_apart(shape, wants_answer=wants_answer)
        return self.skeletons[key]

    def take_apart(self, shape: Shape, *, wants_answer: bool) -> list[Fixed | Slot]:
        """Find texts and slots by rendering random words, then mark what is learned with each answer."""
        texts, slots = self.find_slots(shape, wants_answer=wants_answer)
        learned: dict[int, tuple[int, int]] = {}
        for slot, before, after in zip(slots, texts, texts[1:], strict=False):
            if shape[slot.message][0] == "assistant" and not wants_answer:
                learned[slot.message] = (self.learned_before(shape[: slot.message], before), self.learned_after(after))
        parts: list[Fixed | Slot] = []
        for text, left, right in zip(texts, [None, *slots], [*slots, None], strict=True):
            end = 0 if left is None else learned.get(left.message, (0, 0))[1]
            start = len(text) if right is None else len(text) - learned.get(right.message, (0, 0))[0]
            # An end of turn is not learned twice where the next answer follows at once.
            start = max(start, end)
            for piece, owner in ((text[:end], left), (text[end:start], None), (text[start:], right)):
                if piece:
                    parts.append(Fixed(piece, self.hide(piece), owner.message if owner else None))
            if right is not None:
                parts.append(right)
        return parts

    def find_slots(self, shape: Shape, *, wants_answer: bool) -> tuple[list[str], list[Slot]]:
        """The template's texts, and the slots between them."""
        words = {word_of_chance(): i for i, (_, blank) in enumerate(shape) if blank is None}
        names = {i: word for word, i in words.items()}
        messages = [Message(role, names[i] if blank is None else blank) for i, (role, blank) in enumerate(shape)]
        texts, order = split_at(self.apply(messages, wants_answer=wants_answer), words)
        check_order(order, shape)
        wide = [m._replace(content=f"{LEFT}{m.content}{RIGHT}") if m.content in words else m for m in messages]
        wide_texts, wide_order = split_at(self.apply(wide, wants_answer=wants_answer), words)
        if wide_order != order:
            raise RenderError("the chat template shows messages or not depending on white space in them")
        strips = [
            find_strips(text, wide_text, i, len(order))
            for i, (text, wide_text) in enumerate(zip(texts, wide_texts, strict=True))
        ]
        slots = [
            Slot(message, left[1], right[0]) for message, (left, right) in zip(order, pairwise(strips), strict=True)
        ]
        return texts, slots

    def learned_before(self, earlier: Shape, before: str) -> int:
        """How many characters before an answer's content are learned with it: all that a prompt does not end with.

        A prompt ends with the header of the turn. What the template puts between header and content (a space, an empty
        thinking part) is not there when the model is asked, so the model has to learn it.
        """
        header = self.header_after(earlier)
        if before.startswith(header):
            return len(before) - len(header)
        if not earlier and before.endswith(header):
            return 0
        raise RenderError(
            f"the chat template writes {before!r} before an answer in training and {header!r} when it asks for one",
            fix="use a template whose generation prompt is the beginning of the assistant's turn",
        )

    def header_after(self, earlier: Shape) -> str:
        """What the template writes between the last content and the assistant's next one when it asks for an answer."""
        if earlier:
            return self.find_slots(earlier, wants_answer=True)[0][-1]
        # Nobody asks a template for an answer to nothing: take what asking adds after a question.
        asked, done = (self.find_slots((("user", None),), wants_answer=wants)[0][-1] for wants in (True, False))
        return asked.removeprefix(done)

    def learned_after(self, after: str) -> int:
        """How many characters after an answer's content are learned: up to the end of the first control token."""
        found = self.control.search(after)
        if found is None:
            raise RenderError(
                "the chat template ends answers without a control token: the model could not learn to stop",
                fix="use a template that writes an end-of-turn token after each answer",
            )
        return found.end()

    def apply(self, messages: Sequence[Message], *, wants_answer: bool) -> str:
        """What the template itself makes of the messages."""
        plain = [{"role": m.role, "content": m.content} for m in messages]
        try:
            return str(self.tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=wants_answer))
        except TemplateError as error:
            reason = error.message or type(error).__name__
            roles = " ".join(m.role for m in messages)
            raise RenderError(f"the chat template refuses turns in the order {roles}: {reason}") from error
        except (TypeError, ValueError, KeyError, ArithmeticError, AttributeError) as error:
            raise RenderError(f"the chat template fails: {error}", fix="use another template") from error

    def hide(self, text: str) -> str:
        """A template's text with its control tokens under their secret names."""
        return self.control.sub(lambda found: self.secret_names[found.group()], text)


def lay_in(skeleton: Sequence[Fixed | Slot], messages: Sequence[Message]) -> Rendering:
    """The whole text under secret names, and where the answers that are learned stand in it."""
    written: list[str] = []
    position = 0
    answers: dict[int, Answer] = {}
    for part in skeleton:
        owner = part.answer if isinstance(part, Fixed) else part.message
        piece = part.coded if isinstance(part, Fixed) else part.strip(messages[part.message].content)
        end = position + len(piece)
        if owner is not None and messages[owner].role == "assistant" and messages[owner].is_trained:
            known = answers.get(owner, Answer(position, position, position))
            answers[owner] = Answer(known.start, end if isinstance(part, Slot) else known.content_end, end)
        written.append(piece)
        position = end
    return Rendering("".join(written), list(answers.values()))


def word_of_chance() -> str:
    """A word that no template and no text knows, in both cases so that a change of case would show."""
    return "".join(secrets.choice(string.ascii_letters) for _ in range(24))


def split_at(text: str, words: dict[str, int]) -> tuple[list[str], list[int]]:
    """Cut a rendering at the words: the texts between them, and the messages in the order in which they stand there."""
    if not words:
        return [text], []
    pieces = re.split(f"({'|'.join(words)})", text)
    return pieces[::2], [words[word] for word in pieces[1::2]]


def check_order(order: Sequence[int], shape: Shape) -> None:
    """Raise when the template leaves a message out, or shows an answer more than once."""
    for i, (role, blank) in enumerate(shape):
        times = order.count(i)
        if blank is None and times == 0:
            raise RenderError(f"the chat template leaves out or rewrites message {i + 1} ({role})")
        if role == "assistant" and times > 1:
            raise RenderError(f"the chat template shows message {i + 1} ({role}) {times} times")


def find_strips(text: str, wide_text: str, index: int, num_slots: int) -> tuple[str | None, str | None]:
    """What is stripped at the end of the content before a text, and at the beginning of the content after it.

    Args:
        text: What stands between two contents.
        wide_text: The same when each content is wrapped in LEFT and RIGHT.
        index: Which of the texts this is.
        num_slots: How many contents there are.
    """
    before = STRIPS if index > 0 else ("",)
    after = STRIPS if index < num_slots else ("",)
    for right, left in product(before, after):
        kept_right = "" if index == 0 else RIGHT if right == "" else RIGHT.rstrip(right)
        kept_left = "" if index == num_slots else LEFT if left == "" else LEFT.lstrip(left)
        if wide_text == kept_right + text + kept_left:
            return right, left
    raise RenderError("the chat template changes white space in what messages say in a way that is not known here")


def private_backend(tokenizer: Any) -> tuple[Tokenizer, dict[str, str]]:
    """A copy of a tokenizer that knows its control tokens under secret names only, and these names.

    Vocabulary entries are renamed too: some models would find the token of a control token's text by its name.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec.update(truncation=None, padding=None, post_processor=None)
    template = (
        tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else json.dumps(tokenizer.chat_template)
    )
    control = [token for token in spec["added_tokens"] if is_control(token, template)]
    ids = {token["content"]: token["id"] for token in control}
    names = {content: secret_name() for content in ids}
    for token in control:
        token["content"] = names[token["content"]]
    rename_entries(spec["model"], names)
    drop_merges(spec["model"], names)
    backend = Tokenizer.from_str(json.dumps(spec))
    if any(backend.token_to_id(names[content]) != i for content, i in ids.items()):
        raise ModelError(
            "this tokenizer numbers its control tokens in a way that is not known here",
            where=str(tokenizer.name_or_path) or None,
        )
    return backend, names


def secret_name() -> str:
    """A name that no text can guess, made of lower case letters alone, which no normalizer changes."""
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(32))


def drop_merges(model: dict[str, Any], names: dict[str, str]) -> None:
    """Take out of a BPE model, in place, the merges that make or use a token that was renamed."""
    if "merges" in model:
        pairs = (merge if isinstance(merge, list) else merge.split(" ") for merge in model["merges"])
        model["merges"] = [pair for pair in pairs if not {pair[0], pair[1], pair[0] + pair[1]} & names.keys()]
