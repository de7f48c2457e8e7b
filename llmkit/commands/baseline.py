"""`llmkit baseline`: train an MLP, a CNN, an RNN or a small transformer, and hold it against what needs no network."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

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
from llmkit.commands.predict import predict
from llmkit.console import say, write, write_json
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn

    from llmkit.batch import LossSum
    from llmkit.commands.baseline_results import Experiment
    from llmkit.data.labelled import LabelledData
    from llmkit.models.baselines import BaselineSpec
    from llmkit.recipe.schema import BaselineRecipe
    from llmkit.training.run import Run, RunOptions
    from llmkit.training.summary import TrainSummary


class TrainsUnlessTold(TyperGroup):
    """A verb of its own that also has sub-verbs: these are known by their name in the first place."""

    allow_interspersed_args = True

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Leave a sub-verb and what follows it alone; everything else belongs to the verb itself."""
        own, rest = ([], args) if args and args[0] in self.commands else (args, [])
        super().parse_args(ctx, own)
        left = [*ctx._protected_args, *ctx.args]
        if left:
            ctx.fail(f"Got unexpected extra argument ({' '.join(left)})")
        ctx._protected_args, ctx.args = rest[:1], rest[1:]
        return rest


app = typer.Typer(cls=TrainsUnlessTold, invoke_without_command=True, rich_markup_mode=None, add_completion=False)
app.command("predict")(predict)


@app.callback()
def baseline(
    context: typer.Context,
    recipe: RecipeArgument = None,
    kind: Annotated[
        str | None,
        typer.Option(help="The network: mlp, cnn, rnn, or transformer.", metavar="mlp|cnn|rnn|transformer"),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option(
            help="A file, a folder, or digits, wine, breast-cancer, diabetes, mackey-glass, python-docs:labelled."
        ),
    ] = None,
    encoding: Annotated[str | None, typer.Option(help="Of files that are not UTF-8: latin-1, cp1252, ...")] = None,
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
    """Train an MLP, a CNN or an RNN on pictures, tables, texts or a series, and test it.

    \b
    Examples:
      llmkit baseline --kind cnn --data digits --output run
      llmkit baseline --kind mlp --data people.csv --set data.target=income --output run
      llmkit baseline --kind rnn --data reviews.jsonl --output run
      llmkit baseline --kind cnn --data rt-polarity.pos --encoding cp1252 --output run
      llmkit baseline --kind rnn --data sales.csv --set data.task=forecast --set data.target=sales --output run
      llmkit baseline --kind rnn --data names.txt --set data.task=language --output run
      llmkit baseline laptop/baseline-digits-cnn --output run
      llmkit baseline predict run new-people.csv

    Columns are recognised, and what is filled or left out is told. The rows are split into train, validation and test
    by a hash of their content, a series by time. The result is tested on rows that training never saw, beside what
    needs no network: the most frequent class, a linear model (scikit-learn), the forecast that nothing changes.
    `llmkit recipe show --fields baseline` explains what --set takes: cells, blocks, activations, losses, patience.
    """
    if context.invoked_subcommand is not None:
        return
    from llmkit.recipe.load import load_recipe, saved_recipe
    from llmkit.recipe.schema import BaselineRecipe
    from llmkit.recipe.unused import tell_unused_training
    from llmkit.training.job import start_job
    from llmkit.training.run import run_options

    options = run_options(resume=resume, extend=extend, fresh=fresh, time_limit=time_limit, require_exact=require_exact)
    source = recipe or saved_recipe(output, resume=options.is_resumed)
    flags = {
        "model.kind": ("--kind", kind),
        "data.source": ("--data", data),
        "data.encoding": ("--encoding", encoding),
    }
    settings = load_recipe(BaselineRecipe, source, overrides or [], flags)
    if settings.data.source is None:
        raise UsageError("there is nothing to train on", where="--data", fix="add --data digits, say, or --data FILE")
    if output is None and not dry_run:
        raise UsageError("a run needs a folder", where="--output", fix="add --output DIR")
    tell_unused_training(settings.train)
    accelerator = start_job(settings.train)
    use_one_thread()
    experiment = prepare(settings)
    plan = describe_plan(experiment)
    show_plan(plan)
    if dry_run or output is None:
        if as_json:
            write_json(plan)
        return
    run_baseline(experiment, output, accelerator, options=options, as_json=as_json)


def prepare(settings: BaselineRecipe) -> Experiment:
    """Read the data, and build the network for it."""
    from llmkit.commands.baseline_results import Experiment
    from llmkit.data.labelled import read_labelled
    from llmkit.models.baselines import build_baseline

    labelled = read_labelled(settings.data, vocab_size=settings.model.vocab_size, max_words=settings.train.seq_len)
    spec = spec_of(labelled)
    return Experiment(settings, labelled, spec, build_baseline(settings.model, spec, seed=settings.train.seed))


def run_baseline(
    experiment: Experiment, output: Path, accelerator: Accelerator, *, options: RunOptions, as_json: bool
) -> None:
    """Open the run, train, test, and tell what came out."""
    from llmkit.commands.baseline_results import finish, format_results
    from llmkit.training.loop import conclude
    from llmkit.training.run import open_run

    inputs = {"data": experiment.labelled.content_hash}
    with open_run(output, experiment.settings, accelerator, options=options, inputs=inputs) as run:
        summary = train_baseline(experiment, run, accelerator, looks_inside=True)
        if summary.status == "stopped":
            conclude(summary, run, as_json=as_json)  # raises
        results = finish(experiment, run, summary)
        if not as_json:
            write(format_results(results))
        shown = {name: results[name] for name in ("test", "reference", "references")}
        conclude(summary, run, as_json=as_json, extra=shown)


def train_baseline(experiment: Experiment, run: Run, accelerator: Accelerator, *, looks_inside: bool) -> TrainSummary:
    """Train the network in an open run; of a run that is finished, what it came to."""
    from llmkit.commands.baseline_results import measure
    from llmkit.models.baselines import load_weights, save_baseline
    from llmkit.training.loop import earlier_summary, train

    settings, labelled, model = experiment.settings, experiment.labelled, experiment.model
    rows = labelled.splits
    return earlier_summary(run) or train(
        model,
        rows["train"],
        choose_loss(settings, labelled),
        settings.train,
        run,
        accelerator=accelerator,
        save_model=lambda folder, weights: save_baseline(
            model, folder, section=settings.model, spec=experiment.spec, data=labelled.to_json()
        ),
        load_model=lambda folder: load_weights(model, folder),
        validate=(lambda: measure(model, labelled, "validation")) if len(rows["validation"]) else None,
        looks_inside=looks_inside,
    )


def choose_loss(settings: BaselineRecipe, labelled: LabelledData) -> LossSum:
    """The loss that the recipe asks for.

    Raises:
        RecipeError: Classes are to be weighed, and there are none.
    """
    from llmkit.errors import RecipeError
    from llmkit.losses import classification_loss_sum, regression_loss_sum

    is_balanced = settings.loss.class_weights == "balanced"
    if is_balanced and not labelled.classes:
        reason = f"there are no classes to weigh in a {labelled.task}"
        raise RecipeError(reason, where="loss.class_weights", fix="leave it out")
    if labelled.task in ("regression", "forecast"):
        return functools.partial(regression_loss_sum, is_huber=settings.loss.numbers == "huber")
    weights = None
    if is_balanced:
        counts = labelled.class_counts.double()
        # Of mean 1 over the training rows; a class that these lack weighs nothing.
        weights = (counts.sum() / (counts > 0).sum() / counts.clamp(min=1)).float() * (counts > 0)
    return functools.partial(
        classification_loss_sum, label_smoothing=settings.train.label_smoothing, class_weights=weights
    )


def use_one_thread() -> None:
    """Compute on one thread of the CPU, unless OMP_NUM_THREADS says otherwise.

    Operations of networks this small are over sooner than threads have met: a second thread makes a recurrent network
    slower, and where another program wants the same core, each operation waits for it (measured: 20 times slower).
    """
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)


