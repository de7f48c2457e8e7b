"""`llmkit baseline`: train an MLP, a CNN or an RNN, and hold it against the simplest answer there is."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
from llmkit.console import format_table, say, write, write_json
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import Tensor, nn

    from llmkit.data.labelled import LabelledData
    from llmkit.models.baselines import BaselineSpec
    from llmkit.recipe.schema import BaselineRecipe
    from llmkit.training.run import Run, RunOptions
    from llmkit.training.session import TrainSummary

RESULTS = "results.json"
MOST_CLASSES_SHOWN = 12


def baseline(
    recipe: RecipeArgument = None,
    kind: Annotated[str | None, typer.Option(help="The network: mlp, cnn or rnn.", metavar="mlp|cnn|rnn")] = None,
    data: Annotated[
        str | None,
        typer.Option(help="digits, wine, breast-cancer, diabetes, mackey-glass, python-docs:labelled, or a file."),
    ] = None,
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
      llmkit baseline --kind rnn --data sales.csv --set data.task=forecast --set data.target=sales --output run
      llmkit baseline laptop/baseline-digits-cnn --output run

    Columns are recognised, and what is filled or left out is told. The rows are split into train, validation and test
    by a hash of their content, a series by time. The result is tested on rows that training never saw, beside the
    simplest answer: the most frequent class, the mean, or the last value seen.
    """
    from llmkit.data.labelled import read_labelled
    from llmkit.models.baselines import build_baseline
    from llmkit.recipe.load import load_recipe, saved_recipe
    from llmkit.recipe.schema import BaselineRecipe
    from llmkit.training.job import start_job
    from llmkit.training.run import run_options

    options = run_options(resume=resume, extend=extend, fresh=fresh, time_limit=time_limit, require_exact=require_exact)
    source = recipe or saved_recipe(output, resume=options.is_resumed)
    settings = load_recipe(
        BaselineRecipe, source, overrides or [], {"model.kind": ("--kind", kind), "data.source": ("--data", data)}
    )
    if settings.data.source is None:
        raise UsageError("there is nothing to train on", where="--data", fix="add --data digits, say, or --data FILE")
    if output is None and not dry_run:
        raise UsageError("a run needs a folder", where="--output", fix="add --output DIR")
    accelerator = start_job(settings.train)
    use_one_thread()
    labelled = read_labelled(settings.data, vocab_size=settings.model.vocab_size, max_words=settings.train.seq_len)
    spec = spec_of(labelled)
    model = build_baseline(settings.model, spec, seed=settings.train.seed)
    plan = describe_plan(settings, labelled, model)
    show_plan(plan)
    if dry_run or output is None:
        if as_json:
            write_json(plan)
        return
    experiment = Experiment(settings, labelled, spec, model)
    run_baseline(experiment, output, accelerator, options=options, as_json=as_json)


@dataclass(frozen=True)
class Experiment:
    """A recipe with what was made from it: the data and the network."""

    settings: BaselineRecipe
    labelled: LabelledData
    spec: BaselineSpec
    model: nn.Module


def run_baseline(
    experiment: Experiment, output: Path, accelerator: Accelerator, *, options: RunOptions, as_json: bool
) -> None:
    """Open the run, train, test, and tell what came out."""
    from llmkit.losses import classification_loss_sum, regression_loss_sum
    from llmkit.models.baselines import load_weights, save_baseline
    from llmkit.training.loop import conclude, earlier_summary, train
    from llmkit.training.run import open_run

    settings, labelled, model = experiment.settings, experiment.labelled, experiment.model
    rows, is_classes = labelled.splits, labelled.task == "classification"
    with open_run(output, settings, accelerator, options=options, inputs={"data": labelled.content_hash}) as run:
        summary = earlier_summary(run) or train(
            model,
            rows["train"],
            classification_loss_sum if is_classes else regression_loss_sum,
            settings.train,
            run,
            accelerator=accelerator,
            save_model=lambda folder, weights: save_baseline(
                model, folder, section=settings.model, spec=experiment.spec, data=labelled.to_json()
            ),
            load_model=lambda folder: load_weights(model, folder),
            validate=(lambda: measure(model, labelled, "validation")) if len(rows["validation"]) else None,
        )
        if summary.status == "stopped":
            conclude(summary, run, as_json=as_json)  # raises
        results = finish(experiment, run, summary)
        if not as_json:
            write(format_results(results))
        conclude(summary, run, as_json=as_json, extra={"test": results["test"], "reference": results["reference"]})


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
    from llmkit.data.words import WordEncoder
    from llmkit.models.baselines import BaselineSpec

    encoder, rows = labelled.encoder, labelled.splits["train"]
    num_outputs = len(labelled.classes) or 1
    if isinstance(encoder, WordEncoder):
        return BaselineSpec("text", (), num_outputs, encoder.num_words)
    return BaselineSpec(labelled.form, tuple(rows.inputs.shape[1:]), num_outputs)


