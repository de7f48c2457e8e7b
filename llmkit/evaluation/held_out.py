"""How well a model predicts the targets of held-out rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import distributed as dist
from torch import nn

from llmkit.batch import IGNORE_INDEX, Batch, Rows, batches_by_length, count_targets, to_device
from llmkit.evaluation.perplexity import sum_over_processes, summarise
from llmkit.losses import causal_lm_loss_sum


@torch.no_grad()
def measure_rows(
    model: nn.Module, rows: Rows, *, num_bytes: int, batch_size: int, batch_tokens: int | None = None
) -> dict[str, float]:
    """`nats_per_token` and `bits_per_byte` over the targets of all rows.

    In a job of several processes each takes its share of the rows (all must call this); all get the same result.

    Args:
        model: A causal language model; its mode and its device are left as they are.
        rows: Held-out rows.
        num_bytes: Bytes of the text that their targets stand for.
        batch_size: Rows per forward.
        batch_tokens: Positions per forward, where these are counted too.
    """
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    nats, count = 0.0, 0
    try:
        for batch in share_of_batches(rows, batch_size, batch_tokens):
            nats += float(causal_lm_loss_sum(model, to_device(batch, device)))
            count += count_targets(batch)
    finally:
        model.train(was_training)
    total, num_targets = sum_over_processes(nats, device), sum_over_processes(count, device)
    return summarise(total, num_targets=round(num_targets), num_bytes=num_bytes)


def share_of_batches(rows: Rows, batch_size: int, batch_tokens: int | None = None) -> Iterator[Batch]:
    """This process's batches, rows of like length together; every process gets equally many."""
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    lengths: Sequence[int] = rows.lengths or [0] * len(rows)
    order = sorted(range(len(rows)), key=lambda index: -lengths[index])
    shares = []
    for mine in (order[first::world] for first in range(world)):
        cut = batches_by_length([lengths[index] for index in mine], tokens=batch_tokens, rows=batch_size)
        shares.append([[mine[place] for place in places] for places in cut])
    for number in range(max(map(len, shares))):
        if number < len(shares[rank]):
            yield rows.batch(shares[rank][number])
        else:
            # A process that is done goes along with an empty share: forward passes may have to be made together.
            batch = rows.batch(order[-1:])
            yield {**batch, "targets": torch.full_like(batch["targets"], IGNORE_INDEX)}
