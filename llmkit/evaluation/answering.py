"""How a model answers the examples of a task: by choosing, by writing, or by predicting a text."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from llmkit.batch import batches_by_length
from llmkit.errors import UsageError
from llmkit.evaluation import metrics
from llmkit.evaluation.calibration import contextual_calibration
from llmkit.evaluation.encoding import beginning_ids, check_choices, encode_pairs, first_id
from llmkit.evaluation.journal import key_of
from llmkit.evaluation.metrics import ChoiceScore, Item
from llmkit.evaluation.perplexity import rolling_windows
from llmkit.evaluation.prompts import Chat, Pair, delimiter_of, render_context, render_pairs
from llmkit.evaluation.scoring import Score, in_halves, score_continuations
from llmkit.evaluation.subject import OnProgress, Setting, Subject
from llmkit.evaluation.task import Example, Task
from llmkit.evaluation.tree import Request
from llmkit.generation.generate import BATCH_ROWS, BATCH_TOKENS, generate_ids
from llmkit.generation.sampling import SamplingConfig
from llmkit.tokenizer import encode_texts, stop_ids

LONGEST_WINDOW = 1024
"""Tokens per window of a text, for models that nothing limits."""

SHOWN_TEXT = 200
"""Characters of a text that its record keeps."""

SAY_NOTHING = ("N/A", "[MASK]", "")
"""Texts in place of the question that show what the prompt leans to by itself (Zhao et al., 2021)."""


@dataclass(frozen=True)
class Work:
    """What one process is to answer."""

    subject: Subject
    task: Task
    examples: Sequence[Example]
    draw_shots: Callable[[Example], Sequence[Example]]
    setting: Setting
    on_progress: OnProgress


class Answered(NamedTuple):
    """One process's items."""

    items: list[Item]
    num_cut: int
    """Items whose context was longer than the model takes."""
    num_apart: int
    """Continuations that were encoded by themselves."""


def answer(work: Work) -> Answered:
    """The items of these examples, in the way of the task's kind."""
    return {"generate": answer_freely, "perplexity": predict_texts}.get(work.task.kind, choose)(work)


def choose(work: Work) -> Answered:
    """The log-likelihood of every choice of every example."""
    groups = [pairs_of(work, example) for example in work.examples]
    pairs = [pair for group in groups for pair in group]
    encoded = encode_pairs(work.subject.tokenizer, pairs, work.subject.max_length, work.subject.chat)
    scores = iter(score(work, encoded.requests))
    owners = [number for number, group in enumerate(groups) for _ in group]
    items = [
        choice_item(work, example, group, [next(scores) for _ in group])
        for example, group in zip(work.examples, groups, strict=True)
    ]
    return Answered(items, len({owners[number] for number in encoded.cut}), encoded.num_apart)


def check_task(tokenizer: Any, task: Task, chat: Chat | None = None) -> None:
    """Raise for a choice that tokenises to nothing: when the task loads, not when its row comes.

    Raises:
        DataError: It names the row.
    """
    if task.kind in ("choice", "label"):
        delimiter = delimiter_of(task, chat)
        ends = ((e, [e.continuation] if e.continuation is not None else e.choices) for e in task.examples("test"))
        check_choices(tokenizer, (Pair("", delimiter + text, e.where) for e, texts in ends for text in texts))


def pairs_of(work: Work, example: Example) -> list[Pair]:
    """A pair per choice; behind them, where they are wanted, those without a question and those whose text is empty."""
    shots = work.draw_shots(example)
    pairs = render_pairs(work.task, example, shots, work.subject.chat)
    alone = [Pair("", pair.continuation, pair.where) for pair in pairs] if work.setting.pmi else []
    free = []
    if work.setting.calibrate and work.task.kind == "label":
        for text in SAY_NOTHING:
            nothing = replace(example, fields=dict.fromkeys(example.fields, text))
            free += render_pairs(work.task, nothing, shots, work.subject.chat)
    return [*pairs, *alone, *free]


def score(work: Work, requests: Sequence[Request]) -> list[Score]:
    """The scores of requests: those that were answered before from the journal, the rest from the model."""
    journal = work.subject.journal
    keys = [key_of(request.context, request.continuation) for request in requests] if journal else []
    found = {i: Score(*known) for i, key in enumerate(keys) if journal and (known := journal.get(key))}
    missing = [index for index in range(len(requests)) if index not in found]
    sizes = sizes_of(requests)
    done, total = 0.0, max(sum(sizes), 1.0)

    def tell(numbers: Iterable[int]) -> None:
        nonlocal done
        done += sum(sizes[number] for number in numbers)
        work.on_progress(round(done / total * len(work.examples)), len(work.examples))

    def on_scored(scores: Mapping[int, Score]) -> None:
        if journal:
            journal.add({keys[missing[number]]: list(value) for number, value in scores.items()})
        tell(missing[number] for number in scores)

    tell(found)
    wanted = [requests[index] for index in missing]
    scores = score_continuations(
        work.subject.model, wanted, batch_tokens=work.subject.batch_tokens, on_scored=on_scored
    )
    found.update(zip(missing, scores, strict=True))
    return [found[index] for index in range(len(requests))]