def measure(model: nn.Module, labelled: LabelledData, split: str) -> dict[str, float]:
    """The metrics of the network on a split."""
    from llmkit.models.baselines import predict

    return score(predict(model, labelled.splits[split]), labelled, split)


def score(outputs: Tensor, labelled: LabelledData, split: str) -> dict[str, float]:
    """Accuracy, macro-F1 and log-loss of classes; RMSE and MAE of numbers, in their own unit."""
    from llmkit.data.targets import NumberTarget
    from llmkit.evaluation.predictions import classification_metrics, number_metrics

    targets, target = labelled.splits[split].targets, labelled.target
    if isinstance(target, NumberTarget):
        return number_metrics(outputs, targets, scale=target.scale)
    return classification_metrics(outputs, targets)


def measure_reference(labelled: LabelledData, split: str) -> dict[str, Any]:
    """The same metrics for the simplest answer: the most frequent class, the training mean, or the last value seen."""
    import torch

    from llmkit.evaluation.predictions import majority_metrics

    rows = labelled.splits[split]
    if labelled.task == "classification":
        metrics = majority_metrics(labelled.splits["train"].targets, rows.targets, num_classes=len(labelled.classes))
        return {"name": "majority class", **metrics}
    # Numbers are seen relative to their reference: it is the answer 0.
    metrics = score(torch.zeros_like(rows.targets), labelled, split)
    return {"name": "naive forecast" if labelled.task == "forecast" else "training mean", **metrics}


def finish(experiment: Experiment, run: Run, summary: TrainSummary) -> dict[str, Any]:
    """Test the trained network, and write results.json; a run that was tested already is read."""
    from llmkit.evaluation.predictions import confusion_matrix
    from llmkit.models.baselines import count_parameters, load_weights, predict

    labelled, model = experiment.labelled, experiment.model
    if run.is_finished:
        load_weights(model, summary.model)
    split = "test" if len(labelled.splits["test"]) else "validation" if len(labelled.splits["validation"]) else None
    results: dict[str, Any] = {
        "network": f"{experiment.settings.model.kind.upper()} ({count_parameters(model):,} parameters)",
        "data": labelled.source,
        "task": labelled.task,
        "rows": {name: len(rows) for name, rows in labelled.splits.items()},
        "classes": labelled.classes,
        "validation": summary.validation,
        "test": None,
        "reference": None,
        "confusion_matrix": None,
        "notes": labelled.notes,
    }
    if split is not None:
        outputs = predict(model, labelled.splits[split])
        results["test"] = score(outputs, labelled, split) if split == "test" else None
        results["reference"] = measure_reference(labelled, split)
        if labelled.classes:
            matrix = confusion_matrix(
                outputs.argmax(1), labelled.splits[split].targets, num_classes=len(labelled.classes)
            )
            results["confusion_matrix"] = matrix.tolist()
    run.write_json(RESULTS, results)
    return results


def format_results(results: dict[str, Any]) -> str:
    """The figures beside the reference's, and which classes were taken for which."""
    columns = {
        f"{results['network']}, test": results["test"],
        f"{results['network']}, validation": results["validation"],
    }
    columns |= {results["reference"]["name"]: results["reference"]} if results["reference"] else {}
    names = [name for values in columns.values() if values for name in values if name != "name"]
    rows = [[who, *(values.get(name) for name in dict.fromkeys(names))] for who, values in columns.items() if values]
    text = format_table(["", *(name.replace("_", "-") for name in dict.fromkeys(names))], rows)
    classes, matrix = results["classes"], results["confusion_matrix"]
    if matrix is None or len(classes) > MOST_CLASSES_SHOWN:
        return text
    confusion = format_table(
        ["is \\ taken for", *classes], [[name, *counts] for name, counts in zip(classes, matrix, strict=True)]
    )
    return f"{text}\n\n{confusion}"


def describe_plan(settings: BaselineRecipe, labelled: LabelledData, model: nn.Module) -> dict[str, Any]:
    """What the run will be, before it is."""
    from llmkit.models.baselines import count_parameters
    from llmkit.training.step import plan_steps

    rows = {name: len(rows) for name, rows in labelled.splits.items()}
    return {
        "data": labelled.source,
        "task": labelled.task,
        "form": labelled.form,
        "rows": rows,
        "classes": labelled.classes,
        "notes": labelled.notes,
        "model": settings.model.kind,
        "parameters": count_parameters(model),
        "steps": plan_steps(settings.train, rows["train"]),
    }


def show_plan(plan: dict[str, Any]) -> None:
    """The plan in a few lines."""
    counts = ", ".join(f"{count:,} {name}" for name, count in plan["rows"].items())
    say(f"{plan['data']}: {plan['task']} of {plan['form']} rows: {counts}")
    for note in plan["notes"]:
        say(f"  {note}")
    say(f"{plan['model']}: {plan['parameters']:,} parameters, {plan['steps']:,} steps")
