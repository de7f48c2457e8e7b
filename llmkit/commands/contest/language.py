"""The methods that begin with a language model: asked without examples or with a few, or tuned into a classifier."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.commands.contest.methods import AGAIN, Outcome, begin_job, check_classes
from llmkit.commands.contest.rows import Contest, Part
from llmkit.commands.contest.settings import Job, Method
from llmkit.console import Progress
from llmkit.errors import DataError, StoppedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from llmkit.commands.tuning import Tuning
    from llmkit.evaluation.evaluate import Subject
    from llmkit.evaluation.metrics import Item
    from llmkit.evaluation.task import Example, Task
    from llmkit.recipe.schema import FinetuneRecipe


def check_text(contest: Contest, job: Job) -> None:
    """Raise where there is no language model, or nothing that it could read.

    Raises:
        DataError: It says what is missing.
    """
    if contest.task is None:
        rows = "pictures" if contest.form == "image" else "rows of a table"
        raise DataError(f"these are {rows}, and a language model reads text")
    if job.model_hash is None:
        raise DataError("no language model was named", fix="add --model DIR")


@dataclass
class Asking:
    """A language model that is asked some rows, watched by a bar.

    `shown` are the places of the labelled rows that stood in prompts: the same few, or others for each question.
    """

    subject: Subject
    task: Task
    shots: int
    seed: int
    job: Job
    shown: set[str] = field(default_factory=set)

    def answer(self, part: Part) -> tuple[list[Item], float | None]:
        """The items of a split, and milliseconds for each that was asked now; None where all were known already.

        Raises:
            StoppedError: A signal came; what was answered is kept.
        """
        from llmkit.evaluation.answering import Work, answer
        from llmkit.evaluation.fewshot import ShotDrawer
        from llmkit.evaluation.prompts import text_of_example
        from llmkit.evaluation.subject import Setting

        examples = part.examples or []
        if not examples:
            return [], None
        pool = self.task.examples("train") if self.shots else []
        text_of = partial(text_of_example, self.task)
        drawer = ShotDrawer(pool, self.task.shots, num_shots=self.shots, seed=self.seed, text_of=text_of)

        def draw(question: Example) -> list[Example]:
            shots = drawer.draw(question)
            self.shown.update(shot.where for shot in shots)
            return shots

        label = f"{self.task.name}, {self.shots} shots" if self.shots else self.task.name
        with Progress(label, total=len(examples), unit="rows") as progress:

            def on_progress(done: int, total: int) -> None:
                progress.update(done - progress.done)
                check_stop(self.job)

            begin = time.perf_counter()
            known = len(self.subject.journal.known) if self.subject.journal else 0
            setting = Setting(shots=self.shots, seed=self.seed, calibrate=self.job.asked.calibrate)
            items = answer(Work(self.subject, self.task, examples, draw, setting, on_progress)).items
            seconds = time.perf_counter() - begin
        return items, None if known else 1000 * seconds / len(items)


def check_stop(job: Job) -> None:
    """Raise where a signal asked for an end.

    Raises:
        StoppedError: What is finished is kept.
    """
    if job.stop.name is not None:
        raise StoppedError("stopped; what is finished is kept", where=str(job.output), fix=AGAIN)


def run_asked(method: Method, contest: Contest, job: Job, folder: Path) -> Outcome:
    """The language model as it comes, with or without solved examples before each question."""
    from llmkit.commands.evaluation_job import load_subject
    from llmkit.evaluation.journal import Journal

    check_text(contest, job)
    assert contest.task is not None
    shots = job.asked.shots if method.name == "few-shot" else 0
    # Of fewer labelled examples, all.
    shots = min(shots, len(contest.parts["train"]))
    task = own_rows(contest.task, contest)
    found: dict[str, NDArray[Any]] = {}
    milliseconds, examples = None, 0
    subject = load_subject(str(job.asked.model), job.asked.dtype, None, tasks=[task])
    for split in ("test", "validation"):
        asking = Asking(replace(subject, journal=Journal(folder / split)), task, shots, method.seed, job)
        items, spent = asking.answer(contest.parts[split])
        found[split] = probabilities(items, contest.num_outputs, contest.metric)
        if split == "test":
            milliseconds, examples = spent, len(asking.shown)
    return Outcome(found["test"], found["validation"], examples=examples, milliseconds=milliseconds)


def own_rows(task: Task, contest: Contest) -> Task:
    """The task with the rows of the comparison; shots come from the training rows alone."""
    rows = {split: contest.parts[split].examples or [] for split in ("train", "test")}
    order = "balanced" if contest.labels else task.shots
    return replace(task, load=lambda split: rows[split], shots=order, labels=tuple(contest.labels))


def probabilities(items: Sequence[Item], size: int, metric: str) -> NDArray[Any]:
    """Softmax of that by which the metric chooses: (N, K).

    Those are log-likelihoods, calibrated where they were, or these per byte or token.
    """
    import numpy as np

    from llmkit.evaluation.calibration import log_softmax
    from llmkit.evaluation.metrics import rankings

    found = np.zeros((len(items), size))
    for row, item in enumerate(items):
        ways = rankings(item.choices)
        chosen_by = ways.get("accuracy_calibrated", ways.get(metric, ways["accuracy"]))
        found[row, : len(item.choices)] = np.exp(log_softmax(chosen_by))
    return found


def run_tuned(method: Method, contest: Contest, job: Job, folder: Path) -> Outcome:
    """A classifier on top of the language model, tuned as `llmkit finetune` with task classify does it."""
    from llmkit.commands.finetune import Planned, run_tuning
    from llmkit.commands.plan import plan_tuning
    from llmkit.recipe.schema import FinetuneRecipe
    from llmkit.training.run import RunOptions

    check_text(contest, job)
    check_classes(contest)
    settings = method.recipe
    assert isinstance(settings, FinetuneRecipe)
    accelerator = begin_job(settings.train, is_ragged=True)
    material = gather_rows(settings, contest)
    plan, effort = plan_tuning(settings, material, accelerator)
    planned = Planned(material, plan, effort, watched=[])
    run_tuning(settings, planned, folder, accelerator, options=RunOptions(), as_json=False)
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    used = len(material.train)
    del material, accelerator
    test, validation, milliseconds = classify(settings, contest, job, folder)
    return Outcome(
        test,
        validation,
        examples=used,
        parameters=plan["trained_parameters"],
        seconds=summary["seconds"],
        milliseconds=milliseconds,
    )


def gather_rows(settings: FinetuneRecipe, contest: Contest) -> Tuning:
    """The training rows, and the classifier with what is trained on them."""
    from llmkit.commands.classify import attach_head, loader
    from llmkit.commands.tuning import Tuning, load_base
    from llmkit.data.dialogue_set import Account, tell
    from llmkit.data.text_labels import NO_TEXT, LabelledText, TextRows, encode_labelled
    from llmkit.models.classify import class_loss_sum, save_classifier

    base, part = load_base(settings), contest.parts["train"]
    texts = [
        LabelledText(text, contest.labels[answer], where)
        for text, answer, where in zip(part.texts or [], part.answers, part.ids, strict=True)
    ]
    account = Account("train", num_read=len(texts))
    for empty in (text for text in texts if not text.text.strip()):
        account.drop(NO_TEXT, empty.where)
    texts = [text for text in texts if text.text.strip()]
    ids, classes = encode_labelled(
        texts, contest.labels, base.tokenizer, account, max_length=longest(settings, base.model), overlong="cut-right"
    )
    tell([account])
    rows = TextRows(ids, classes, is_flat=base.is_flat)
    model = attach_head(settings, base, contest.labels)
    return Tuning(
        model=model,
        tokenizer=base.tokenizer,
        train=rows,
        content_hash=rows.content_hash,
        loss_sum=partial(class_loss_sum, label_smoothing=settings.train.label_smoothing),
        validate=None,
        save=lambda folder, weights: save_classifier(model, base.tokenizer, folder, weights),
        load=loader(settings, model),
        accounts=[account],
        num_targets=len(rows),
        first_row=texts[0].text,
    )


def longest(settings: FinetuneRecipe, model: Any) -> int:
    """Most tokens of a text; longer ones lose their end, in training as in the test."""
    from llmkit.commands.tuning import longest_row

    return longest_row(settings, model)


def classify(
    settings: FinetuneRecipe, contest: Contest, job: Job, folder: Path
) -> tuple[NDArray[Any], NDArray[Any], float | None]:
    """Probabilities of the test rows and of those held out, by the classifier of a run; milliseconds per test row."""
    import numpy as np

    from llmkit.device import pick_device, pick_dtype
    from llmkit.models.classify import load_classifier, predict

    classifier = load_classifier(folder / "model")
    # The same arithmetic as that of a model that is asked.
    classifier.model.to(device=pick_device(), dtype=pick_dtype(job.asked.dtype, pick_device()))
    limit, found, spent = longest(settings, classifier.model), {}, 0.0
    for split in ("validation", "test"):
        texts = contest.parts[split].texts or []
        begin = time.perf_counter()
        found[split] = predict(classifier, texts, max_length=limit).double().numpy() if texts else np.zeros((0, 0))
        spent = 1000 * (time.perf_counter() - begin) / max(len(texts), 1)
    return found["test"], found["validation"].reshape(-1, len(contest.labels)), spent
