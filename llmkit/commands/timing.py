"""Times steps of the real training loop on one device, with micro-batches of more and more rows."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from llmkit.console import say

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from llmkit.models.compile import Engine
    from llmkit.recipe.schema import PretrainRecipe

SHARE_OF_FREE_MEMORY = 0.5
"""How much of a CPU's free memory is tried: what does not fit there ends the process, and others need some too."""

MOST_DOUBLINGS = 16

ENDLESS = 1 << 30
"""Steps of a run that is only timed."""


@dataclass(frozen=True)
class Timing:
    """What steps of so many rows took, each row through the model at once."""

    rows: int
    attention: str
    compiled: bool
    step_seconds: float
    tokens_per_second: float
    mfu: float
    peak_bytes: int
    start_seconds: float
    """The first step, which compiles and allocates."""


@dataclass
class Bench:
    """What the measurements share."""

    settings: PretrainRecipe
    accelerator: Accelerator
    vocab_size: int
    num_rows: int | None
    steps: int
    dtype: torch.dtype
    parameters: int = 0
    flops_per_token: float = 0.0
    matrix_rate: float = 0.0
    held_bytes: int = 0
    """What this process held before the first step."""
    limit_bytes: float = math.inf
    """The highest peak that is tried."""

    @property
    def seq_len(self) -> int:
        """Positions of a row."""
        return self.settings.train.seq_len

    @property
    def micro_batch(self) -> int:
        """The recipe's own; with auto, the whole batch, if it fits."""
        config = self.settings.train
        size = config.batch_size if config.micro_batch_size in (None, "auto") else int(config.micro_batch_size)
        return min(size, config.batch_size)

    def make_model(self) -> Any:
        """The recipe's model in training mode, its attention not chosen yet."""
        import torch

        from llmkit.models.causal_lm import build_causal_lm, load_causal_lm
        from llmkit.models.size import section_for_size

        section, config = self.settings.model, self.settings.train
        if section.source is not None:
            model = load_causal_lm(section.source)
        else:
            sized = section_for_size(section, vocab_size=self.vocab_size, seq_len=config.seq_len)
            sizes = {"vocab_size": self.vocab_size, "seq_len": config.seq_len}
            model = build_causal_lm(sized, **sizes, tokenizer=NoTokens(), seed=config.seed)
        return model.to(torch.bfloat16 if config.precision == "pure-bf16" else torch.float32).train()


class NoTokens:
    """Stands for the tokenizer of a model that is only timed: no id ends a text."""

    bos_token_id = eos_token_id = pad_token_id = None


class RandomRows:
    """Rows of random ids: the speed does not depend on what is read."""

    lengths: Sequence[int] | None = None
    is_stream = True

    def __init__(self, vocab_size: int, seq_len: int) -> None:
        self.vocab_size = vocab_size
        self.seq_len = seq_len

    def __len__(self) -> int:
        return 0

    def batch(self, indices: Any) -> dict[str, Any]:
        """Rows as the loop wants them."""
        import torch

        ids = torch.randint(self.vocab_size, (len(indices), self.seq_len + 1))
        return {"input_ids": ids[:, :-1], "targets": ids[:, 1:]}


def sweep(job: Bench, *, seconds: float) -> list[Timing]:
    """One row, the recipe's own micro-batch, then 2, 4, 8 ..., uncompiled, while memory and time allow it; by rows."""
    from llmkit.device import is_memory_error

    timer = Timer(job, engine_of(job, is_compiled=False))
    timings: list[Timing] = []
    end = math.inf
    for rows in dict.fromkeys([1, job.micro_batch, *(2**power for power in range(MOST_DOUBLINGS))]):
        if timings and needed_bytes(job, timings, rows) > job.limit_bytes:
            continue
        if timings and time.perf_counter() + needed_seconds(job, timings, rows) > end:
            continue
        try:
            timings = sorted([*timings, timer.time(rows)], key=lambda timing: timing.rows)
        except (RuntimeError, MemoryError) as error:
            if not timings or not is_memory_error(error):
                raise
            job.limit_bytes = needed_bytes(job, timings, rows) - 1
        end = min(end, time.perf_counter() + seconds)
    job.accelerator.free_memory()
    return timings


