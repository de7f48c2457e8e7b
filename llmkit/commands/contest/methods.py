"""The methods that learn from the rows alone: what needs no network, and the classical networks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.commands.contest.rows import Contest, Part
from llmkit.commands.contest.settings import Job, Method
from llmkit.errors import DataError, StoppedError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from numpy.typing import NDArray
    from torch import Tensor

    from llmkit.commands.baseline_results import Experiment
    from llmkit.data.labelled import LabelledData, TensorRows

AGAIN = "run the same command again to continue"


@dataclass(frozen=True)
class Outcome:
    """What a method made of the rows.

    Attributes:
        test: Probabilities (N, K) of the test rows.
        validation: Of the rows that are held out (M, K).
        examples: Labelled rows that it used.
        parameters: Numbers that were trained.
        seconds: Of training.
        milliseconds: For each test row, answered in batches; None where too few were answered at once to tell.
    """

    test: NDArray[Any]
    validation: NDArray[Any]
    examples: int
    parameters: int = 0
    seconds: float = 0.0
    milliseconds: float | None = None


def check_classes(contest: Contest) -> None:
    """Raise where there is nothing to learn to tell apart.

    Raises:
        DataError: Each row has choices of its own, or the training rows are all of one class.
    """
    if not contest.labels:
        raise DataError("each row has choices of its own, and a classifier needs the same classes for all rows")
    if len(set(contest.parts["train"].answers)) < 2:
        raise DataError("all rows to learn from are of one class")


def run_reference(method: Method, contest: Contest, job: Job, folder: Path) -> Outcome:
    """The most frequent class, or logistic regression."""
    from llmkit.data.words import split_words
    from llmkit.evaluation.references import fit_references, most_frequent_class

    if not contest.labels:
        raise DataError("each row has choices of its own, and no class is the most frequent one")
    # Texts are read as they were written; their words' ids are for networks.
    labelled = encode(contest, vocab_size=2, max_words=1)
    training, rows = flat(labelled.splits["train"]), flat(both(labelled))
    size, count = labelled.num_outputs, len(labelled.splits["test"])
    if method.name == "majority":
        found = most_frequent_class(training.targets, len(rows), size)
    else:
        check_classes(contest)
        if find_spec("sklearn") is None:
            raise DataError("scikit-learn is not installed", fix="pip install 'llmkit[baseline]'")
        form = "text" if contest.form == "text" else "table"
        *_, found = fit_references(form, training, rows, num_outputs=size, words_of=split_words)
    return Outcome(
        in_order(found.outputs[:count], labelled, contest),
        in_order(found.outputs[count:], labelled, contest),
        examples=len(training),
        parameters=found.parameters,
        seconds=found.seconds,
        milliseconds=1000 * found.predict_seconds / len(rows),
    )


def both(labelled: LabelledData) -> TensorRows:
    """The test rows, and behind them those that are held out."""
    from dataclasses import replace

    import torch

    test, held = labelled.splits["test"], labelled.splits["validation"]
    inputs, targets = torch.cat([test.inputs, held.inputs]), torch.cat([test.targets, held.targets])
    texts = None if test.texts is None else [*test.texts, *(held.texts or [])]
    return replace(test, inputs=inputs, targets=targets, lengths=None, texts=texts)


def run_network(method: Method, contest: Contest, job: Job, folder: Path) -> Outcome:
    """An MLP, a CNN or an RNN, trained as `llmkit baseline` trains it; one that was stopped goes on."""
    from llmkit.commands.baseline import use_one_thread
    from llmkit.models.baselines import count_parameters, predict

    check_classes(contest)
    with own_threads():
        use_one_thread()
        experiment = build(method, contest)
        seconds = train_network(experiment, folder)
        splits, outputs = experiment.labelled.splits, {}
        milliseconds = 0.0
        for split in ("validation", "test"):
            begin = time.perf_counter()
            if len(splits[split]):
                outputs[split] = predict(experiment.model, splits[split]).double().log_softmax(1)
            milliseconds = 1000 * (time.perf_counter() - begin) / max(len(splits[split]), 1)
    return Outcome(
        in_order(outputs.get("test"), experiment.labelled, contest),
        in_order(outputs.get("validation"), experiment.labelled, contest),
        # The rows that are held out choose when to stop: their labels are used too.
        examples=len(splits["train"]) + len(splits["validation"]),
        parameters=count_parameters(experiment.model),
        seconds=seconds,
        milliseconds=milliseconds,
    )


def build(method: Method, contest: Contest) -> Experiment:
    """The rows as tensors, and a network for them.

    Raises:
        RecipeError: This kind of network is not made for this form of rows.
    """
    from llmkit.commands.baseline import spec_of
    from llmkit.commands.baseline_results import Experiment
    from llmkit.models.baselines import build_baseline
    from llmkit.recipe.schema import BaselineRecipe

    settings = method.recipe
    assert isinstance(settings, BaselineRecipe)
    labelled = encode(contest, vocab_size=settings.model.vocab_size, max_words=settings.train.seq_len)
    spec = spec_of(labelled)
    return Experiment(settings, labelled, spec, build_baseline(settings.model, spec, seed=settings.train.seed))


def train_network(experiment: Experiment, folder: Path) -> float:
    """Train a network in a run of its own; the seconds that took.

    Raises:
        StoppedError: It was stopped, with a checkpoint.
    """
    from llmkit.commands.baseline import train_baseline
    from llmkit.models.baselines import load_weights
    from llmkit.training.run import open_run

    accelerator, inputs = begin_job(experiment.settings.train), {"data": experiment.labelled.content_hash}
    with open_run(folder, experiment.settings, accelerator, inputs=inputs) as run:
        summary = train_baseline(experiment, run, accelerator, looks_inside=False)
    if summary.status == "stopped":
        raise StoppedError(f"stopped after step {summary.step} with a checkpoint", where=str(folder), fix=AGAIN)
    load_weights(experiment.model, summary.model)
    return summary.seconds


def begin_job(config: Any, *, is_ragged: bool = False) -> Accelerator:
    """The Accelerator of a training; each method has its own arithmetic, and Accelerate keeps one for a process."""
    from accelerate.state import AcceleratorState

    from llmkit.training.job import start_job

    AcceleratorState._reset_state(reset_partial_state=True)
    return start_job(config, is_ragged=is_ragged)


@contextmanager
def own_threads() -> Iterator[None]:
    """Within the block, the number of threads may be changed."""
    import torch

    before = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(before)


def encode(contest: Contest, *, vocab_size: int, max_words: int) -> LabelledData:
    """The rows as tensors; texts by the words of the training rows alone, classes by their numbers."""
    from dataclasses import replace

    from llmkit.data.labelled import encode_rows
    from llmkit.data.table import Table
    from llmkit.recipe.schema import BaselineData

    if contest.labelled is not None:
        import torch

        splits = {
            name: contest.labelled.splits[name].part(torch.tensor(part.numbers, dtype=torch.int64))
            for name, part in contest.parts.items()
        }
        return replace(contest.labelled, splits=splits)
    rows = [row for part in contest.parts.values() for row in rows_of(part)]
    splits_of_rows = [name for name, part in contest.parts.items() for _ in part.ids]
    table = Table(rows, ["text", "label"], splits_of_rows, target="label", texts=("text",))
    section = BaselineData(source=contest.source, task="classification", validation=0.0, test=0.0)
    return encode_rows(table, section, vocab_size=vocab_size, max_words=max_words)


def rows_of(part: Part) -> Iterator[dict[str, Any]]:
    """Texts with the numbers of their classes."""
    for text, answer in zip(part.texts or [], part.answers, strict=True):
        yield {"text": text, "label": str(answer)}


def flat(rows: TensorRows) -> TensorRows:
    """Rows as logistic regression reads them: pictures as one long row of numbers."""
    from dataclasses import replace

    if rows.inputs.ndim < 3:
        return rows
    inputs = rows.batch(range(len(rows)))["inputs"].float().flatten(1)
    return replace(rows, inputs=inputs, scaling=None)


def in_order(outputs: Tensor | None, labelled: LabelledData, contest: Contest) -> NDArray[Any]:
    """Probabilities (N, K) in the order of the contest's labels; a class that no row has gets none."""
    import numpy as np

    size = len(contest.labels)
    if outputs is None:
        return np.zeros((0, size))
    chances = outputs.double().softmax(1).numpy()
    if contest.labelled is not None:
        return np.asarray(chances)
    found = np.zeros((len(chances), size))
    found[:, class_places(labelled.classes)] = chances
    return found


def class_places(names: Sequence[str]) -> list[int]:
    """Where the classes of encoded texts stand among the labels."""
    return [int(name) for name in names]
