"""`llmkit finetune`: a language model and dialogues to a model that answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from llmkit.commands.day import day_of_run
from llmkit.commands.options import (
    AsJson,
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
from llmkit.commands.plan import Effort, plan_tuning, show_tuning
from llmkit.console import say, write_json
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from llmkit.commands.tuning import Tuning
    from llmkit.evaluation.task import Task
    from llmkit.recipe.schema import FinetuneRecipe
    from llmkit.training.run import Run, RunOptions

ENDS = "ends.json"

USUAL_LR = {"instruct": 1e-3, "prefer": 5e-5, "classify": 5e-4}
"""Highest learning rate of adapters, by task."""

OWN_WEIGHTS = 0.1
"""Weights of the model itself learn at this part of it."""


class Planned(NamedTuple):
    """What is tuned and on what, what that will take, and the tasks that it may forget."""

    material: Tuning
    plan: dict[str, Any]
    effort: Effort
    watched: list[Task]


def finetune(
    recipe: RecipeArgument = None,
    model: Annotated[str | None, typer.Option(help="Model folder or hub name.")] = None,
    data: Annotated[str | None, typer.Option(help="File, folder, python-docs:instructions or hf:owner/name.")] = None,
    output: Output = None,
    overrides: Overrides = None,
    resume: Resume = False,
    extend: Extend = False,
    fresh: Fresh = False,
    time_limit: TimeLimit = None,
    require_exact: RequireExact = False,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Teach a model to answer, to prefer, or to classify, with LoRA or its own weights.

    \b
    Examples:
      llmkit finetune --model run/model --data python-docs:instructions --output tuned
      llmkit finetune laptop/finetune-python --model run/model --output tuned
      llmkit finetune --model smollm2/model --data chats.jsonl --output tuned --set lora.rank=8 --set train.steps=200
      llmkit finetune --model run/model --data alpaca.json --output tuned --set method=full --set train.lr=1e-4
      llmkit finetune --model tuned --data pairs.jsonl --output preferring --set task=prefer --set train.lr=5e-5
      llmkit finetune --model smollm2/model --data labelled.csv --output classifier --set task=classify
      llmkit finetune --model run/model --data chats.jsonl --output tuned --dry-run

    Rows are instruction/input/output, prompt/completion, question/answer, messages (role/content) or conversations
    (from/value), recognised by their columns. Only what the assistant says is trained, and the end of its turn.
    Pairs of answers (chosen/rejected) are learned by DPO or ORPO, labelled texts (text/label) by a classification head.
    The result, RUN/model, is an adapter folder, or a model folder with method=full or last-layers; every other verb
    takes both.
    """
    from llmkit.commands.forgetting import open_watched
    from llmkit.commands.tuning import gather
    from llmkit.recipe.load import load_recipe, saved_recipe
    from llmkit.recipe.schema import FinetuneRecipe
    from llmkit.training.job import start_job
    from llmkit.training.run import run_options

    options = run_options(resume=resume, extend=extend, fresh=fresh, time_limit=time_limit, require_exact=require_exact)
    flags = {"model.source": ("--model", model), "data.source": ("--data", data)}
    source = recipe or saved_recipe(output, resume=options.is_resumed)
    settings = load_recipe(FinetuneRecipe, source, overrides or [], flags)
    settings = load_recipe(FinetuneRecipe, source, overrides or [], flags, picks=picked(settings, options, output))
    check_settings(settings, output, dry_run=dry_run)
    accelerator = start_job(settings.train, is_ragged=True)
    watched = open_watched(settings)
    material = gather(settings)
    plan, effort = plan_tuning(settings, material, accelerator)
    show_tuning(plan)
    if dry_run or output is None:
        say("the first row; what is trained stands in [[ ]]:")
        say(material.first_row)
        if as_json:
            write_json({**plan, "data": material.report})
        return
    run_tuning(
        settings, Planned(material, plan, effort, watched), output, accelerator, options=options, as_json=as_json
    )


def picked(settings: FinetuneRecipe, options: RunOptions, output: Path | None) -> dict[str, Any]:
    """What a recipe that says nothing of these gets in place of a default."""
    return {"train.lr": usual_lr(settings), "data.date": day_of_run(None if options.fresh else output)}


