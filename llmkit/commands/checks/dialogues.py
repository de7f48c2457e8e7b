"""Checks of dialogues: what is trained is what the assistant says and the end of its turn, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from llmkit.commands.checks.case import Case, CheckOutcome, at_most, not_applicable

if TYPE_CHECKING:
    from llmkit.data.dialogue import Row
    from llmkit.data.messages import Dialogue, Message

MOST_DIALOGUES = 300
"""That are rendered once more; the targets of all training rows are looked at."""
NO_DIALOGUES = "there are no dialogues"


def check_supervision(case: Case) -> CheckOutcome:
    """Every row learns the end of each of its answers, and no token of a prompt."""
    if not case.dialogues:
        return not_applicable(NO_DIALOGUES)
    from llmkit.data.dialogue import end_of_turn_ids

    ends = set(end_of_turn_ids(case.tokenizer))
    wrong: list[str] = []
    for number, (_, targets) in enumerate(case.supervised):
        if not all(last in ends for _, last in spans(targets)) and not case.may_cut:
            wrong.append(f"training row {number}: an answer without its end")
    for dialogue in case.dialogues[:MOST_DIALOGUES]:
        wrong += [f"{dialogue.where}: {problem}" for problem in problems_of(dialogue, case.tokenizer, ends)]
    count = len(case.supervised) + min(len(case.dialogues), MOST_DIALOGUES)
    return at_most(float(len(wrong)), 0.0, wrong[0] if wrong else f"{count:,} rows")


def spans(targets: Sequence[int]) -> Iterator[tuple[list[int], int]]:
    """Stretches of targets that are trained, each with its last one."""
    from llmkit.batch import IGNORE_INDEX

    ids = [int(target) for target in targets]
    edges = [-1, *(place for place, target in enumerate(ids) if target == IGNORE_INDEX), len(ids)]
    for before, after in pairwise(edges):
        if after - before > 1:
            yield ids[before + 1 : after], ids[after - 1]


def problems_of(dialogue: Dialogue, tokenizer: Any, ends: set[int]) -> Iterator[str]:
    """What is trained of a dialogue and should not be, or the other way round."""
    from llmkit.batch import IGNORE_INDEX
    from llmkit.tokenizer import decode_ids

    row = row_of(dialogue, tokenizer)
    if row is None:
        return
    said = [answer_text(m) for m in dialogue.messages if m.role == "assistant" and m.is_trained]
    trained = list(spans(row.targets.tolist()))
    if len(trained) < len(said):
        yield f"{len(said) - len(trained)} of {len(said)} answers are not trained"
    for ids, last in trained:
        if last not in ends:
            yield "an answer is trained without the end of its turn"
        text = plain(decode_ids(tokenizer, [token for token in ids if token not in ends]))
        # The call of a tool is written in the template's own way.
        has_calls = any(message.tool_calls for message in dialogue.messages)
        if not has_calls and not any(text in plain(answer) or plain(answer) in text for answer in said):
            yield f"what is trained is no answer: {text[:40]!r}"
    prompt = prompt_ids(dialogue, tokenizer)
    if prompt and any(int(target) != IGNORE_INDEX for target in row.targets[: len(prompt) - 1]):
        yield "a token of the prompt is trained"


def row_of(dialogue: Dialogue, tokenizer: Any) -> Row | None:
    """The dialogue as training sees it; None where the template refuses it, which is told where rows are made."""
    from llmkit.data.dialogue import encode_renderings
    from llmkit.data.rendering import RenderError, renderer_of

    try:
        rendering = renderer_of(tokenizer).render(dialogue.messages, tools=dialogue.tools)
    except RenderError:
        return None
    return next(encode_renderings(iter([rendering]), tokenizer, max_length=None))


def answer_text(message: Message) -> str:
    """All that an answer may teach: what is thought, what is said."""
    return f"{message.thinking}{message.content}"


def plain(text: str) -> str:
    """Letters and digits alone: templates put white space and marks around what is said."""
    return "".join(character for character in text if character.isalnum())


def prompt_ids(dialogue: Dialogue, tokenizer: Any) -> list[int]:
    """The ids with which the model would be asked the dialogue's first question; none where it begins otherwise."""
    from llmkit.data.dialogue import render_prompt
    from llmkit.data.rendering import RenderError

    try:
        return render_prompt(dialogue.opening, tokenizer, tools=dialogue.tools) if dialogue.opening else []
    except RenderError:
        return []


def check_same_ids(case: Case) -> CheckOutcome:
    """A chat begins with the ids that the model was trained on."""
    if not case.dialogues:
        return not_applicable(NO_DIALOGUES)
    wrong, count = [], 0
    for dialogue in case.dialogues[:MOST_DIALOGUES]:
        prompt, row = prompt_ids(dialogue, case.tokenizer), row_of(dialogue, case.tokenizer)
        if prompt and row is not None:
            count += 1
            wrong += [] if row.input_ids[: len(prompt)].tolist() == prompt else [dialogue.where]
    if not count:
        return not_applicable("no dialogue begins with a question")
    return at_most(float(len(wrong)), 0.0, wrong[0] if wrong else f"{count:,} dialogues")
