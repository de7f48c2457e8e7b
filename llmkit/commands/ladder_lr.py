"""`llmkit scale --search-lr`: a few learning rates on the smallest model, and what the best of them means for all."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmkit.commands.ladder import Base, Rung, climb, is_finished, result_of
from llmkit.commands.ladder_plan import FEWEST_STEPS, LadderPlan
from llmkit.console import say, warn

SEARCH = "search"
"""Folder of these runs."""
FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)
"""Times the rate that the rule or the recipe gives the smallest model."""
SHARE = 0.3
"""Of the smallest model's steps."""


def trials_of(smallest: Rung) -> list[Rung]:
    """The smallest model once for each rate, on a share of its tokens; a baseline, which is small, on all its rows."""
    return [trial_of(smallest, round_rate(factor * smallest.about["lr"])) for factor in FACTORS]


def trial_of(smallest: Rung, lr: float) -> Rung:
    """The smallest model with another rate."""
    values, about = {**smallest.values, "train.lr": lr}, {**smallest.about, "lr": lr}
    whole = smallest.values.get("train.steps")
    if whole is not None:
        steps = min(whole, max(FEWEST_STEPS, round(SHARE * whole)))
        values |= {"train.steps": steps, "train.save_every": steps}
        if "train.warmup_steps" in values:
            values["train.warmup_steps"] = max(1, steps // 20)
        about |= {"steps": steps} | {name: round(about[name] * steps / whole) for name in ("tokens", "flops")}
        about["epochs"] = about["epochs"] and round(about["epochs"] * steps / whole, 3)
    return Rung(f"lr-{lr:g}", values, about, SEARCH)


def round_rate(lr: float) -> float:
    """Two digits of a rate."""
    return float(f"{lr:.2g}")


def search_lr(plan: LadderPlan, base: Base, *, time_limit: str | None) -> LadderPlan:
    """Train the trials that are not trained yet, and give all models of the ladder the rate that was best.

    Raises:
        StoppedError: As `climb` does: the same command goes on.
    """
    trials = trials_of(plan.rungs[0])
    climb(trials, base, time_limit=time_limit)
    return with_best(plan, trials, base)


def are_finished(trials: Sequence[Rung], base: Base) -> bool:
    """Whether it is known which rate is the best."""
    return all(is_finished(trial, base) for trial in trials)


def with_best(plan: LadderPlan, trials: Sequence[Rung], base: Base) -> LadderPlan:
    """The ladder with the rates that the trials speak for: the best factor is taken for all models."""
    smallest = plan.rungs[0].name
    search = [outcome_of(trial, factor, base) for factor, trial in zip(FACTORS, trials, strict=True)]
    best = min(search, key=lambda found: found["loss"] if math.isfinite(found["loss"]) else math.inf)
    told = ", ".join(f"{found['lr']:g} to {found['loss']:.4f}" for found in search)
    rule = f"all learning rates times {best['factor']:g}, which was best for {smallest} ({told}); {plan.rule}"
    if best["factor"] in (FACTORS[0], FACTORS[-1]):
        warn(f"the best learning rate is the {'lowest' if best['factor'] < 1 else 'highest'} that was tried: {told}")
    say(f"learning rates, each on a part of {smallest}: {told}; all models get {best['factor']:g} times theirs")
    return replace(
        plan,
        rungs=[with_rate(rung, best["factor"]) for rung in plan.rungs],
        following=with_rate(plan.following, best["factor"]),
        rule=rule,
        search=search,
    )


def outcome_of(trial: Rung, factor: float, base: Base) -> dict[str, Any]:
    """A rate, and what it came to."""
    result = result_of(trial, base)
    return {"factor": factor, **{key: result[key] for key in ("name", "lr", "loss", "run")}}


def with_rate(rung: Rung, factor: float) -> Rung:
    """A model with so many times its learning rate."""
    lr = round_rate(factor * rung.about["lr"])
    return replace(rung, values={**rung.values, "train.lr": lr}, about={**rung.about, "lr": lr})
