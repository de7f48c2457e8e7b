"""Whether a micro-batch fits into memory, found out before the first step, and the largest one that does.

The longest rows go through the model forward and backward once, and leave nothing behind. So what does not fit fails
within seconds and says what to change, and `torch.compile` does its work before the first step too.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from itertools import accumulate
from typing import Any

import torch
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from llmkit.batch import Batch, count_targets, to_device
from llmkit.console import say, warn
from llmkit.device import available_memory_bytes, is_memory_error
from llmkit.errors import RunError, UsageError
from llmkit.machine import own_status, peak_resident_bytes
from llmkit.training.disk import describe_bytes, optimizer_bytes
from llmkit.training.step import Loop

SHARE_OF_CPU_MEMORY = 0.5
"""How much of what is free `micro_batch_size: auto` takes on a CPU: other programs live there too."""

SECONDS_BETWEEN_LOOKS = 0.002

SLACK_BYTES = 16_000_000
"""By how much the system's count of what a process holds may be wrong for a moment."""


def fit_memory(loop: Loop, ready: list[Batch], *, earlier_rows: int | None = None, is_exact: bool = False) -> None:
    """Try the longest rows before the first step; with `micro_batch_size: auto`, find how many go at once.

    Args:
        loop: Its `forward_rows` is set by auto.
        ready: The micro-batches of the first step.
        earlier_rows: What auto found for the checkpoint that is continued: it comes first, for the last bit's sake.
        is_exact: Nothing else will do then.

    Raises:
        RunError: They do not fit, on one of the processes: what is needed, what there is, and what to change.
        UsageError: The result is to be exact, and what auto found earlier does not fit any more.
    """
    is_auto = loop.config.micro_batch_size == "auto"
    share = math.ceil(loop.config.batch_size / loop.accelerator.num_processes)
    sizes = halves(min(earlier_rows or share, share)) if is_auto else [most_rows(loop)]
    fitting = Fitting(loop, longest_rows(loop, ready, sizes[0]))
    # A CPU that runs out of memory ends the process: what cannot fit must not even be tried.
    if fitting.is_cpu and not fitting.is_spread and sizes[0] > 2:
        fitting.agree(lambda: fitting.estimate(sizes[0]))
    room = int(fitting.available * (SHARE_OF_CPU_MEMORY if is_auto and fitting.is_cpu else 1))
    for size in sizes:
        if fitting.fits(size, fitting.available if size in (sizes[-1], earlier_rows) else room):
            loop.forward_rows = size
            break
    else:
        raise too_much(fitting, sizes[-1])
    if is_auto:
        say(f"micro_batch_size auto: {size} of {share} rows at once; {describe_bytes(fitting.available)} are free")
    if is_auto and earlier_rows not in (None, size):
        change = f"micro_batch_size auto was {earlier_rows}, is {size}"
        if is_exact:
            fix = "free some memory, or leave --require-exact out"
            raise UsageError(f"the run would go on, but not to the same last bit: {change}", where="train", fix=fix)
        warn(f"continues, not bit-identical: {change}")


def halves(number: int) -> list[int]:
    """A number of rows, half of it, and so on down to one."""
    return [number] if number == 1 else [number, *halves(math.ceil(number / 2))]


def most_rows(loop: Loop) -> int:
    """How many of the longest rows go through the model at once."""
    lengths, tokens = loop.rows.lengths, loop.forward_tokens
    if lengths is None or tokens is None:
        return loop.forward_rows
    held = list(accumulate(sorted(lengths, reverse=True)[: loop.forward_rows]))
    return max(1, bisect_right(held, tokens))


def longest_rows(loop: Loop, ready: list[Batch], most: int) -> Callable[[int], Batch]:
    """Gives so many of the longest rows, `most` at most; where all have one length, rows of the first step."""
    lengths, rows = loop.rows.lengths, loop.rows
    if lengths is None:
        whole = {name: torch.cat([batch[name] for batch in ready])[:most] for name in ready[0]}
    else:
        order = sorted(range(len(lengths)), key=lambda index: -lengths[index])[:most]
        if getattr(rows, "is_flat", False):
            return lambda count: rows.batch(order[:count])
        whole = rows.batch(order)
    return lambda count: {name: tensor[:count] for name, tensor in whole.items()}


