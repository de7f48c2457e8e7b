"""`llmkit bench`: how fast this machine trains a recipe's model, in how much memory, and how long the recipe takes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.commands.options import AsJson, Overrides
from llmkit.commands.timing import (
    SHARE_OF_FREE_MEMORY,
    Bench,
    Timer,
    Timing,
    engine_of,
    largest_micro_batch,
    needed_bytes,
    sweep,
)
from llmkit.console import format_seconds, format_table, say, warn, write, write_json
from llmkit.errors import UsageError

if TYPE_CHECKING:
    import torch
    from accelerate import Accelerator

    from llmkit.recipe.schema import PretrainRecipe, TrainSection


def bench(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE", help="A recipe of kind pretrain: a YAML file, or a name of `llmkit recipe list`."
        ),
    ] = "laptop/pretrain-python",
    model: Annotated[str | None, typer.Option(help="Model folder or hub name, in place of the recipe's model.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Prepared folder, for its vocabulary and its number of rows; rows are random.")
    ] = None,
    vocab_size: Annotated[int, typer.Option(min=1, help="Vocabulary, where neither --data nor --model says.")] = 4096,
    overrides: Overrides = None,
    steps: Annotated[int, typer.Option(min=1, help="Timed steps of each micro-batch size.")] = 3,
    seconds: Annotated[
        float, typer.Option(min=0, help="Larger micro-batches are tried for about so long; compiling comes on top.")
    ] = 20.0,
    as_json: AsJson = False,
) -> None:
    """Measure this machine: matrix products, tokens per second, MFU, memory, and what a recipe will take.

    A few steps of the real training loop, with random rows, at micro-batches of 1, 2, 4 ... rows. MFU is the share of
    the best matrix product that the model's own arithmetic reaches. A minute on two cores.

    \b
    Examples:
      llmkit bench
      llmkit bench gpt2-124m/pretrain --vocab-size 50257
      llmkit bench laptop/pretrain-python --data data --set train.compile=false
      llmkit bench --model runs/python --json
    """
    from llmkit.recipe.load import load_recipe
    from llmkit.recipe.schema import PretrainRecipe
    from llmkit.training.job import start_job

    flags = {"model.source": ("--model", model), "data.source": ("--data", data)}
    settings = load_recipe(PretrainRecipe, recipe, overrides or [], flags)
    accelerator = start_job(settings.train)
    if accelerator.num_processes > 1:
        raise UsageError("bench measures one device", where="bench", fix="start it without a launcher")
    job = open_bench(settings, accelerator, vocab_size=vocab_size, steps=steps)
    machine = measure_machine(job)
    timings = sweep(job, seconds=seconds)
    document = {
        "machine": machine,
        "model": {"parameters": job.parameters, "vocab_size": job.vocab_size, "flops_per_token": job.flops_per_token},
        "micro_batches": [asdict(timing) for timing in timings],
        "largest_micro_batch": largest_micro_batch(job, timings),
        "recipe": {"name": recipe, **measure_recipe(job, timings)},
    }
    write_json(document) if as_json else show(document)


def open_bench(settings: PretrainRecipe, accelerator: Accelerator, *, vocab_size: int, steps: int) -> Bench:
    """Find out how large the vocabulary is, how many rows there are, and what the model costs."""
    from llmkit.data.pretraining import open_pretraining
    from llmkit.device import available_memory_bytes, peak_memory_bytes, reset_peak_memory
    from llmkit.models.causal_lm import count_parameters
    from llmkit.models.flops import flops_per_token
    from llmkit.training.job import job_dtype

    num_rows = None
    if settings.data.source is not None or settings.data.mix:
        prepared = open_pretraining(settings.data, tokenizer_source=settings.model.source)
        vocab_size, num_rows = len(prepared.tokenizer), len(prepared.rows(settings.train.seq_len))
    job = Bench(settings, accelerator, vocab_size, num_rows, steps, job_dtype(accelerator))
    device = accelerator.device
    free = available_memory_bytes(device)
    model = job.make_model()
    job.vocab_size = model.get_input_embeddings().num_embeddings
    job.parameters = count_parameters(model)
    job.flops_per_token = flops_per_token(model, job.seq_len)
    require_room(model, settings.train, free)
    reset_peak_memory(device)
    job.held_bytes = peak_memory_bytes(device)
    if device.type != "cuda":
        job.limit_bytes = job.held_bytes + SHARE_OF_FREE_MEMORY * free
    return job


def require_room(model: Any, config: TrainSection, free_bytes: int) -> None:
    """Raise UsageError where gradients and the optimizer's state alone are more than there is room for."""
    from llmkit.training.disk import optimizer_bytes

    needed = optimizer_bytes(model, config) + sum(p.numel() * p.element_size() for p in model.parameters())
    if needed > free_bytes:
        message = f"this model takes {needed / 1e9:.1f} GB more to train, and {free_bytes / 1e9:.1f} GB are free"
        raise UsageError(message, where="model", fix="choose a smaller one, or train.optimizer=adafactor")


