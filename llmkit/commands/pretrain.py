"""`llmkit pretrain`: prepared tokens to a language model."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from llmkit.commands.minutes import AIM, earlier_minutes, pick_for_minutes
from llmkit.commands.options import (
    AsJson,
    Branch,
    DryRun,
    Extend,
    Fresh,
    Output,
    Overrides,
    RecipeArgument,
    RequireExact,
    Resume,
    TimeLimit,
)
from llmkit.commands.plan import Effort, plan_pretraining, show_plan
from llmkit.console import for_terminal, has_colors, say, terminal_width, write_json
from llmkit.errors import ModelError, RecipeError, UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from llmkit.data.pretraining import HeldOut, PretrainingData
    from llmkit.recipe.schema import PretrainRecipe
    from llmkit.training.run import Run, RunOptions


class Pretraining(NamedTuple):
    """All that a run is made from, ready to train."""

    settings: PretrainRecipe
    data: PretrainingData
    model: Any
    plan: dict[str, Any]
    effort: Effort
    minutes: float | None


def pretrain(
    recipe: RecipeArgument = None,
    data: Annotated[str | None, typer.Option(help="Folder that `llmkit data prepare` wrote.")] = None,
    model: Annotated[str | None, typer.Option(help="Model folder or hub name to go on training.")] = None,
    output: Output = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, help="Choose size, batch, tokens, lr and optimizer; end after so many minutes."),
    ] = None,
    overrides: Overrides = None,
    resume: Resume = False,
    extend: Extend = False,
    branch: Branch = None,
    fresh: Fresh = False,
    time_limit: TimeLimit = None,
    require_exact: RequireExact = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Train a causal language model, from scratch or from another model.

    \b
    Examples:
      llmkit data prepare python-docs --tokenizer tok --output data
      llmkit pretrain --data data --output run --minutes 10
      llmkit pretrain --data data --output run --set model.size=10m
      llmkit pretrain laptop/pretrain-python --data data --output run --set train.lr=1e-3
      llmkit pretrain --model smollm2/model --data data --output run --set train.lr=1e-4
      llmkit pretrain --output run --extend --set train.steps=4000
      llmkit pretrain --data data --output cooled --branch run/checkpoints/step-00000500 --set train.steps=600
      accelerate launch --num_processes 8 --multi_gpu -m llmkit pretrain gpt2-124m/pretrain --data data --output run

    The same command continues a run that was stopped, where its newest checkpoint is. Ctrl-C stops with a checkpoint
    (exit code 75); a second Ctrl-C stops at once.
    """
    begin = time.monotonic()
    from llmkit.training.run import run_options

    options = run_options(
        resume=resume, extend=extend, fresh=fresh, time_limit=time_limit, require_exact=require_exact, branch=branch
    )
    if output is None and not dry_run:
        raise UsageError("a run needs a folder", where="--output", fix="add --output DIR")
    flags = {"model.source": ("--model", model), "data.source": ("--data", data)}
    accelerator, material = gather(
        Arguments(recipe, overrides or [], flags, output, options), minutes=minutes, begin=begin
    )
    show_plan(material.plan, material.settings.train)
    if dry_run or output is None:
        if as_json:
            write_json(material.plan)
        return
    run_pretraining(material, output, accelerator, options=options, as_json=as_json)


class Arguments(NamedTuple):
    """What the command line says."""

    recipe: str | None
    overrides: list[str]
    flags: dict[str, tuple[str, Any]]
    output: Path | None
    options: RunOptions


def gather(said: Arguments, *, minutes: float | None, begin: float) -> tuple[Accelerator, Pretraining]:
    """Read the recipe, open the data, build or load the model, and plan the run.

    A run that --minutes began keeps what was picked for it: its saved recipe is taken.
    """
    from llmkit.data.pretraining import open_pretraining
    from llmkit.models.size import section_for_size
    from llmkit.recipe.load import load_recipe, saved_recipe
    from llmkit.recipe.schema import PretrainRecipe
    from llmkit.recipe.unused import tell_unused_training
    from llmkit.training.job import start_job

    earlier = earlier_minutes(said.output, minutes, said.options)
    source: str | Path | None = said.recipe or saved_recipe(said.output, resume=said.options.is_resumed)
    if earlier is not None:
        source, minutes = saved_recipe(said.output, resume=True), earlier
    settings = load_recipe(PretrainRecipe, source, said.overrides, said.flags)
    accelerator = start_job(settings.train)
    commit = earlier_commit(said.output, settings.data.source, said.options)
    data = open_pretraining(settings.data, tokenizer_source=settings.model.source, commit=commit)
    if minutes is not None and earlier is None:
        picks = pick_for_minutes(settings, data, accelerator, seconds=60 * minutes - (time.monotonic() - begin))
        say(f"--minutes {minutes:g}: {picks.reason}")
        settings = load_recipe(PretrainRecipe, source, said.overrides, {**picks.length, **said.flags}, picks.values)
    tell_unused_training(settings.train)
    sized = section_for_size(settings.model, vocab_size=len(data.tokenizer), seq_len=settings.train.seq_len)
    settings = settings.model_copy(update={"model": sized})
    model = load_model(settings, data) if settings.model.source else build_model(settings, data)
    plan, effort = plan_pretraining(settings, data, model, accelerator)
    return accelerator, Pretraining(settings, data, model, {**plan, "minutes": minutes}, effort, minutes)


