"""How loss falls with size and data: L(N, D) = E + A / N^alpha + B / D^beta, fitted to a ladder of trained models.

The fit is approach 3 of Hoffmann et al. 2022 (arXiv:2203.15556): the Huber loss between the logarithms of the law and
of the measured losses, minimised by L-BFGS from several starts. The law is written as a logsumexp, so that E, A and B
are positive by construction. A ladder that turned one dial alone is fitted with one term.

Shapes: K dials, n points, P = 1 + 2 K parameters (log E, then log A and alpha of each dial).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]

from llmkit.evaluation.statistics import middle

Array = NDArray[np.float64]

HUBER = 1e-3
"""Residuals of the logarithms count squared below this and linearly above: one run that went wrong bends no law."""
FIRST_EXPONENTS = (0.1, 0.35, 1.0)
FIRST_FLOORS = (0.02, 0.5, 0.9)
"""Where the fit starts: exponents of each dial, and E as a share of the lowest loss."""
LOG_FLOOR, EXPONENT = (-30.0, None), (0.0, 8.0)
"""Between what log E and exponents are sought: beyond, nothing changes any more but the size of the numbers."""
MOST_STEPS = 300
RESAMPLES = 200
LEAST_NOISE, LARGEST_NOISE = 1e-3, 0.5
"""Of a resample, in log-loss. Runs that differ in nothing but their seed differ by the former at least, so that points
which lie on a law by luck are not believed; where one degree of freedom is left, the noise could be anything."""
FEWEST_SETTINGS = 3
"""Of a dial: with two, any exponent would do."""
SMALLEST_EXPONENT, LARGEST_EXPONENT = 0.01, 4.0
"""Outside of these there is no power law to be seen: a straight line in log N, or a single drop."""
RISE = 0.005
"""Share by which a loss may lie above that of a smaller model before it counts as a rise."""
REACH = 4.0
"""How far beyond the largest setting of a dial the law may speak, as a factor."""


class LossPoint(NamedTuple):
    """A trained model: where each dial stood (parameters, tokens), and its loss on held-out data."""

    dials: tuple[float, ...]
    loss: float


@dataclass(frozen=True)
class Law:
    """A floor, and for each dial x a term coefficient / x^exponent.

    >>> Law(1.69, (406.4, 410.7), (0.34, 0.28)).loss((70e9, 1.4e12))  # Hoffmann et al. 2022, of Chinchilla
    1.93...
    """

    floor: float
    coefficients: tuple[float, ...]
    exponents: tuple[float, ...]

    def loss(self, dials: Sequence[float]) -> float:
        """What the law says at these settings."""
        return self.floor + math.fsum(
            c * x**-e for c, e, x in zip(self.coefficients, self.exponents, dials, strict=True)
        )


class Prediction(NamedTuple):
    """The loss of a model that was not trained, and the 95% interval in which one is expected to lie."""

    loss: float
    low: float
    high: float


@dataclass(frozen=True)
class Fit:
    """A law, the points that it was fitted to, and how far it can be trusted."""

    names: tuple[str, ...]
    """Of the dials."""
    points: tuple[LossPoint, ...]
    law: Law
    noise: float
    """Standard deviation of a log-loss around the law."""
    draws: tuple[Law, ...]
    """Laws fitted to points that were drawn anew around the law."""
    misses: tuple[float, ...]
    """What a new model would lie off the law of each draw, in log-loss."""

    def predict(self, dials: Sequence[float]) -> Prediction:
        """The loss of a new model: the law may be off, and the model off the law."""
        values = [law.loss(dials) * math.exp(miss) for law, miss in zip(self.draws, self.misses, strict=True)]
        return Prediction(self.law.loss(dials), *middle(values))

    def band(self, dials: Sequence[float]) -> tuple[float, float]:
        """Between which values the law itself lies, with 95%."""
        return middle([law.loss(dials) for law in self.draws])

    def exponent_interval(self, dial: int) -> tuple[float, float]:
        """Between which values the exponent of a dial lies, with 95%."""
        return middle([law.exponents[dial] for law in self.draws])

    def floor_interval(self) -> tuple[float, float]:
        """Between which values the floor lies, with 95%."""
        return middle([law.floor for law in self.draws])

    def reaches(self, dials: Sequence[float]) -> bool:
        """Whether the law may speak of these settings: within the points, or REACH beyond the largest."""
        columns = zip(*(point.dials for point in self.points), strict=True)
        return all(min(column) <= x <= REACH * max(column) for x, column in zip(dials, columns, strict=True))


def why_no_law(points: Sequence[LossPoint], names: Sequence[str]) -> list[str]:
    """What keeps these points from determining a law at all, in words; nothing where they do."""
    reasons = []
    needed = 2 + 2 * len(names)
    if len(points) < needed:
        reasons.append(
            f"{len(points)} points are too few for {needed - 1} unknowns and their uncertainty: it takes {needed}"
        )
    for number, name in enumerate(names):
        settings = len({point.dials[number] for point in points})
        if settings < FEWEST_SETTINGS:
            reasons.append(f"{settings} different {name} say nothing about an exponent: it takes {FEWEST_SETTINGS}")
    if any(not (math.isfinite(point.loss) and point.loss > 0) for point in points):
        reasons.append("a loss is not a positive number")
    return reasons


def doubts_about(fit: Fit, following: Sequence[float]) -> list[str]:
    """Why the points do not support the law that was fitted to them, in words; nothing where they do.

    Args:
        fit: The law.
        following: The settings that it is asked about next.
    """
    doubts = [*rises(fit.points, fit.names)]
    for name, exponent in zip(fit.names, fit.law.exponents, strict=True):
        if exponent < SMALLEST_EXPONENT:
            doubts.append(f"the exponent of {name} is {exponent:.2g}: the loss does not fall like a power of them")
        if exponent > LARGEST_EXPONENT:
            doubts.append(f"the exponent of {name} is {exponent:.2g}: one drop, and then nothing more")
    losses = [point.loss for point in fit.points]
    found, gained = fit.predict(following), max(losses) - min(losses)
    if not found.high - found.low < gained:
        doubts.append(
            f"the interval of the next loss, {found.low:.3f} to {found.high:.3f}, is as wide as all that the ladder "
            f"gained ({gained:.3f})"
        )
    return doubts


def rises(points: Sequence[LossPoint], names: Sequence[str]) -> Iterator[str]:
    """Where the loss goes up with a dial while the others stand still."""
    for number, name in enumerate(names):
        ordered = sorted(points, key=lambda point: (others(point, number), point.dials[number]))
        for one, two in pairwise(ordered):
            if others(one, number) == others(two, number) and two.loss > one.loss * (1 + RISE):
                small, large = f"{one.dials[number]:,.0f}", f"{two.dials[number]:,.0f}"
                yield f"the loss rises from {one.loss:.4f} to {two.loss:.4f} between {small} and {large} {name}"


def others(point: LossPoint, number: int) -> tuple[float, ...]:
    """Where all dials but one stand."""
    return (*point.dials[:number], *point.dials[number + 1 :])


def cheapest(law: Law, flops: float, *, cost: float = 6.0) -> tuple[float, float]:
    """Parameters and tokens with the lowest loss for so many FLOPs (Hoffmann et al. 2022, equation 4).

    Args:
        law: With two dials, parameters and tokens.
        flops: Of the training.
        cost: FLOPs per parameter and token.
    """
    (a, b), (alpha, beta) = law.coefficients, law.exponents
    work = flops / cost
    # In logarithms, and never more than all into one: small exponents may ask for sizes that no float holds.
    wanted = (math.log(alpha * a) - math.log(beta * b) + beta * math.log(work)) / (alpha + beta)
    parameters = math.exp(min(max(wanted, 0.0), math.log(work)))
    return parameters, work / parameters


def fit_law(points: Sequence[LossPoint], names: Sequence[str], *, seed: int = 0, resamples: int = RESAMPLES) -> Fit:
    """The law that lies nearest to the points, with resamples that tell how near.

    A resample draws the points anew around the fitted law, with noise as large as their residuals. That noise is itself
    known from few points only, so each resample draws its size too, from the chi-squared distribution of its degrees
    of freedom: intervals grow as they should where few points are left. (To draw points with replacement, as is done
    with hundreds of them, would leave too few different ones here.)

    Args:
        points: At least 2 + 2 K, each dial with three settings or more: see `why_no_law`.
        names: Of the dials, as people say them in the plural.
        seed: Of the resamples.
        resamples: How many.
    """
    logs = np.log([point.dials for point in points])  # (n, K)
    center = logs.mean(axis=0)
    design, targets = make_design(logs - center), np.log([point.loss for point in points])
    theta = best_of(design, targets, starts(targets, len(names)))
    fitted = logsumexp(design @ theta, axis=0)
    freedom = len(points) - len(theta)
    noise = float(np.sqrt(np.square(targets - fitted).sum() / freedom))
    generator = np.random.default_rng(seed)
    draws, misses = [], []
    for _ in range(resamples):
        scaled = noise * math.sqrt(freedom / generator.chisquare(freedom))
        spread = min(max(scaled, LEAST_NOISE), LARGEST_NOISE)
        *errors, miss = spread * generator.standard_normal(len(points) + 1)
        # A floor at nothing has no slope to leave it by: so from a floor that is one, too.
        nearby = starts(fitted + errors, len(names), shares=(0.5,), exponents=(0.3,))
        draws.append(law_of(best_of(design, fitted + errors, [theta, *nearby]), center))
        misses.append(float(miss))
    return Fit(tuple(names), tuple(points), law_of(theta, center), noise, tuple(draws), tuple(misses))


def make_design(logs: Array) -> Array:
    """(n, K) logarithms of the dials -> (1 + K, n, P): times the parameters it gives the logarithm of each term."""
    count, dials = logs.shape
    design = np.zeros((1 + dials, count, 1 + 2 * dials))
    design[0, :, 0] = 1.0
    for dial in range(dials):
        design[1 + dial, :, 1 + 2 * dial] = 1.0
        design[1 + dial, :, 2 + 2 * dial] = -logs[:, dial]
    return design


def starts(
    targets: Array,
    dials: int,
    *,
    shares: Sequence[float] = FIRST_FLOORS,
    exponents: Sequence[float] = FIRST_EXPONENTS,
) -> Iterator[Array]:
    """Where to begin: all pairs of exponents and floors; coefficients so that the law meets the mean of the losses."""
    for share, *chosen in product(shares, *[exponents] * dials):
        floor = share * math.exp(targets.min())
        rest = math.log((math.exp(targets.mean()) - floor) / dials)
        yield np.array([math.log(floor), *(value for exponent in chosen for value in (rest, exponent))])


def best_of(design: Array, targets: Array, begin: Iterable[Array]) -> Array:
    """The parameters with the lowest loss that can be reached from some beginnings."""
    return min((minimise(design, targets, start) for start in begin), key=lambda found: found[1])[0]


def minimise(design: Array, targets: Array, start: Array) -> tuple[Array, float]:
    """The parameters with the lowest summed Huber loss near `start`, and that loss (in units of HUBER squared)."""

    def loss_and_slope(theta: Array) -> tuple[float, Array]:
        terms = design @ theta  # (1 + K, n)
        logs = logsumexp(terms, axis=0)
        scaled = (logs - targets) / HUBER
        clipped = scaled.clip(-1, 1)
        slope = np.einsum("kn,knp->p", np.exp(terms - logs) * clipped, design) / HUBER
        return float((clipped * (scaled - clipped / 2)).sum()), slope

    options = {"maxiter": MOST_STEPS, "maxfun": 2 * MOST_STEPS, "ftol": 1e-13, "gtol": 1e-7}
    bounds = [LOG_FLOOR, *[(None, None), EXPONENT] * (len(design) - 1)]
    found = minimize(loss_and_slope, start, jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    return found.x, float(found.fun)


def logsumexp(terms: Array, axis: int) -> Array:
    """The logarithm of the sum of exponentials."""
    largest = terms.max(axis=axis, keepdims=True)
    total: Array = largest + np.log(np.exp(terms - largest).sum(axis=axis, keepdims=True))
    return total.squeeze(axis)


def law_of(theta: Array, center: Array) -> Law:
    """Parameters of centred logarithms as a law of the dials themselves."""
    floor, *terms = theta.tolist()
    exponents = terms[1::2]
    logs = [a + e * c for a, e, c in zip(terms[::2], exponents, center.tolist(), strict=True)]
    return Law(math.exp(floor), tuple(map(math.exp, logs)), tuple(exponents))
