"""`llmkit compare`: one task, one split, every method, one table."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from llmkit.commands.contest.curve import Curve, plan_curve, trace
from llmkit.commands.contest.rows import Contest, Limits
from llmkit.commands.contest.run import run_cascade, run_methods
from llmkit.commands.contest.settings import (
    CASCADE,
    METHODS,
    Asked,
    Job,
    data_section,
    make_method,
    parse_methods,
    tell_unused,
)
from llmkit.commands.contest.sources import open_contest
from llmkit.commands.contest.store import claim_folder, held_alone
from llmkit.commands.contest.view import describe_contest, document_of, show_document
from llmkit.commands.options import AsJson
from llmkit.commands.tasks import Flags
from llmkit.console import say, write_json
from llmkit.errors import UsageError

DOCUMENT = "comparison.json"
PAGE = "comparison.html"


def compare(
    task: Annotated[
        str,
        typer.Argument(
            metavar="TASK|FILE",
            help="A task of `llmkit evaluate --list`, a YAML task file, labelled rows, pictures or a table.",
            show_default=False,
        ),
    ],
    model: Annotated[
        str | None, typer.Option(help="The language model: folder, adapter folder or hub name.", show_default=False)
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help=f"Of {','.join(METHODS)}. [default: all]", show_default=False),
    ] = None,
    shots: Annotated[int, typer.Option(min=1, help="Solved examples that few-shot shows the model.")] = 4,
    curve: Annotated[
        str | None,
        typer.Option(
            metavar="N,N,...,all",
            help="Also with so many labelled examples: 0,1,2,4,8,all; after ... numbers double.",
            show_default=False,
        ),
    ] = None,
    curve_methods: Annotated[
        str | None,
        typer.Option(metavar="NAME,NAME", help="With --curve: of these methods alone.", show_default=False),
    ] = None,
    draws: Annotated[int, typer.Option(min=1, help="With --curve: draw the examples so many times.")] = 3,
    calibrate: Annotated[
        bool, typer.Option("--calibrate", help="zero-shot, few-shot: divide out what the prompt alone leans to.")
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option(help="File or folder with the rows of a built-in task; hf:NAME.", show_default=False),
    ] = None,
    train: Annotated[Path | None, typer.Option(help="Rows to learn from.", show_default=False)] = None,
    question_column: Annotated[str | None, typer.Option(help="Column of the text.", show_default=False)] = None,
    answer_column: Annotated[str | None, typer.Option(help="Column of the label.", show_default=False)] = None,
    prompt: Annotated[
        str | None, typer.Option(help='How the model is asked, as in "Q: {question}\\nA:".', show_default=False)
    ] = None,
    limit_train: Annotated[
        int | None, typer.Option(min=2, help="Learn from so many labelled rows alone.", show_default=False)
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Test the first so many rows.", show_default=False)] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="METHOD.KEY=VALUE",
            help="Change a setting: lora.train.steps=100, cnn.model.hidden_size=96, data.encoding=latin-1.",
            show_default=False,
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Draws examples, initial weights and intervals.")] = 0,
    dtype: Annotated[
        Literal["auto", "fp32", "bf16"],
        typer.Option(help="In which language models answer: bf16 where the hardware has it."),
    ] = "auto",
    output: Annotated[
        Path | None,
        typer.Option(help="Folder of the comparison. [default: comparisons/TASK-HASH]", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train and test every method on the same rows: from the most frequent class to a tuned language model.

    \b
    Examples:
      llmkit compare python-docs-package --model run/model
      llmkit compare sst2 --data SST-2 --model smollm2/model --limit-train 1000 --limit 200
      llmkit compare reviews.csv --model run/model --methods tfidf,cnn,few-shot,cascade --shots 8
      llmkit compare reviews.csv --model run/model --methods tfidf,cnn,few-shot --curve 0,1,2,4,...,all
      llmkit compare digits --methods majority,tfidf,mlp,cnn

    All methods learn from the same rows and are tested on the same others. Rows without a test file are divided by a
    hash of their content, and a tenth of the training rows is held out in the same way. A language model's probability
    of a label is its likelihood among the labels. Differences are to the best method, with McNemar's exact test on the
    same items (of macro-F1 a paired randomisation test), corrected for the number of methods (Holm). Finished methods
    are kept: the same command goes on where it was stopped, and more methods may be added later.
    """
    from llmkit.training.signals import StopRequest

    check_process()
    asked = Asked(parse_methods(methods), model, shots, seed, dtype, calibrate, tuple(overrides or []))
    flags = Flags(question=question_column, answer=answer_column, prompt=prompt, train=train)
    limits = Limits(limit_train, limit, seed)
    tell_unused(asked)
    check_model(model)
    contest = open_contest(task, flags, data or [], data_section(asked.overrides), limits)
    check_calibrate(asked, contest)
    wanted = plan_curve(curve, curve_methods, draws, contest, asked)
    folder = output or Path("comparisons") / f"{plain(contest.name)}-{contest.content_hash[:8]}"
    with StopRequest() as stop:
        job = Job(asked, folder, stop, find_model(model, contest))
        for name in asked.methods:
            make_method(name, contest, job)  # a setting that is wrong is told before anything is trained
        claim_folder(folder, contest)
        with held_alone(folder):
            describe_contest(contest)
            document = hold(contest, job, wanted)
    finish(document, folder, as_json=as_json)


def check_process() -> None:
    """Raise under a launcher of several processes."""
    if os.environ.get("WORLD_SIZE", "1") != "1":
        fix = "start it without torchrun: each method times and measures one process"
        raise UsageError("methods are compared by one process", where="WORLD_SIZE", fix=fix)


def check_model(model: str | None) -> None:
    """Raise for what is no model, before anything is read or trained."""
    if model is not None:
        from llmkit.tokenizer import load_tokenizer

        load_tokenizer(model)


def check_calibrate(asked: Asked, contest: Contest) -> None:
    """Raise where there are no labels whose leaning could be divided out."""
    if asked.calibrate and not contest.labels:
        message = "each row has choices of its own, and only the same labels for all rows can be calibrated"
        raise UsageError(message, where="--calibrate", fix="leave it out")


def find_model(model: str | None, contest: Contest) -> str | None:
    """A hash of the language model, where one was named and can be of use."""
    if model is None or contest.task is None:
        return None
    from llmkit.models.vocabulary import content_hash

    return content_hash(model)


def hold(contest: Contest, job: Job, curve: Curve | None) -> dict[str, Any]:
    """Run all methods, and say what came out."""
    results = run_methods(contest, job)
    cascade = None
    if CASCADE in job.asked.methods:
        found, cascade = run_cascade(results, contest, job)
        results.append(found)
    traced = trace(results, contest, job, curve) if curve else None
    return document_of(results, contest, job, cascade=cascade, curve=traced, command=["llmkit", *sys.argv[1:]])


def finish(document: dict[str, Any], folder: Path, *, as_json: bool) -> None:
    """Write comparison.json and the page, and show the table."""
    import json

    from llmkit.files import write_file
    from llmkit.reporting.comparison import render_comparison

    write_file(folder / DOCUMENT, json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    write_file(folder / PAGE, render_comparison(document))
    write_json(document) if as_json else show_document(document)
    say(f"page: {folder / PAGE}")


def plain(name: str) -> str:
    """A name that a folder can have."""
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
