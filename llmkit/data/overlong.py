"""Dialogues that are too long, cut at their beginning so that what is left is a whole dialogue."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from llmkit.data.dialogue import Row, make_row
from llmkit.data.messages import Dialogue, Message
from llmkit.data.rendering import Renderer, RenderError

MOST_ATTEMPTS = 8
"""Cutting a text changes how it is encoded, by a token or two."""


def cut_left(dialogue: Dialogue, renderer: Renderer, max_length: int) -> Row | None:
    """The row of a dialogue without its oldest turns, and where that is not enough without the beginning of a question.

    System messages stay, turns go whole, from a question to before the next, and the answer and its question's end
    stay: no answer is learned without its header. None where even that is too long, or the template refuses it.
    """
    head, turns = split_turns(dialogue.messages)
    if not turns:
        return None

    def encode(kept: Sequence[Message]) -> Row:
        rendering = renderer.render([*head, *kept], tools=dialogue.tools)
        return make_row(renderer.backend.encode(rendering.text, add_special_tokens=False), rendering, renderer, None)

    def fits(first: int) -> bool:
        return encode([m for turn in turns[first:] for m in turn]).num_tokens <= max_length

    try:
        first = bisect_left(range(len(turns) - 1), True, key=fits)
        kept = [m for turn in turns[first:] for m in turn]
        row = encode(kept)
        lost = row.num_tokens - max_length
        question = kept[0]
        if lost > 0 and question.role != "user":
            return None
        starts = [start for start, _ in renderer.backend.encode(question.content, add_special_tokens=False).offsets]
        for _ in range(MOST_ATTEMPTS):
            if row.num_tokens <= max_length:
                return row if row.num_targets else None
            if lost >= len(starts):
                return None
            row = encode([question._replace(content=question.content[starts[lost] :]), *kept[1:]])
            lost += max(row.num_tokens - max_length, 0)
    except RenderError:
        return None
    return None


def split_turns(messages: Sequence[Message]) -> tuple[list[Message], list[list[Message]]]:
    """The system messages at the beginning, and turns: each from a question to before the next one.

    What follows the last answer that is learned is left out: nothing is learned from it.
    """
    last = max((i for i, message in enumerate(messages) if message.is_answer), default=-1)
    told = list(messages[: last + 1])
    head: list[Message] = []
    while told and told[0].role == "system":
        head.append(told.pop(0))
    turns: list[list[Message]] = []
    for message in told:
        if message.role == "user" or not turns:
            turns.append([])
        turns[-1].append(message)
    return head, turns
