"""`llmkit run`: which runs there are, what is in one, and what tells several apart."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from llmkit.commands.options import AsJson
from llmkit.commands.replace import check_replaceable, is_picture
from llmkit.commands.report import excerpt
from llmkit.commands.run_verify import verify
from llmkit.commands.terminal import is_utf8, write_table, write_text
from llmkit.console import (
    for_terminal,
    format_seconds,
    has_colors,
    paint,
    say,
    terminal_width,
    warn,
    without_nan,
    write_json,
)
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from llmkit.reporting.collect import RunRecord
    from llmkit.reporting.curves import Panel

app = typer.Typer(
    name="run",
    help="Runs: list them, look into one, hold several side by side, check their checkpoints.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
)
app.command("verify")(verify)


@app.command("list")
def list_(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FOLDER", help="Where to look. [default: here]", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the runs below some folders: how far each is, its loss, and its state.

    \b
    Examples:
      llmkit run list
      llmkit run list runs old-runs
      llmkit run list --json | jq '.runs[] | select(.status == "failed")'

    States: running (a process holds it open), finished, stopped (with a checkpoint of its last step: the same command
    goes on there), failed (ended some other way: the same command goes on from its newest checkpoint), new, unreadable.
    """
    from llmkit.reporting.collect import read_run
    from llmkit.reporting.runs import describe_run, find_runs

    folders = folders or [Path()]
    for folder in folders:
        if not folder.is_dir():
            raise UsageError("there is no such folder", where=str(folder), fix="name a folder that holds runs")
    paths = {path.resolve(): path for folder in folders for path in find_runs(folder)}
    runs = sorted((describe_run(read_run(path, path)) for path in paths.values()), key=lambda run: run["changed"])
    if as_json:
        write_json(without_nan({"runs": runs}))
        return
    if runs:
        show_list(runs)
    else:
        say(f"there is no run below {', '.join(map(str, folders))}")
    for run in runs:
        for problem in run["problems"]:
            warn(for_terminal(f"{run['run']}: {problem}"))


def show_list(runs: Sequence[Mapping[str, Any]]) -> None:
    """The table of runs; where a terminal is narrow, what matters least is left out."""
    headers = ["run", "kind", "model", "status", "step", "loss", "validation", "measure", "time", "last change"]
    rows = [
        [
            run["run"],
            run["kind"],
            run["model"],
            run["status"],
            f"{run['step']}/{run['steps']}" if run["steps"] else str(run["step"]),
            run["loss"],
            *main_measure(run["validation"] or {}),
            None if run["seconds"] is None else format_seconds(run["seconds"]),
            run["changed"][:-3],
        ]
        for run in runs
    ]
    write_table(headers, rows, spare=("time", "kind", "last change", "measure", "model"))


