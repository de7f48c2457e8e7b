"""The decode loop: one forward per new token over all rows still running, with the model's key/value cache.

Shapes: B rows still running, T positions, V vocabulary.
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer

from llmkit.errors import UsageError
from llmkit.generation.sampling import SamplingConfig, row_generator, sample

FinishReason = Literal["stop", "length", "context", "interrupted"]
"""A stop id or stop string; max_new_tokens; the model's longest sequence; nobody asked for the rest."""


@dataclass
class DecodingRow:
    """One prompt on its way through the decode loop. Whoever sets `finish_reason` takes it out of the batch."""

    prompt: list[int]
    generator: torch.Generator
    max_new_tokens: float
    finish_reason: FinishReason | None = None
    limit_reason: FinishReason = "length"
    ids: list[int] = field(default_factory=list)

    @property
    def length(self) -> int:
        """Tokens so far, prompt and new ones."""
        return len(self.prompt) + len(self.ids)

    def take(self, token: int, stop_ids: Collection[int]) -> bool:
        """Add the newest id and see whether the row ends there; False for a stop id, which is no part of the text."""
        if token in stop_ids:
            self.finish_reason = "stop"
            return False
        self.ids.append(token)
        if len(self.ids) >= self.max_new_tokens:
            self.finish_reason = self.limit_reason
        return True


def new_row(model: Any, prompt: Sequence[int], *, max_new_tokens: int | None, seed: int, row: int) -> DecodingRow:
    """A row with room for as many new tokens as were asked for and as the model has positions for.

    Raises:
        UsageError: The prompt is empty, or longer than the model takes.
    """
    fix = "begin with the end-of-document token"
    if not prompt:
        raise UsageError("there is nothing to go on: it has no tokens", where=f"prompt {row + 1}", fix=fix)
    asked, longest = float("inf") if max_new_tokens is None else max_new_tokens, longest_sequence(model)
    room = float("inf") if longest is None else longest - len(prompt)
    if room < 0:
        message = f"it has {len(prompt):,} tokens, and the model takes at most {longest:,}"
        raise UsageError(message, where=f"prompt {row + 1}", fix="shorten the prompt")
    reason: FinishReason = "context" if room < asked else "length"
    is_full = min(room, asked) <= 0
    return DecodingRow(list(prompt), row_generator(seed, row), min(room, asked), reason if is_full else None, reason)


