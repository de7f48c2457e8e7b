"""Running the methods of a comparison one after the other; what is finished is kept, what was stopped goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.commands.contest.language import check_stop, run_asked, run_tuned
from llmkit.commands.contest.methods import Outcome, run_network, run_reference
from llmkit.commands.contest.rows import Contest, refusal
from llmkit.commands.contest.settings import ASKED, CASCADE, NETWORKS, REFERENCES, TUNED, Job, Method, make_method
from llmkit.commands.contest.store import Result, forget_unfinished, load_result, save_result
from llmkit.console import say
from llmkit.errors import BlockedError, LlmkitError, RunError, StoppedError

if TYPE_CHECKING:
    from llmkit.evaluation.cascade import OperatingPoint

UNFINISHED = ".unfinished"
NO_ROWS = "no row is held out to choose its threshold by"

Run = Callable[[Method, Contest, Job, Path], Outcome]
RUNS: dict[str, Run] = {
    **dict.fromkeys(REFERENCES, run_reference),
    **dict.fromkeys(NETWORKS, run_network),
    **dict.fromkeys(ASKED, run_asked),
    **dict.fromkeys(TUNED, run_tuned),
}


def run_method(method: Method, contest: Contest, job: Job) -> Result:
    """What a method makes of the rows: as it was kept, or run now; a reason where it cannot run on them."""
    from llmkit.device import peak_memory_bytes, pick_device, reset_peak_memory
    from llmkit.evaluation.contest import value_of

    check_stop(job)
    name = f"{method.name}-{method.key(contest)}"
    folder, aside = job.output / "methods" / name, job.output / UNFINISHED / name
    known = load_result(folder, method.name, method.title, contest)
    if known is not None:
        say(f"{method.title}: finished before")
        return known
    say(f"== {method.title}")
    device = pick_device()
    reset_peak_memory(device)
    try:
        outcome = answer_with(method, contest, job, aside)
    except (StoppedError, BlockedError):
        raise
    except LlmkitError as error:
        say(f"{method.title} cannot run on this: {refusal(error)}")
        if not isinstance(error, RunError):  # whose checkpoints may be of use with another setting
            forget_unfinished(aside)
        return Result(method.name, method.title, reason=refusal(error))
    recipe = method.recipe.model_dump(mode="json", exclude_unset=True) if method.recipe else None
    result = Result(method.name, method.title, outcome, None, peak_memory_bytes(device), folder, recipe)
    save_result(result, contest)
    forget_unfinished(aside)
    figure = value_of(outcome.test, contest.parts["test"].answers, contest.metric)
    say(f"{method.title}: {contest.metric.replace('_', '-')} {figure:.3f} on the test rows")
    return result


def answer_with(method: Method, contest: Contest, job: Job, aside: Path) -> Outcome:
    """Run a method, and give back what a language model has held."""
    from llmkit.device import forget_model

    outcome = RUNS[method.name](method, contest, job, aside)
    if method.name in (*ASKED, *TUNED):
        forget_model()
    return outcome


def run_methods(contest: Contest, job: Job) -> list[Result]:
    """All methods but the cascade, in their order."""
    methods = [make_method(name, contest, job) for name in job.asked.methods if name != CASCADE]
    return [run_method(method, contest, job) for method in methods]


def run_cascade(results: Sequence[Result], contest: Contest, job: Job) -> tuple[Result, dict[str, Any] | None]:
    """The best method without a language model where it is sure, and the best one with it for the rest.

    Both are chosen, and the threshold, on the rows that are held out.
    """
    from llmkit.evaluation.cascade import MOST_POINTS, choose_threshold, combine, sweep

    first = best_of(results, ("tfidf", *NETWORKS), contest)
    second = best_of(results, (*ASKED, *TUNED), contest)
    if first is None or second is None or not len(contest.parts["validation"]):
        missing = "tfidf or a network" if first is None else "a language model"
        reason = f"it needs {missing}, and none has run" if first is None or second is None else NO_ROWS
        return Result(CASCADE, CASCADE, reason=reason), None
    one, other = outcome_of(first), outcome_of(second)
    held, metric = contest.parts["validation"].answers, contest.metric
    chosen = choose_threshold(one.validation, other.validation, held, metric)
    answers = contest.parts["test"].answers
    share = float((one.test.max(1) < chosen.threshold).mean())
    outcome = Outcome(
        combine(one.test, other.test, chosen.threshold),
        combine(one.validation, other.validation, chosen.threshold),
        examples=max(one.examples, other.examples, len(contest.parts["train"]) + len(contest.parts["validation"])),
        parameters=one.parameters + other.parameters,
        seconds=one.seconds + other.seconds,
        milliseconds=cost(one, other, share),
    )
    peak = max(first.peak_bytes or 0, second.peak_bytes or 0)
    folder = job.output / "methods" / f"{CASCADE}-{part_of_name(first)}-{part_of_name(second)}"
    result = Result(CASCADE, CASCADE, outcome, None, peak, folder)
    if load_result(folder, CASCADE, result.title, contest) is None:
        save_result(result, contest)

    def as_json(points: Sequence[OperatingPoint]) -> list[dict[str, Any]]:
        return [{**found._asdict(), "milliseconds_per_item": cost(one, other, found.share)} for found in points]

    return result, {
        "first": first.name,
        "second": second.name,
        "threshold": chosen.threshold,
        "share_handed_on": share,
        "validation": chosen.value,
        "frontier": as_json(sweep(one.test, other.test, answers, metric, most=MOST_POINTS)),
    }


def best_of(results: Sequence[Result], names: Sequence[str], contest: Contest) -> Result | None:
    """Of some methods the one that is best on the rows that are held out; of equals the one that is less surprised."""
    from llmkit.evaluation.calibration import log_loss
    from llmkit.evaluation.contest import value_of

    answers = contest.parts["validation"].answers
    found = [result for result in results if result.name in names and result.outcome is not None]
    if not answers:
        return found[0] if found else None

    def goodness(result: Result) -> tuple[float, float]:
        chances = outcome_of(result).validation
        return value_of(chances, answers, contest.metric), -log_loss(chances, answers)

    return max(found, key=goodness, default=None)


def outcome_of(result: Result) -> Outcome:
    """The outcome of a method that ran."""
    assert result.outcome is not None
    return result.outcome


def cost(first: Outcome, second: Outcome, share: float) -> float | None:
    """Milliseconds for each item where a share of them is handed on."""
    if first.milliseconds is None or second.milliseconds is None:
        return None
    return round(first.milliseconds + share * second.milliseconds, 4)


def part_of_name(result: Result) -> str:
    """The name of a method's folder without what stands before its hash."""
    assert result.folder is not None
    return result.folder.name.rpartition("-")[2]
