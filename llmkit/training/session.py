"""A run from its first step in this process to its last: steps, lines of metrics, validations, samples."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule

from llmkit.console import Progress, say, warn
from llmkit.device import peak_memory_bytes
from llmkit.errors import RunError
from llmkit.training.clock import Clock
from llmkit.training.feed import Feed
from llmkit.training.folder import SUMMARY
from llmkit.training.health import NUM_SPIKES_TOLD, Losses, describe_rows
from llmkit.training.insides import Insides
from llmkit.training.keeping import Keeper
from llmkit.training.length import Length
from llmkit.training.memory import memory_errors_explained
from llmkit.training.patience import best_step, has_waited
from llmkit.training.run import Run
from llmkit.training.signals import StopRequest
from llmkit.training.step import Loop, Signs, StepResult, StepRows
from llmkit.training.summary import Totals, TrainSummary
from llmkit.training.trackers import track
from llmkit.training.weights import copy_buffers, gathered, put_back
from llmkit.training.words import describe_metrics, describe_speed, describe_step

Validate = Callable[[], Mapping[str, float]]
"""() -> metrics on held-out data, called on every process with the model in eval mode."""


@dataclass
class Session:
    """A run from its first step in this process to its last."""

    loop: Loop
    model: nn.Module
    run: Run
    clock: Clock
    length: Length
    keeper: Keeper
    validate: Validate | None = None
    sample: Callable[[int], None] | None = None
    flops_per_token: float | None = None
    matrix_rate: float | None = None
    insides: Insides | None = None
    totals: Totals = field(default_factory=Totals)
    losses: Losses = field(default_factory=Losses)
    validation: dict[str, float] | None = None
    waited_share: float = 0.0
    memory: tuple[float, int] = (-math.inf, 0)
    """When the memory was last asked for, and what the answer was."""

    def run_steps(self, first: int, stop: StopRequest, bar: Progress, feed: Feed[StepRows]) -> TrainSummary:
        """All steps that are left; the checkpoint is safe before anything else may fail."""
        loop, self.keeper.saved_step = self.loop, first
        # FSDP gathers weights only in a model that has been through a step.
        if first == 0 and loop.config.sample_every and not isinstance(loop.wrapped, FSDPModule):
            self.take_samples(0)
        if 0 < first < loop.num_steps:
            self.look(first, bar, is_measured=first in self.keeper.past_validations())
        done, before = first, self.totals.seconds
        while done < loop.num_steps and not self.has_waited_enough(done):
            result = self.make_step(done, stop, bar, feed)
            done += 1
            self.waited_share = round(feed.waited_seconds / (self.totals.seconds - before), 5)
            if done == loop.num_steps:
                break
            if result.signs.must_stop or is_due(done, loop.config.save_every):
                self.save(done)
            if result.signs.must_stop:
                say(f"stopping: {stop.name or 'the time limit is near, or another process was asked to'}")
                return self.summary("stopped", done)
            self.look(done, bar)
        if done < loop.num_steps:
            again = "; a longer run must begin anew (--fresh)" if done == first else ""
            waited = f"step {done:,}: the last {loop.config.patience} validations were no better than the best one"
            say(f"{waited}, and the run ends here (train.patience){again}")
        return self.finish(done, bar)

    def make_step(self, step: int, stop: StopRequest, bar: Progress, feed: Feed[StepRows]) -> StepResult:
        """One step, with all that it leaves: an update or none, a line of metrics, a move of the bar."""
        begin = time.perf_counter()
        watching = nullcontext() if self.insides is None else self.insides.watching(step + 1)
        kept = copy_buffers(self.model) if self.loop.config.on_nonfinite == "skip" else {}
        with memory_errors_explained(step + 1, self.loop.forward_rows), watching:
            result = self.loop.train_step(step, feed.take(step), self.signs(step, stop))
        if not result.is_finite:
            put_back(self.model, kept)
        if result.is_finite and self.keeper.average is not None:
            self.keeper.average.update()
        seconds = time.perf_counter() - begin
        self.clock.add_step(seconds)
        self.totals.seconds += seconds
        bar.total = self.length.expected if self.length.has_deadline else self.loop.num_steps
        if result.is_finite:
            self.record(step + 1, result, seconds, bar)
        else:
            self.leave_out(step + 1, result, bar)
        return result

    def signs(self, step: int, stop: StopRequest) -> Signs:
        """What this process has to tell the others before a step."""
        config = self.loop.config
        saves = is_due(step + 1, config.save_every)
        looks = is_due(step + 1, config.validate_every) or is_due(step + 1, config.sample_every)
        is_over = self.clock.is_nearly_over(saves=saves, looks=looks)
        num_steps = self.length.propose(step, self.clock.steps_until_deadline()) if self.run.is_main else 0
        return Signs(stop.name is not None or is_over, num_steps)

    def record(self, done: int, result: StepResult, seconds: float, bar: Progress) -> None:
        """One line of metrics, one move of the bar; a line more where the loss leaps."""
        totals, config = self.totals, self.loop.config
        totals.tokens += result.num_targets
        totals.loss = result.loss
        memory = self.peak_memory()
        speed = result.num_targets / seconds
        mfu = self.mfu(speed)
        bar.update(1, note=lambda: describe_step(result, f"{describe_speed(speed)} {self.unit}/s", mfu, memory, totals))
        if is_due(done, config.log_every) or done == self.loop.num_steps:
            values = {
                "step": done,
                "loss": result.loss,
                "lr": result.lr,
                "grad_norm": result.grad_norm,
                "tokens": totals.tokens,
                "tokens_per_second": round(speed, 1),
                "seconds": round(totals.seconds, 3),
                "memory_bytes": memory,
                **result.measures,
                **({} if self.insides is None else self.insides.take(result.grad_norm)),
                **({} if mfu is None else {"mfu": round(mfu, 4)}),
            }
            self.log(values)
        middle = self.losses.add(result.loss)
        if middle is not None:
            rows = self.loop.row_indices(done - 1).tolist()
            self.log({"step": done, "spike": {"loss": result.loss, "median": middle, "rows": rows}})
            if self.losses.is_spike_told:
                count = self.losses.num_spikes
                more = f"; leap {count:,}, all are in metrics.jsonl" if count >= NUM_SPIKES_TOLD else ""
                told = f"step {done:,}: the loss leaps to {result.loss:.4f} (median {middle:.4f})"
                say(f"{told}; rows {rows}{more}")

    def mfu(self, speed: float) -> float | None:
        """The share of what the devices can do, at so many tokens per second; None where that is not known."""
        if not self.flops_per_token or not self.matrix_rate:
            return None
        return speed * self.flops_per_token / (self.matrix_rate * self.loop.accelerator.num_processes)  # type: ignore[no-any-return]

    def peak_memory(self) -> int:
        """The most memory that was held so far, asked for once a second: to ask costs as much as a small step."""
        now = time.perf_counter()
        if now - self.memory[0] > 1.0:
            self.memory = (now, peak_memory_bytes(self.loop.accelerator.device))
        return self.memory[1]

    def leave_out(self, done: int, result: StepResult, bar: Progress) -> None:
        """Count a step without an update, or end the run.

        Raises:
            RunError: The recipe wants no step to be left out, or no more.
        """
        config = self.loop.config
        rows = describe_rows([share.tolist() for share in self.loop.shares(done - 1)], result.losses)
        problem = f"step {done}: loss {result.loss}, gradient norm {result.grad_norm}; no update was made"
        if config.on_nonfinite == "error" or self.totals.skipped == config.max_nonfinite:
            left = f"; {self.totals.skipped} steps were left out before" if self.totals.skipped else ""
            raise RunError(
                f"{problem}{left}. {rows[0].upper()}{rows[1:]}; {self.losses.describe()}",
                where="train",
                fix="lower train.lr, raise train.warmup_steps, or set train.precision=fp32 or train.on_nonfinite=skip; "
                "the last checkpoint is sound",
            )
        self.totals.skipped += 1
        skipped = {"loss": str(result.loss), "grad_norm": str(result.grad_norm)}
        self.log({"step": done, "skipped": {**skipped, "rows": self.loop.row_indices(done - 1).tolist()}})
        bar.update(1)
        say(f"{problem}: left out ({self.totals.skipped} of at most {config.max_nonfinite}); {rows}")

    @property
    def unit(self) -> str:
        """What is counted: tokens of a language model, rows of a baseline, or what the rows say (pairs)."""
        return getattr(self.loop.rows, "unit", "tokens" if hasattr(self.model, "config") else "rows")

    def log(self, values: dict[str, Any]) -> None:
        """To metrics.jsonl and to the trackers; a tracker that fails costs a warning, not the run."""
        self.run.log(values)
        track(self.loop.accelerator, values)

    def save(self, done: int) -> None:
        """A checkpoint, and the time that it took."""
        begin = time.perf_counter()
        counted = {
            **vars(self.totals),
            "losses": list(self.losses.values),
            "elapsed_seconds": self.clock.elapsed_seconds,
            "num_steps": self.length.settled,
        }
        self.keeper.save(done, counted)
        self.clock.add_save(time.perf_counter() - begin)

    def look(self, done: int, bar: Progress, *, is_measured: bool = False) -> None:
        """Validate, unless that was done before, and take samples where it is time to."""
        config = self.loop.config
        validates, samples = is_due(done, config.validate_every) and not is_measured, is_due(done, config.sample_every)
        if not (validates or samples):
            return
        begin = time.perf_counter()
        if validates:
            self.measure(done, bar)
            if config.patience and done > self.keeper.saved_step and best_step(self.keeper.past_validations()) == done:
                self.save(done)
            elif config.keep_best:
                self.keeper.prune()
        if samples:
            self.take_samples(done)
        self.clock.add_look(time.perf_counter() - begin)

    def measure(self, done: int, bar: Progress) -> None:
        """Validate, and say and log what came out."""
        if self.validate is None:
            return
        with self.guarded("validation", done), self.as_result():
            self.validation = dict(self.validate())
            self.log({"step": done, "validation": self.validation})
            say(f"step {done:,}: loss {self.totals.loss:.4f}  validation {describe_metrics(self.validation)}")

    def take_samples(self, done: int) -> None:
        """Samples, in eval mode."""
        if self.sample is not None:
            with self.guarded("sample", done), self.as_result():
                self.sample(done)

    @contextmanager
    def guarded(self, what: str, done: int) -> Iterator[None]:
        """Whatever fails in the block costs a warning and a line of metrics, not the run: the checkpoint is safe.

        With many processes that holds for what fails on all of them, or between their messages. Where one fails within
        a message (FSDP gathers weights in every forward), the others wait for it, and the job ends.
        """
        try:
            yield
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
            warn(f"step {done:,}: the {what} failed, and the run goes on: {problem}")
            self.log({"step": done, f"{what}_failed": problem})

    @contextmanager
    def as_result(self) -> Iterator[None]:
        """Within the block the model is what the result would be now: in eval mode, with the averaged weights."""
        self.model.eval()
        try:
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                stack.enter_context(self.loop.accelerator.autocast())
                if self.keeper.average is not None:
                    stack.enter_context(self.keeper.average.applied())
                stack.enter_context(gathered(self.loop.wrapped))
                yield
        finally:
            self.model.train()

    def has_waited_enough(self, done: int) -> bool:
        """Whether the run is to end here, as its validations have stopped getting better."""
        config = self.loop.config
        return (
            bool(config.patience)
            and is_due(done, config.validate_every)
            and has_waited(self.keeper.past_validations(), config)
        )

    def finish(self, done: int, bar: Progress) -> TrainSummary:
        """Save first, evaluate afterwards: checkpoint, result folder, validation, samples, summary."""
        run, keeper, has_patience = self.run, self.keeper, bool(self.loop.config.patience)
        if done > keeper.saved_step:
            self.save(done)
        if has_patience and done not in keeper.past_validations():
            self.measure(done, bar)
        best = keeper.return_to_best(done) if has_patience else done
        keeper.write_result()
        self.validation = keeper.past_validations().get(best)
        if self.validation is None:
            self.measure(done, bar)
        if self.loop.config.sample_every:
            self.take_samples(done)
        summary = self.summary("finished", done, best_step=best if has_patience else None)
        run.write_json(SUMMARY, summary.to_json(run))
        return summary

    def summary(self, status: str, step: int, *, best_step: int | None = None) -> TrainSummary:
        """What there is to say at this point."""
        totals = self.totals
        speed = totals.tokens / totals.seconds if totals.seconds else 0.0
        return TrainSummary(
            status=status,
            step=step,
            loss=totals.loss,
            validation=self.validation,
            tokens_per_second=round(speed, 1),
            seconds=round(totals.seconds, 2),
            model=self.run.folder / "model",
            waited_share=self.waited_share,
            skipped=totals.skipped,
            best_step=best_step,
        )


def is_due(done: int, every: int) -> bool:
    """Whether something that happens every so many steps (0: never) happens now."""
    return every > 0 and done % every == 0
