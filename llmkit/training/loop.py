"""The only training loop: pretraining, tuning and baselines alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule

from llmkit.batch import LossSum, Rows
from llmkit.console import Progress, say, write_json
from llmkit.errors import StoppedError, UsageError
from llmkit.files import new_folder
from llmkit.recipe.schema import TrainSection
from llmkit.training import checkpoint as checkpoints
from llmkit.training.job import on_main_process
from llmkit.training.optim import make_optimizer
from llmkit.training.run import SUMMARY, Run
from llmkit.training.signals import StopRequest
from llmkit.training.step import Loop, StepResult, SummedLoss, plan_steps
from llmkit.training.trackers import track, trackers

Validate = Callable[[], Mapping[str, float]]
"""() -> metrics on held-out data, called on every process with the model in eval mode."""


@dataclass(frozen=True)
class TrainSummary:
    """What a run came to."""

    status: str
    step: int
    loss: float
    validation: dict[str, float] | None
    tokens_per_second: float
    seconds: float
    model: Path

    def to_json(self, run: Run) -> dict[str, Any]:
        """The document that the training verbs print."""
        return {"run": str(run.folder), **{k: str(v) if isinstance(v, Path) else v for k, v in vars(self).items()}}


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

    Raises:
        RunError: The loss or a gradient is not finite; no update was made with it.
    """
    num_steps = plan_steps(config, len(rows))
    state = restore_weights(run, load_model, accelerator)
    if state is not None and state.step > num_steps:
        raise UsageError(
            f"this run has {state.step} steps behind it, and {num_steps} are asked for",
            where=str(run.folder),
            fix="ask for more steps, or choose another --output",
        )
    wrapped, optimizer = accelerator.prepare(SummedLoss(model, loss_sum), make_optimizer(model, config))
    if state is not None:
        checkpoints.restore_from(state.path, model=wrapped, optimizer=optimizer)
    loop = Loop(wrapped, optimizer, rows, config, accelerator, num_steps)
    session = Session(loop, model, run, save_model, validate, sample)
    if state is not None:
        session.seconds, session.tokens, session.loss = (
            state.values["seconds"],
            state.values["tokens"],
            state.values["loss"],
        )
    first = state.step if state else 0
    with (
        trackers(accelerator, config, run),
        StopRequest() as stop,
        Progress("training", total=num_steps, unit="steps", start=first) as bar,
    ):
        return session.run_steps(first, stop, bar)


@dataclass(frozen=True)
class Restored:
    """A checkpoint whose weights were put back."""

    path: Path
    step: int
    values: dict[str, Any]


def restore_weights(run: Run, load_model: Callable[[Path], None], accelerator: Accelerator) -> Restored | None:
    """Put the weights of the newest whole checkpoint back, if there is one."""
    path = None
    if run.is_continued:
        path = on_main_process(accelerator, lambda: checkpoints.newest_checkpoint(run.checkpoints))
    if path is None:
        run.forget_after(-1)
        return None
    load_model(path)
    values = checkpoints.read_state(path)
    checkpoints.describe_resume(path, values, run.fingerprint)
    run.forget_after(values["step"])
    return Restored(path, values["step"], values)


