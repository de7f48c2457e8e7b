"""`llmkit pretrain --minutes`: what to train in a given time on this machine, found by a short probe."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from llmkit.commands.plan import describe_rate
from llmkit.commands.timing import Bench, Timer, engine_of
from llmkit.console import format_seconds
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from llmkit.data.pretraining import PretrainingData
    from llmkit.recipe.schema import ModelSection, PretrainRecipe
    from llmkit.training.run import RunOptions

FIRST_GUESS = 0.3
"""Share of the matrix products' speed that the probe's first model is chosen for."""
NEAR = 2.0
"""A model is close enough to the one that was probed when its parameters differ by no more than this factor."""
PROBE_TOKENS = {"cpu": 2048, "other": 32768}
"""Tokens of a micro-batch: on a CPU more at once is no faster."""
PROBE_STEPS, MOST_PROBES = 8, 3
SHARE_OF_PROBE = 0.03
"""Of the time, for each model that is probed."""
SHARE_FOR_TRAINING = 0.88
"""Of the time; the rest is for validations, samples, checkpoints and the end."""
SHARE_OF_LOOKS = 0.03
"""Tokens of one validation, as a share of those trained on; a forward pass alone takes a third of the time."""
LOOK_EVERY = 0.27
"""Share of the steps between checkpoints and validations: three of each, and those of the end."""
FEWEST_STEPS = 10
AIM = 0.98
"""The end that is aimed at, as a share of the minutes: Python takes a moment to end too."""
BYTES_PER_PARAMETER = 32
"""Of free memory, for weights, gradients, the optimizer's state and as much again."""


@dataclass(frozen=True)
class Picks:
    """What was chosen: dotted keys of the recipe, and why in words."""

    values: dict[str, Any]
    """What the recipe and the user win over."""
    length: dict[str, tuple[str, Any]]
    """What --minutes says itself: it wins over the recipe, and --set wins over it."""
    reason: str


def earlier_minutes(output: Path | None, minutes: float | None, options: RunOptions) -> float | None:
    """The minutes that the run in `output` was begun with, where it is to go on; else None.

    A run that is extended has a new length, and minutes no more.

    Raises:
        UsageError: It was begun with others, or --minutes does not go with what else was said.
    """
    import json

    from llmkit.training.folder import is_run

    if minutes is not None and options.branch is not None:
        message = "a branch goes on with the model of its checkpoint: --minutes has nothing to choose"
        raise UsageError(message, where="--minutes", fix="set train.steps, with the recipe of the other run")
    is_asked = minutes is not None or (options.resume and not options.extend)
    if not is_asked or output is None or options.fresh or not is_run(output):
        return None
    inputs = output / "inputs.json"
    said = json.loads(inputs.read_text(encoding="utf-8")).get("minutes") if inputs.is_file() else None
    earlier = None if said is None else float(said)
    if minutes is not None and earlier != minutes:
        was = "without --minutes" if earlier is None else f"with --minutes {earlier:g}"
        raise UsageError(
            f"the run in this folder was begun {was}",
            where=f"--minutes {minutes:g}",
            fix="say the same again, add --fresh to begin a new run beside it, or choose another --output",
        )
    return earlier


def pick_for_minutes(
    settings: PretrainRecipe, data: PretrainingData, accelerator: Accelerator, *, seconds: float
) -> Picks:
    """Size, batch, tokens, lr and optimizer for what is left of the time; what the recipe says stays as it is.

    The time and the measured FLOP/s give the FLOPs of the run; the rules of `models.budget` give the rest.

    Args:
        settings: The recipe so far.
        data: What is trained on.
        accelerator: Of this process. All processes of a job must call this.
        seconds: That are left for everything.

    Raises:
        UsageError: They are too few.
    """
    from llmkit.models.budget import pick_batch_tokens, pick_lr

    begin = time.monotonic()
    settings = with_optimizer(settings)
    probed = probe(settings, data, accelerator, seconds=seconds * SHARE_FOR_TRAINING)
    flops, config = probed.flops, settings.train
    forward = rows_at_once(config.seq_len, accelerator)
    batch = config.batch_size
    if "batch_size" not in config.model_fields_set:
        batch = round_batch(pick_batch_tokens(flops) / config.seq_len, forward * accelerator.num_processes)
    steps = int(flops / (probed.flops_per_token * batch * config.seq_len))
    if steps < FEWEST_STEPS:
        message = f"there is time for {steps} steps of {batch} rows"
        raise UsageError(message, where="--minutes", fix="give it more minutes, or a smaller model or batch")
    values = {f"model.{name}": getattr(probed.section, name) for name in probed.section.model_fields_set - {"size"}}
    is_cuda = accelerator.device.type == "cuda"
    values |= {"train.batch_size": batch, "train.micro_batch_size": "auto" if is_cuda else forward}
    values |= {"train.lr": pick_lr(flops), "train.optimizer": config.optimizer}
    took = format_seconds(time.monotonic() - begin)
    reason = f"a probe of {took} reached {describe_rate(probed.rate)}: {flops:.2g} FLOPs in the time"
    return Picks(values, pick_length(steps, batch * config.seq_len), reason)