def needed_seconds(job: Bench, timings: list[Timing], rows: int) -> float:
    """About how long it will take to time micro-batches of so many rows."""
    last = timings[-1]
    return last.step_seconds * rows / last.rows * (job.steps + 1)


def needed_bytes(job: Bench, timings: list[Timing], rows: int) -> float:
    """About what memory so many rows take: on the line through the two largest that were timed."""
    points = [(0, job.held_bytes), *((timing.rows, timing.peak_bytes) for timing in timings)]
    (fewer, lower), (more, higher) = points[-2:]
    return higher + (higher - lower) / (more - fewer) * (rows - more)


def engine_of(job: Bench, *, is_compiled: bool | None = None, total_flops: float = 0.0) -> Engine:
    """How the loop would compute a run of so many FLOPs, compiled or not if that is given."""
    from llmkit.models.compile import choose_engine

    config = job.settings.train
    if is_compiled is not None:
        config = config.model_copy(update={"compile": is_compiled})
    return choose_engine(config, dtype=job.dtype, device=job.accelerator.device, total_flops=total_flops)


class Timer:
    """One model in the real loop, with micro-batches of any size."""

    def __init__(self, job: Bench, engine: Engine) -> None:
        from llmkit.losses import causal_lm_loss_sum
        from llmkit.models.compile import fit_engine, use_engine
        from llmkit.training.optim import make_optimizer
        from llmkit.training.step import SummedLoss

        self.job = job
        config = job.settings.train
        model = job.make_model()
        self.engine = fit_engine(engine, model, config)
        use_engine(model, self.engine, config)
        self.wrapped, self.optimizer = job.accelerator.prepare(
            SummedLoss(model, causal_lm_loss_sum), make_optimizer(model, config)
        )

    def time(self, rows: int) -> Timing:
        """Steps of so many rows: the first one apart, the median of the others."""
        from statistics import median

        from llmkit.device import peak_memory_bytes, reset_peak_memory, wait_for
        from llmkit.training.step import Loop, Signs

        job = self.job
        say(f"timing {rows} {'row' if rows == 1 else 'rows'} at once{', compiled' if self.engine.is_compiled else ''}")
        sizes = {"batch_size": rows, "micro_batch_size": rows, "steps": ENDLESS, "epochs": None}
        config = job.settings.train.model_copy(update=sizes)
        random = RandomRows(job.vocab_size, job.seq_len)
        loop = Loop(self.wrapped, self.optimizer, random, config, job.accelerator, ENDLESS)
        reset_peak_memory(job.accelerator.device)
        seconds = []
        for step in range(job.steps + 1):
            begin = time.perf_counter()
            loop.train_step(step, loop.step_rows(step), Signs())
            wait_for(job.accelerator.device)
            seconds.append(time.perf_counter() - begin)
        typical = median(seconds[1:])
        speed = rows * job.seq_len / typical
        return Timing(
            rows=rows,
            attention=self.engine.attention,
            compiled=self.engine.is_compiled,
            step_seconds=typical,
            tokens_per_second=speed,
            mfu=speed * job.flops_per_token / job.matrix_rate,
            peak_bytes=peak_memory_bytes(job.accelerator.device),
            start_seconds=max(0.0, seconds[0] - typical),
        )


def largest_micro_batch(job: Bench, timings: list[Timing]) -> dict[str, Any]:
    """The largest power of two of rows that fits, and whether it was tried or follows from the line of the smaller."""
    fitting = [2**power for power in range(MOST_DOUBLINGS) if needed_bytes(job, timings, 2**power) <= job.limit_bytes]
    tried = [timing.rows for timing in timings]
    rows = max([*tried, *fitting])
    return {"rows": rows, "tried": rows in tried, "peak_bytes": round(needed_bytes(job, timings, rows))}
