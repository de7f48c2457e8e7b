"""Checks of a model that answers: the cache, the batch and the tree change nothing of what it says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmkit.commands.checks.case import Case, CheckOutcome, at_most, device_of, not_applicable, worst

if TYPE_CHECKING:
    from llmkit.evaluation.tree import Request

NEW_TOKENS = 16
SCORE_TOLERANCE = 2e-3
"""Nats of a whole continuation, in fp32."""
NO_ANSWERS = "only language models answer"


def check_cache(case: Case) -> CheckOutcome:
    """Generation with the cache gives the ids that it gives without."""
    if case.answerer is None:
        return not_applicable(NO_ANSWERS)
    prompts = [ids[: 4 + 3 * number] for number, ids in enumerate(case.texts[:3])]
    fast, slow = (generate(case.answerer, prompts, use_cache=use_cache) for use_cache in (True, False))
    off = sum(one != two for a, b in zip(fast, slow, strict=True) for one, two in zip(a, b, strict=False))
    off += sum(abs(len(a) - len(b)) for a, b in zip(fast, slow, strict=True))
    return at_most(float(off), 0.0, f"{len(prompts)} prompts side by side, {NEW_TOKENS} tokens each")


def generate(model: Any, prompts: Sequence[Sequence[int]], *, use_cache: bool) -> list[list[int]]:
    """The likeliest ids after each prompt."""
    from llmkit.generation.decode import decode, new_row
    from llmkit.generation.sampling import SamplingConfig

    rows = [
        new_row(model, prompt, max_new_tokens=NEW_TOKENS, seed=0, row=number) for number, prompt in enumerate(prompts)
    ]
    for _ in decode(model, rows, sampling=SamplingConfig(), use_cache=use_cache):
        pass
    return [row.ids for row in rows]


def check_batch_size(case: Case) -> CheckOutcome:
    """Scores do not depend on what shares a batch with them."""
    if case.answerer is None:
        return not_applicable(NO_ANSWERS)
    from llmkit.evaluation.scoring import score_continuations

    requests = requests_of(case.texts)
    small, large = (score_continuations(case.answerer, requests, batch_tokens=tokens) for tokens in (1, 1 << 14))
    off = worst(abs(a.log_likelihood - b.log_likelihood) for a, b in zip(small, large, strict=True))
    return at_most(off, SCORE_TOLERANCE, f"{len(requests)} continuations, one by one and together")


def check_tree(case: Case) -> CheckOutcome:
    """Scores of continuations that share their beginning are those that each has alone."""
    if case.answerer is None:
        return not_applicable(NO_ANSWERS)
    from llmkit.evaluation.scoring import can_branch, score_continuations

    requests = requests_of(case.texts)
    found = score_continuations(case.answerer, requests)
    naive = [score_naively(case.answerer, request) for request in requests]
    off = worst(abs(score.log_likelihood - value) for score, value in zip(found, naive, strict=True))
    longest = max(len(request.context) + len(request.continuation) for request in requests)
    how = "a tree" if can_branch(case.answerer, longest) else "no tree: this architecture has none"
    return at_most(off, SCORE_TOLERANCE, f"{len(requests)} continuations, {how}")


def score_naively(model: Any, request: Request) -> float:
    """The log-likelihood of a continuation by one forward pass over it alone."""
    import torch

    ids = torch.tensor([[*request.context, *request.continuation]], device=device_of(model))
    with torch.no_grad():
        logs = model(input_ids=ids[:, :-1]).logits[0].float().log_softmax(-1)
    places = range(len(request.context) - 1, ids.shape[1] - 1)
    return sum(float(logs[place, ids[0, place + 1]]) for place in places)


def requests_of(texts: Sequence[Sequence[int]]) -> list[Request]:
    """Two continuations of each text and of its beginning: some share all of their context, some a part of it."""
    from llmkit.evaluation.tree import Request

    requests = []
    for ids in texts[:4]:
        half = max(2, len(ids) // 2)
        beginning, rest = tuple(ids[:half]), tuple(ids[half : half + 5]) or (ids[0],)
        requests += [Request(beginning, rest), Request(beginning, rest[::-1]), Request(beginning[:-1], rest[:2])]
    return requests
