"""One optimizer step: count the targets, add up gradients, clip, update.

A step counts the targets of all its micro-batches on all processes, then divides the gradients of the summed loss by
that count. So batches of 8x1 and 2x4 rows, on one process or two, give the same loss and the same weights.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from llmkit.batch import IGNORE_INDEX, Batch, LossSum, Rows, count_targets, to_device
from llmkit.errors import RunError
from llmkit.recipe.schema import TrainSection
from llmkit.training.optim import lr_at
from llmkit.training.order import Indices, rows_of_step, share_of_process, split_in_micro_batches, step_seed
from llmkit.training.signals import StopRequest


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


def plan_steps(config: TrainSection, num_rows: int) -> int:
    """How many optimizer steps `steps` or `epochs` mean for this many rows."""
    if config.steps is not None:
        return config.steps
    return max(1, math.ceil((config.epochs or 1) * num_rows / config.batch_size))


@dataclass
class Loop:
    """What the steps of one run share."""

    wrapped: nn.Module
    optimizer: Any
    rows: Rows
    config: TrainSection
    accelerator: Accelerator
    num_steps: int

    def row_indices(self, step: int) -> Indices:
        """The rows that all processes together see in a step."""
        config = self.config
        last = None if config.steps is not None else math.ceil((config.epochs or 1) * len(self.rows))
        return rows_of_step(
            step, num_rows=len(self.rows), batch_size=config.batch_size, seed=config.seed, last_row=last
        )

    def micro_batches(self, step: int) -> list[Batch]:
        """This process's share of a step's rows."""
        config, job = self.config, self.accelerator
        last = None if config.steps is not None else math.ceil((config.epochs or 1) * len(self.rows))
        indices = rows_of_step(
            step, num_rows=len(self.rows), batch_size=config.batch_size, seed=config.seed, last_row=last
        )
        mine = share_of_process(indices, self.rows.lengths, rank=job.process_index, num_processes=job.num_processes)
        size = config.micro_batch_size or math.ceil(config.batch_size / job.num_processes)
        batches = [self.rows.batch(part.tolist()) for part in split_in_micro_batches(mine, size)]
        # FSDP gathers weights in every forward: all processes must make equally many.
        most = math.ceil(math.ceil(len(indices) / job.num_processes) / size)
        while len(batches) < most:
            batches.append(without_targets(self.rows.batch(indices[:1].tolist())))
        return batches

    def train_step(self, step: int, stop: StopRequest) -> StepResult:
        """One optimizer step: count, forward and backward over all micro-batches, clip, update."""
        job = self.accelerator
        batches = self.micro_batches(step)
        torch.manual_seed(step_seed(self.config.seed, step, job.process_index))
        # One message tells the others how many targets there are here, and that this process was asked to stop.
        local = torch.tensor([sum(map(count_targets, batches)), stop.name is not None], dtype=torch.float64)
        count, stops = (x.item() for x in job.reduce(local.to(job.device), "sum"))
        if count == 0:
            raise RunError(
                f"no row of step {step + 1} has a target to learn", where="data", fix="see `llmkit data show`"
            )
        # DDP averages gradients over processes: undo that, and divide by all targets.
        scale = job.num_processes / count
        total = torch.zeros((), dtype=torch.float64, device=job.device)
        for number, batch in enumerate(batches, start=1):
            with nullcontext() if number == len(batches) else job.no_sync(self.wrapped):
                loss = self.wrapped(to_device(batch, job.device))
                job.backward(loss * scale)
            total += loss.detach()
        mean_loss = job.reduce(total, "sum").item() / count
        limit = self.config.max_grad_norm or math.inf
        norm = job.clip_grad_norm_(self.wrapped.parameters(), limit)
        grad_norm = float(norm) if norm is not None else math.nan
        self.check_finite(step, mean_loss, grad_norm)
        lr = lr_at(step, self.config, num_steps=self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return StepResult(mean_loss, grad_norm, lr, int(count), must_stop=stops > 0)

    def check_finite(self, step: int, loss: float, grad_norm: float) -> None:
        """Raise before the update when the loss or the gradient is not a finite number."""
        if math.isfinite(loss) and math.isfinite(grad_norm):
            return
        raise RunError(
            f"step {step + 1}: loss {loss}, gradient norm {grad_norm}; no update was made. "
            f"Rows: {self.row_indices(step).tolist()}",
            where="train",
            fix="lower train.lr, raise train.warmup_steps, or use train.precision=fp32; the last checkpoint is sound",
        )


@dataclass(frozen=True)
class StepResult:
    """One optimizer step: mean loss over its targets, norm of the gradient before clipping."""

    loss: float
    grad_norm: float
    lr: float
    num_targets: int
    must_stop: bool


def without_targets(batch: Batch) -> Batch:
    """The batch with nothing to learn: for a process that has no row in the last, short step."""
    targets = batch["targets"]
    if targets.is_floating_point():
        return {name: tensor[:0] for name, tensor in batch.items()}
    return {**batch, "targets": torch.full_like(targets, IGNORE_INDEX)}