def earlier_commit(output: Path | None, source: str | None, options: RunOptions) -> str | None:
    """The commit of the hub data set that the run in `output` was begun with, where it is to go on; else None."""
    import json

    from llmkit.training.folder import INPUTS, is_run

    if output is None or options.fresh or not is_run(output) or not (output / INPUTS).is_file():
        return None
    commit: str | None = json.loads((output / INPUTS).read_text(encoding="utf-8")).get(str(source))
    return commit


def build_model(settings: PretrainRecipe, data: PretrainingData) -> Any:
    """A model with random weights."""
    from llmkit.models.causal_lm import build_causal_lm

    return build_causal_lm(
        settings.model,
        vocab_size=len(data.tokenizer),
        seq_len=settings.train.seq_len,
        tokenizer=data.tokenizer,
        seed=settings.train.seed,
    )


def load_model(settings: PretrainRecipe, data: PretrainingData) -> Any:
    """The model to go on training.

    Raises:
        RecipeError: Sizes are given beside it, or its positions are fewer than those of a row.
        ModelError: It is an adapter, or the data was made with another tokenizer.
    """
    from llmkit.generation.decode import longest_sequence
    from llmkit.models.causal_lm import load_causal_lm, model_folder
    from llmkit.models.vocabulary import fit_vocabulary
    from llmkit.recipe.schema import ModelSection
    from llmkit.tokenizer import load_tokenizer, tokenizer_hash

    section, source = settings.model, str(model_folder(str(settings.model.source)))
    # The recipe of a run holds all fields: what counts is what is not at its default.
    given = [name for name, value in ModelSection() if name != "source" and getattr(section, name) != value]
    if given:
        raise RecipeError(
            f"{source} is built already, and model.{', model.'.join(given)} {'is' if len(given) == 1 else 'are'} given",
            where="model.source",
            fix="leave out the one or the other",
        )
    if (Path(source) / "adapter_config.json").is_file():
        fix = f"merge it first: llmkit model merge {source} --output MERGED"
        raise ModelError("this is an adapter, and not a whole model", where=source, fix=fix)
    if tokenizer_hash(load_tokenizer(source)) != tokenizer_hash(data.tokenizer):
        fix = f"prepare it again: llmkit data prepare ... --tokenizer {source}"
        raise ModelError("the data was made with another tokenizer than this model's", where=source, fix=fix)
    model = load_causal_lm(source)
    fit_vocabulary(model, data.tokenizer, can_grow=False)
    longest, seq_len = longest_sequence(model), settings.train.seq_len
    if longest is not None and longest < seq_len:
        message = f"the model takes {longest:,} positions, train.seq_len asks for {seq_len:,}"
        raise RecipeError(message, where="train.seq_len", fix=f"lower it to {longest}")
    return model


def run_pretraining(
    material: Pretraining, output: Path, accelerator: Accelerator, *, options: RunOptions, as_json: bool
) -> None:
    """Open the run, train, and tell what came out."""
    import functools

    from llmkit.losses import causal_lm_loss_sum
    from llmkit.models.causal_lm import load_weights, save_causal_lm
    from llmkit.models.compile import use_engine
    from llmkit.training.loop import conclude, earlier_summary, train
    from llmkit.training.run import open_run

    settings, data, model, plan, effort, minutes = material
    config = settings.train
    use_engine(model, effort.engine, config)
    loss_sum = functools.partial(causal_lm_loss_sum, label_smoothing=config.label_smoothing, z_loss=config.z_loss)
    with open_run(output, settings, accelerator, options=options, inputs=inputs_of(material)) as run:
        run.fingerprint |= effort.engine.to_json()
        summary = earlier_summary(run)
        if summary is None:
            run.write_json("plan.json", plan)
            summary = train(
                model,
                data.rows(config.seq_len, folder=run.folder),
                loss_sum,
                config,
                run,
                accelerator=accelerator,
                save_model=lambda folder, weights: save_causal_lm(model, data.tokenizer, folder, weights),
                load_model=lambda folder: load_weights(model, folder),
                validate=validation(settings, data, model),
                sample=sampler(settings, data.tokenizer, model, run),
                flops_per_token=effort.flops_per_token,
                matrix_rate=effort.matrix_rate,
                deadline_seconds=None if minutes is None else 60 * AIM * minutes,
            )
            show_curves(run)
        conclude(summary, run, as_json=as_json)


