"""One optimizer step: count the targets, add up gradients, clip, update.

A step counts the targets of all its micro-batches on all processes, then divides the gradients of the summed loss by
that count. So batches of 8x1 and 2x4 rows, on one process or two, give the same loss and the same weights.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from llmkit.batch import IGNORE_INDEX, Batch, LossSum, MeasuringLoss, Rows, count_targets, to_device
from llmkit.errors import RecipeError, RunError
from llmkit.recipe.schema import TrainSection
from llmkit.training.optim import clip_gradients, lr_at
from llmkit.training.order import (
    Indices,
    rows_of_step,
    share_of_process,
    split_by_tokens,
    split_in_micro_batches,
    step_seed,
)
from llmkit.training.processes import note_step

CAUTIOUS_ROWS = 8
"""Rows per forward of whoever does not train, where training finds out by itself how many fit."""

FORWARD_TOKENS = {"cuda": 8192}
"""`batch_tokens: auto` by device: enough to keep a GPU busy."""

CPU_TOKENS = 1024
"""The same elsewhere: more gains nothing in matrix products there, and takes more memory."""


class SummedLoss(nn.Module):
    """A model and its loss as one module, so that DDP and FSDP wrap the whole forward pass."""

    def __init__(self, model: nn.Module, loss_sum: LossSum) -> None:
        super().__init__()
        self.model = model
        self.loss_sum = loss_sum
        # The blocks that FSDP shards one by one, where a transformers model names them.
        self._no_split_modules = getattr(model, "_no_split_modules", None)

    def forward(self, batch: Batch) -> Tensor:
        """The summed loss of a micro-batch, () float32."""
        return self.loss_sum(self.model, batch)


def rows_per_forward(config: TrainSection, *, num_processes: int | None = None) -> int:
    """How many rows go through the model at once: `micro_batch_size`, or this process's share of the batch.

    With `micro_batch_size: auto` the loop finds the number; whoever asks here (validation, plans) gets a cautious one.

    Args:
        config: Of the recipe.
        num_processes: That share the batch; those of this job unless given.
    """
    if num_processes is None:
        num_processes = dist.get_world_size() if dist.is_initialized() else 1
    share = math.ceil(config.batch_size / num_processes)
    if config.micro_batch_size == "auto":
        return min(CAUTIOUS_ROWS, share)
    return min(config.micro_batch_size or share, share)


def tokens_per_forward(config: TrainSection, device: torch.device) -> int | None:
    """Positions that go through the model at once, where the recipe counts these and not rows alone.

    Raises:
        RecipeError: Rows are to be counted by what fits into memory, and tokens too.
    """
    is_fitted = config.micro_batch_size == "auto"
    if config.batch_tokens == "auto":
        return None if config.micro_batch_size is not None else FORWARD_TOKENS.get(device.type, CPU_TOKENS)
    if config.batch_tokens is not None and is_fitted:
        message = "micro_batch_size auto finds how many rows fit into memory, and train.batch_tokens says it otherwise"
        raise RecipeError(message, where="train.batch_tokens", fix="leave one of the two out")
    return config.batch_tokens


def rows_within(rows: int, tokens: int | None, seq_len: int) -> int:
    """So many rows of one length, or fewer where they would hold more than `tokens` positions; one at least."""
    return rows if tokens is None else max(1, min(rows, tokens // seq_len))


def plan_steps(config: TrainSection, num_rows: int) -> int:
    """How many optimizer steps `steps` or `epochs` mean for this many rows.

    Raises:
        RecipeError: The rows are a stream (0 of them are known), and no number of steps is given.
    """
    if config.steps is not None:
        return config.steps
    if num_rows == 0:
        raise RecipeError(
            "a stream has no end that is known, so it has no epochs", where="train.steps", fix="set train.steps"
        )
    return max(1, math.ceil((config.epochs or 1) * num_rows / config.batch_size))


class StepRows(NamedTuple):
    """This process's share of a step: micro-batches, and how many targets they have."""

    batches: list[Batch]
    num_targets: int


@dataclass(frozen=True)
class Signs:
    """What the processes tell each other before a step."""

    must_stop: bool = False
    """This process wants the step to be the last: a signal, or its time is over."""
    num_steps: int = 0
    """The length of the run, when the main process settles it now; else 0."""