def main_measure(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """The value that stands for a validation, and what it measures."""
    from llmkit.reporting.figures import format_value, primary, words

    name = primary(dict(metrics)) or next(iter(metrics), "")
    value = metrics.get(name)
    return (format_value(value), words(name)) if isinstance(value, int | float) else ("", "")


@app.command("show")
def show(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """Look into a run: recipe, plan, environment, figures, checkpoints, curves, samples.

    \b
    Examples:
      llmkit run show run
      llmkit run show run --json | jq .changed_fields

    Of the recipe, what is not at its default is shown; recipe.yaml in the run has all. Checkpoints are checked by the
    sizes of their files; `llmkit run verify` reads every byte.
    """
    from llmkit.recipe.load import flatten
    from llmkit.reporting.curves import panels_of
    from llmkit.reporting.runs import (
        changed_fields,
        describe_run,
        list_checkpoints,
        open_record,
    )

    run = open_record(folder)
    about = describe_run(run)
    checkpoints = list_checkpoints(folder)
    last = run.steps[-1] if run.steps else {}
    samples = [line for line in run.samples if line["step"] == run.samples[-1]["step"]]
    if as_json:
        parts = {"recipe": run.recipe, "changed_fields": changed_fields(run), "plan": run.plan}
        parts |= {"environment": run.environment, "metrics": last, "results": run.results}
        parts |= {"ends": run.ends, "forgotten": run.forgotten}
        write_json(without_nan({**about, **parts, "checkpoints": checkpoints, "samples": samples}))
        return
    show_headline(about)
    show_facts("recipe, where it is not at the defaults", changed_fields(run))
    show_facts("plan", flatten(run.plan))
    environment = run.environment
    if isinstance(environment.get("command"), list):
        environment = {**environment, "command": shlex.join(map(str, environment["command"]))}
    show_facts("environment", flatten(environment))
    show_facts("last step", last)
    show_facts("last validation", about["validation"] or {})
    show_facts("test", run.results.get("test") or {})
    show_after_tuning(run)
    if checkpoints:
        heading("checkpoints")
        write_table(["", "MB", "state"], [[c["name"], f"{c['bytes'] / 1e6:.1f}", c["state"]] for c in checkpoints])
    show_plots(panels_of({run.name: run}, by="step"))
    show_samples(samples)
    for problem in run.problems:
        warn(for_terminal(f"{folder}: {problem}"))


def show_after_tuning(run: RunRecord) -> None:
    """How many answers of a tuned model end, and what it could do before and after."""
    from llmkit.reporting.tuning import changes_of, ends_in_words

    ends = ends_in_words(run)
    show_facts("after tuning", {} if ends is None else {"answers that end": ends})
    changes = changes_of(run.forgotten)
    if changes:
        heading("tasks before tuning, and after")
        rows = [
            [c.task, c.metric, f"{c.before:.4f}", f"{c.after:.4f}", f"{c.difference:+.4f}", c.lost, c.gained]
            for c in changes
        ]
        write_table(["task", "metric", "before", "after", "change", "lost", "gained"], rows, spare=("gained", "lost"))


def show_headline(about: Mapping[str, Any]) -> None:
    """A run on one line."""
    steps = f"step {about['step']:,}" + (f" of {about['steps']:,}" if about["steps"] else "")
    parts = [
        f"{about['run']}: {about['kind'] or 'run'} of {about['model'] or 'an unknown model'}",
        about["status"],
        steps,
    ]
    parts += [] if about["seconds"] is None else [format_seconds(about["seconds"])]
    write_text(for_terminal(", ".join([*parts, f"last change {about['changed']}"])))


def show_facts(title: str, values: Mapping[str, Any]) -> None:
    """Names and values under a heading; nothing where there are none."""
    if values:
        heading(title)
        write_table(None, [[name, describe_value(value)] for name, value in values.items()])


def show_samples(samples: Sequence[Mapping[str, Any]]) -> None:
    """What the model wrote last."""
    if samples:
        heading(f"samples after step {samples[-1]['step']:,}")
    for sample in samples:
        prompt, text = (excerpt(for_terminal(str(sample.get(key, "")))) for key in ("prompt", "text"))
        write_text(f"  {prompt or '(no prompt)'}\n    > {text}")


@app.command("compare")
def compare(
    folders: Annotated[
        list[Path], typer.Argument(metavar="RUN", help="Folders of two runs or more.", show_default=False)
    ],
    by: Annotated[
        Literal["step", "tokens", "time"], typer.Option(help="What the x axis of the curves measures.")
    ] = "step",
    after: Annotated[
        float, typer.Option(help="Leave out what lies before this step (token, second): the ends show larger.")
    ] = 0.0,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Draw the curves into this .png or .svg file too.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Hold runs side by side: where their recipes differ, what they came to, their curves over each other.

    \b
    Examples:
      llmkit run compare runs/adamw runs/muon
      llmkit run compare runs/adamw runs/muon --by time --after 60
      llmkit run compare runs/* --output curves.png
      llmkit run compare runs/* --json | jq .recipe

    PNG pictures need matplotlib (`pip install 'llmkit[plot]'`); SVG pictures need nothing. An earlier picture
    that llmkit drew is replaced.
    """
    from llmkit.reporting.curves import panels_of
    from llmkit.reporting.runs import (
        environment_differences,
        named_records,
        recipe_differences,
        results_of,
    )

    check_compare(folders, output)
    runs = named_records(folders)
    panels = panels_of(runs, by=by, after=after)
    recipe = recipe_differences(runs)
    environment = environment_differences(runs)
    results = {name: results_of(run) for name, run in runs.items()}
    if output is not None:
        draw(panels, output)
    if as_json:
        curves = [describe_panel(panel) for panel in panels]
        document = {"runs": {name: str(run.path) for name, run in runs.items()}, "recipe": recipe}
        write_json(without_nan({**document, "environment": environment, "results": results, "curves": curves}))
    else:
        write_text(f"{len(runs)} runs: {for_terminal(', '.join(runs))}")
        show_side_by_side("recipe", recipe, list(runs))
        show_side_by_side("environment", environment, list(runs))
        show_side_by_side("results", by_measure(results), list(runs))
        show_plots(panels)
    for run in runs.values():
        for problem in [*run.problems, *([] if run.steps else ["has no metrics yet, and so no curve"])]:
            warn(for_terminal(f"{run.path}: {problem}"))
    if output is not None:
        say(f"picture: {output}")


def check_compare(folders: Sequence[Path], output: Path | None) -> None:
    """Raise for what cannot be done, before anything is read."""
    from importlib.util import find_spec

    if len(folders) < 2:
        raise UsageError(
            "one run has nothing to be held against", where="RUN", fix="name two, or see `llmkit run show`"
        )
    if output is None:
        return
    if output.suffix not in (".png", ".svg"):
        raise UsageError("pictures are drawn as .png or .svg", where=f"--output {output}", fix="name such a file")
    if output.suffix == ".png" and find_spec("matplotlib") is None:
        fix = "pip install 'llmkit[plot]', or name an .svg file, which needs nothing"
        raise UsageError("PNG pictures need matplotlib, which is not installed", where=f"--output {output}", fix=fix)
    check_replaceable(output, "--output", "picture", is_picture)


def draw(panels: list[Panel], output: Path) -> None:
    """Write the picture."""
    from llmkit.files import write_file

    if not panels:
        raise UsageError(
            "there is no curve to draw", where=f"--output {output}", fix="wait for a step, or lower --after"
        )
    if output.suffix == ".svg":
        from llmkit.reporting.curves import draw_svg

        write_file(output, draw_svg(panels))
    else:
        from llmkit.reporting.png import draw_png

        write_file(output, draw_png(panels))


def describe_panel(panel: Panel) -> dict[str, Any]:
    """A panel for --json; long lines are thinned to means."""
    from llmkit.reporting.plots import thin

    lines = {name: [list(point) for point in thin(points)] for name, points in panel.lines.items()}
    return {"title": panel.title, "x": panel.x_label, "lines": lines}


def by_measure(results: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Measure -> run -> value, as people read it."""
    from llmkit.recipe.load import flatten

    flat = {run: flatten(values) for run, values in results.items()}
    names = dict.fromkeys(key for values in flat.values() for key in values)
    table = {key: {run: values[key] for run, values in flat.items() if key in values} for key in names}
    if "seconds" in table:
        table["seconds"] = {run: format_seconds(seconds) for run, seconds in table["seconds"].items()}
    said = {key: key.replace("_", " ").replace(".", " ") for key in table} | {"seconds": "time"}
    return {said[key]: values for key, values in table.items()}


def show_side_by_side(title: str, table: Mapping[str, Mapping[str, Any]], names: Sequence[str]) -> None:
    """One line per field, one column per run."""
    heading(title)
    if not table:
        write_text("  no difference")
        return
    rows = [[key, *(describe_value(values[n]) if n in values else "" for n in names)] for key, values in table.items()]
    write_table(["", *names], rows)


def show_plots(panels: Sequence[Panel]) -> None:
    """Each panel as a text plot."""
    from llmkit.reporting.text_plot import plot_lines

    for panel in panels:
        heading(panel.title)
        text = plot_lines(
            panel.lines,
            width=terminal_width(),
            x_label=panel.x_label,
            y_label="",
            is_utf8=is_utf8(),
            has_colors=has_colors(sys.stdout),
        )
        write_text(text)


def describe_value(value: Any) -> str:
    """A value as people read it."""
    import json

    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "none"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.5g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def heading(text: str) -> None:
    """What stands above a part."""
    write_text(f"\n{paint(text, 'bold', stream=sys.stdout)}")
