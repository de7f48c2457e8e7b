"""How well a model predicts text: nats per token over a stream, and bits per byte, which compares across tokenizers."""

from __future__ import annotations

import lzma
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch import distributed as dist

from llmkit.batch import IGNORE_INDEX, Batch, to_device
from llmkit.losses import causal_lm_loss_sum

MOST_COMPRESSED = 32 << 20
"""Bytes: half a minute of xz."""


@torch.no_grad()
def measure_stream(
    model: nn.Module,
    stream: NDArray[np.integer],
    num_bytes: int,
    *,
    seq_len: int,
    batch_size: int,
    autocast: torch.dtype | None = None,
) -> dict[str, float]:
    """`nats_per_token` and `bits_per_byte` of a stream of ids, each predicted once from what precedes it in its window.

    Windows of `seq_len` targets follow each other and share one id, as training cuts them. In a job of several
    processes each takes its share of the windows (all must call this), and every process gets the same result.

    Args:
        model: A causal language model; its mode and its device are left as they are.
        stream: (N,) ids; the first is context only, the other N - 1 are predicted.
        num_bytes: Bytes of the text that the stream stands for.
        seq_len: Positions per window.
        batch_size: Windows per forward.
        autocast: Arithmetic of the forward; None for that of the weights.
    """
    was_training = model.training
    device = next(model.parameters()).device
    model.eval()
    total = 0.0
    try:
        for batch in window_batches(stream, seq_len, batch_size):
            with torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
                total += float(causal_lm_loss_sum(model, to_device(batch, device)))
    finally:
        model.train(was_training)
    return summarise(sum_over_processes(total, device), num_targets=len(stream) - 1, num_bytes=num_bytes)


def summarise(nats: float, *, num_targets: int, num_bytes: int) -> dict[str, float]:
    """A sum in nats as `nats_per_token` and `bits_per_byte`."""
    return {"nats_per_token": nats / max(num_targets, 1), "bits_per_byte": nats / math.log(2) / max(num_bytes, 1)}


def window_batches(stream: NDArray[np.integer], seq_len: int, batch_size: int) -> Iterator[Batch]:
    """This process's share of the windows, stacked.

    Every process gets equally many batches: models whose parameters are spread over processes must call forward
    together. Windows that do not exist are filled with ignored targets.
    """
    world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
    num_windows = -(-(len(stream) - 1) // seq_len)
    for first in range(0, num_windows, world * batch_size):
        mine = range(first + rank, min(first + world * batch_size, num_windows), world)
        yield stack_windows(stream, list(mine) or [None], seq_len)


def stack_windows(stream: NDArray[np.integer], windows: Sequence[int | None], seq_len: int) -> Batch:
    """The windows with these numbers as (B, seq_len) ids and targets; None stands for one without targets."""
    input_ids = torch.zeros(len(windows), seq_len, dtype=torch.int64)
    targets = torch.full_like(input_ids, IGNORE_INDEX)
    for row, window in enumerate(windows):
        if window is None:
            continue
        ids = torch.from_numpy(np.asarray(stream[window * seq_len : (window + 1) * seq_len + 1], dtype=np.int64))
        input_ids[row, : len(ids) - 1] = ids[:-1]
        targets[row, : len(ids) - 1] = ids[1:]
    return {"input_ids": input_ids, "targets": targets}


def sum_over_processes(value: float, device: torch.device) -> float:
    """`value` added up over all processes of the job, or itself where there is one."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return value
    total: Tensor = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total)


def rolling_windows(ids: Sequence[int], prefix_id: int, length: int) -> Iterator[tuple[list[int], list[int]]]:
    """(context, continuation) pairs that predict every id of a document once, in windows no longer than `length`.

    The last window reaches back, so that its ids see as much context as fits; so does lm-evaluation-harness.
    """
    for start in range(0, len(ids), length):
        end = min(start + length, len(ids))
        yield list(ids[end - length - 1 : start]) if start else [prefix_id], list(ids[start:end])


def compressed_bits_per_byte(texts: Iterable[tuple[str, str]]) -> dict[str, float]:
    """What `gzip -9` and `xz -9` need for the texts as one file: a model that predicts worse has learned little.

    Of long texts the first MOST_COMPRESSED bytes stand for all, since xz is slow.

    Args:
        texts: Each text as it is predicted, and as its bytes are counted.
    """
    gzip, xz = zlib.compressobj(9, wbits=31), lzma.LZMACompressor(preset=9)
    sizes, total, counted = {"gzip_9": 0, "xz_9": 0}, 0, 0.0
    for text, original in texts:
        whole = text.encode()
        data = whole[: MOST_COMPRESSED - total]
        sizes["gzip_9"] += len(gzip.compress(data))
        sizes["xz_9"] += len(xz.compress(data))
        total += len(data)
        counted += len(original.encode()) * len(data) / max(len(whole), 1)
    sizes["gzip_9"] += len(gzip.flush())
    sizes["xz_9"] += len(xz.flush())
    return {name: 8 * size / max(counted, 1) for name, size in sizes.items()}
