"""Learning from pairs of answers: DPO and ORPO, with the log-likelihoods of whole answers.

Shapes: P pairs, T positions, D hidden size, V vocabulary, N answer tokens. Documents 2i and 2i + 1 of a batch are the
preferred and the rejected answer of pair i, each behind its prompt.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from peft import PeftModel
from torch import Tensor, nn

from llmkit.batch import IGNORE_INDEX, Batch
from llmkit.losses import CHUNK_LOGITS, FROZEN_CHUNK_LOGITS, body_of, has_plain_head, head_of, model_inputs, rounded
from llmkit.models.lora import adapter_off


class Answers(NamedTuple):
    """Log-likelihood (2P,) of each answer in nats, and its number of tokens."""

    log_likelihoods: Tensor
    num_tokens: Tensor

    @property
    def means(self) -> Tensor:
        """Log-likelihood per token, (2P,)."""
        return self.log_likelihoods / self.num_tokens.clamp(min=1)


class PreferenceLoss:
    """The summed loss over the pairs of a batch; rewards, margins and accuracy are put aside for the lines of metrics.

    Args:
        kind: dpo (Rafailov et al. 2023, arXiv:2305.18290) or orpo (Hong et al. 2024, arXiv:2403.07691).
        beta: dpo: price of leaving the reference. orpo: weight of the preference beside the likelihood.
    """

    NAMES = ("rewards_chosen", "rewards_rejected", "reward_margin", "reward_accuracy")

    def __init__(self, kind: Literal["dpo", "orpo"], beta: float) -> None:
        self.kind = kind
        self.beta = beta
        self.sums: defaultdict[str, float] = defaultdict(float)

    def __call__(self, model: nn.Module, batch: Batch) -> Tensor:
        """The sum over pairs, () float32.

        Args:
            model: A causal language model. For dpo it has an adapter, whose absence is the reference, or the batch
                brings `reference` (P, 2), the log-likelihoods under the reference.
            batch: `input_ids`, `answers` and `documents`, all (B, T); `targets` (P,), IGNORE_INDEX for no pair.
        """
        counts = batch["targets"] != IGNORE_INDEX
        reference = self.reference(model, batch) if self.kind == "dpo" else None
        answers = answer_log_likelihoods(model, batch)
        if reference is None:
            losses, rewards = orpo(answers, self.beta)
        else:
            losses, rewards = dpo(answers.log_likelihoods.view(-1, 2), reference, self.beta)
        self.note(rewards.detach()[counts])
        return losses[counts].sum()

    def reference(self, model: nn.Module, batch: Batch) -> Tensor:
        """Log-likelihoods (P, 2) under the model as it was."""
        if "reference" in batch:
            return batch["reference"]
        assert isinstance(model, PeftModel), "without an adapter to switch off, the batch brings the reference"
        with torch.no_grad(), adapter_off(model), evaluated(model):
            return answer_log_likelihoods(model, batch).log_likelihoods.view(-1, 2)

    def note(self, rewards: Tensor) -> None:
        """Add up what rewards (P, 2) say."""
        chosen, rejected = rewards.double().unbind(dim=1)
        values = (chosen, rejected, chosen - rejected, (chosen > rejected).double())
        for name, value in zip(self.NAMES, values, strict=True):
            self.sums[name] += float(value.sum())

    def take_measures(self) -> dict[str, float]:
        """The sums since this was last asked."""
        taken = {name: self.sums[name] for name in self.NAMES}
        self.sums.clear()
        return taken


def dpo(policy: Tensor, reference: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Losses (P,) and rewards (P, 2) from log-likelihoods (P, 2) under the model and the reference."""
    rewards = beta * (policy - reference)
    return -F.logsigmoid(rewards[:, 0] - rewards[:, 1]), rewards


def orpo(answers: Answers, beta: float) -> tuple[Tensor, Tensor]:
    """Losses (P,) and rewards (P, 2): the preferred answer's likelihood, and the odds of the two."""
    means = answers.means.view(-1, 2)
    # log(p / (1 - p)); a likelihood of exactly one has no odds.
    odds = means - torch.log(-torch.expm1(means.clamp(max=-1e-6)))
    return -means[:, 0] - beta * F.logsigmoid(odds[:, 0] - odds[:, 1]), beta * means


def answer_log_likelihoods(model: nn.Module, batch: Batch) -> Answers:
    """How likely the answers in a batch are, each behind its prompt."""
    answers = batch["answers"]
    wanted = answers != IGNORE_INDEX
    inputs, targets, owners = model_inputs(model, batch), answers[wanted], batch["documents"][wanted]
    if has_plain_head(model):
        hidden = body_of(model)(**inputs).last_hidden_state.view(*answers.shape, -1)[wanted]
        tokens = token_log_likelihoods(hidden, head_of(model).weight, targets)
    else:
        logits = model(**inputs).logits.view(*answers.shape, -1)[wanted].float()
        tokens = -F.cross_entropy(logits, targets, reduction="none")
    nothing = torch.zeros(2 * len(batch["targets"]), dtype=torch.float32, device=tokens.device)
    return Answers(nothing.index_add(0, owners, tokens), nothing.index_add(0, owners, torch.ones_like(tokens)))


def token_log_likelihoods(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Log-likelihoods (N,) of targets from hidden states (N, D) and the head (V, D), a part of the logits at a time."""
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    return ChunkedLogLikelihood.apply(hidden, weight, targets, dtype)  # type: ignore[no-untyped-call, no-any-return]


class ChunkedLogLikelihood(torch.autograd.Function):
    """Log-likelihoods token by token; the backward pass makes the logits again, chunk after chunk.

    Unlike a sum's, the gradient of each token is only known when the loss of its pair is.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, dtype: torch.dtype) -> Tensor:
        """(N,) float32; products in `dtype`, softmax in fp32."""
        ctx.save_for_backward(hidden, weight, targets)
        ctx.dtype = dtype
        out = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        for part, logits in chunks(hidden, weight, dtype):
            out[part] = -F.cross_entropy(logits.float(), targets[part], reduction="none")
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of log p by the logits is the one-hot target less the softmax."""
        hidden, weight, targets = ctx.saved_tensors
        needs_hidden, needs_weight = ctx.needs_input_grad[:2]
        grad_hidden = torch.zeros_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        head = rounded(weight, ctx.dtype)
        for part, logits in chunks(hidden, weight, ctx.dtype):
            shares = torch.softmax(logits, dim=-1, dtype=torch.float32).neg_()
            shares.scatter_add_(1, targets[part][:, None], torch.ones_like(shares[:, :1]))
            grad_logits = shares.mul_(grads[0][part][:, None]).to(ctx.dtype)
            if grad_hidden is not None:
                grad_hidden[part] = (grad_logits @ head).to(hidden.dtype)
            if grad_weight is not None:
                grad_weight += grad_logits.T @ hidden[part].to(ctx.dtype)
        return grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype), None, None


def chunks(hidden: Tensor, weight: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, Tensor]]:
    """Places in `hidden`, and their logits."""
    most = CHUNK_LOGITS if weight.requires_grad else FROZEN_CHUNK_LOGITS
    rows, head = max(64, most // weight.shape[0]), rounded(weight, dtype)
    for start in range(0, len(hidden), rows):
        part = slice(start, start + rows)
        with torch.autocast(hidden.device.type, enabled=False):
            yield part, hidden[part].to(dtype) @ head.T


@contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Within the block the model drops nothing out."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
