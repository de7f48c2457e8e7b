"""What a model expects at each token of a text: the numbers that `llmkit peek` shows.

Shapes: T positions, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmkit.alphabet import BYTE_OF
from llmkit.errors import DataError, ModelError
from llmkit.evaluation.answering import LONGEST_WINDOW
from llmkit.evaluation.encoding import beginning_ids
from llmkit.evaluation.perplexity import rolling_windows
from llmkit.evaluation.scoring import CHUNK_LOGITS
from llmkit.generation.sampling import SamplingConfig, heat, keep_top_k, keep_top_p
from llmkit.losses import body_of, has_plain_head, head_of
from llmkit.tokenizer import NO_TEXT, control_ids, decode_ids, end_of_document_id, text_backend

LEAST = -1e4
"""Stands for the logarithm of a share of 0, which adds nothing to an entropy."""

UNFINISHED = "\ufffd"
"""What a decoder shows for bytes that are no character."""


@dataclass(frozen=True)
class Guess:
    """What the model expected at one token, and what stands there."""

    token: int
    log_probability: float
    """Of the token, in nats."""
    rank: int
    """1: the likeliest of the vocabulary."""
    entropy: float
    """Of the whole guess, in bits: how undecided the model was."""
    alternatives: tuple[tuple[int, float], ...]
    """(id, probability) of the likeliest tokens, from the top."""

    @property
    def probability(self) -> float:
        """Of the token that stands there."""
        return math.exp(self.log_probability)

    @property
    def surprise(self) -> float:
        """Bits that it takes to tell the model this token."""
        return -self.log_probability / math.log(2)


@dataclass(frozen=True)
class TextReading:
    """A text as ids, what each id stands for in it, and what the model expected there."""

    text: str
    pieces: list[str]
    """One for each id; together they are the text. Of a character that several ids share, the last one has it."""
    guesses: list[Guess]
    context: int
    """The id that stands before the first one, and is not predicted."""
    is_counted: list[bool]
    """Which tokens make up the sums: all of a text; of a dialogue all but control tokens."""

    @property
    def ids(self) -> list[int]:
        """The ids of the text."""
        return [guess.token for guess in self.guesses]

    @property
    def bits(self) -> float:
        """The surprise of all counted tokens."""
        return sum(g.surprise for g, counts in zip(self.guesses, self.is_counted, strict=True) if counts)

    @property
    def num_bytes(self) -> int:
        """UTF-8 bytes of the counted tokens."""
        return sum(len(p.encode()) for p, counts in zip(self.pieces, self.is_counted, strict=True) if counts)

    @property
    def bits_per_byte(self) -> float:
        """What `evaluate --task perplexity` gives for the text."""
        return self.bits / max(self.num_bytes, 1)

    def summary(self) -> dict[str, float]:
        """Sums over the counted tokens."""
        counted = [g for g, counts in zip(self.guesses, self.is_counted, strict=True) if counts]
        return {
            "num_tokens": len(counted),
            "num_bytes": self.num_bytes,
            "bits": self.bits,
            "bits_per_byte": self.bits_per_byte,
            "nats_per_token": -sum(g.log_probability for g in counted) / max(len(counted), 1),
            "first_guesses": sum(g.rank == 1 for g in counted),
        }


OnRead = Callable[[int], None]
"""Told after each forward how many tokens it has predicted."""


def read_text(
    model: Any, tokenizer: Any, text: str, *, max_length: int | None, top: int = 5, on_read: OnRead | None = None
) -> TextReading:
    """Predict each token of a text from what precedes it, in windows as `evaluate --task perplexity` cuts them.

    Args:
        model: A causal language model in eval mode.
        tokenizer: Its tokenizer; the text never becomes a control token.
        text: At least one character.
        max_length: Longest sequence of the model, None for any.
        top: How many alternatives are kept at each token.
        on_read: For progress.

    Raises:
        DataError: There is no text.
    """
    ids, pieces = cut_text(tokenizer, text)
    context = (beginning_ids(tokenizer) or [end_of_document_id(tokenizer)])[0]
    guesses = read_ids(model, ids, context=context, max_length=max_length, top=top, on_read=on_read)
    return TextReading(text, pieces, guesses, context, [True] * len(ids))


def cut_text(tokenizer: Any, text: str) -> tuple[list[int], list[str]]:
    """The ids of a text, and the stretch of the text that each stands for.

    Stretches follow each other without a gap: what a tokenizer drops (spaces, say) goes to the token behind it.
    """
    try:
        encoding = text_backend(tokenizer).encode(text, add_special_tokens=False)
    except TypeError as error:
        raise DataError(NO_TEXT, fix="mend the text") from error
    if not encoding.ids:
        raise DataError("there is no text to look at", where="TEXT", fix='give one: llmkit peek --model DIR "Hello"')
    ends, end = [], 0
    following = [start for start, _ in encoding.offsets[1:]] + [len(text)]
    for (_, stop), next_start in zip(encoding.offsets, following, strict=True):
        # Parts of a character all have its place: it is shown with the last of them.
        end = max(end, min(stop, next_start))
        ends.append(end)
    ends[-1] = len(text)
    return encoding.ids, [text[a:b] for a, b in zip([0, *ends], ends, strict=False)]


def read_dialogue(
    model: Any,
    tokenizer: Any,
    ids: Sequence[int],
    *,
    max_length: int | None,
    top: int = 5,
    on_read: OnRead | None = None,
) -> TextReading:
    """Predict each id of a rendered dialogue but the first. Control tokens are shown; sums leave them out."""
    pieces, start = [], 1
    for stop in range(2, len(ids) + 1):
        piece = decode_ids(tokenizer, ids[start:stop])
        is_part = piece.endswith(UNFINISHED) and stop < len(ids)
        pieces.append("" if is_part else piece)
        start = start if is_part else stop
    guesses = read_ids(model, ids[1:], context=ids[0], max_length=max_length, top=top, on_read=on_read)
    control = control_ids(tokenizer)
    return TextReading("".join(pieces), pieces, guesses, ids[0], [token not in control for token in ids[1:]])


def read_ids(
    model: Any,
    ids: Sequence[int],
    *,
    context: int,
    max_length: int | None,
    top: int = 5,
    on_read: OnRead | None = None,
) -> list[Guess]:
    """What the model expected at each of `ids`, the first of which follows the id `context`."""
    guesses: list[Guess] = []
    for before, rest in rolling_windows(ids, context, max_length or LONGEST_WINDOW):
        start = len(guesses)
        for logits in logits_from(model, [*before, *rest[:-1]], len(before) - 1):
            done = len(guesses) - start
            guesses += make_guesses(logits, rest[done : done + len(logits)], top)
        if on_read:
            on_read(len(guesses) - start)
    return guesses


@torch.no_grad()
def logits_from(model: Any, ids: Sequence[int], start: int) -> Iterator[Tensor]:
    """Logits at the positions from `start` on, float32, in parts (n, V) that keep memory flat."""
    inputs = {"input_ids": torch.tensor([list(ids)], device=model.device), "use_cache": False}
    if has_plain_head(model):
        hidden = body_of(model)(**inputs).last_hidden_state[0, start:]
        head = head_of(model)
        parts = (head(part) for part in hidden.split(max(16, CHUNK_LOGITS // head.weight.shape[0])))
    else:
        parts = iter(model(**inputs).logits[0, start:].split(max(16, CHUNK_LOGITS // model.config.vocab_size)))
    for part in parts:
        values = part.float()
        if not bool(values.isfinite().all()):
            raise ModelError(
                "the model's output is not a number", fix="try --dtype fp32; else take an earlier checkpoint"
            )
        yield values


def make_guesses(logits: Tensor, ids: Sequence[int], top: int) -> list[Guess]:
    """A guess for each row of logits (n, V) and the id that stands there."""
    log_shares = logits.log_softmax(dim=-1)
    shares = log_shares.exp()
    places = torch.tensor(ids, device=logits.device)[:, None]
    own = log_shares.gather(1, places)
    entropies = -(shares * log_shares.clamp(min=LEAST)).sum(dim=-1) / math.log(2)
    ranks = (logits > logits.gather(1, places)).sum(dim=-1) + 1
    values, best = shares.topk(min(top, logits.shape[-1]), dim=-1)
    return [
        Guess(token, nats, rank, entropy, tuple(zip(choices, probabilities, strict=True)))
        for token, nats, rank, entropy, choices, probabilities in zip(
            ids,
            own.squeeze(1).tolist(),
            ranks.tolist(),
            entropies.tolist(),
            best.tolist(),
            values.tolist(),
            strict=True,
        )
    ]


def next_logits(model: Any, reading: TextReading, max_length: int | None) -> Tensor:
    """(V,) float32 logits of what comes after the text, given as much of it as the model takes."""
    ids = [reading.context, *reading.ids][-(max_length or LONGEST_WINDOW) :]
    return next(logits_from(model, ids, len(ids) - 1))[0]


def entropy_of(logits: Tensor) -> float:
    """Bits of indecision in a guess, logits (V,)."""
    log_shares = logits.log_softmax(dim=-1)
    return -float((log_shares.exp() * log_shares.clamp(min=LEAST)).sum()) / math.log(2)


def reshape(logits: Tensor, sampling: SamplingConfig) -> list[tuple[str, Tensor]]:
    """What each stage of sampling makes of a guess (V,): (its name, probabilities (V,)), in their order."""
    stages = [("as it is", logits.softmax(dim=-1))]
    if sampling.temperature == 0:
        only = torch.zeros_like(logits).index_fill(0, logits.argmax(dim=-1, keepdim=True), 1.0)
        return [*stages, ("temperature 0", only)]
    kept = heat(logits[None], sampling.temperature)
    stages.append((f"temperature {sampling.temperature:g}", kept[0].softmax(dim=-1)))
    if sampling.top_k:
        kept = keep_top_k(kept, sampling.top_k)
        stages.append((f"top-k {sampling.top_k}", kept[0].softmax(dim=-1)))
    if sampling.top_p < 1:
        kept = keep_top_p(kept, sampling.top_p)
        stages.append((f"top-p {sampling.top_p:g}", kept[0].softmax(dim=-1)))
    return stages


def token_text(tokenizer: Any, token: int) -> str:
    r"""What an id adds to a text; bytes that are no character by themselves are written as `\xe2`.

    Decoded behind another token, for some tokenizers drop the space of the first one.
    """
    raw = tokenizer.backend_tokenizer.id_to_token(token)
    if raw is None:
        return f"[{token}]"  # the model has more ids than the tokenizer has tokens
    if len(raw) and all(sign in BYTE_OF for sign in raw) and is_byte_level(tokenizer):
        return bytes(BYTE_OF[sign] for sign in raw).decode("utf-8", "backslashreplace")
    anchor = decode_ids(tokenizer, [token, token])
    alone = decode_ids(tokenizer, [token])
    text = anchor[len(alone) :] if anchor.startswith(alone) else alone
    return raw if UNFINISHED in text or not text else text


def is_byte_level(tokenizer: Any) -> bool:
    """Whether the vocabulary is written in the signs for bytes that GPT-2 brought."""
    return "ByteLevel" in type(tokenizer.backend_tokenizer.decoder).__name__


@dataclass(frozen=True)
class Stretch:
    """A stretch of text that begins and ends with a token in two tokenizations, and what each model needed for it."""

    text: str
    bits: float
    other_bits: float

    @property
    def gain(self) -> float:
        """Bits that the first model needed less than the other; below 0, the other needed less."""
        return self.other_bits - self.bits


def compare_readings(one: TextReading, other: TextReading) -> list[Stretch]:
    """Two readings of the same text, in the shortest stretches that both tokenizations have.

    With equal tokenizers each token is a stretch (tokens that share a character stay together).
    """
    first, second = cumulative(one), cumulative(other)
    stretches, start = [], 0
    for end in sorted(first.keys() & second.keys()):
        bits, other_bits = (sums[end] - sums.get(start, 0.0) for sums in (first, second))
        stretches.append(Stretch(one.text[start:end], bits, other_bits))
        start = end
    return stretches


def cumulative(reading: TextReading) -> dict[int, float]:
    """Characters so far -> bits so far, at the end of each token. Parts of a character count where it ends."""
    sums: dict[int, float] = {}
    position, total = 0, 0.0
    for piece, guess in zip(reading.pieces, reading.guesses, strict=True):
        position, total = position + len(piece), total + guess.surprise
        if piece:
            sums[position] = total
    sums[position] = total
    return sums