def spec_of(labelled: LabelledData) -> BaselineSpec:
    """What the network must know of the data."""
    from llmkit.data.language import SymbolEncoder
    from llmkit.data.words import WordEncoder
    from llmkit.models.baselines import BaselineSpec

    encoder, rows = labelled.encoder, labelled.splits["train"]
    if isinstance(encoder, WordEncoder):
        return BaselineSpec("text", (), labelled.num_outputs, encoder.num_words)
    if isinstance(encoder, SymbolEncoder):
        return BaselineSpec("language", (), labelled.num_outputs, encoder.num_symbols, encoder.max_length)
    return BaselineSpec(labelled.form, tuple(rows.inputs.shape[1:]), labelled.num_outputs)


def describe_plan(experiment: Experiment) -> dict[str, Any]:
    """What the run will be, before it is."""
    from llmkit.models.baselines import count_parameters
    from llmkit.training.step import plan_steps

    settings, labelled = experiment.settings, experiment.labelled
    return {
        "data": labelled.source,
        "task": labelled.task,
        "form": labelled.form,
        "rows": {name: len(rows) for name, rows in labelled.splits.items()},
        "classes": labelled.classes,
        "notes": labelled.notes,
        "model": settings.model.kind,
        "parameters": count_parameters(experiment.model),
        "layers": describe_layers(experiment.model),
        "steps": plan_steps(settings.train, len(labelled.splits["train"])),
    }


def describe_layers(model: nn.Module) -> list[dict[str, Any]]:
    """Each layer that has weights: its name, what it is, the shape of its weights, how many numbers that are."""
    layers = []
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own:
            shape = list(next(p for p in own).shape)
            layers.append(
                {"name": name, "kind": type(module).__name__, "shape": shape, "parameters": sum(p.numel() for p in own)}
            )
    return layers


def show_plan(plan: dict[str, Any]) -> None:
    """The plan in a few lines."""
    counts = ", ".join(f"{count:,} {name}" for name, count in plan["rows"].items())
    say(f"{plan['data']}: {plan['task']} of {plan['form']} rows: {counts}")
    for note in plan["notes"]:
        say(f"  {note}")
    say(f"{plan['model']}: {plan['parameters']:,} parameters, {plan['steps']:,} steps")
    for layer in plan["layers"]:
        shape = " x ".join(map(str, layer["shape"]))
        say(f"  {layer['name']}: {layer['kind']} {shape}, {layer['parameters']:,}")
