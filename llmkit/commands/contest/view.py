"""What a comparison shows: its table in the terminal, and the document that the page is made from."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from llmkit.commands.contest.rows import Contest
from llmkit.commands.contest.run import outcome_of
from llmkit.commands.contest.settings import ASKED, Job
from llmkit.commands.contest.store import Result, choices_of
from llmkit.commands.terminal import write_table, write_text
from llmkit.console import say
from llmkit.errors import UsageError

MOST_ALONE = 8
"""Items that one method alone got right, shown for each."""
LONGEST_TEXT = 600


def describe_contest(contest: Contest) -> None:
    """The rows, before anything is done with them."""
    counts = ", ".join(f"{len(part):,} {name}" for name, part in contest.parts.items())
    say(f"{contest.name}: {counts} rows")
    labels = f"{len(contest.labels)} labels: {', '.join(contest.labels[:12])}"
    say(f"  {labels if contest.labels else 'each row has choices of its own'}")
    for note in contest.notes:
        say(f"  {note}")


def document_of(
    results: Sequence[Result],
    contest: Contest,
    job: Job,
    *,
    cascade: dict[str, Any] | None,
    curve: dict[str, Any] | None,
    command: Sequence[str],
) -> dict[str, Any]:
    """All that a comparison comes to, for --json, comparison.json and the page.

    Raises:
        UsageError: No method could run.
    """
    from llmkit.evaluation.contest import judge, only_one_right, paired_test

    ran = {result.name: outcome_of(result).test for result in results if result.outcome is not None}
    if not ran:
        reasons = "; ".join(f"{result.name}: {result.reason}" for result in results)
        raise UsageError(f"none of the methods can run on this ({reasons})", where=contest.source)
    test = contest.parts["test"]
    standings = {s.method: s for s in judge(ran, test.answers, metric=contest.metric, seed=job.asked.seed)}
    lines = []
    for result in results:
        line: dict[str, Any] = {"method": result.name, "title": result.title, "reason": result.reason}
        if result.outcome is not None:
            line |= {**standings[result.name].to_json(), **result.costs(), "recipe": result.recipe}
            line["folder"] = str(result.folder)
            line["leaning"] = leaning_in_words(result, contest, job)
        lines.append(line)
    # What a cascade gets right, one of its parts does; and what one answer to everything hits, nobody has understood.
    apart = {name: chances for name, chances in ran.items() if name not in ("cascade", "majority")}
    alone = only_one_right(apart, test.answers)
    return {
        "task": contest.name,
        "source": contest.source,
        "form": contest.form,
        "model": job.asked.model,
        "seed": job.asked.seed,
        "labels": contest.labels,
        "rows": {name: len(part) for name, part in contest.parts.items()},
        "notes": contest.notes,
        "accounting": accounting(contest),
        "metric": contest.metric,
        "test": paired_test(contest.metric),
        "chance": contest.chance if contest.metric.startswith("accuracy") else None,
        "best": max(standings.values(), key=lambda s: s.metric.value).method,
        "methods": lines,
        "only_one_right": {
            name: {"count": len(rows), "items": [describe_item(contest, row) for row in rows[:MOST_ALONE]]}
            for name, rows in alone.items()
        },
        "cascade": cascade,
        "curve": curve,
        "output": str(job.output),
        "command": shlex.join(command),
    }


def leaning_in_words(result: Result, contest: Contest, job: Job) -> str | None:
    """That a method says one label to nearly everything, where it does, and what could be done about it."""
    from llmkit.evaluation.calibration import leaning

    if not contest.labels or result.name == "majority":
        return None
    said, answers = outcome_of(result).test.argmax(1), contest.parts["test"].answers
    found = leaning([contest.labels[number] for number in said], [contest.labels[number] for number in answers])
    can_calibrate = result.name in ASKED and not job.asked.calibrate
    return found.in_words(can_calibrate=can_calibrate) if found else None


def accounting(contest: Contest) -> str:
    """What is counted as a labelled example, and what the rows that are held out are for."""
    train, held = (len(contest.parts[name]) for name in ("train", "validation"))
    if not held:
        return "labelled: the rows whose labels a method used"
    return (
        f"labelled: the rows whose labels a method used. {held:,} of {train + held:,} are held out from learning: "
        "networks stop by them, and a cascade chooses its two methods and its threshold, so these count them too"
    )


def describe_item(contest: Contest, row: int) -> dict[str, Any]:
    """A test row for people."""
    from llmkit.commands.baseline_rows import describe_row

    part = contest.parts["test"]
    shown = {"id": part.ids[row], "answer": choices_of(contest, part, row)[part.answers[row]]}
    if part.texts is not None:
        text = part.texts[row]
        return {**shown, "text": text if len(text) <= LONGEST_TEXT else text[: LONGEST_TEXT - 1] + "…"}
    assert contest.labelled is not None
    assert part.numbers is not None
    return {**shown, **describe_row(contest.labelled, "test", part.numbers[row])}


def show_document(document: dict[str, Any]) -> None:
    """The table on stdout, what could not run, and what the cascade and the curves say."""
    metric = document["metric"].replace("_", "-")
    headers = ["method", metric, "95% from", "to", "to the best", "p", "log-loss", "calibration error"]
    headers += ["labelled", "trained", "train s", "ms/item", "memory"]
    ran = [line for line in document["methods"] if line["reason"] is None]
    rows = [row_of(line, document["best"]) for line in sorted(ran, key=lambda line: -line["metric"]["value"])]
    write_table(headers, rows, spare=("memory", "trained", "95% from", "to"))
    if document["chance"] is not None:
        write_text(f"\nguessing: {document['chance']:.3f}; {document['rows']['test']:,} test rows")
    write_text(document["accounting"])
    for line in document["methods"]:
        if line["reason"] is not None:
            write_text(f"{line['title']}: not run: {line['reason']}")
    for line in ran:
        if line["leaning"]:
            write_text(f"{line['title']}: {line['leaning']}")
    if document["cascade"]:
        write_text(cascade_in_words(document))
    if document["curve"]:
        show_curve(document)


def row_of(line: dict[str, Any], best: str) -> list[Any]:
    """A method's line of the table."""
    metric, gap = line["metric"], line["difference"]
    is_best = line["method"] == best
    return [
        line["title"],
        f"{metric['value']:.3f}",
        None if metric["low"] is None else f"{metric['low']:.3f}",
        None if metric["high"] is None else f"{metric['high']:.3f}",
        "best" if is_best else f"{gap['value']:+.3f}",
        None if is_best else format_p(line["p_holm"]),
        f"{line['log_loss']:.3f}",
        f"{line['calibration_error']:.3f}",
        f"{line['labelled_examples']:,}",
        f"{line['trained_parameters']:,}",
        f"{line['training_seconds']:.1f}",
        None if line["milliseconds_per_item"] is None else f"{line['milliseconds_per_item']:.3g}",
        None if line["peak_memory_bytes"] is None else f"{line['peak_memory_bytes'] / 1e9:.2f} GB",
    ]