def usual_lr(settings: FinetuneRecipe) -> float:
    """The learning rate of a recipe that names none: preferences and weights of the model itself want smaller ones."""
    return USUAL_LR[settings.task] * (1 if settings.method in ("lora", "qlora") else OWN_WEIGHTS)


def check_settings(settings: FinetuneRecipe, output: Path | None, *, dry_run: bool) -> None:
    """Raise for what has no default."""
    if settings.model.source is None:
        raise UsageError("there is no model to tune", where="--model", fix="name a model folder, for example RUN/model")
    if settings.data.source is None and not settings.data.mix:
        raise UsageError("there is nothing to train on", where="--data", fix="name a file, or python-docs:instructions")
    if output is None and not dry_run:
        raise UsageError("a run needs a folder", where="--output", fix="add --output DIR")


def run_tuning(
    settings: FinetuneRecipe,
    planned: Planned,
    output: Path,
    accelerator: Accelerator,
    *,
    options: RunOptions,
    as_json: bool,
) -> None:
    """Open the run, train, and tell what came out."""
    from llmkit.commands.answers import sampler
    from llmkit.commands.forgetting import Forgetting
    from llmkit.commands.prefer import note_reference
    from llmkit.models.compile import use_engine
    from llmkit.models.lora_products import hold_in_bf16, join_products
    from llmkit.models.vocabulary import content_hash
    from llmkit.training.loop import conclude, earlier_summary, train
    from llmkit.training.run import open_run

    material, plan, effort, watched = planned
    model = material.model
    use_engine(model, effort.engine, settings.train, is_ragged=True)
    inputs = {"model": content_hash(str(settings.model.source)), "data": material.content_hash}
    with open_run(output, settings, accelerator, options=options, inputs=inputs) as run:
        run.fingerprint |= effort.engine.to_json()
        forgetting = Forgetting(settings, watched, run, accelerator)
        summary = earlier_summary(run)
        if summary is None:
            run.write_json("data-report.json", material.report)
            run.write_json("plan.json", plan)
            prepare_model(settings, material, run, accelerator)
            forgetting.look_before()
            if plan["frozen_in_bf16"]:
                hold_in_bf16(model)
                join_products(model)
            note_reference(settings, material, run, accelerator)
            summary = train(
                model,
                material.train,
                material.loss_sum,
                settings.train,
                run,
                accelerator=accelerator,
                save_model=material.save,
                load_model=material.load,
                validate=material.validate,
                sample=sampler(settings, material, run),
                flops_per_token=effort.flops_per_target,
                matrix_rate=effort.matrix_rate,
            )
        extra: dict[str, Any] = {"method": settings.method, "task": settings.task, "data": material.report}
        if summary.status == "finished":
            extra["ends"] = ends_of(settings, material, run, accelerator, step=summary.step)
            extra["forgotten"] = forgetting.look_after(summary.step)
        conclude(summary, run, as_json=as_json, extra=extra)


def prepare_model(settings: FinetuneRecipe, material: Tuning, run: Run, accelerator: Accelerator) -> None:
    """What must lie on disk or on the device before anything is measured."""
    from llmkit.commands.tuning import keep_merged_base
    from llmkit.training.job import on_main_process

    on_main_process(accelerator, lambda: keep_merged_base(settings, material, run.folder))


def ends_of(
    settings: FinetuneRecipe, material: Tuning, run: Run, accelerator: Accelerator, *, step: int
) -> dict[str, Any] | None:
    """How many answers end by themselves: asked once, when the run is finished at `step`, and kept in ends.json."""
    from accelerate.utils import DistributedType

    from llmkit.commands.answers import check_ends, tell_ends
    from llmkit.training.job import on_main_process

    def ask() -> dict[str, Any] | None:
        path = run.folder / ENDS
        ends: dict[str, Any] | None = json.loads(path.read_text()) if path.is_file() else None
        if ends is not None and ends.get("step") == step:  # a run that was made longer is asked again
            return ends
        if accelerator.distributed_type == DistributedType.FSDP:
            return None
        material.model.to(accelerator.device)
        material.load(run.folder / "model")  # which need not be the weights of the last step
        ends = check_ends(settings, material)
        if ends is not None:
            ends["step"] = step
            run.write_json(ENDS, ends)
        return ends

    ends = on_main_process(accelerator, ask)
    if ends is not None:
        tell_ends(ends)
    return ends
