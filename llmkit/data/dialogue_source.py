"""The examples that a recipe names, with what is learned of each: read, mixed, and split from those held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Generic, NamedTuple

from llmkit.console import say, warn
from llmkit.data.dialogue_forms import read_dialogues
from llmkit.data.dialogue_set import E, drop_shared, hold_out
from llmkit.data.messages import Dialogue, Message
from llmkit.data.preference_forms import Preference, read_preferences
from llmkit.errors import DataError, RecipeError
from llmkit.recipe.schema import FinetuneData

STRIPPED = "answers ended with a text of data.strip, which is taken off"
THOUGHTLESS = "answers think, which is left out (data.thinking: drop)"


class Sets(NamedTuple, Generic[E]):
    """What is learned from, and what is held out.

    Attributes:
        train: What is learned from.
        validation: What is held out.
        shared: Training rows that were left out, since validation has them too.
        num_same_questions: Validation rows whose question is asked in training as well.
    """

    train: list[E]
    validation: list[E]
    shared: list[E]
    num_same_questions: int


def read_sets(data: FinetuneData) -> Sets[Dialogue]:
    """The training and validation dialogues of a recipe.

    Raises:
        DataError: A file cannot be read, or is in no known form.
        RecipeError: Both data.source and data.mix are given.
    """
    if data.mix and data.source is not None:
        raise RecipeError("data.source and data.mix are both given", where="data.mix", fix="leave one of them out")
    sources = list(data.mix) or [str(data.source)]
    dialogues = [dialogue for source in sources for dialogue in read_source(source, data)]
    # Where a dialogue falls depends on what it asks alone, so what two files ask is on one side.
    sets = held_apart(dialogues, data, partial(read_source, data=data))
    return sets._replace(train=mixed(sets.train, data.mix))


def read_pair_sets(data: FinetuneData) -> Sets[Preference]:
    """The training and validation pairs of a recipe.

    Raises:
        DataError: A file cannot be read, or holds no pairs.
    """
    return held_apart(read_pairs(str(data.source), data), data, partial(read_pairs, data=data))


def held_apart(examples: Sequence[E], data: FinetuneData, read: Callable[[str], list[E]]) -> Sets[E]:
    """Examples to learn from, and those of the validation file or the share that is held out.

    Raises:
        DataError: Nothing is left to learn from.
    """
    validation = validation_source(data)
    if validation is None:
        train, held_out = hold_out(examples, float(data.validation))
        shared: list[E] = []
    else:
        held_out = read(validation)
        train, shared = drop_shared(examples, held_out)
    if examples and not train:
        message = f"none of the {len(examples):,} rows is left to learn from: all are held out"
        raise DataError(message, where="data.validation", fix="hold out a smaller share, or name another file")
    asked = {example.question for example in train}
    num_same = sum(example.question in asked for example in held_out)
    if num_same:
        warn(f"{validation}: {num_same:,} of {len(held_out):,} validation rows ask what training rows ask as well")
    return Sets(train, held_out, shared, num_same)


def check_meant(data: FinetuneData, names: Sequence[str], task: str) -> None:
    """Raise for a field of a recipe that is given and that its task has no use for."""
    usual = FinetuneData()
    for name in names:
        if getattr(data, name) != getattr(usual, name):
            message = f"the task {task} has no use for data.{name}"
            raise RecipeError(message, where=f"data.{name}", fix="leave it out")


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


def read_pairs(source: str, data: FinetuneData) -> list[Preference]:
    """The preference pairs of one file or data set, with what is judged of each."""
    notes: Counter[str] = Counter()
    pairs = [
        choose_of_pair(pair, data, notes) for pair in read_preferences(source, columns=data.columns, roles=data.roles)
    ]
    for note, count in notes.items():
        say(f"{source}: {count:,} {note}")
    return pairs


def choose_of_pair(pair: Preference, data: FinetuneData, notes: Counter[str]) -> Preference:
    """A pair with what the recipe says of its answers."""
    prompt, chosen, rejected = (read_answers(m, data, notes) for m in (pair.prompt, pair.chosen, pair.rejected))
    first = len(prompt)
    chosen, rejected = (choose_learned([*prompt, *answer], data)[first:] for answer in (chosen, rejected))
    return replace(pair, prompt=prompt, chosen=chosen, rejected=rejected)


def choose_answers(messages: Sequence[Message], data: FinetuneData, notes: Counter[str]) -> tuple[Message, ...]:
    """The messages with what the recipe says of them: ends that are taken off, thinking, which answers are learned."""
    return tuple(choose_learned(read_answers(messages, data, notes), data))


def read_answers(messages: Sequence[Message], data: FinetuneData, notes: Counter[str]) -> list[Message]:
    """The messages, answers without the ends and the thinking that the recipe does not want."""
    return [read_answer(message, data, notes) if message.role == "assistant" else message for message in messages]


def choose_learned(messages: list[Message], data: FinetuneData) -> list[Message]:
    """The messages, of which those answers alone are learned that the recipe wants."""
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if not answers or data.train_on == "all":
        return messages
    last = answers[-1]
    asked = max((i for i, m in enumerate(messages[:last]) if m.role == "user"), default=-1)
    first = last if data.train_on == "last" else asked + 1
    return [m if first <= i <= last else m._replace(is_trained=False) for i, m in enumerate(messages)]


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