@dataclass
class Session:
    """A run from its first step in this process to its last: steps, lines, validations, samples, checkpoints."""

    loop: Loop
    model: nn.Module
    run: Run
    save_model: checkpoints.SaveModel
    validate: Validate | None
    sample: Callable[[int], None] | None
    seconds: float = 0.0
    tokens: int = 0
    loss: float = math.nan
    validation: dict[str, float] | None = None

    def run_steps(self, first: int, stop: StopRequest, bar: Progress) -> TrainSummary:
        """All steps that are left; the checkpoint is safe before anything else may fail."""
        config, num_steps = self.loop.config, self.loop.num_steps
        self.model.train()
        # FSDP gathers weights only in a model that has been through a step.
        if first == 0 and config.sample_every and not isinstance(self.loop.wrapped, FSDPModule):
            self.take_samples(0)
        if 0 < first < num_steps and not self.run.has_validation(first):
            self.look(first, bar)
        for step in range(first, num_steps):
            begin = time.perf_counter()
            result = self.loop.train_step(step, stop)
            seconds = time.perf_counter() - begin
            done = step + 1
            self.record(done, result, seconds, bar)
            if done == num_steps:
                break
            if result.must_stop or is_due(done, config.save_every):
                self.save(done)
            if result.must_stop:
                return self.stopped(done)
            self.look(done, bar)
        return self.finish(first, bar)

    def look(self, done: int, bar: Progress) -> None:
        """Validate and take samples where it is time to."""
        if is_due(done, self.loop.config.validate_every):
            self.measure(done, bar)
        if is_due(done, self.loop.config.sample_every):
            self.take_samples(done)

    def record(self, done: int, result: StepResult, seconds: float, bar: Progress) -> None:
        """One line of metrics, one move of the bar."""
        self.seconds += seconds
        self.tokens += result.num_targets
        self.loss = result.loss
        speed = result.num_targets / seconds
        bar.update(1, note=f"loss {result.loss:.4f}  lr {result.lr:.2e}  {speed:,.0f} {self.unit}/s")
        if is_due(done, self.loop.config.log_every) or done == self.loop.num_steps:
            values = {
                "step": done,
                "loss": result.loss,
                "lr": result.lr,
                "grad_norm": result.grad_norm,
                "tokens": self.tokens,
            }
            self.log({**values, "tokens_per_second": round(speed, 1)})

    @property
    def unit(self) -> str:
        """What is counted: tokens of a language model, rows of a baseline."""
        return "tokens" if hasattr(self.model, "config") else "rows"

    def log(self, values: dict[str, Any]) -> None:
        """To metrics.jsonl and to the trackers; a tracker that fails costs a warning, not the run."""
        self.run.log(values)
        track(self.loop.accelerator, values)

    def save(self, done: int) -> None:
        """A checkpoint, and only then the end of older ones."""
        loop, run = self.loop, self.run
        state = {"seconds": self.seconds, "tokens": self.tokens, "loss": self.loss, "fingerprint": run.fingerprint}
        checkpoints.save_checkpoint(
            run.checkpoints,
            done,
            accelerator=loop.accelerator,
            model=loop.wrapped,
            optimizer=loop.optimizer,
            state=state,
            save_model=self.save_model,
        )
        if run.is_main:
            checkpoints.prune_checkpoints(run.checkpoints, keep_last=loop.config.keep_last)

    def measure(self, done: int, bar: Progress) -> None:
        """Validate, and say and log what came out."""
        if self.validate is None:
            return
        self.model.eval()
        with torch.no_grad(), self.loop.accelerator.autocast(), gathered(self.loop.wrapped):
            self.validation = dict(self.validate())
        self.model.train()
        self.log({"step": done, "validation": self.validation})
        bar.interrupt(f"step {done:,}: loss {self.loss:.4f}  validation {describe_metrics(self.validation)}")

    def take_samples(self, done: int) -> None:
        """Samples, in eval mode."""
        if self.sample is None:
            return
        self.model.eval()
        with torch.no_grad(), self.loop.accelerator.autocast(), gathered(self.loop.wrapped):
            self.sample(done)
        self.model.train()

    def stopped(self, done: int) -> TrainSummary:
        """The summary of a run that was asked to stop; its checkpoint is written."""
        return self.summary("stopped", done)

    def finish(self, first: int, bar: Progress) -> TrainSummary:
        """Save first, evaluate afterwards: checkpoint, result folder, validation, samples, summary."""
        num_steps, run = self.loop.num_steps, self.run
        if first < num_steps:
            self.save(num_steps)
        weights = checkpoints.whole_weights(self.loop.wrapped)
        if run.is_main:
            self.replace_result(weights)
        self.loop.accelerator.wait_for_everyone()
        self.measure(num_steps, bar)
        if self.loop.config.sample_every:
            self.take_samples(num_steps)
        summary = self.summary("finished", num_steps)
        run.write_json(SUMMARY, summary.to_json(run))
        return summary

    def replace_result(self, weights: dict[str, Tensor] | None) -> None:
        """Write the result aside and put it in the place of an earlier one."""
        target = self.run.folder / "model"
        new, old = target.with_name(".model.new"), target.with_name(".model.old")
        for leftover in (new, old):  # of a crash in this very place
            checkpoints.remove_folder(leftover)
        with new_folder(new) as aside:
            self.save_model(aside, weights)
        if target.exists():
            target.rename(old)
        new.rename(target)
        checkpoints.remove_folder(old)

    def summary(self, status: str, step: int) -> TrainSummary:
        """What there is to say at this point."""
        speed = self.tokens / self.seconds if self.seconds else 0.0
        return TrainSummary(
            status, step, self.loss, self.validation, round(speed, 1), round(self.seconds, 2), self.run.folder / "model"
        )


@contextmanager
def gathered(wrapped: nn.Module) -> Iterator[None]:
    """Within the block the model inside may be called by itself, which FSDP would not gather its outer weights for."""
    if not isinstance(wrapped, FSDPModule):
        yield
        return
    wrapped.unshard()
    try:
        yield
    finally:
        wrapped.reshard()


def is_due(done: int, every: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens now."""
    return every > 0 and done % every == 0


def describe_metrics(values: Mapping[str, float]) -> str:
    """Metrics on one line."""
    return "  ".join(
        f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items() if isinstance(value, int | float)
    )


def earlier_summary(run: Run) -> TrainSummary | None:
    """What a run that is finished already came to; None when there is something left to do."""
    if run.summary is None:
        return None
    say(f"{run.folder} is finished already; --resume with more train.steps makes it longer")
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
    speed = f"{summary.seconds:.0f} s, {summary.tokens_per_second:,.0f} per second"
    say(f"{run.folder}: {summary.step:,} steps, loss {summary.loss:.4f}, {speed}")
    if summary.validation:
        say(f"validation: {describe_metrics(summary.validation)}")
    say(f"model: {summary.model}")
