"""What a model that is tuned says to questions: samples during training, and in the end whether answers end."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from llmkit.console import for_terminal, say
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from llmkit.commands.tuning import Tuning
    from llmkit.data.dialogue_forms import Dialogue
    from llmkit.generation.generate import Completion
    from llmkit.recipe.schema import FinetuneRecipe
    from llmkit.training.run import Run

LONGEST_SAMPLE = 200
"""New tokens of an answer that is sampled during training."""

NUM_SAMPLES = 3
"""Held-out questions that are answered during training, unless the recipe names some."""

LONGEST_ENDING = 512
"""New tokens after which an answer counts as one that does not end; fewer where nearly all training rows are shorter:
an answer that is cut before others would have ended tells nothing."""


class Question(NamedTuple):
    """What the model is asked: the last thing that is said to it, and all of it as ids."""

    text: str
    ids: list[int]


def choose_questions(
    settings: FinetuneRecipe, dialogues: Sequence[Dialogue], tokenizer: Any, *, longest: int
) -> list[Question]:
    """What is asked for samples: the recipe's own questions, or those of the first held-out rows that leave room."""
    from llmkit.data.dialogue import Message, render_prompt

    own = [Question(text, render_prompt([Message("user", text)], tokenizer)) for text in settings.data.sample_prompts]
    for question in own:
        if len(question.ids) > longest:
            message = f"this question has {len(question.ids):,} tokens, and an answer needs as many again"
            raise UsageError(message, where="data.sample_prompts", fix=f"ask in {longest:,} tokens at most")
    return own or questions_of(dialogues, tokenizer, longest=longest, count=NUM_SAMPLES)


def questions_of(dialogues: Iterable[Dialogue], tokenizer: Any, *, longest: int, count: int) -> list[Question]:
    """The openings of the first dialogues that leave room for an answer, no two alike."""
    from llmkit.data.dialogue import render_prompt
    from llmkit.data.rendering import RenderError

    chosen: dict[tuple[int, ...], Question] = {}
    for dialogue in dialogues:
        if len(chosen) == count:
            break
        try:
            ids = render_prompt(dialogue.opening, tokenizer, tools=dialogue.tools) if dialogue.opening else []
        except RenderError:  # counted where the rows are encoded
            continue
        if 0 < len(ids) <= longest:
            chosen.setdefault(tuple(ids), Question(dialogue.opening[-1].content, ids))
    return list(chosen.values())


def sampler(settings: FinetuneRecipe, material: Tuning, run: Run) -> Callable[[int], None] | None:
    """Asks the model the sample questions, says the first answer and logs all; None without questions."""
    questions = material.questions
    if not questions:
        return None

    def take(step: int) -> None:
        answers = ask(material, questions, settings.train.seed, longest=LONGEST_SAMPLE)
        for question, answer in zip(questions, answers, strict=True):
            values = {"step": step, "prompt": question.text, "text": answer.text}
            run.sample({**values, "finish_reason": answer.finish_reason})
        shown = f"{questions[0].text.strip()}\n> {answers[0].text.strip()}"
        say(for_terminal(f"step {step:,}: {shown}").replace("\n", "\n    "))

    return take


def ask(material: Tuning, questions: Sequence[Question], seed: int, *, longest: int) -> list[Completion]:
    """The model's answers, the likeliest token at each place."""
    import torch

    from llmkit.data.dialogue import end_of_turn_ids
    from llmkit.generation.generate import generate_ids
    from llmkit.generation.sampling import SamplingConfig
    from llmkit.models.compile import uncompiled
    from llmkit.tokenizer import stop_ids

    tokenizer, model = material.tokenizer, material.model
    dtypes = {p.dtype for p in model.parameters()}
    # Autocast would turn all frozen weights into bf16 anew for every token, but for those that are in bf16 already.
    mixed = torch.autocast(model.device.type, dtype=torch.bfloat16, enabled=len(dtypes) > 1)
    with uncompiled(model), mixed:
        return generate_ids(
            model,
            [question.ids for question in questions],
            sampling=SamplingConfig(),
            max_new_tokens=longest,
            stop_ids={*stop_ids(tokenizer), *end_of_turn_ids(tokenizer)},
            seed=seed,
            tokenizer=tokenizer,
        )


def check_ends(settings: FinetuneRecipe, material: Tuning) -> dict[str, Any] | None:
    """How many held-out questions get an answer that ends by itself; None without any to ask."""
    questions = material.held_out_questions
    if not questions:
        return None
    longest = min(LONGEST_ENDING, material.accounts[0].percentile(99))
    # On a CPU this takes minutes.
    say(f"asking {len(questions)} held-out questions, to see whether their answers end within {longest} tokens")
    was_training = material.model.training
    material.model.eval()
    try:
        answers = ask(material, questions, settings.train.seed, longest=longest)
    finally:
        material.model.train(was_training)
    ended = sum(answer.finish_reason == "stop" for answer in answers)
    lengths = sorted(answer.num_tokens for answer in answers)
    return {
        "asked": len(answers),
        "ended": ended,
        "rate": round(ended / len(answers), 4),
        "median_tokens": lengths[len(lengths) // 2],
        "longest_allowed": longest,
    }


def tell_ends(ends: dict[str, Any]) -> None:
    """Say how many answers end."""
    say(
        f"{ends['ended']} of {ends['asked']} answers to held-out questions end by themselves within "
        f"{ends['longest_allowed']} tokens (median {ends['median_tokens']})"
    )