@dataclass(frozen=True)
class StepResult:
    """One optimizer step: mean loss over its targets, norm of the gradient before clipping."""

    loss: float
    grad_norm: float
    lr: float
    num_targets: int
    signs: Signs
    losses: list[float]
    """The summed loss of each process."""
    measures: Mapping[str, float]
    """What the loss measured beside itself, as means over the targets."""

    @property
    def is_finite(self) -> bool:
        """Whether there was an update."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


@dataclass
class Loop:
    """What the steps of one run share."""

    wrapped: nn.Module
    optimizer: Any
    rows: Rows
    config: TrainSection
    accelerator: Accelerator
    num_steps: int
    forward_rows: int = field(init=False)
    forward_tokens: int | None = field(init=False)

    def __post_init__(self) -> None:
        config = self.config
        self.forward_rows = rows_per_forward(config, num_processes=self.accelerator.num_processes)
        self.forward_tokens = tokens_per_forward(config, self.accelerator.device)
        if self.rows.lengths is None:
            self.forward_rows = rows_within(self.forward_rows, self.forward_tokens, config.seq_len)

    def row_indices(self, step: int) -> Indices:
        """The rows that all processes together see in a step."""
        config = self.config
        last = None if config.steps is not None else math.ceil((config.epochs or 1) * len(self.rows))
        return rows_of_step(
            step,
            num_rows=None if self.rows.is_stream else len(self.rows),
            batch_size=config.batch_size,
            seed=config.seed,
            last_row=last,
        )

    def shares(self, step: int) -> list[Indices]:
        """The rows of a step, by process."""
        indices, count = self.row_indices(step), self.accelerator.num_processes
        return [share_of_process(indices, self.rows.lengths, rank=rank, num_processes=count) for rank in range(count)]

    def step_rows(self, step: int) -> StepRows:
        """This process's share of a step's rows, on the CPU; memory that a GPU copies from while it computes."""
        batches = self.micro_batches(step)
        if self.accelerator.device.type == "cuda":
            batches = [{name: tensor.pin_memory() for name, tensor in batch.items()} for batch in batches]
        return StepRows(batches, sum(map(count_targets, batches)))

    def micro_batches(self, step: int) -> list[Batch]:
        """This process's share of a step's rows."""
        shares = [self.split(share) for share in self.shares(step)]
        batches = [self.rows.batch(part.tolist()) for part in shares[self.accelerator.process_index]]
        # FSDP gathers weights in every forward: all processes must make equally many.
        while len(batches) < max(map(len, shares)):
            batches.append(
                without_targets(batches[-1] if batches else self.rows.batch(self.row_indices(step)[:1].tolist()))
            )
        return batches

    def split(self, share: Indices) -> list[Indices]:
        """A process's rows of a step, as they go through the model."""
        lengths, rows, tokens = self.rows.lengths, self.forward_rows, self.forward_tokens
        if tokens is None or lengths is None:
            return split_in_micro_batches(share, rows)
        return split_by_tokens(share, lengths, tokens=tokens, rows=rows, is_flat=getattr(self.rows, "is_flat", False))

    def split_again(self, step: int, rows: StepRows) -> StepRows:
        """The rows of a step after `forward_rows` has changed."""
        if not self.rows.is_stream:
            return self.step_rows(step)
        # A stream gives each of its rows but once; they have one length, and are cut from what is there.
        shares = self.shares(step)
        whole = {name: torch.cat([batch[name] for batch in rows.batches]) for name in rows.batches[0]}
        starts = range(0, len(shares[self.accelerator.process_index]), self.forward_rows)
        parts = [{name: tensor[i : i + self.forward_rows] for name, tensor in whole.items()} for i in starts]
        missing = max(len(self.split(share)) for share in shares) - len(parts)
        filling = without_targets({name: tensor[: self.forward_rows] for name, tensor in whole.items()})
        return StepRows(parts + [filling] * missing, rows.num_targets)

    def train_step(self, step: int, rows: StepRows, signs: Signs) -> StepResult:
        """One optimizer step: count, forward and backward over all micro-batches, clip, update.

        There is no update when the loss or the gradient is not finite: nothing of the step is left then.
        """
        job = self.accelerator
        set_seed(step_seed(self.config.seed, step, job.process_index), job.device)
        note_step(step + 1)
        self.take_measures()
        # One message tells how many targets there are, who wants to stop, and how long the run is to be.
        count, stops, num_steps = self.add_up([rows.num_targets, signs.must_stop, signs.num_steps])
        if count == 0:
            raise RunError(
                f"no row of step {step + 1} has a target to learn", where="data", fix="see `llmkit data show`"
            )
        self.num_steps = int(num_steps) or self.num_steps
        # DDP averages gradients over processes: undo that, and divide by all targets.
        total = self.forward_backward(rows.batches, scale=job.num_processes / count)
        norm = self.clip_gradients()
        losses, measures = [0.0] * job.num_processes, self.take_measures()
        losses[job.process_index] = total
        # Only one gradient that is not finite anywhere, and no process makes the update.
        num_bad, *sums = self.add_up([not math.isfinite(norm), *losses, *measures.values()])
        losses, means = sums[: len(losses)], [value / count for value in sums[len(losses) :]]
        lr = lr_at(step, self.config, num_steps=self.num_steps)
        agreed = Signs(stops > 0, int(num_steps))
        noted = dict(zip(measures, means, strict=True))
        result = StepResult(sum(losses) / count, math.nan if num_bad else norm, lr, int(count), agreed, losses, noted)
        if result.is_finite:
            for group in self.bare_optimizer.param_groups:
                group["lr"] = lr * group["lr_scale"]
            self.bare_optimizer.step()
        for group in self.bare_optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = None  # what its zero_grad does, which takes ten times as long
        return result

    def forward_backward(self, batches: Sequence[Batch], *, scale: float) -> float:
        """Add the gradients of the summed loss, times `scale`; the summed loss of this process."""
        job, losses = self.accelerator, []
        for number, batch in enumerate(batches, start=1):
            with nullcontext() if number == len(batches) else job.no_sync(self.wrapped):
                loss = self.wrapped(to_device(batch, job.device))
                # Not Accelerate's `backward`: what it does besides is for other precisions and engines than ours.
                loss.backward(torch.full_like(loss, scale))
            losses.append(loss.detach())
        return math.fsum(torch.stack(losses).tolist()) if len(losses) > 1 else losses[0].item()

    def clip_gradients(self) -> float:
        """Scale the gradients down to `max_grad_norm`; the norm that they had, over all parameters."""
        bound = self.config.max_grad_norm or math.inf
        if isinstance(self.wrapped, SummedLoss | DistributedDataParallel):
            return clip_gradients(self.parameters, bound)
        # A process holds but a part of the gradients: Accelerate knows how to add up their norms.
        return float(self.accelerator.clip_grad_norm_(self.parameters, bound))

    @functools.cached_property
    def parameters(self) -> list[nn.Parameter]:
        """Of the wrapped model; to go through its modules anew would take a tenth of a small network's step."""
        return list(self.wrapped.parameters())

    @functools.cached_property
    def bare_optimizer(self) -> torch.optim.Optimizer:
        """Past Accelerate's wrapper, which looks for an uninstalled package at each step: a tenth of a small one.

        It would scale losses for float16, which is not among the precisions.
        """
        return getattr(self.optimizer, "optimizer", self.optimizer)  # type: ignore[no-any-return]

    def take_measures(self) -> dict[str, float]:
        """The sums that the loss has put aside since this was last asked: see `llmkit.batch.MeasuringLoss`."""
        return {} if self.measuring is None else self.measuring.take_measures()

    @functools.cached_property
    def measuring(self) -> MeasuringLoss | None:
        """The loss, if it measures anything; found once, since to unwrap a model costs as much as a small step."""
        loss_sum = self.accelerator.unwrap_model(self.wrapped).loss_sum
        return loss_sum if isinstance(loss_sum, MeasuringLoss) else None

    def add_up(self, values: Sequence[float]) -> list[float]:
        """The sums of these numbers over all processes."""
        job = self.accelerator
        if job.num_processes == 1:
            return [float(value) for value in values]
        local = torch.tensor([float(value) for value in values], dtype=torch.float64, device=job.device)
        return job.reduce(local, "sum").tolist()  # type: ignore[no-any-return]


def without_targets(batch: Batch) -> Batch:
    """The batch with nothing to learn: for a process that has no row in the last, short step."""
    targets = batch["targets"]
    if targets.is_floating_point():
        return {name: tensor[:0] for name, tensor in batch.items()}
    return {**batch, "targets": torch.full_like(targets, IGNORE_INDEX)}


def set_seed(seed: int, device: torch.device) -> None:
    """Seed the generators that dropout draws from: of the CPU, and of the device.

    `torch.manual_seed` seeds those of devices that are not there, too: 3 ms on a machine without any.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