def longest_sequence(model: Any) -> int | None:
    """The longest sequence the model takes, or None where nothing limits it."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)


class Memory:
    """The key/value cache of one growing sequence, kept between streams: a dialogue is not read again at every turn."""

    def __init__(self) -> None:
        self.ids: list[int] = []
        self.cache: Any = None

    def recall(self, prompt: Sequence[int]) -> tuple[Any, int]:
        """The cache cut to what it shares with `prompt`, and the length of that; (None, 0) when nothing can be used.

        The last id of the prompt is never among it: it must be run to know what follows.
        """
        cache, known = self.cache, self.ids
        self.cache, self.ids = None, []
        limit = min(len(known), len(prompt) - 1)
        shared = next((i for i in range(limit) if known[i] != prompt[i]), limit)
        surplus = len(known) - shared
        # Layers that see a sliding window have let go of what was before it.
        can_crop = all(type(layer) is DynamicLayer for layer in getattr(cache, "layers", [None]))
        if shared == 0 or (surplus and not can_crop):
            return None, 0
        if surplus:
            cache.crop(-surplus)
        return cache, shared

    def keep(self, ids: Sequence[int], cache: Any) -> None:
        """Remember `cache`, which holds the keys and values of exactly these ids."""
        self.cache, self.ids = cache, list(ids) if cache is not None else []


@torch.inference_mode()
def decode(
    model: Any,
    rows: Sequence[DecodingRow],
    *,
    sampling: SamplingConfig,
    stop_ids: Collection[int] = (),
    memory: Memory | None = None,
    use_cache: bool = True,
) -> Generator[DecodingRow]:
    """Run the rows to their ends, side by side; yields a row whenever it got a new id. Finished rows leave the batch.

    Args:
        model: A causal language model; it is in eval mode while this runs.
        rows: From new_row; their prompts may differ in length.
        sampling: How ids are drawn.
        stop_ids: A row ends before any of these.
        memory: For a single row: begins from, and leaves, the cache of the dialogue.
        use_cache: False runs the whole sequence for every token: slow, and the measure of what the cache must give.
    """
    was_training = model.training
    model.eval()
    try:
        yield from decode_loop(Forward(model, use_cache), rows, sampling=sampling, stop_ids=stop_ids, memory=memory)
    finally:
        if was_training:
            model.train()


def decode_loop(
    forward: Forward,
    rows: Sequence[DecodingRow],
    *,
    sampling: SamplingConfig,
    stop_ids: Collection[int],
    memory: Memory | None,
) -> Generator[DecodingRow]:
    """The loop itself: forward, sample, hand out, let finished rows go."""
    live = [row for row in rows if row.finish_reason is None]
    if not live:
        return
    forward.begin(live, memory)
    is_whole = False
    try:
        while live:
            is_whole = False
            logits = forward.step()
            is_whole = True
            ids = sample(logits, sampling, [row.generator for row in live])
            for row, token in zip(live, ids.tolist(), strict=True):
                if row.take(token, stop_ids):
                    yield row
            running = [index for index, row in enumerate(live) if row.finish_reason is None]
            if not running:
                break
            live = [live[index] for index in running]
            forward.extend(ids, running)
    finally:
        # An interrupted forward leaves a cache with some layers ahead of others: such a one is not kept.
        if memory is not None and is_whole:
            memory.keep(forward.seen, forward.cache)


class Forward:
    """The state of the model over the rows that are running: what goes in next, the padding, the cache."""

    def __init__(self, model: Any, use_cache: bool) -> None:
        self.model = model
        self.use_cache = use_cache
        self.device = next(model.parameters()).device
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.accepted = set(inspect.signature(base.forward).parameters)

    def begin(self, rows: Sequence[DecodingRow], memory: Memory | None) -> None:
        """Stack the prompts, padded on the left so that all end at the same place."""
        known = 0
        self.cache: Any = None
        if memory is not None:
            self.cache, known = memory.recall(rows[0].prompt)
        # What a single row's cache will hold after the next step; nothing is remembered of batches.
        self.seen = rows[0].prompt if len(rows) == 1 else []
        longest = max(len(row.prompt) for row in rows)
        padding = [longest - len(row.prompt) for row in rows]
        ids = [[0] * count + row.prompt for count, row in zip(padding, rows, strict=True)]
        self.input_ids = torch.tensor(ids, device=self.device)[:, known:]
        places = torch.arange(longest, device=self.device) - torch.tensor(padding, device=self.device)[:, None]
        self.positions = places.clamp(min=0)[:, known:]
        # Without padding there is no mask: attention then takes its fastest path.
        self.mask = (places >= 0).long() if any(padding) else None

    def step(self) -> Tensor:
        """One forward: the logits (B, V) of the next token, float32."""
        inputs: dict[str, Any] = {
            "input_ids": self.input_ids,
            "attention_mask": self.mask,
            "position_ids": self.positions,
            "past_key_values": self.cache,
            "use_cache": self.use_cache,
            "logits_to_keep": 1,
        }
        output = self.model(**{name: value for name, value in inputs.items() if name in self.accepted})
        self.cache = getattr(output, "past_key_values", None) if self.use_cache else None
        logits: Tensor = output.logits[:, -1].float()
        return logits

    def extend(self, ids: Tensor, running: Sequence[int]) -> None:
        """Go on with the new ids (B,), for the rows that are running alone."""
        if len(running) < len(ids):
            index = torch.tensor(running, device=self.device)
            ids, self.input_ids, self.positions = ids[index], self.input_ids[index], self.positions[index]
            self.mask = None if self.mask is None else self.mask[index]
            if self.cache is not None:
                self.cache.batch_select_indices(index)
        self.seen = [*self.seen, int(ids[0])] if self.seen else []
        if self.mask is not None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(ids), 1)], dim=1)
        new, places = ids[:, None], self.positions[:, -1:] + 1
        if self.cache is None:
            # No cache, or a model that has none of this kind: the whole sequence goes through again.
            new, places = torch.cat([self.input_ids, new], dim=1), torch.cat([self.positions, places], dim=1)
        self.input_ids, self.positions = new, places