class Fitting:
    """Sends the longest rows through the model, and measures what memory that takes."""

    def __init__(self, loop: Loop, rows: Callable[[int], Batch]) -> None:
        self.loop = loop
        self.rows = rows
        self.device = loop.accelerator.device
        self.is_cpu = self.device.type != "cuda"
        self.is_spread = isinstance(loop.wrapped, FSDPModule)
        trained = [p for p in loop.wrapped.parameters() if p.requires_grad]
        self.gradient_bytes = sum(local_bytes(p) for p in trained)
        share = self.gradient_bytes / max(1, sum(p.numel() * p.element_size() for p in trained))
        has_state = bool(loop.optimizer.state)
        self.state_bytes = 0 if has_state else round(share * optimizer_bytes(loop.wrapped, loop.config))
        drop_freed_memory()
        # Processes on one machine share its memory.
        sharers = int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.is_cpu else 1
        self.available = available_memory_bytes(self.device) // sharers
        self.before = held_bytes(self.device)
        self.one_row = 0
        self.each_row = 0.0

    def run(self, count: int, *, is_compiled: bool = True) -> int:
        """Send so many rows forward and backward; the bytes that are held at the highest, beyond those held before."""
        job = self.loop.accelerator
        # DDP would exchange gradients, and this is each process's own affair. FSDP cannot do without the others.
        module: nn.Module = self.loop.wrapped if self.is_spread else job.unwrap_model(self.loop.wrapped)
        batch = to_device(self.rows(count), self.device)
        drop_freed_memory()
        stance: Any = nullcontext() if is_compiled else torch.compiler.set_stance("force_eager")
        try:
            with highest_usage(self.device) as usage, stance:
                job.backward(module(batch) / max(1, count_targets(batch)))
        finally:
            self.loop.optimizer.zero_grad(set_to_none=True)
        return max(usage) - self.before

    def estimate(self, count: int) -> bool:
        """Measure few rows, to know what `count` will take; more of them only where that is in doubt.

        Uncompiled: to compile for this would take longer than all else.
        """
        self.one_row = self.run(1, is_compiled=False)
        # As if the gradients, and all that a process takes but once, came with every row.
        self.each_row = float(self.one_row)
        if self.needed(count) <= self.available * SHARE_OF_CPU_MEMORY:
            return True
        tried = 2
        while True:
            self.each_row = max(0.0, (self.run(tried, is_compiled=False) - self.one_row) / (tried - 1))
            safe = max(size for size in halves(count) if size == 1 or self.needed(size) < self.available / 4)
            if self.needed(count) <= self.available or safe <= tried:
                return True
            tried = safe

    def needed(self, count: int) -> int:
        """What so many rows take, with the optimizer's state, as far as few rows tell."""
        rows = self.one_row + round((count - 1) * self.each_row)
        return self.state_bytes + max(self.gradient_bytes, rows)

    def fits(self, count: int, room: int) -> bool:
        """Whether so many rows, and the optimizer's state, fit on every process."""
        return self.agree(lambda: self.needed(count) <= room) and self.agree(
            lambda: self.run(count) + self.state_bytes <= room
        )

    def agree(self, test: Callable[[], bool]) -> bool:
        """Whether a test is passed on every process; running out of memory is to fail it."""
        try:
            is_passed = test()
        except (RuntimeError, MemoryError) as error:
            if not is_memory_error(error):
                raise
            is_passed = False
        if self.device.type == "cuda" and not is_passed:
            torch.cuda.empty_cache()
        return self.loop.add_up([not is_passed]) == [0.0]


def too_much(fitting: Fitting, count: int) -> RunError:
    """The error of a micro-batch that does not fit: what is needed, what there is, and what to change."""
    # What this process has measured is its own affair; whether all measure now must be everybody's.
    is_unknown = fitting.loop.add_up([not fitting.each_row]) != [0.0]
    if is_unknown and not fitting.is_spread and count > 1:
        fitting.agree(lambda: fitting.estimate(2))
    free, needed = describe_bytes(fitting.available), describe_bytes(fitting.needed(count))
    fixed = fitting.state_bytes + fitting.gradient_bytes
    sizes = [size for size in halves(count)[1:] if fitting.needed(size) <= fitting.available]
    if fixed > fitting.available:
        what = f"gradients and the optimizer's state alone take {describe_bytes(fixed)}"
        fix = "take a smaller model, train.optimizer=adafactor, or method=lora when tuning"
    elif count > 1 and sizes:
        what = f"{count} rows at once, forward and backward, take about {needed} with the optimizer's state"
        tokens = fitting.loop.forward_tokens
        less = f"micro_batch_size={sizes[0]}" if tokens is None else f"batch_tokens={tokens * sizes[0] // count}"
        fix = f"set train.{less} (the result stays the same), or train.gradient_checkpointing=true"
    else:
        what = (
            f"even one row does not fit: it takes {needed} or more" if fitting.one_row else "even one row does not fit"
        )
        fix = "set train.micro_batch_size=1, train.gradient_checkpointing=true, shorter rows, or take a smaller model"
    return RunError(f"{what}, and {free} of memory are free", where="train.micro_batch_size", fix=fix)


def local_bytes(parameter: nn.Parameter) -> int:
    """What a parameter takes on this process."""
    held = parameter.to_local() if isinstance(parameter, DTensor) else parameter
    return held.numel() * held.element_size()


@contextmanager
def memory_errors_explained(step: int, forward_rows: int) -> Iterator[None]:
    """Within the block, running out of memory in the middle of a run says what to change.

    Raises:
        RunError: There was no memory left.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_memory_error(error):
            raise
        fewer = max(1, forward_rows // 2)
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise RunError(
            f"step {step}: there is no memory left for {forward_rows} rows at once: {reason}",
            where="train",
            fix=f"add --set train.micro_batch_size={fewer} or --set train.gradient_checkpointing=true to the same "
            "command: the run goes on from its last checkpoint, which is sound",
        ) from error


@contextmanager
def highest_usage(device: torch.device) -> Iterator[list[int]]:
    """What this process holds within the block: its maximum counts.

    On a CPU it is looked at again and again: the system's own record of the peak goes back to the process's beginning,
    and tells of this block only where it is broken in it.
    """
    seen, has_ended, record = [held_bytes(device)], threading.Event(), peak_resident_bytes()

    def look() -> None:
        while not has_ended.wait(SECONDS_BETWEEN_LOOKS):
            seen.append(held_bytes(device))

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        yield seen
        seen.append(torch.cuda.max_memory_allocated(device))
        return
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        has_ended.set()
        thread.join()
        highest = peak_resident_bytes()
        seen.append(highest if highest > record + SLACK_BYTES else held_bytes(device))


def drop_freed_memory() -> None:
    """Give freed memory that glibc keeps back to the system: else it would not be seen to be taken again."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def held_bytes(device: torch.device) -> int:
    """What this process holds now."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return own_status("VmRSS") or peak_resident_bytes()
