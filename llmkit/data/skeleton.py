"""What a template puts around the texts of a dialogue, and the dialogue that is laid into it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from llmkit.data.messages import Message
from llmkit.data.slots import Slot
from llmkit.data.template_input import THINKING, Leaf


class Fixed(NamedTuple):
    """Text of the template: as it is, and with control tokens under their secret names.

    `answer` is the message that it is learned with: what an answer needs around its content, up to its end of turn.
    `is_thought` tells what belongs to the thinking of the answer.
    """

    text: str
    coded: str
    answer: int | None = None
    is_thought: bool = False


class Answer(NamedTuple):
    """A stretch of a rendering that is learned: [start, end), in which the content ends at `content_end`.

    By `num_hidden` bytes the secret names up to there are longer than the control tokens that they stand for.
    """

    start: int
    content_end: int
    end: int
    num_hidden: int = 0


class Rendering(NamedTuple):
    """A dialogue as text in which control tokens stand under their secret names, and where the answers are in it.

    `notes` say what of the dialogue the template does not show as the data have it.
    """

    text: str
    answers: list[Answer]
    notes: tuple[str, ...] = ()


class Skeleton(NamedTuple):
    """What a template puts around the texts of a shape of dialogue, and what it leaves out of it."""

    parts: list[Fixed | Slot]
    notes: tuple[str, ...]


def lay_in(skeleton: Skeleton, messages: Sequence[Message], leaves: Sequence[Leaf]) -> Rendering:
    """The whole text under secret names, and where the answers that are learned stand in it."""
    written: list[str] = []
    position = 0
    answers: dict[int, Answer] = {}
    hidden: Counter[int] = Counter()
    for part in skeleton.parts:
        if isinstance(part, Fixed):
            piece, owner, is_thought = part.coded, part.answer, part.is_thought
        else:
            leaf = leaves[part.leaf]
            piece, owner, is_thought = part.show(leaf.text), leaf.owner, leaf.kind == THINKING
        end = position + len(piece)
        if owner is not None and owner >= 0 and is_learned(messages[owner], is_thought=is_thought):
            known = answers.get(owner, Answer(position, position, position))
            if isinstance(part, Slot):
                known = known._replace(content_end=end, num_hidden=hidden[owner])
            else:
                hidden[owner] += len(part.coded) - len(part.text)
            answers[owner] = known._replace(end=end)
        written.append(piece)
        position = end
    return Rendering("".join(written), list(answers.values()), skeleton.notes)


def is_learned(message: Message, *, is_thought: bool) -> bool:
    """Whether this part of a message is learned."""
    return message.is_answer and (message.trains_thinking or not is_thought)
