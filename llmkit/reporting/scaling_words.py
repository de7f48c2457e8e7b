"""A ladder of `llmkit scale` in words, from scaling.json alone: its law, its doubts, what it predicts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

MEASURES = {"nats_per_token": "loss in nats per token", "loss": "loss in nats", "rmse": "RMSE"}


class Dial(NamedTuple):
    """What a ladder turns, in words."""

    name: str
    """In the plural."""
    symbols: tuple[str, str]
    """Its letter, and that of its exponent."""
    counts: str


DIALS = {
    "parameters": Dial("parameters", ("N", "alpha"), "N counts all parameters, embeddings included"),
    "parameters_without_embeddings": Dial(
        "parameters without embeddings", ("N", "alpha"), "N counts parameters without embeddings"
    ),
    "width": Dial("widths", ("W", "alpha"), "W is the width: units or channels"),
    "tokens": Dial("tokens", ("D", "beta"), "D counts tokens"),
}


def tell(document: dict[str, Any]) -> Iterator[str]:
    """The law, its doubts, what it predicts, and what became of that."""
    yield f"measured: validation {MEASURES[document['measure']]}; {describe_dials(document)}"
    if document["law"] is not None:
        yield describe_law(document["law"])
    if not document["is_supported"]:
        yield "these points do not support a law:"
        yield from (f"  {doubt}" for doubt in document["doubts"])
    predicted = document["prediction"]
    if predicted is not None and document["is_supported"]:
        far = "" if predicted["is_within_reach"] else "; that is further from this ladder than a law should be asked"
        yield f"next, {predicted['name']}: loss {describe_interval(predicted)}{far}"
    check = document["check"]
    if check is not None:
        place = "inside" if check["is_inside"] else "outside"
        yield (
            f"trained, it came to {check['loss']:.4f}: the prediction is {100 * abs(check['error_share']):.2f}% too "
            f"{'high' if check['error'] > 0 else 'low'}, and the loss {place} its interval"
        )
    for optimum in document["optima"]:
        best = f"{optimum['parameters']:,} {DIALS[document['dials'][0]].name} on {optimum['tokens']:,} tokens"
        if optimum["is_within_reach"]:
            yield f"best for {optimum['flops']:.2g} FLOPs: {best}, loss {describe_interval(optimum)}"
        else:
            yield f"for {optimum['flops']:.2g} FLOPs the law says {best}: too far from this ladder to be believed"
    if document["budgets"] and len(document["dials"]) < 2:
        yield "the best size for a budget takes a law of both: three sizes and three amounts of tokens, or more"


def describe_dials(document: dict[str, Any]) -> str:
    """What the law is a law of."""
    told = [DIALS[dial].counts for dial in document["dials"]]
    return ", ".join([*told, *([document["note"]] if document["note"] else [])])


def describe_law(law: dict[str, Any]) -> str:
    """A law as a formula, with the intervals of what counts."""
    terms, intervals = [], ["E {} to {}".format(*map(rounded, law["floor_interval"]))]
    letters = []
    for term in law["terms"]:
        letter, exponent = DIALS[term["dial"]].symbols
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
