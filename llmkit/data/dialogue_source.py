"""The dialogues that a recipe names, with what is learned of each: read, mixed, and split from those held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from llmkit.console import say, warn
from llmkit.data.dialogue_forms import read_dialogues
from llmkit.data.dialogue_set import drop_shared, hold_out
from llmkit.data.messages import Dialogue, Message, content_of
from llmkit.errors import RecipeError
from llmkit.recipe.schema import FinetuneData

STRIPPED = "answers ended with a text of data.strip, which is taken off"
THOUGHTLESS = "answers think, which is left out (data.thinking: drop)"


class Sets(NamedTuple):
    """What is learned from, and what is held out.

    Attributes:
        train: The training dialogues.
        validation: Those held out.
        shared: Training dialogues that were left out, since validation has them too.
        num_same_questions: Validation dialogues whose question is asked in training as well.
    """

    train: list[Dialogue]
    validation: list[Dialogue]
    shared: list[Dialogue]
    num_same_questions: int


def read_sets(data: FinetuneData) -> Sets:
    """The training and validation dialogues of a recipe.

    Raises:
        DataError: A file cannot be read, or is in no known form.
        RecipeError: Both data.source and data.mix are given.
    """
    if data.mix and data.source is not None:
        raise RecipeError("data.source and data.mix are both given", where="data.mix", fix="leave one of them out")
    sources = list(data.mix) or [str(data.source)]
    dialogues = [dialogue for source in sources for dialogue in read_source(source, data)]
    validation = validation_source(data)
    if validation is None:
        # Where a dialogue falls depends on what it asks alone, so what two files ask is on one side.
        train, held_out = hold_out(dialogues, float(data.validation))
        return Sets(mixed(train, data.mix), held_out, [], 0)
    held_out = read_source(validation, data)
    train, shared = drop_shared(dialogues, held_out)
    asked = {content_of(dialogue.opening) for dialogue in train}
    num_same = sum(content_of(dialogue.opening) in asked for dialogue in held_out)
    if num_same:
        warn(f"{validation}: {num_same:,} of {len(held_out):,} validation rows ask what training rows ask as well")
    return Sets(mixed(train, data.mix), held_out, shared, num_same)


def validation_source(data: FinetuneData) -> str | None:
    """The file of validation rows; None where a share of the training rows is held out."""
    source = str(data.source)
    if isinstance(data.validation, str):
        return data.validation
    # Split by document already: a share of the training rows would not tell what is learned beyond them.
    return f"{source}@validation" if source.startswith("python-docs:") and "@" not in source else None


def read_source(source: str, data: FinetuneData) -> list[Dialogue]:
    """The dialogues of one file or data set, with what is learned of each."""
    notes: Counter[str] = Counter()
    read = read_dialogues(source, roles=data.roles, columns=data.columns, paths=data.paths)
    dialogues = [replace(d, messages=choose_answers(d.messages, data, notes)) for d in read]
    for note, count in notes.items():
        say(f"{source}: {count:,} {note}")
    return dialogues


def choose_answers(messages: Sequence[Message], data: FinetuneData, notes: Counter[str]) -> tuple[Message, ...]:
    """The messages with what the recipe says of them: ends that are taken off, thinking, which answers are learned."""
    found = [read_answer(message, data, notes) if message.role == "assistant" else message for message in messages]
    answers = [i for i, message in enumerate(found) if message.role == "assistant"]
    if answers and data.train_on != "all":
        last = answers[-1]
        asked = max((i for i, m in enumerate(found[:last]) if m.role == "user"), default=-1)
        first = last if data.train_on == "last" else asked + 1
        found = [m if first <= i <= last else m._replace(is_trained=False) for i, m in enumerate(found)]
    return tuple(found)


def read_answer(message: Message, data: FinetuneData, notes: Counter[str]) -> Message:
    """An answer without the ends and the thinking that the recipe does not want."""
    content = message.content
    while ending := next((text for text in data.strip if text and content.rstrip().endswith(text)), None):
        content = content.rstrip().removesuffix(ending)
    if content != message.content:
        notes[STRIPPED] += 1
        message = message._replace(content=content)
    if message.thinking and data.thinking == "drop":
        notes[THOUGHTLESS] += 1
        message = message._replace(thinking="")
    return message._replace(trains_thinking=data.thinking == "train")


def mixed(dialogues: list[Dialogue], weights: Mapping[str, float]) -> list[Dialogue]:
    """The dialogues, those of each source as often as comes nearest to its weight: a whole number of times.

    The source that is the largest for its weight is seen once; of a smaller one no row is left out or favoured.
    """
    if not weights:
        return dialogues
    counts = Counter(dialogue.source for dialogue in dialogues)
    per_weight = max(counts[source] / weight for source, weight in weights.items())
    times = {source: round(per_weight * weights[source] / count) for source, count in counts.items()}
    total = sum(times[source] * count for source, count in counts.items())
    wanted = sum(weights.values())
    for source, count in counts.items():
        share, asked = times[source] * count / total, weights[source] / wanted
        often = "once" if times[source] == 1 else f"{times[source]} times"
        say(f"{source}: its {count:,} rows {often} an epoch, {share:.1%} of the rows (asked for {asked:.1%})")
    return [replace(dialogue, times=times[dialogue.source]) for dialogue in dialogues]