def inputs_of(material: Pretraining) -> dict[str, str]:
    """What must be as it was when a run is continued, besides the recipe."""
    from llmkit.models.vocabulary import content_hash

    inputs = {"data": material.data.content_hash}
    if material.data.commit is not None:
        inputs[str(material.settings.data.source)] = material.data.commit
    if material.settings.model.source is not None:
        inputs["model"] = content_hash(material.settings.model.source)
    if material.minutes is not None:
        inputs["minutes"] = f"{material.minutes:g}"
    return inputs


def show_curves(run: Run) -> None:
    """Draw the loss, and the validation where there is one, from the lines of metrics.jsonl."""
    from llmkit.reporting.collect import read_run
    from llmkit.reporting.curves import running_mean, validation_points
    from llmkit.reporting.text_plot import plot_lines

    if not run.is_main:
        return
    record = read_run(run.folder, run.folder)
    lines = {"loss": running_mean(record), "validation": validation_points(record, "nats_per_token")}
    text = plot_lines(
        {name: points for name, points in lines.items() if points},
        width=min(terminal_width(), 100),
        x_label="steps",
        y_label="nats per token",
        is_utf8=(sys.stderr.encoding or "ascii").lower().replace("-", "") == "utf8",
        has_colors=has_colors(sys.stderr),
    )
    if text:
        say(text)


def validation(settings: PretrainRecipe, data: PretrainingData, model: Any) -> Callable[[], Mapping[str, float]] | None:
    """Nats per token and bits per byte over the first whole documents of the validation split; None without one.

    Of a mix, over all its parts together and over each.
    """
    from llmkit.models.compile import uncompiled
    from llmkit.training.step import rows_per_forward, rows_within, tokens_per_forward

    tokens = settings.data.validation_tokens
    parts = data.validation_parts(tokens)
    whole = None if parts else data.validation(tokens)
    held_out = parts or ({} if whole is None else {"": whole})
    if not held_out:
        return None
    config = settings.train

    def validate() -> dict[str, float]:
        at_once = rows_within(rows_per_forward(config), tokens_per_forward(config, model.device), config.seq_len)
        with uncompiled(model):
            return measure_parts(model, held_out, seq_len=config.seq_len, batch_size=at_once)

    return validate


def measure_parts(model: Any, held_out: Mapping[str, HeldOut], *, seq_len: int, batch_size: int) -> dict[str, float]:
    """Nats per token and bits per byte over all streams together, and the bits per byte of each that has a name."""
    from llmkit.evaluation.perplexity import measure_stream, summarise

    nats, targets, size, own = 0.0, 0, 0, {}
    for name, (stream, num_bytes) in held_out.items():
        part = measure_stream(model, stream, num_bytes, seq_len=seq_len, batch_size=batch_size)
        nats += part["nats_per_token"] * (len(stream) - 1)
        targets, size = targets + len(stream) - 1, size + num_bytes
        if name:
            own[f"bits_per_byte {name}"] = part["bits_per_byte"]
    return {**summarise(nats, num_targets=targets, num_bytes=size), **own}


def sampler(settings: PretrainRecipe, tokenizer: Any, model: Any, run: Run) -> Callable[[int], None]:
    """Continues the recipe's prompts, says the first and logs all."""
    from llmkit.generation.generate import generate_ids
    from llmkit.generation.sampling import SamplingConfig
    from llmkit.models.compile import uncompiled
    from llmkit.tokenizer import encode_text, end_of_document_id

    end = end_of_document_id(tokenizer)
    texts = settings.data.sample_prompts
    # A document starts behind the end of the one before: so does every prompt.
    prompts = [[end, *encode_text(tokenizer, text)] for text in texts]

    def take(step: int) -> None:
        with uncompiled(model):
            made = generate_ids(
                model,
                prompts,
                sampling=SamplingConfig(temperature=0.7, top_p=0.9),
                max_new_tokens=min(64, settings.train.seq_len // 2),
                stop_ids=[end],
                seed=settings.train.seed,
                tokenizer=tokenizer,
            )
        for text, completion in zip(texts, made, strict=True):
            run.sample({"step": step, "prompt": text, "text": completion.text})
        if texts:
            say(for_terminal(f"step {step:,}: {texts[-1]}{made[-1].text}").replace("\n", "\n    "))

    return take
