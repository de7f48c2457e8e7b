"""What `llmkit scale` tells: the plan, the table of models, the law in words, the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmkit.commands.ladder import Base, Rung, is_finished
from llmkit.commands.ladder_plan import LadderPlan
from llmkit.commands.terminal import write_table, write_text
from llmkit.console import format_table, say, warn


def show_plan(plan: LadderPlan, base: Base, *, has_check: bool) -> None:
    """What will be trained, with what is finished already."""
    rungs = [*plan.rungs, plan.following]
    headers, keys = ["model", "state"], [key for key in PLANNED if key in rungs[0].about]
    rows = [[rung.name, state_of(rung, plan, base, has_check), *cells(rung.about, keys)] for rung in rungs]
    say(format_table([*headers, *(PLANNED[key] for key in keys)], rows))
    say(plan.rule)
    trained = [*plan.rungs, *([plan.following] if has_check else [])]
    total = sum(rung.about.get("flops", 0) for rung in trained)
    if total:
        say(f"{len(trained)} models, {total:.3g} FLOPs together")


PLANNED = {
    "width": "width",
    "parameters": "parameters",
    "parameters_without_embeddings": "without embeddings",
    "tokens": "tokens",
    "epochs": "epochs",
    "flops": "FLOPs",
    "lr": "lr",
    "batch_tokens": "batch",
    "steps": "steps",
}
"""What is known of a model before it is trained, and the header of its column."""


def state_of(rung: Rung, plan: LadderPlan, base: Base, has_check: bool) -> str:
    """Whether a model is trained, will be, or is predicted alone."""
    if is_finished(rung, base):
        return "trained"
    return "predicted" if rung is plan.following and not has_check else "to check" if rung is plan.following else ""


def cells(about: dict[str, Any], keys: Sequence[str]) -> list[Any]:
    """The figures of a model as they are read."""
    found = []
    for key in keys:
        value = about.get(key)
        found.append(f"{value:.2e}" if key == "flops" and value else f"{value:,}" if isinstance(value, int) else value)
    return found


def show_document(document: dict[str, Any]) -> None:
    """The table of models beside the law, and the law in words."""
    from llmkit.reporting.scaling_words import tell

    keys = [key for key in PLANNED if key in document["rungs"][0]]
    rows = []
    residuals = document.get("residuals", {})
    for result in document["rungs"]:
        law = residuals.get(result["name"])
        off = None if law is None else f"{100 * (result['loss'] / law - 1):+.2f}%"
        rows.append([result["name"], *cells(result, keys), f"{result['loss']:.4f}", fixed(law), off])
    headers = ["model", *(PLANNED[key] for key in keys), "loss", "law", "off"]
    write_table(headers, rows, spare=("epochs", "steps", "batch", "lr"))
    write_text("")
    for line in tell(document):
        write_text(line)


def fixed(value: float | None) -> str | None:
    """A loss with four decimals."""
    return None if value is None else f"{value:.4f}"


def write_pictures(document: dict[str, Any], folder: Path) -> None:
    """The page with its drawing, and the same as PNG where matplotlib is installed."""
    from llmkit.files import write_file
    from llmkit.reporting.scaling import render_scaling

    write_file(folder / "scaling.html", render_scaling(document))
    if find_spec("matplotlib") is None:
        warn("there is no scaling.png: pip install 'llmkit[scale]' draws it; scaling.html has the picture")
        return
    from llmkit.reporting.scaling_png import draw_scaling_png

    write_file(folder / "scaling.png", draw_scaling_png(document))
