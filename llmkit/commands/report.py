"""`llmkit report`: what runs, ladders and evaluations came to, as a table and as one page."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from llmkit.commands.options import AsJson
from llmkit.commands.replace import check_replaceable, is_page, is_picture
from llmkit.console import for_terminal, format_table, paint, say, write, write_json

if TYPE_CHECKING:
    from llmkit.reporting.collect import Answers, Collection, RunRecord
    from llmkit.reporting.figures import Figure

LONGEST_EXCERPT = 160
"""Characters of a sample or an answer that are shown in a terminal; the page has the whole."""

SHOWN_STEPS = 3


def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="Runs, or folders that hold runs and results.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option(help="Where to write the page. [default: report.html in the first folder]", show_default=False),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="Where to write the figures as one SVG picture too.", show_default=False)
    ] = None,
    title: Annotated[str, typer.Option(help="Headline of the page.")] = "What was trained, and what it can do",
    as_json: AsJson = False,
) -> None:
    """Put runs, ladders, evaluations and answers into one table and one page.

    \b
    Examples:
      llmkit report run
      llmkit report demo-run --title "A model of Python's documentation"
      llmkit report runs/small runs/large --output compared.html
      llmkit report demo-run --picture result.svg
      llmkit report run --json | jq .figures

    A folder is searched for runs (of pretrain, finetune, baseline), for ladders of scale, for results of evaluate and
    of compare, and for what generate, tokenizer evaluate and evaluate printed with --json, saved as NAME.json. Answers
    to the same prompts stand side by side. The page is one file that needs no network; an earlier page of the same
    name is replaced.
    """
    from llmkit.files import write_file
    from llmkit.reporting.collect import collect
    from llmkit.reporting.figures import figures_of
    from llmkit.reporting.page import render_page
    from llmkit.reporting.picture import draw_picture

    page = output or folders[0] / "report.html"
    check_replaceable(page, "--output", "page", is_page)
    if picture is not None:
        check_replaceable(picture, "--picture", "picture", is_picture)
    collection = collect(folders)
    write_file(page, render_page(collection, title=title, made=time.strftime("%Y-%m-%d %H:%M"), folder=page.parent))
    if picture is not None:
        write_file(picture, draw_picture(collection, title=title))
    figures = figures_of(collection)
    if as_json:
        write_json(
            {
                "output": str(page),
                "figures": [figure.to_json() for figure in figures],
                "ladders": [{"name": ladder.name, **ladder.document} for ladder in collection.ladders],
                "comparisons": [{"name": one.name, **one.document} for one in collection.comparisons],
            }
        )
    else:
        show_figures(figures)
        show_ladders(collection)
        show_comparisons(collection)
        show_texts(collection)
    say(f"page: {page}")


def show_figures(figures: list[Figure]) -> None:
    """The table of all figures."""
    from llmkit.reporting.figures import format_beside, format_value

    rows = [
        [figure.group, figure.what, figure.measure, format_value(figure.value), format_beside(figure)]
        for figure in figures
    ]
    groups = [row[0] for row in rows]
    for number in range(len(rows) - 1, 0, -1):
        if groups[number] == groups[number - 1]:
            rows[number][0] = ""
    write(format_table(["", "what", "measure", "value", "beside"], rows))


def show_ladders(collection: Collection) -> None:
    """The law of each ladder, in words."""
    from llmkit.reporting.scaling_words import tell

    for ladder in collection.ladders:
        write(f"\n{ladder.name}, {len(ladder.document['rungs'])} models:")
        for line in tell(ladder.document):
            write(f"  {line}")


def show_comparisons(collection: Collection) -> None:
    """The table of each comparison, the best method first, and what is to be said of some."""
    from llmkit.reporting.comparison import view_comparison

    for compared in collection.comparisons:
        view = view_comparison(compared.document)
        write(f"\n{compared.name}, {view.num_items:,} test rows of {for_terminal(view.task)}:")
        headers = ["method", view.metric, "95% from", "to", "labelled", "trained", "train s", "ms/item"]
        write(format_table(headers, [method_row(line) for line in view.lines]))
        for remark in view.remarks:
            write(f"  {for_terminal(remark)}")


def method_row(line: dict[str, Any]) -> list[str | None]:
    """A method of a comparison as a line of its table."""
    metric, milliseconds = line["metric"], line["milliseconds_per_item"]
    return [
        line["title"],
        *(None if metric[key] is None else f"{metric[key]:.3f}" for key in ("value", "low", "high")),
        f"{line['labelled_examples']:,}",
        f"{line['trained_parameters']:,}",
        f"{line['training_seconds']:.1f}",
        None if milliseconds is None else f"{milliseconds:.3g}",
    ]


def show_texts(collection: Collection) -> None:
    """Samples by step and answers side by side."""
    from llmkit.reporting.page import same_prompts

    for run in collection.runs:
        if run.kind == "pretrain":
            show_samples(run)
    for group in same_prompts(collection.answers):
        show_answers(group)


def show_samples(run: RunRecord) -> None:
    """What a model wrote after each prompt at a few steps."""
    from llmkit.reporting.page import samples_of
    from llmkit.reporting.plots import spread

    for prompt, samples in samples_of(run):
        write(f"\n{run.name}, after {prompt!r}:" if prompt else f"\n{run.name}, from the beginning of a document:")
        for sample in spread(samples, SHOWN_STEPS):
            write(f"  step {sample['step']:>6,}  {excerpt(prompt + sample['text'])}")


def show_answers(group: list[Answers]) -> None:
    """Questions, and what each model answered."""
    names = [given.name.rpartition("/")[2] for given in group]
    width = max(map(len, names))
    for completions in zip(*(given.completions for given in group), strict=True):
        write(f"\n{paint(completions[0]['prompt'], 'bold')}")
        for name, completion in zip(names, completions, strict=True):
            write(f"  {name.ljust(width)}  {excerpt(completion['text']) or '(nothing)'}")


def excerpt(text: str) -> str:
    """The beginning of a text on one line."""
    line = " ".join(text.split())
    return line if len(line) <= LONGEST_EXCERPT else line[: LONGEST_EXCERPT - 1] + "…"
