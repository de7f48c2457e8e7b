"""What a ladder of `llmkit scale` says: its models as points, the law through them, and what it predicts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmkit.evaluation.scaling_law import Fit, LossPoint

Results = Sequence[dict[str, Any]]

CURVE_POINTS = 48
BEYOND = 1.3
"""How far behind the predicted model the curves of a plot go, as a factor."""


def describe(
    results: Results, following: dict[str, Any], *, size_dial: str, budgets: Sequence[float]
) -> dict[str, Any]:
    """The law of a ladder, or why there is none; the next model's loss; the best model for some budgets.

    Args:
        results: Of the rungs, as `ladder.result_of` gives them.
        following: What is known of the model that comes next.
        size_dial: What counts as the size: parameters, parameters_without_embeddings or width.
        budgets: FLOPs.
    """
    from llmkit.evaluation.scaling_law import doubts_about, fit_law, why_no_law
    from llmkit.reporting.scaling_words import DIALS

    chosen, dials, note = choose_points(results, size_dial)
    points, names = points_of(chosen, dials), [DIALS[dial].name for dial in dials]
    reasons = why_no_law(points, names)
    document: dict[str, Any] = {"dials": dials, "note": note, "doubts": reasons, "is_supported": False, "law": None}
    document["budgets"] = list(budgets)
    document |= {"prediction": None, "optima": [], "curves": curves_of(None, chosen, following, dials)}
    if reasons:
        return document
    fit = fit_law(points, names)
    settings = [following[dial] for dial in dials]
    doubts = doubts_about(fit, settings)
    # A law that the points do not support may ask for anything.
    asked = budgets if len(dials) == 2 and not doubts else ()
    return document | {
        "doubts": doubts,
        "is_supported": not doubts,
        "law": law_to_json(fit, dials),
        "residuals": {r["name"]: fit.law.loss(p.dials) for r, p in zip(chosen, points, strict=True)},
        "prediction": {**following, **fit.predict(settings)._asdict(), "is_within_reach": fit.reaches(settings)},
        "optima": [find_optimum(fit, budget, chosen) for budget in asked],
        "curves": curves_of(fit, chosen, following, dials),
    }


def choose_points(results: Results, size_dial: str) -> tuple[list[dict[str, Any]], list[str], str]:
    """The models that the law is fitted to, its dials, and what stands still or goes along.

    A dial with two settings only says nothing about its exponent: of such a ladder the models with the most tokens are
    taken, or those of the largest size.
    """
    sizes, amounts = (list(dict.fromkeys(str(result.get(key)) for result in results)) for key in ("size", "amount"))
    if size_dial == "width":
        return list(results), ["width"], ""
    if len(amounts) == 1:
        return list(results), [size_dial], along(amounts[0])
    if len(sizes) == 1:
        return list(results), ["tokens"], f"at {sizes[0]} parameters"
    if len({result["tokens"] for result in results}) < 3:
        last = max(results, key=lambda result: result["tokens"])["amount"]
        return [r for r in results if r["amount"] == last], [size_dial], f"{along(last)}; two amounts tell no exponent"
    if len(sizes) < 3:
        last = max(results, key=lambda result: result["parameters"])["size"]
        return (
            [r for r in results if r["size"] == last],
            ["tokens"],
            f"at {last} parameters; two sizes tell no exponent",
        )
    return list(results), [size_dial, "tokens"], ""


def along(amount: str) -> str:
    """`20x` or `8m` in words."""
    return f"{amount.removesuffix('x')} tokens per parameter" if amount.endswith("x") else f"at {amount} tokens"


def points_of(results: Results, dials: Sequence[str]) -> list[LossPoint]:
    """Settings and losses."""
    from llmkit.evaluation.scaling_law import LossPoint

    return [LossPoint(tuple(float(result[dial]) for dial in dials), result["loss"]) for result in results]


def law_to_json(fit: Fit, dials: Sequence[str]) -> dict[str, Any]:
    """A law with its intervals."""
    return {
        "floor": fit.law.floor,
        "floor_interval": fit.floor_interval(),
        "terms": [
            {"dial": dial, "coefficient": c, "exponent": e, "exponent_interval": fit.exponent_interval(number)}
            for number, (dial, c, e) in enumerate(zip(dials, fit.law.coefficients, fit.law.exponents, strict=True))
        ],
        "noise": fit.noise,
    }


def find_optimum(fit: Fit, flops: float, results: Results) -> dict[str, Any]:
    """The size and the tokens with the lowest loss for a budget, and whether the law may speak of them."""
    from llmkit.evaluation.scaling_law import cheapest

    largest = max(results, key=lambda result: result["flops"])
    size = next(point.dials[0] for point, result in zip(fit.points, results, strict=True) if result is largest)
    cost = largest["flops"] / (size * largest["tokens"])
    parameters, tokens = cheapest(fit.law, flops, cost=cost)
    found = fit.predict((parameters, tokens))
    return {
        "flops": flops,
        "parameters": round(parameters),
        "tokens": round(tokens),
        **found._asdict(),
        "is_within_reach": fit.reaches((parameters, tokens)),
    }


def curves_of(
    fit: Fit | None, results: Results, following: dict[str, Any], dials: Sequence[str]
) -> list[dict[str, Any]]:
    """For a plot: the models of each amount of tokens with the law through them and its band."""
    import numpy as np

    groups: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        name = f"{result['amount']} tokens" if len(dials) == 2 else "models"
        groups.setdefault(name, []).append(result)
    curves = []
    for name, members in groups.items():
        ordered = sorted(members, key=lambda result: result[dials[0]])
        xs, line, band = [result[dials[0]] for result in ordered], [], []
        for x in np.geomspace(xs[0], BEYOND * following[dials[0]], CURVE_POINTS).tolist():
            settings = [x, *([tokens_at(x, ordered, dials[0])] if len(dials) == 2 else [])]
            if fit is not None:
                line.append((x, fit.law.loss(settings)))
                band.append((x, *fit.band(settings)))
        points = [(result[dials[0]], result["loss"]) for result in ordered]
        curves.append({"name": name, "points": points, "law": line, "band": band})
    return curves


def tokens_at(size: float, results: Results, dial: str) -> float:
    """The tokens of a size that lies between or behind those of the ladder: on the line through the nearest two."""
    import numpy as np

    sizes, tokens = (np.log([result[key] for result in results]) for key in (dial, "tokens"))
    if len(results) == 1:
        return float(np.exp(tokens[0]))
    place = int(np.clip(np.searchsorted(sizes, np.log(size)), 1, len(sizes) - 1))
    slope = (tokens[place] - tokens[place - 1]) / (sizes[place] - sizes[place - 1])
    return float(np.exp(tokens[place] + slope * (np.log(size) - sizes[place])))
