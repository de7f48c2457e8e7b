"""The only training loop: pretraining, tuning and baselines alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from llmkit.batch import LossSum, Rows
from llmkit.console import Progress, say, write_json
from llmkit.errors import StoppedError, UsageError
from llmkit.recipe.schema import TrainSection
from llmkit.training import checkpoint as checkpoints
from llmkit.training.average import WeightAverage
from llmkit.training.clock import Clock
from llmkit.training.compiling import with_whole_cache
from llmkit.training.disk import check_space, optimizer_bytes, weight_bytes
from llmkit.training.feed import Feed
from llmkit.training.health import Losses
from llmkit.training.insides import Insides
from llmkit.training.job import on_main_process
from llmkit.training.keeping import Keeper
from llmkit.training.length import Length
from llmkit.training.memory import fit_memory
from llmkit.training.optim import make_optimizer, warmup_of
from llmkit.training.patience import check_patience
from llmkit.training.restore import Start, find_start, go_on
from llmkit.training.run import Run
from llmkit.training.session import Session, Validate
from llmkit.training.signals import StopRequest
from llmkit.training.step import Loop, StepRows, SummedLoss, plan_steps
from llmkit.training.summary import Totals, TrainSummary
from llmkit.training.trackers import trackers
from llmkit.training.weights import copy_buffers, put_back
from llmkit.training.words import describe_metrics, describe_speed


def train(
    model: nn.Module,
    rows: Rows,
    loss_sum: LossSum,
    config: TrainSection,
    run: Run,
    *,
    accelerator: Accelerator,
    save_model: checkpoints.SaveModel,
    load_model: Callable[[Path], None],
    validate: Validate | None = None,
    sample: Callable[[int], None] | None = None,
    flops_per_token: float | None = None,
    matrix_rate: float | None = None,
    deadline_seconds: float | None = None,
    looks_inside: bool = False,
) -> TrainSummary:
    """Train `model` on `rows` and leave the result in `run.folder / "model"`.

    Args:
        model: What is trained; parameters with requires_grad.
        rows: The training rows.
        loss_sum: Sums the loss over a micro-batch.
        config: Steps, batch, lr and all that.
        run: The open run; it is continued from its newest whole checkpoint.
        accelerator: Of this process.
        save_model: Writes the model into an existing empty folder (called on the main process).
        load_model: Reads such a folder back into `model`.
        validate: Metrics on held-out data.
        sample: Called with a step, to take and log samples.
        flops_per_token: Of the forward and the backward pass, for the share of what the device can do (MFU).
        matrix_rate: FLOP/s of matrix products on the device of each process, for the same.
        deadline_seconds: The run is to end after so long, whatever its steps; counted over all processes that worked at
            it one after the other, each from its own start. Needs a schedule that does not fall from the beginning.
        looks_inside: Log gradients by layer, and dead and saturated units, some fifty times: for small networks.

    Raises:
        RunError: The loss or a gradient is not finite and no update was made with it; memory or disk do not suffice; a
            process of the job was lost.
    """
    start = find_start(run, accelerator)
    length, num_steps = find_length(run, start, config, len(rows), has_deadline=deadline_seconds is not None)
    if config.precision == "pure-bf16":
        round_weights(model)
    go_on(run, start, load_model)
    wrapped, optimizer = accelerator.prepare(SummedLoss(model, loss_sum), make_optimizer(model, config))
    if start.path is not None:
        checkpoints.restore_from(start.path, model=wrapped, optimizer=optimizer)
    tell_warmup(config, num_steps)
    check_patience(config, wrapped, is_validated=validate is not None)
    loop = Loop(wrapped, optimizer, rows, config, accelerator, num_steps)
    on_main_process(accelerator, lambda: check_space(run.folder, wrapped, config, num_steps=num_steps))
    totals, losses = restore_totals(start)
    session = Session(
        loop=loop,
        model=model,
        run=run,
        clock=make_clock(run, start, deadline_seconds),
        length=length,
        keeper=Keeper(run, loop, save_model, load_model, restore_average(wrapped, config, start)),
        validate=validate,
        sample=sample,
        flops_per_token=flops_per_token,
        matrix_rate=matrix_rate,
        insides=Insides(model, optimizer, config, num_steps=num_steps) if looks_inside else None,
        totals=totals,
        losses=losses,
    )
    session.clock.expect_save(weight_bytes(wrapped, config) + optimizer_bytes(wrapped, config))
    return run_session(session, start)


def find_length(
    run: Run, start: Start, config: TrainSection, num_rows: int, *, has_deadline: bool
) -> tuple[Length, int]:
    """How long the run is to be, and how many steps that is as far as anyone knows.

    Raises:
        UsageError: The run is longer than that already.
    """
    # A length that was settled by a deadline holds for this run alone, not for one that branches off.
    settled = None if start.step == run.branch_step else start.values.get("num_steps")
    length = Length(config, plan_steps(config, num_rows), has_deadline, settled)
    num_steps = length.planned
    if has_deadline:  # which, until it settles the length, makes it longer on the way
        num_steps = settled or max(length.planned, start.step + 1)
    if start.step > num_steps:
        raise UsageError(
            f"this run has {start.step} steps behind it, and {num_steps} are asked for",
            where=str(run.folder),
            fix="ask for more steps, or choose another --output",
        )
    return length, num_steps


def tell_warmup(config: TrainSection, num_steps: int) -> None:
    """Say so where the run is too short for the warm-up that the recipe asks for."""
    steps = warmup_of(config, num_steps)
    if config.warmup_share is None and steps < config.warmup_steps:
        say(
            f"lr rises over {steps} steps, and not over train.warmup_steps={config.warmup_steps}: there are {num_steps}"
        )


def run_session(session: Session, start: Start) -> TrainSummary:
    """Try what the memory holds, then make the steps."""
    loop, run = session.loop, session.run
    model, first = session.model, start.step
    model.train()
    end = None if session.length.has_deadline else loop.num_steps
    with (
        trackers(loop.accelerator, loop.config, run),
        StopRequest() as stop,
        Progress("training", total=loop.num_steps, unit="steps", start=first) as bar,
    ):
        ready = first_rows(loop, start, run) if first < loop.num_steps else None
        with Feed(loop.step_rows, first=first, end=end, ready=ready, is_ahead=loop.rows.is_stream) as feed:
            return session.run_steps(first, stop, bar, feed)


def first_rows(loop: Loop, start: Start, run: Run) -> StepRows:
    """The rows of the first step, split as memory allows."""
    ready = loop.step_rows(start.step)
    before = loop.forward_rows
    # A branch is another run, and free to choose anew.
    earlier = None if start.step == run.branch_step else start.values.get("forward_rows")
    exact = run.options.require_exact
    kept = copy_buffers(loop.wrapped)
    with_whole_cache(lambda: fit_memory(loop, ready.batches, earlier_rows=earlier, is_exact=exact))
    put_back(loop.wrapped, kept)  # what was only tried must not be seen in the result
    if loop.forward_rows == before:
        return ready
    return loop.split_again(start.step, ready)


def round_weights(model: nn.Module) -> None:
    """Weights in bf16. Buffers stay as they are: positions in bf16 would be no positions."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(torch.bfloat16)