def format_p(value: float) -> str:
    """A p-value with three decimals."""
    return "<0.001" if value < 0.001 else f"{value:.3f}"


def cascade_in_words(document: dict[str, Any]) -> str:
    """Who answers what, and what that costs."""
    found = document["cascade"]
    titles = {line["method"]: line["title"] for line in document["methods"]}
    first, second = titles[found["first"]], titles[found["second"]]
    if found["share_handed_on"] == 0:
        return f"cascade: {first} answers everything: on the rows held out, {second} was no better where it was unsure"
    return (
        f"cascade: {first} answers where it is at least {min(found['threshold'], 1.0):.0%} sure, "
        f"{second} the other {found['share_handed_on']:.0%} of the test rows"
    )


def show_curve(document: dict[str, Any]) -> None:
    """The metric of each method by the number of labelled examples, and the crossings."""
    curve = document["curve"]
    titles = {line["method"]: line["title"] for line in document["methods"]}
    at = {name: {found["examples"]: found for found in points} for name, points in curve["curves"].items()}
    rows = [
        [titles[name], *(spread(cell(points, count)) for count in curve["examples"])] for name, points in at.items()
    ]
    metric = document["metric"].replace("_", "-")
    write_text(f"\n{metric} with so many labelled examples (the spread over {curve['draws']} draws)")
    headers = ["all" if count == curve["all"] else f"{count:,}" for count in curve["examples"]]
    write_table(["method", *headers], rows)
    write_text(curve["words"])


def cell(points: dict[int, dict[str, Any]], count: int) -> dict[str, Any] | None:
    """A method with so many examples at hand; of more than it uses none change it."""
    most = max(points)
    return points.get(count, points[most] if count > most else None)


def spread(found: dict[str, Any] | None) -> str | None:
    """The mean of the draws, and how far the worst and the best are from each other."""
    if found is None:
        return None
    width = (found["high"] - found["low"]) / 2
    return f"{found['value']:.3f}" + (f" ±{width:.3f}" if found["draws"] > 1 else "")
