"""What a trained baseline comes to on rows it never saw, beside what needs no network; kept in results.json."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from llmkit.console import format_table

if TYPE_CHECKING:
    from torch import Tensor, nn

    from llmkit.data.labelled import LabelledData
    from llmkit.models.baselines import BaselineSpec
    from llmkit.recipe.schema import BaselineRecipe
    from llmkit.training.run import Run
    from llmkit.training.summary import TrainSummary

RESULTS = "results.json"
MOST_CLASSES_SHOWN = 12
MOST_ERRORS = 12
MOST_PAIRS = 300
"""Points of a drawing of what was predicted over what is true."""


@dataclass(frozen=True)
class Experiment:
    """A recipe with what was made from it: the data and the network."""

    settings: BaselineRecipe
    labelled: LabelledData
    spec: BaselineSpec
    model: nn.Module


def measure(model: nn.Module, labelled: LabelledData, split: str) -> dict[str, float]:
    """The metrics of the network on a split."""
    from llmkit.evaluation.predictions import language_metrics
    from llmkit.models.baselines import measure_language, predict

    rows = labelled.splits[split]
    if labelled.task != "language":
        return score(predict(model, rows), labelled, split)
    found = measure_language(model, rows)
    nats, count, right = (float(values.sum()) for values in found)
    return language_metrics(nats, count, right, num_bytes=rows.num_bytes or 1)


def score(outputs: Tensor, labelled: LabelledData, split: str) -> dict[str, float]:
    """Accuracy, macro-F1 and log-loss of classes; RMSE and MAE of numbers, in their own unit."""
    from llmkit.data.targets import NumberTarget
    from llmkit.evaluation.predictions import classification_metrics, number_metrics

    targets, target = labelled.splits[split].targets, labelled.target
    if isinstance(target, NumberTarget):
        return number_metrics(outputs, targets, scales=target.scales)
    return classification_metrics(outputs, targets)


def measure_references(labelled: LabelledData, split: str) -> list[dict[str, Any]]:
    """The metrics of each reference on a split, the simplest first, with its size and its time."""
    from llmkit.data.words import split_words
    from llmkit.evaluation.predictions import language_metrics
    from llmkit.evaluation.references import count_symbols, fit_references

    training, rows = labelled.splits["train"], labelled.splits[split]
    if labelled.task == "language":
        total = int((rows.targets >= 0).sum())
        return [
            {
                "name": reference.name,
                **language_metrics(reference.nats, total, None, num_bytes=rows.num_bytes or 1),
                "parameters": reference.parameters,
            }
            for reference in count_symbols(training, rows, num_symbols=labelled.num_outputs)
        ]
    return [
        {
            "name": reference.name,
            **score(reference.outputs, labelled, split),
            "parameters": reference.parameters,
            "seconds": round(reference.seconds, 3),
        }
        for reference in fit_references(
            labelled.form, training, rows, num_outputs=labelled.num_outputs, words_of=split_words
        )
    ]


def finish(experiment: Experiment, run: Run, summary: TrainSummary) -> dict[str, Any]:
    """Test the trained network, and write results.json; of a run that was tested before, it is read."""
    from llmkit.models.baselines import count_parameters, load_weights

    if run.is_finished and (run.folder / RESULTS).is_file():
        return dict(json.loads((run.folder / RESULTS).read_text(encoding="utf-8")))
    labelled, model = experiment.labelled, experiment.model
    # The result, not what training ended with: the best weights may be those of an earlier step.
    load_weights(model, summary.model)
    size = count_parameters(model)
    split = next((name for name in ("test", "validation") if len(labelled.splits[name])), None)
    results: dict[str, Any] = {
        "network": f"{experiment.settings.model.kind.upper()} ({size:,} parameters)",
        "parameters": size,
        "data": labelled.source,
        "task": labelled.task,
        "form": labelled.form,
        "rows": {name: len(rows) for name, rows in labelled.splits.items()},
        "classes": labelled.classes,
        "seconds": summary.seconds,
        "validation": summary.validation,
        "test": measure(model, labelled, "test") if split == "test" else None,
        "references": measure_references(labelled, split) if split else [],
        "confusion_matrix": None,
        "notes": labelled.notes,
    }
    results["reference"] = results["references"][0] if results["references"] else None
    if split is not None and labelled.task != "language":
        results |= {"measured_on": split, **look_closer(model, labelled, split)}
    run.write_json(RESULTS, results)
    return results


def look_closer(model: nn.Module, labelled: LabelledData, split: str) -> dict[str, Any]:
    """What the metrics sum up: classes one by one, confidence, the worst errors, numbers beside what is true."""
    from llmkit.commands.baseline_rows import describe_row
    from llmkit.evaluation.calibration import expected_calibration_error
    from llmkit.evaluation.predictions import class_figures, confusion_matrix, reliability, worst_errors
    from llmkit.models.baselines import predict

    rows, names = labelled.splits[split], labelled.classes
    outputs = predict(model, rows)
    if not names:
        return {"pairs": pairs_of_numbers(outputs, labelled, split)}
    confidence, predicted = outputs.double().softmax(1).max(1)
    matrix = confusion_matrix(predicted, rows.targets, num_classes=len(names))
    error = expected_calibration_error(confidence.numpy(), (predicted == rows.targets).numpy())
    return {
        "confusion_matrix": matrix.tolist(),
        "classes_in_detail": [asdict(figures) for figures in class_figures(matrix, names)],
        "calibration_error": error,
        "reliability": [found._asdict() for found in reliability(outputs, rows.targets)],
        "worst_errors": [
            {
                "row": found.row,
                "is": names[found.answer],
                "taken_for": names[found.predicted],
                "probability": found.probability,
                **describe_row(labelled, split, found.row),
            }
            for found in worst_errors(outputs, rows.targets, most=MOST_ERRORS)
        ],
    }


def pairs_of_numbers(outputs: Tensor, labelled: LabelledData, split: str) -> dict[str, Any]:
    """What is true and what was predicted, of the first number and in its unit: in a row, or some of the rows."""
    from llmkit.commands.baseline_rows import numbers_of

    name, true, found = numbers_of(outputs, labelled, split)
    is_series = labelled.form == "series"
    # Of a series the last stretch, as a curve; of other rows every so-many-th.
    chosen = slice(-MOST_PAIRS, None) if is_series else slice(None, None, max(1, len(true) // MOST_PAIRS))
    return {"name": name, "true": true[chosen], "predicted": found[chosen], "is_series": is_series}


def format_results(results: dict[str, Any]) -> str:
    """The figures beside those of the references, and which classes were taken for which."""
    network = results["network"]
    rows: dict[str, Any] = {f"{network}, test": results["test"], f"{network}, validation": results["validation"]}
    rows |= {reference["name"]: reference for reference in results["references"]}
    told = [results["test"] or {}, results["validation"] or {}]
    names = list(dict.fromkeys(name for values in told for name in values))
    cells = [[who, *(values.get(name) for name in names)] for who, values in rows.items() if values]
    parts = [format_table(["", *(name.replace("_", "-") for name in names)], cells)]
    classes, matrix = results["classes"], results["confusion_matrix"]
    if matrix is not None and len(classes) <= MOST_CLASSES_SHOWN:
        figures = {found["name"]: found for found in results["classes_in_detail"]}
        body = [
            [name, *counts, *(figures[name][key] for key in ("precision", "recall", "f1"))]
            for name, counts in zip(classes, matrix, strict=True)
        ]
        parts.append(format_table(["is \\ taken for", *classes, "precision", "recall", "F1"], body))
    return "\n\n".join(parts)