def measure_machine(job: Bench) -> dict[str, Any]:
    """The best matrix products and the speed of memory."""
    import torch

    from llmkit.device import available_memory_bytes, has_bf16, measure_copy_rate, measure_matrix_rate

    device = job.accelerator.device
    say(f"timing matrix products on {device}")
    formats = {torch.float32, job.dtype, *([torch.bfloat16] if has_bf16(device) else [])}
    rates = {name_of(dtype): measure_matrix_rate(device, dtype) for dtype in sorted(formats, key=name_of)}
    job.matrix_rate = rates[name_of(job.dtype)]
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "threads": torch.get_num_threads(),
        "precision": name_of(job.dtype),
        "matrix_flops_per_second": rates,
        "copy_bytes_per_second": measure_copy_rate(device),
        "available_bytes": available_memory_bytes(device),
    }


def measure_recipe(job: Bench, timings: list[Timing]) -> dict[str, Any]:
    """What the recipe comes to here; compiled, if it would be, which is timed now."""
    from llmkit.training.step import plan_steps

    config = job.settings.train
    has_end = config.steps is not None or bool(job.num_rows)
    num_steps = plan_steps(config, job.num_rows or 0) if has_end else None
    tokens = None if num_steps is None else num_steps * config.batch_size * job.seq_len
    timing = max((t for t in timings if t.rows <= job.micro_batch), key=lambda t: t.rows)
    engine = engine_of(job, total_flops=(tokens or 0) * job.flops_per_token)
    if engine.is_compiled:
        try:
            timing = Timer(job, engine).time(timing.rows)
        except RuntimeError as error:
            warn(f"torch.compile fails here, so these are the uncompiled figures: {str(error).strip().splitlines()[0]}")
    is_own = timing.rows == job.micro_batch
    return {
        "steps": num_steps,
        "batch_size": config.batch_size,
        "seq_len": job.seq_len,
        "tokens": tokens,
        "micro_batch": job.micro_batch,
        "timed": asdict(timing),
        "peak_bytes": timing.peak_bytes if is_own else round(needed_bytes(job, timings, job.micro_batch)),
        "seconds": None if tokens is None else timing.start_seconds + tokens / timing.tokens_per_second,
    }


def name_of(dtype: torch.dtype) -> str:
    """fp32, bf16."""
    return str(dtype).removeprefix("torch.").replace("bfloat", "bf").replace("float", "fp")


def show(document: dict[str, Any]) -> None:
    """The document for people."""
    machine, model, recipe, largest = (document[k] for k in ("machine", "model", "recipe", "largest_micro_batch"))
    rates = ", ".join(
        f"{rate / 1e9:,.0f} GFLOP/s in {name}" for name, rate in machine["matrix_flops_per_second"].items()
    )
    write(f"{machine['device']}, {machine['threads']} threads: matrix products {rates}; ", end="")
    write(f"memory {machine['copy_bytes_per_second'] / 1e9:,.1f} GB/s, {machine['available_bytes'] / 1e9:,.1f} GB free")
    write(f"{model['parameters']:,} parameters, {model['flops_per_token'] / 1e6:,.1f} MFLOP per token, ", end="")
    write(f"vocabulary {model['vocab_size']:,}, {recipe['seq_len']} positions, {machine['precision']}\n")
    timings = list(document["micro_batches"])
    if recipe["timed"] not in timings:
        timings.append(recipe["timed"])
    write(format_table(HEADERS, [row_of(timing) for timing in timings]))
    how = "" if largest["tried"] else ", going by the smaller ones"
    write(f"\nlargest micro-batch: {largest['rows']:,} rows, {largest['peak_bytes'] / 1e9:.1f} GB{how}")
    write(f"{recipe['name']}: {describe_recipe(recipe)}")


HEADERS = ["rows at once", "tokens/s", "MFU", "step, s", "memory, GB", "start, s", "attention"]


def row_of(timing: dict[str, Any]) -> list[str]:
    """A line of the table."""
    return [
        f"{timing['rows']:,}",
        f"{timing['tokens_per_second']:,.0f}",
        f"{timing['mfu']:.3f}",
        f"{timing['step_seconds']:.3f}",
        f"{timing['peak_bytes'] / 1e9:.2f}",
        f"{timing['start_seconds']:.1f}",
        timing["attention"] + (", compiled" if timing["compiled"] else ""),
    ]


def describe_recipe(recipe: dict[str, Any]) -> str:
    """What the recipe takes, in a sentence."""
    timed = recipe["timed"]
    size = f"{recipe['batch_size']} rows of {recipe['seq_len']} positions, {recipe['micro_batch']} at once"
    memory = f"{recipe['peak_bytes'] / 1e9:.1f} GB"
    if recipe["seconds"] is None:
        return f"{size}: {memory}; how long it takes depends on the rows: add --data"
    note = "" if timed["rows"] == recipe["micro_batch"] else f", at the speed of {timed['rows']} rows at once"
    how = f"{recipe['steps']:,} steps of {size}, {recipe['tokens']:,} tokens"
    return f"{how}: {format_seconds(recipe['seconds'])}{note}, {memory}"