def make_clock(run: Run, start: Start, deadline_seconds: float | None) -> Clock:
    """The time that this process has, and what earlier ones took of it."""
    is_own = start.step != run.branch_step
    earlier = float(start.values.get("elapsed_seconds", 0.0)) if is_own else 0.0
    return Clock(run.options.time_limit_seconds, deadline_seconds, earlier)


def restore_average(wrapped: nn.Module, config: TrainSection, start: Start) -> WeightAverage | None:
    """The running average of the weights, if the recipe wants one: that of the checkpoint, or a new one."""
    if not config.ema_decay:
        return None
    # Without the wrapper of DDP, whose names would tie a checkpoint to more than one process.
    average = WeightAverage(
        wrapped.module if isinstance(wrapped, DistributedDataParallel) else wrapped, config.ema_decay
    )
    saved = None if start.path is None else checkpoints.read_average(start.path)
    if saved is not None:
        average.restore(saved)
    return average


def restore_totals(start: Start) -> tuple[Totals, Losses]:
    """What a checkpoint had counted."""
    values = start.values
    if not values:
        return Totals(), Losses()
    totals = Totals(values["seconds"], values["tokens"], values["loss"], values.get("skipped", 0))
    return totals, Losses(values.get("losses", ()))


def earlier_summary(run: Run) -> TrainSummary | None:
    """What a run that is finished already came to; None when there is something left to do."""
    if run.summary is None:
        return None
    say(f"{run.folder} is finished already; --extend --set train.steps=N makes it longer, --fresh begins anew")
    values = {key: value for key, value in run.summary.items() if key != "run"}
    return TrainSummary(**{**values, "model": run.folder / "model"})


def conclude(summary: TrainSummary, run: Run, *, as_json: bool, extra: Mapping[str, Any] | None = None) -> None:
    """Print the result of a training verb; a run that stopped early ends with exit code 75.

    Raises:
        StoppedError: The run stopped early.
    """
    document = {**summary.to_json(run), **(extra or {})}
    if as_json and run.is_main:
        write_json(document)
    if summary.status == "stopped":
        raise StoppedError(
            f"stopped after step {summary.step} with a checkpoint",
            where=str(run.folder),
            fix="run the same command again to continue",
        )
    speed = f"{summary.seconds:.0f} s, {describe_speed(summary.tokens_per_second)} per second"
    say(f"{run.folder}: {summary.step:,} steps, loss {summary.loss:.4f}, {speed}")
    if summary.validation:
        say(f"validation: {describe_metrics(summary.validation)}")
    say(f"model: {summary.model}")
