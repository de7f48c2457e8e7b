"""The figures that count, each beside what it must be held against."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from llmkit.reporting.collect import Collection, RunRecord

PRIMARY = ("accuracy", "exact_match", "bits_per_byte", "rmse")
"""The metric that stands for a result, the first of these that it has."""

LOWER_IS_BETTER = {"bits_per_byte", "rmse", "mae", "nats_per_token", "log_loss"}


@dataclass(frozen=True)
class Figure:
    """One measured value; `beside` holds (name, value) of the same measure elsewhere: chance, a compressor, a guess."""

    group: str
    what: str
    measure: str
    value: float
    stderr: float | None = None
    beside: tuple[tuple[str, float], ...] = ()

    @property
    def is_better(self) -> bool | None:
        """Whether the value beats all beside it by more than two standard errors; None where it stands alone."""
        if not self.beside:
            return None
        margin = 2 * (self.stderr or 0.0)
        if self.measure.replace(" ", "_") in LOWER_IS_BETTER:
            return all(self.value + margin < other for _, other in self.beside)
        return all(self.value - margin > other for _, other in self.beside)

    def to_json(self) -> dict[str, Any]:
        """For --json."""
        return {**vars(self), "beside": dict(self.beside)}


def figures_of(collection: Collection) -> list[Figure]:
    """All figures, from the tokenizer to the baselines."""
    return [
        *tokenizer_figures(collection.tokenizers),
        *evaluation_figures(collection, wants_text=True),
        *training_figures(collection.runs),
        *by_task(evaluation_figures(collection, wants_text=False)),
        *baseline_figures(collection.runs),
    ]


def tokenizer_figures(documents: Iterable[dict[str, Any]]) -> Iterator[Figure]:
    """Bytes per token, beside plain bytes."""
    for document in documents:
        for report in document["tokenizers"]:
            name = PurePath(str(report["tokenizer"])).name
            plain = (("plain bytes", 1.0),)
            yield Figure("Tokenizer", name, "bytes per token", report["bytes_per_token"], beside=plain)


def training_figures(runs: Iterable[RunRecord]) -> Iterator[Figure]:
    """What language models came to on their validation rows."""
    for run in runs:
        if run.kind == "baseline" or not run.validations:
            continue
        last = run.validations[-1]
        measure = "bits_per_byte" if "bits_per_byte" in last else "nats_per_token"
        if measure in last:
            group = "Tuning" if run.kind == "finetune" else "Language model"
            yield Figure(group, f"{run.name}, validation", words(measure), last[measure])


def evaluation_figures(collection: Collection, *, wants_text: bool) -> Iterator[Figure]:
    """Results of `evaluate`: texts predicted, beside compressors, or tasks solved, beside chance."""
    for evaluation in collection.evaluations:
        model = model_name(evaluation.model)
        for result in evaluation.results:
            name = primary(result["metrics"])
            if name is None or (name == "bits_per_byte") != wants_text:
                continue
            estimate = result["metrics"][name]
            beside = [(key.replace("_", " -"), bits) for key, bits in (result.get("compressors") or {}).items()]
            beside += [("chance", result["chance"])] if result.get("chance") is not None else []
            shots = "" if wants_text else f", {result['shots']} shots"
            yield Figure(
                "Language model" if wants_text else "Tasks",
                f"{result['task']}, {model}{shots}",
                words(name),
                estimate["value"],
                estimate.get("stderr"),
                tuple(beside),
            )


def by_task(figures: Iterable[Figure]) -> list[Figure]:
    """Figures of the same task next to each other, tasks in the order in which they first came."""
    found = list(figures)
    tasks = list(dict.fromkeys(figure.what.partition(",")[0] for figure in found))
    return sorted(found, key=lambda figure: tasks.index(figure.what.partition(",")[0]))


def baseline_figures(runs: Iterable[RunRecord]) -> Iterator[Figure]:
    """The classical networks on rows they never saw, beside the simplest answer."""
    for run in runs:
        metrics = run.results.get("test") or run.results.get("validation") or {}
        # A language model finds symbols too, but is measured in bits.
        name = "bits_per_byte" if "bits_per_byte" in metrics else primary(metrics)
        if run.kind != "baseline" or name is None:
            continue
        references = run.results.get("references") or [run.results.get("reference") or {}]
        beside = tuple((str(found.get("name", "naive")), found[name]) for found in references if name in found)
        network = str(run.results.get("network", run.name)).partition(" ")[0]
        yield Figure("Baselines", f"{network} on {run.results.get('data')}", words(name), metrics[name], beside=beside)


def primary(metrics: dict[str, Any]) -> str | None:
    """The metric that stands for a result."""
    return next((name for name in PRIMARY if name in metrics), None)


def model_name(model: str) -> str:
    """What to call a model by its folder: the run's name where it is the result of a run."""
    path = PurePath(model)
    return path.parent.name if path.name == "model" and path.parent.name else path.name


def words(name: str) -> str:
    """`bits_per_byte` as people write it."""
    return name.replace("_", " ")


def format_value(value: float) -> str:
    """A value with as many digits as one reads."""
    if abs(value) >= 100:
        return f"{value:,.1f}"
    return f"{value:.3f}" if abs(value) >= 0.1 or value == 0 else f"{value:.4f}"


def format_beside(figure: Figure) -> str:
    """What a figure stands beside, on one line."""
    return ", ".join(f"{name} {format_value(value)}" for name, value in figure.beside)