def with_optimizer(settings: PretrainRecipe) -> PretrainRecipe:
    """The recipe with Muon, where it names no optimizer and the model is new.

    In five minutes on a core Muon came to 1.30 bits per byte of python-docs, AdamW to 1.50 in as many steps. What AdamW
    has trained goes on with it.
    """
    if "optimizer" in settings.train.model_fields_set or settings.model.source is not None:
        return settings
    return settings.model_copy(update={"train": settings.train.model_copy(update={"optimizer": "muon"})})


def pick_length(steps: int, step_tokens: int) -> dict[str, tuple[str, Any]]:
    """How many steps, and what happens how often: a recipe's own would be for another length."""
    from llmkit.recipe.schema import PretrainData

    every = max(1, round(LOOK_EVERY * steps))
    cadence = {"validate_every": every, "save_every": every, "sample_every": 2 * every}
    train = {"steps": steps, "schedule": "wsd", "warmup_steps": max(1, steps // 20), **cadence}
    tokens = min(math.ceil(SHARE_OF_LOOKS * steps * step_tokens), PretrainData().validation_tokens)
    picks = {**{f"train.{name}": value for name, value in train.items()}, "data.validation_tokens": tokens}
    return {key: ("--minutes", value) for key, value in picks.items()}


def round_batch(rows: float, together: int) -> int:
    """Rows of a step: a multiple of those that all processes take at once, where there are as many."""
    return max(1, round(rows)) if rows < together else together * round(rows / together)


class Probed(NamedTuple):
    """A model, its FLOPs per token, what all processes reach with one of about its size, and the FLOPs of the run."""

    section: ModelSection
    flops_per_token: float
    rate: float
    flops: float


def probe(settings: PretrainRecipe, data: PretrainingData, accelerator: Accelerator, *, seconds: float) -> Probed:
    """Time steps of a model of the size that the matrix products promise, and where that was far off, of another."""
    from llmkit.device import measure_matrix_rate
    from llmkit.models.causal_lm import count_parameters
    from llmkit.models.flops import flops_per_token
    from llmkit.training.job import job_dtype, on_main_process

    end, dtype, probed = time.monotonic() + seconds, job_dtype(accelerator), 0

    def flops_left(rate: float) -> float:
        # Of the main process: all must pick the same.
        return on_main_process(accelerator, lambda: rate * max(1.0, end - time.monotonic()))

    matrix_rate = on_main_process(accelerator, lambda: measure_matrix_rate(accelerator.device, dtype))
    rate = FIRST_GUESS * matrix_rate * accelerator.num_processes
    for _ in range(MOST_PROBES):
        flops = flops_left(rate)
        section = on_main_process(accelerator, lambda: pick_model(settings, data, accelerator, flops=flops))  # noqa: B023
        recipe = settings.model_copy(update={"model": section})
        job = Bench(recipe, accelerator, len(data.tokenizer), None, 0, dtype, matrix_rate=matrix_rate)
        model = job.make_model()
        parameters, job.flops_per_token = count_parameters(model), flops_per_token(model, job.seq_len)
        if probed and max(parameters, probed) <= NEAR * min(parameters, probed):
            break
        probed = parameters
        speed = time_steps(job, rows=SHARE_OF_PROBE * flops / (job.flops_per_token * job.seq_len))
        rate = on_main_process(accelerator, lambda: speed * job.flops_per_token)  # noqa: B023
    return Probed(section, job.flops_per_token, rate, flops_left(rate))


def time_steps(job: Bench, *, rows: float) -> float:
    """Tokens per second of all processes, in steps of about so many rows together, the first one included.

    Raises:
        UsageError: A few rows alone would take too long.
    """
    processes = job.accelerator.num_processes
    if rows < processes * SHARE_OF_PROBE:
        fix = "give it more minutes, or choose a smaller model"
        raise UsageError("there is time for next to no row of this model", where="--minutes", fix=fix)
    at_once = processes * max(1, min(rows_at_once(job.seq_len, job.accelerator), int(rows / processes / 2)))
    job.steps = min(PROBE_STEPS, max(1, int(rows / at_once) - 1))
    speed = Timer(job, engine_of(job, is_compiled=False)).time(at_once).tokens_per_second
    job.accelerator.free_memory()
    return speed


def pick_model(
    settings: PretrainRecipe, data: PretrainingData, accelerator: Accelerator, *, flops: float
) -> ModelSection:
    """The recipe's own model where it says one, else one of the size that suits the FLOPs and the text."""
    from llmkit.device import available_memory_bytes
    from llmkit.models.budget import pick_parameters
    from llmkit.models.size import SIZES, section_near

    section, seq_len = settings.model, settings.train.seq_len
    if section.model_fields_set & {*SIZES, "config", "source", "size"}:
        return section
    rows = data.rows(seq_len)
    data_tokens = float("inf") if rows.is_stream else len(rows) * seq_len
    most = available_memory_bytes(accelerator.device) / BYTES_PER_PARAMETER
    wanted = pick_parameters(flops, data_tokens, most=most)
    return section_near(section, wanted, vocab_size=len(data.tokenizer), seq_len=seq_len)


def rows_at_once(seq_len: int, accelerator: Accelerator) -> int:
    """Rows of a micro-batch in one process."""
    return max(1, PROBE_TOKENS["cpu" if accelerator.device.type == "cpu" else "other"] // seq_len)