def sizes_of(requests: Sequence[Request]) -> list[float]:
    """How much work each request is: its continuation, and its part of a context that several share.

    The longest come first: by their number alone the time that is left would look ten times as long.
    """
    sharing = Counter(request.context for request in requests)
    return [len(r.continuation) + len(r.context) / sharing[r.context] for r in requests]


def choice_item(work: Work, example: Example, pairs: Sequence[Pair], scores: Sequence[Score]) -> Item:
    """What was chosen by the task's metric; a single continuation is chosen if the model would have said it."""
    choices = choice_scores(work, example, pairs, scores)
    if len(choices) == 1:
        prediction = choices[0].text if choices[0].is_greedy else None
        own = {"accuracy": float(choices[0].is_greedy), "nats": -choices[0].log_likelihood}
        right, metric = 0, "accuracy"
    else:
        chosen = metrics.choose_by(choices)
        # Matthews correlation and the like are of all items together: they choose as accuracy does.
        metric = work.task.metric if work.task.metric in chosen else "accuracy"
        prediction = choices[chosen[metric]].text
        own, right = metrics.choice_scores(choices, example.answer), example.answer
    return Item(
        id=example.id,
        prediction=prediction,
        answer=choices[right].text,
        correct=own[metric] == 1,
        choices=choices,
        answer_index=right,
        scores=own,
        group=example.group,
        question_hash=question_hash(example),
        prompt=shown(work, pairs[right].context),
    )


def choice_scores(
    work: Work, example: Example, pairs: Sequence[Pair], scores: Sequence[Score]
) -> tuple[ChoiceScore, ...]:
    """The choices of an example with their scores, those of `pairs_of` put to them.

    Bytes and characters are those of what was scored, the delimiter apart, as in lm-evaluation-harness.
    """
    size, delimiter = len(example.choices), delimiter_of(work.task, work.subject.chat)
    likelihoods = [found.log_likelihood for found in scores]
    alone, free = likelihoods[size:][: size * work.setting.pmi], likelihoods[size * (1 + work.setting.pmi) :]
    rows = [free[first : first + size] for first in range(0, len(free), size)]
    calibrated = contextual_calibration([likelihoods[:size]], rows)[0].tolist() if rows else [None] * size
    return tuple(
        ChoiceScore(
            text=text,
            log_likelihood=scores[number].log_likelihood,
            num_tokens=scores[number].num_tokens,
            num_bytes=len(pairs[number].continuation.removeprefix(delimiter).encode()),
            num_characters=len(pairs[number].continuation.removeprefix(delimiter)),
            is_greedy=scores[number].is_greedy,
            unconditional=alone[number] if alone else None,
            calibrated=calibrated[number],
        )
        for number, text in enumerate(example.choices)
    )


def question_hash(example: Example) -> str:
    """Equal for examples that ask the same and want the same answer."""
    asked = [dict(example.fields), example.choices, example.answer, example.references, example.continuation]
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:12]


def shown(work: Work, context: str) -> str:
    """A context as people are to see it."""
    return work.subject.chat.show(context) if work.subject.chat else context


def answer_freely(work: Work) -> Answered:
    """The likeliest answer of the model to every example, word by word."""
    subject, task = work.subject, work.task
    contexts = [render_context(task, example, work.draw_shots(example), subject.chat) for example in work.examples]
    prompts = encode_prompts(subject, contexts)
    room = room_for_prompts(subject, task)
    texts = write_answers(work, prompts if room is None else [prompt[-room:] for prompt in prompts])
    items = [
        free_item(task, example, text, shown(work, context))
        for example, text, context in zip(work.examples, texts, contexts, strict=True)
    ]
    return Answered(items, 0 if room is None else sum(len(prompt) > room for prompt in prompts), 0)


def room_for_prompts(subject: Subject, task: Task) -> int | None:
    """How long a prompt may be so that its answer fits behind it; None for any length.

    Raises:
        UsageError: Answers alone are as long as what the model takes.
    """
    if subject.max_length is None:
        return None
    if task.max_new_tokens >= subject.max_length:
        message = f"its answers may have {task.max_new_tokens} tokens, and the model takes {subject.max_length} in all"
        fix = "lower max_new_tokens in a task file, or take a model with a longer context"
        raise UsageError(message, where=task.name, fix=fix)
    return subject.max_length - task.max_new_tokens


