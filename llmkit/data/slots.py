"""Where texts stand in what a template writes, and what it does to them: white space, escapes of JSON."""

from __future__ import annotations

import json
import re
import secrets
import string
from collections.abc import Callable, Sequence
from itertools import pairwise, product
from typing import NamedTuple

from llmkit.data.template import RenderError

LEFT, RIGHT = "\n\x0c", '"é\x0b\n'
"""Put around a text to see what the template does to it: line feeds outside, other white space and signs that JSON
escapes inside."""

STRIPS: tuple[str | None, ...] = ("", "\n", None)
"""What templates strip from an end of a text, as `str.strip` takes it: nothing, line feeds, all white space."""

UNKNOWN = "the chat template changes white space in what messages say in a way that is not known here"

DIGITS = string.ascii_lowercase
WIDTH = 4


def as_it_is(text: str) -> str:
    """The text."""
    return text


def in_json(text: str) -> str:
    """The text as it stands between the quotes of JSON."""
    return json.dumps(text, ensure_ascii=False)[1:-1]


def in_ascii_json(text: str) -> str:
    """The same in ASCII."""
    return json.dumps(text)[1:-1]


ESCAPES: tuple[Callable[[str], str], ...] = (as_it_is, in_json, in_ascii_json)
"""How templates write texts."""


class Slot(NamedTuple):
    """Where a text stands: which leaf it is, what the template strips from its ends (see STRIPS), how it escapes it."""

    leaf: int
    left: str | None = ""
    right: str | None = ""
    escape: Callable[[str], str] = as_it_is

    def show(self, text: str) -> str:
        """The text as the template shows it."""
        return self.escape(strip_right(strip_left(text, self.left), self.right))


class Side(NamedTuple):
    """What was done to one end of a text."""

    strip: str | None
    escape: Callable[[str], str]


def strip_left(text: str, characters: str | None) -> str:
    """The text without these at its beginning; None stands for white space."""
    return text if characters == "" else text.lstrip(characters)


def strip_right(text: str, characters: str | None) -> str:
    """The text without these at its end; None stands for white space."""
    return text if characters == "" else text.rstrip(characters)


class Words:
    """Words of chance that no template and no text knows, in both cases so that a change of case would show."""

    def __init__(self) -> None:
        self.key = "".join(secrets.choice(string.ascii_letters) for _ in range(24))
        self.pattern = re.compile(f"{self.key}([{DIGITS}]{{{WIDTH}}})Z")

    def word(self, number: int) -> str:
        """The word of a number."""
        digits = ""
        for _ in range(WIDTH):
            number, digit = divmod(number, len(DIGITS))
            digits += DIGITS[digit]
        return f"{self.key}{digits}Z"

    def split(self, text: str) -> tuple[list[str], list[int]]:
        """Cut a rendering at the words: the texts between them, and the numbers in the order in which they stand."""
        pieces = self.pattern.split(text)
        numbers = [sum(DIGITS.index(d) * len(DIGITS) ** i for i, d in enumerate(digits)) for digits in pieces[1::2]]
        return pieces[::2], numbers


def find_slots_between(texts: Sequence[str], wide_texts: Sequence[str], order: Sequence[int]) -> list[Slot]:
    """The slots between the template's texts.

    Args:
        texts: What stands between the words.
        wide_texts: The same when each word is wrapped in LEFT and RIGHT.
        order: The leaf of each word.

    Raises:
        RenderError: The template does something else to white space or signs.
    """
    sides = [
        find_sides(text, wide_text, has_left=i > 0, has_right=i < len(order))
        for i, (text, wide_text) in enumerate(zip(texts, wide_texts, strict=True))
    ]
    slots = []
    for leaf, ((_, left), (right, _)) in zip(order, pairwise(sides), strict=True):
        if left.escape(LEFT) != right.escape(LEFT):
            raise RenderError(UNKNOWN)
        slots.append(Slot(leaf, left.strip, right.strip, right.escape))
    return slots


def find_sides(text: str, wide_text: str, *, has_left: bool, has_right: bool) -> tuple[Side, Side]:
    """What happens at the end of the leaf before a text, and at the beginning of the leaf after it."""
    everything = [Side(strip, escape) for escape in ESCAPES for strip in STRIPS]
    nothing = [Side("", as_it_is)]
    for before, after in product(everything if has_left else nothing, everything if has_right else nothing):
        kept_right = before.escape(strip_right(RIGHT, before.strip)) if has_left else ""
        kept_left = after.escape(strip_left(LEFT, after.strip)) if has_right else ""
        if wide_text == kept_right + text + kept_left:
            return before, after
    raise RenderError(UNKNOWN)
