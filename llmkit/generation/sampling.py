"""From logits to the next id: temperature, top-k, top-p and the draw, as pure functions of (B, V) logits.

Shapes: B rows, V vocabulary.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from llmkit.errors import ModelError, UsageError

NUCLEUS_WIDTH = 1024
"""top-p looks at this many of the likeliest tokens first; only flatter distributions pay for sorting the vocabulary."""


@dataclass(frozen=True)
class SamplingConfig:
    """How the next token is drawn. The defaults are greedy: the likeliest token, always.

    Args:
        temperature: Logits are divided by it; 0 takes the likeliest token. Lower is safer, higher is more varied.
        top_k: Draw among the k likeliest tokens; 0 for all.
        top_p: Draw among the likeliest tokens that together hold this probability (Holtzman et al. 2020,
            arXiv:1904.09751); 1 for all.

    Raises:
        UsageError: A value that means nothing; it names the flag.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < float("inf"):
            raise UsageError(f"{self.temperature} is not a temperature", where="--temperature", fix="0 or above")
        if self.top_k < 0:
            raise UsageError(f"{self.top_k} is no number of tokens", where="--top-k", fix="0 for all tokens, or above")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"{self.top_p} is no probability to keep", where="--top-p", fix="above 0, at most 1")


def row_generator(seed: int, row: int) -> torch.Generator:
    """The random numbers of one row: a function of (seed, row), so that no other row can change them."""
    digest = hashlib.blake2b(f"sample {seed} {row}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little") >> 1)


def sample(logits: Tensor, config: SamplingConfig, generators: Sequence[torch.Generator]) -> Tensor:
    """Draw one id per row.

    Args:
        logits: (B, V), any float type.
        config: Temperature and filters, applied in this order: temperature, top-k, top-p.
        generators: One per row, on the CPU; each gives one number. Greedy sampling takes none.

    Returns:
        (B,) int64 ids, on the device of the logits.

    Raises:
        ModelError: The logits are not numbers.
    """
    if bool(logits.isnan().any()):
        raise ModelError(
            "the model's output is not a number (NaN)",
            fix="try --dtype fp32; if that gives the same, training diverged: take an earlier checkpoint",
        )
    if config.temperature == 0:
        return logits.argmax(dim=-1)
    kept = keep_top_p(keep_top_k(heat(logits, config.temperature), config.top_k), config.top_p)
    uniforms = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in generators])
    return draw(kept.softmax(dim=-1), uniforms)


def heat(logits: Tensor, temperature: float) -> Tensor:
    """Logits (B, V) over the temperature, in float32, shifted so that the highest is 0 (no overflow however cold)."""
    logits = logits.float()
    return (logits - logits.amax(dim=-1, keepdim=True)) / temperature


def keep_top_k(logits: Tensor, top_k: int) -> Tensor:
    """Logits (B, V) with all but the k highest of each row at -inf: exactly k, ties or not. 0 keeps all."""
    if top_k == 0 or top_k >= logits.shape[-1]:
        return logits
    order = logits.topk(top_k, dim=-1).indices
    return keep_only(logits, order, torch.ones_like(order, dtype=torch.bool))


def keep_top_p(logits: Tensor, top_p: float) -> Tensor:
    """Logits (B, V) with all at -inf but the fewest likeliest tokens that together hold at least `top_p`."""
    if top_p >= 1:
        return logits
    probabilities = logits.softmax(dim=-1)
    values, order = probabilities.topk(min(NUCLEUS_WIDTH, logits.shape[-1]), dim=-1)
    if bool((values.sum(dim=-1) < top_p).any()):
        values, order = probabilities.sort(dim=-1, descending=True)
    mass_before = values.cumsum(dim=-1) - values
    return keep_only(logits, order, mass_before < top_p)


def keep_only(logits: Tensor, order: Tensor, is_kept: Tensor) -> Tensor:
    """Logits (B, V) with -inf everywhere but at the ids `order` (B, K) where `is_kept` (B, K) says so."""
    mask = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, order, is_kept)
    return logits.masked_fill(~mask, float("-inf"))


def draw(probabilities: Tensor, uniforms: Tensor) -> Tensor:
    """The id at which the running sum of each row's probabilities passes that row's number.

    Args:
        probabilities: (B, V), rows sum to 1.
        uniforms: (B,) in [0, 1), float64. A row's id depends on its own number alone, unlike with torch.multinomial.

    Returns:
        (B,) int64. An id of probability 0 is never drawn.
    """
    # MPS knows no float64.
    precise = torch.float32 if probabilities.device.type == "mps" else torch.float64
    sums = probabilities.to(precise).cumsum(dim=-1)
    total = sums[:, -1:]
    target = uniforms.to(probabilities.device, precise)[:, None] * total
    # Rounding may lift the target to the total, beyond which there is no id.
    target = torch.minimum(target, torch.nextafter(total, torch.zeros_like(total)))
    return torch.searchsorted(sums, target, right=True).squeeze(-1)