def write_answers(work: Work, prompts: Sequence[Sequence[int]]) -> list[str]:
    """The answers to prompts: those that were given before from the journal, the rest from the model."""
    subject, task = work.subject, work.task
    journal = subject.journal
    keys = [key_of(prompt, f"{task.max_new_tokens} {task.stop}") for prompt in prompts]
    texts = {i: known[0] for i, key in enumerate(keys) if journal and (known := journal.get(key))}

    def write(part: Sequence[int]) -> list[str]:
        return complete(subject, task, [prompts[index] for index in part])

    missing = [index for index in range(len(prompts)) if index not in texts]
    work.on_progress(len(texts), len(prompts))
    # What is written takes room beside the prompts.
    sizes = [len(prompts[index]) + task.max_new_tokens for index in missing]
    batches = batches_by_length(sizes, tokens=subject.batch_tokens or BATCH_TOKENS, rows=BATCH_ROWS)
    for part, found in in_halves([[missing[place] for place in places] for places in batches], write):
        texts.update(zip(part, found, strict=True))
        if journal:
            journal.add({keys[index]: [texts[index]] for index in part})
        work.on_progress(len(texts), len(prompts))
    return [texts[index] for index in range(len(prompts))]


def complete(subject: Subject, task: Task, prompts: Sequence[Sequence[int]]) -> list[str]:
    """What the model writes after these prompts, side by side."""
    own_ends = subject.chat.stop_ids if subject.chat else frozenset()
    completions = generate_ids(
        subject.model,
        prompts,
        sampling=SamplingConfig(),
        max_new_tokens=task.max_new_tokens,
        stop_ids=own_ends.union(stop_ids(subject.tokenizer)),
        tokenizer=subject.tokenizer,
        stop_strings=task.stop,
    )
    return [found.text.strip() for found in completions]


def encode_prompts(subject: Subject, contexts: Sequence[str]) -> list[list[int]]:
    """Contexts as ids, with what the tokenizer puts before any text."""
    if subject.chat:
        return subject.chat.encode(contexts)
    start, instead = beginning_ids(subject.tokenizer), [first_id(subject.tokenizer)]
    return [[*start, *ids] or instead for ids in encode_texts(subject.tokenizer, contexts)]


def free_item(task: Task, example: Example, text: str, prompt: str) -> Item:
    """An answer that was written, with its grades; correct where the main one is full."""
    scores = task.grade(example, text)
    return Item(
        id=example.id,
        prediction=text,
        answer=example.references[0] if example.references else example.solution,
        correct=scores[task.metric] == 1,
        scores=scores,
        group=example.group,
        question_hash=question_hash(example),
        prompt=prompt,
    )


def predict_texts(work: Work) -> Answered:
    """The log-likelihood of every text, in windows of the longest sequence the model takes."""
    subject = work.subject
    texts = [example.fields["question"] for example in work.examples]
    prefix = first_id(subject.tokenizer)
    windows = [
        list(rolling_windows(ids, prefix, subject.max_length or LONGEST_WINDOW))
        for ids in encode_texts(subject.tokenizer, texts)
    ]
    requests = [Request(tuple(context), tuple(rest)) for parts in windows for context, rest in parts]
    scores = iter(score(work, requests))
    items = [
        text_item(example, [next(scores) for _ in parts]) for example, parts in zip(work.examples, windows, strict=True)
    ]
    return Answered(items, 0, 0)


def text_item(example: Example, scores: Sequence[Score]) -> Item:
    """A text with the sum over its windows."""
    text, counted = example.fields["question"], example.counted_text
    total = ChoiceScore(
        text=text if len(text) <= SHOWN_TEXT else text[:SHOWN_TEXT] + "…",
        log_likelihood=sum(found.log_likelihood for found in scores),
        num_tokens=sum(found.num_tokens for found in scores),
        num_bytes=len(counted.encode()),
        num_characters=len(counted),
        is_greedy=False,
    )
    return Item(
        id=example.id,
        prediction=None,
        answer=None,
        correct=None,
        choices=(total,),
        # Words are counted as lm-evaluation-harness does, where white space at the ends makes words too.
        num_words=len(re.split(r"\s+", counted)),
        scores={"bits_per_byte": -total.log_likelihood / math.log(2) / max(total.num_bytes, 1)},
        question_hash=question_hash(example),
    )
