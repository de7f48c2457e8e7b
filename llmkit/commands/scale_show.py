"""What `llmkit scale` tells: the plan, the table of models, the law in words, the pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llmkit.commands.ladder import Base, Rung, is_finished
from llmkit.commands.ladder_plan import Plan
from llmkit.commands.tables import write_table, write_text
from llmkit.console import format_table, say, warn

MEASURES = {
    "nats_per_token": "validation loss in nats per token",
    "loss": "validation loss in nats",
    "rmse": "validation RMSE",
}
SYMBOLS = {
    "parameters": ("N", "alpha"),
    "parameters without embeddings": ("N", "alpha"),
    "widths": ("W", "alpha"),
    "tokens": ("D", "beta"),
}
"""The letters of a dial and of its exponent."""


def show_plan(plan: Plan, base: Base, *, has_check: bool) -> None:
    """What will be trained, with what is finished already."""
    rungs = [*plan.rungs, plan.following]
    headers, keys = ["model", "state"], [key for key in PLANNED if key in rungs[0].about]
    rows = [[rung.name, state_of(rung, plan, base, has_check), *cells(rung.about, keys)] for rung in rungs]
    say(format_table([*headers, *(PLANNED[key] for key in keys)], rows))
    say(f"{plan.rule}")
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


def state_of(rung: Rung, plan: Plan, base: Base, has_check: bool) -> str:
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


def tell(document: dict[str, Any]) -> Iterator[str]:
    """The law, its doubts, what it predicts, and what became of that."""
    yield f"loss: {MEASURES[document['measure']]}; {describe_dials(document)}"
    if document["law"] is not None:
        yield describe_law(document["law"])
    if not document["is_supported"]:
        yield "these points do not support a law:"
        yield from (f"  {doubt}" for doubt in document["doubts"])
    predicted = document["prediction"]
    if predicted is not None and document["is_supported"]:
        yield f"next, {predicted['name']}: loss {describe_interval(predicted)}"
    check = document["check"]
    if check is not None:
        place = "inside" if check["is_inside"] else "outside"
        yield (
            f"trained, it came to {check['loss']:.4f}: the prediction is {100 * abs(check['error_share']):.2f}% too "
            f"{'high' if check['error'] > 0 else 'low'}, and the loss {place} its interval"
        )
    for optimum in document["optima"] if document["is_supported"] else ():
        best = f"{optimum['parameters']:,} parameters on {optimum['tokens']:,} tokens"
        if optimum["is_within_reach"]:
            yield f"best for {optimum['flops']:.2g} FLOPs: {best}, loss {describe_interval(optimum)}"
        else:
            yield f"for {optimum['flops']:.2g} FLOPs the law says {best}: too far from this ladder to be believed"
    if document["budgets"] and not document["optima"]:
        yield "the best size for a budget takes a law of both: three sizes and three amounts of tokens, or more"


def describe_dials(document: dict[str, Any]) -> str:
    """What the law is a law of."""
    names = {
        "parameters": "N counts all parameters, embeddings included",
        "parameters_without_embeddings": "N counts parameters without embeddings",
        "width": "W is the width: units or channels",
        "tokens": "D counts tokens",
    }
    told = [names[dial] for dial in document["dials"]]
    return ", ".join([*told, *([document["note"]] if document["note"] else [])])


def describe_law(law: dict[str, Any]) -> str:
    """A law as a formula, with the intervals of what counts."""
    terms, intervals = [], ["E {} to {}".format(*map(rounded, law["floor_interval"]))]
    letters = []
    for term in law["terms"]:
        letter, exponent = SYMBOLS[term["dial"]]
        letters.append(letter)
        terms.append(f" + {term['coefficient']:.4g} / {letter}^{term['exponent']:.3f}")
        intervals.append("{} {:.3g} to {:.3g}".format(exponent, *term["exponent_interval"]))
    formula = f"L({', '.join(letters)}) = {rounded(law['floor'])}{''.join(terms)}"
    return f"{formula}   (95%: {', '.join(intervals)}; models lie off it by {100 * law['noise']:.2f}%)"


def rounded(floor: float) -> str:
    """A floor as it is read: one that is nothing is 0."""
    return "0" if floor < 1e-3 else f"{floor:.4g}"


def describe_interval(found: dict[str, Any]) -> str:
    """A loss with its interval."""
    return f"{found['loss']:.4f} ({found['low']:.4f} to {found['high']:.4f})"


def write_pictures(document: dict[str, Any], folder: Path) -> None:
    """The page with its drawing, and the same as PNG where matplotlib is installed."""
    from llmkit.files import write_file
    from llmkit.reporting.scaling import render_scaling

    rows = [
        [result["name"], result["loss"], document.get("residuals", {}).get(result["name"]), result.get("seconds")]
        for result in document["rungs"]
    ]
    write_file(folder / "scaling.html", render_scaling(document, lines=list(tell(document)), rows=rows))
    if find_spec("matplotlib") is None:
        warn("there is no scaling.png: pip install 'llmkit[scale]' draws it; scaling.html has the picture")
        return
    from llmkit.reporting.scaling_png import draw_scaling_png

    write_file(folder / "scaling.png", draw_scaling_png(document))
