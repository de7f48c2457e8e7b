"""The processes of a job: one on a laptop, many under `accelerate launch` or torchrun; the code is the same."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta
from importlib.util import find_spec
from typing import Any, TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs, broadcast_object_list

from llmkit.device import pick_device, pick_dtype
from llmkit.errors import LlmkitError, RecipeError, RunError
from llmkit.machine import keep_freed_memory
from llmkit.recipe.schema import TrainSection
from llmkit.training.processes import in_turn, start_watch

T = TypeVar("T")

TIMEOUT_SECONDS = 900.0
"""How long processes wait for each other in one message before the job ends. LLMKIT_TIMEOUT_SECONDS says otherwise."""


def start_job(config: TrainSection, *, is_ragged: bool = False) -> Accelerator:
    """The Accelerator of this process: its device, its rank, its arithmetic.

    With rows of many lengths (`is_ragged`), blocks are of as many sizes: to keep freed ones takes memory and wins no
    time.

    Raises:
        RunError: The launcher was asked for more processes than it started, or for an engine that is not served.
        RecipeError: A tracker that the recipe names is not installed.
    """
    check_processes()
    check_engine()
    check_trackers(config)
    if not is_ragged:
        keep_freed_memory()
    # Matrix products in TF32 are three times faster on GPUs and leave training as it is.
    torch.set_float32_matmul_precision("high")
    device = pick_device()
    # With weights in bf16, autocast still keeps sums and exponentials in fp32.
    precision = "bf16" if config.precision == "pure-bf16" else config.precision
    uses_bf16 = pick_dtype(precision, device) == torch.bfloat16
    # Without cpu=True, Accelerate would leave the processes of a CPU job unconnected, each alone.
    # Accelerate hands on what differs from its own default, which is ten minutes and not gloo's: hence the microsecond.
    seconds = float(os.environ.get("LLMKIT_TIMEOUT_SECONDS", TIMEOUT_SECONDS))
    timeout = timedelta(seconds=seconds, microseconds=1)
    accelerator = Accelerator(
        mixed_precision="bf16" if uses_bf16 else "no",
        cpu=device.type == "cpu",
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timeout)],
    )
    asked = int(os.environ.get("WORLD_SIZE", "1"))
    if accelerator.num_processes != asked:
        raise RunError(
            f"{asked} processes were started, but only {accelerator.num_processes} work together",
            where="WORLD_SIZE",
            fix="start the job with torchrun or accelerate launch",
        )
    start_watch(accelerator.process_index, accelerator.num_processes)
    return accelerator


def check_engine() -> None:
    """Raise where the launcher asks for an engine that would want another loop."""
    for name in ("deepspeed", "megatron_lm"):
        if os.environ.get(f"ACCELERATE_USE_{name.upper()}") == "true":
            raise RunError(
                f"{name} is not served: jobs run with DDP or FSDP",
                where="the configuration of accelerate",
                fix="accelerate launch --config_file recipes/accelerate/fsdp.yaml",
            )


def job_dtype(accelerator: Accelerator) -> torch.dtype:
    """The number format of the job's matrix products."""
    return torch.bfloat16 if accelerator.mixed_precision == "bf16" else torch.float32


def check_trackers(config: TrainSection) -> None:
    """Raise when a tracker that the recipe names is not installed."""
    for name in config.track:
        if find_spec(name) is None:
            fix = "pip install 'llmkit[track]'" if name == "tensorboard" else f"pip install {name}"
            raise RecipeError(f"the tracker {name} is not installed", where="train.track", fix=fix)


def check_processes() -> None:
    """Raise when `accelerate launch` was asked for several processes and started one.

    `accelerate launch --cpu --num_processes 2` does so without a word: it sets the address at which the processes
    would meet, but neither their number nor a rank.
    """
    asked = "ACCELERATE_MIXED_PRECISION" in os.environ and "MASTER_ADDR" in os.environ
    if asked and "WORLD_SIZE" not in os.environ:
        raise RunError(
            "several processes were asked for, but accelerate started only this one",
            where="accelerate launch",
            fix="on CPUs type: torchrun --standalone --nproc_per_node 2 -m llmkit ...",
        )


def on_main_process(accelerator: Accelerator, action: Callable[[], T]) -> T:
    """What `action` returns on the main process, on every process; an LlmkitError is raised on all of them alike.

    The others wait for it as long as it takes, be it hours, and as long as the main process lives.
    """
    box: list[Any] = [None, None]

    def act() -> None:
        try:
            box[0] = action()
        except LlmkitError as error:
            box[1] = (type(error), error.message, error.where, error.fix)

    in_turn(act, is_main=accelerator.is_main_process)
    if accelerator.num_processes > 1:
        box = broadcast_object_list(box)
    if box[1] is not None:
        kind, message, where, fix = box[1]
        raise kind(message, where=where, fix=fix)
    return box[0]  # type: ignore[no-any-return]
