"""What `llmkit evaluate` writes and shows at the end."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.commands.terminal import shorten, write_table
from llmkit.console import say, warn, write_json
from llmkit.errors import CheckError

if TYPE_CHECKING:
    from llmkit.commands.evaluation_job import Evaluated
    from llmkit.evaluation.compare import Comparison, ItemRecord
    from llmkit.evaluation.evaluate import TaskResult
    from llmkit.evaluation.gate import Gate, Measured, Verdict
    from llmkit.evaluation.metrics import Item
    from llmkit.evaluation.spread import Spread

SHOWN_ITEMS = 5
"""Of each kind."""

PROMPT_END = 60
"""Characters of a prompt that tell items apart."""


@dataclass
class Shown:
    """How results are shown, and what must hold of them."""

    gates: Sequence[str] = ()
    items: bool = False
    as_json: bool = False
    document: dict[str, Any] = field(default_factory=dict)
    """For --json."""

    def parse_gates(self) -> list[Gate]:
        """The conditions that were named."""
        from llmkit.evaluation.gate import parse_gate

        return [parse_gate(text) for text in self.gates]

    def check_names(self, names: Mapping[str, Sequence[str]], without_interval: Mapping[str, Sequence[str]]) -> None:
        """Raise for a condition about a metric, or an interval, that no task will have; both by task."""
        from llmkit.evaluation.gate import check_names

        check_names(self.parse_gates(), names, without_interval)

    def close(self, measured: Sequence[Measured]) -> None:
        """Check the conditions, write the JSON document where one is wanted, and raise where one does not hold."""
        from llmkit.evaluation.gate import check_gates

        verdicts = check_gates(self.parse_gates(), measured)
        if verdicts:
            self.document["gates"] = [verdict_json(verdict) for verdict in verdicts]
        if self.as_json:
            write_json(self.document)
        for verdict in verdicts:
            say(f"gate {verdict.gate.text}: {told(verdict)}, {'met' if verdict.is_met else 'NOT met'}")
        missed = [verdict for verdict in verdicts if not verdict.is_met]
        if missed:
            rest = f", and {len(missed) - 1} more are not met" if len(missed) > 1 else ""
            message = f"{told(missed[0])}, and not {missed[0].gate.sign} {missed[0].gate.number:g}{rest}"
            raise CheckError(message, where=f"--gate {missed[0].gate.text}", fix="see the items with --items")


def verdict_json(verdict: Verdict) -> dict[str, Any]:
    """A checked condition, for --json."""
    found = verdict.measured
    named = {"gate": verdict.gate.text, "task": found.task, "of": found.label}
    return {**named, "value": verdict.value, "is_met": verdict.is_met}


def told(verdict: Verdict) -> str:
    """What a condition was about and what was found."""
    end = f".{verdict.gate.end}" if verdict.gate.end else ""
    found = verdict.measured
    return f"{found.task}:{found.metric}{end} = {verdict.value:.4g} ({found.label})"


def labels_of(models: Sequence[str]) -> list[str]:
    """A short name for each model, all different."""
    names = [path.resolve().parent.name if path.name == "model" else path.name for path in map(Path, models)]
    return [f"{name}-{n}" if names.count(name) > 1 else name for n, name in enumerate(names, start=1)]


def finish(folder: Path, evaluated: Sequence[Evaluated], shown: Shown, *, seed: int) -> None:
    """Write the results, then show them, and compare them where there are several models."""
    from llmkit.evaluation.compare import compare, read_outcomes
    from llmkit.evaluation.results import write_results
    from llmkit.files import new_folder

    several = len(evaluated) > 1
    labels = labels_of([each.model for each in evaluated]) if several else [""]
    documents = []
    with new_folder(folder) as aside:
        for each, label in zip(evaluated, labels, strict=True):
            (aside / label).mkdir(exist_ok=True)
            places = (aside / label, folder / label)
            documents.append(write_results(*places, each.results, model=each.model, environment=each.environment))
        outcomes = [read_outcomes(aside / label, label) for label in labels] if several else []
        comparisons = compare(outcomes, seed=seed)
        lines = [comparison.to_json() for comparison in comparisons]
        if several:
            (aside / "comparison.json").write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")
    for each in evaluated:
        each.journal.remove()
        show_results(each, shown)
    say(f"results and items: {folder}")
    shown.document = {"models": documents, "comparisons": lines} if several else documents[0]
    show_comparisons(comparisons, shown)
    shown.close(differences_of(comparisons) if several else scores_of(evaluated[0]))


def show_results(evaluated: Evaluated, shown: Shown) -> None:
    """One model's scores on stdout, and on stderr what one should know about them."""
    from llmkit.evaluation.spread import spreads

    for result in evaluated.results:
        tell_of(result)
    if shown.as_json:
        return
    found = spreads(evaluated.results)
    several = {(spread.task, spread.shots) for spread in found}
    alone = [r for r in evaluated.results if (r.task.name, r.shots) not in several]
    rows = [row for result in alone for row in score_rows(result)]
    headers = ["task", "shots", "items", "metric", "value", "+-", "95% from", "to", "chance", "clean", "seconds"]
    if rows:
        write_table(headers, rows, spare=("seconds", "+-", "clean"))
    if found:
        headers = ["task", "shots", "metric", "mean", "spread", "worst", "best", "chance", "clean", "prompts", "draws"]
        write_table(headers, [spread_row(spread) for spread in found], spare=("prompts", "draws", "clean"))
    if shown.items:
        for result in evaluated.results:
            say(f"{result.task.name}, {manner_of(result)}: the worst items")
            write_table(*items_table(worst_items(result)), spare=("prompt",))


def tell_of(result: TaskResult) -> None:
    """What one should know of a result beside its scores."""
    label = f"{result.task.name}, {manner_of(result)}"
    if result.num_cut:
        warn(f"{label}: the contexts of {result.num_cut:,} items were longer than the model takes; cut from the left")
    if result.num_apart:
        say(f"{label}: {result.num_apart:,} choices merged with the last token before them; encoded by themselves")
    leans = leaning_in_words(result)
    if leans:
        warn(f"{label}: {leans}")
    if result.overlap:
        found = result.overlap.to_json([item.id for item in result.items])
        count, rest = found["seen_items"], found["clean_items"]
        whole = f", {found['whole_items']:,} of them whole" if found["whole_items"] else ""
        tell = warn if count else say
        tell(f"{label}: {count:,} of {count + rest:,} items stand in the training data{whole}; clean: without them")


def leaning_in_words(result: TaskResult) -> str | None:
    """That one label was said to nearly everything, where it was, and what could be done about it."""
    from llmkit.evaluation.calibration import leaning

    if result.task.kind != "label":
        return None
    found = leaning([str(item.prediction) for item in result.items], [str(item.answer) for item in result.items])
    return found.in_words(can_calibrate=not result.setting.calibrate) if found else None


def score_rows(result: TaskResult) -> list[list[Any]]:
    """The table's rows for one result."""
    rows: list[list[Any]] = []
    for name, estimate in result.metrics.items():
        clean = result.clean[name].value if result.clean and name in result.clean else None
        numbers = (estimate.stderr, estimate.low, estimate.high, result.chance_of(name), clean)
        shown = [short(number) for number in (estimate.value, *numbers)]
        rows.append([result.task.name, result.shots, len(result.items), name, *shown, f"{result.seconds:.1f}"])
    for name, bits in (result.compressors or {}).items():
        beside = f"bits_per_byte of {name.replace('_', ' -')}"
        rows.append([result.task.name, None, None, beside, short(bits), *[None] * 6])
    return rows


def spread_row(spread: Spread) -> list[Any]:
    """The table's row for a metric over several runs."""
    numbers = (spread.mean, spread.deviation, spread.worst, spread.best, spread.chance, spread.clean)
    return [spread.task, spread.shots, spread.metric, *map(short, numbers), spread.prompts, spread.draws]


def short(number: float | None) -> str | None:
    """A number with four decimals, or short where it is large; nothing for None."""
    if number is None:
        return None
    return f"{number:.4f}" if abs(number) < 1000 else f"{number:.4g}"


def worst_items(result: TaskResult) -> list[tuple[Item, float]]:
    """The items that went most wrong, with how wrong: the right choice's likelihood against the best of the others."""
    from llmkit.evaluation.metrics import is_loss, rankings

    def goodness(item: Item) -> float:
        if len(item.choices) > 1:
            found = rankings(item.choices)
            values = found.get(result.task.metric, found["accuracy"])
            return values.pop(item.answer_index) - max(values)
        # Of one text it is how unlikely it was, whatever stands for the task.
        name = next((name for name in ("nats", "bits_per_byte") if name in item.scores), result.task.metric)
        return -item.scores[name] if is_loss(name) else item.scores[name]

    return sorted(((item, goodness(item)) for item in result.items), key=lambda pair: pair[1])[:SHOWN_ITEMS]


def items_table(found: Sequence[tuple[Item, float]]) -> tuple[list[str], list[list[Any]]]:
    """Items with how good they are, for the terminal."""
    rows = [[i.id, short(value), brief(i.answer), brief(i.prediction), end_of(i.prompt)] for i, value in found]
    return ["id", "margin", "answer", "said", "prompt"], rows


def brief(text: str | None) -> str | None:
    """An answer in one short line."""
    return None if text is None else shorten(" ".join(text.split()), PROMPT_END)


def end_of(prompt: str) -> str:
    """The end of a prompt in one line."""
    text = " ".join(prompt[-4 * PROMPT_END :].split())
    return text if len(text) <= PROMPT_END else "…" + text[1 - PROMPT_END :]


def show_comparisons(comparisons: Sequence[Comparison], shown: Shown) -> None:
    """Differences on stdout; what differs beside the model, and the items that flipped, where they are wanted."""
    for c in comparisons:
        for note in c.notes:
            warn(f"{c.a.task}, {c.b.label}: {note}")
    if shown.as_json or not comparisons:
        return
    rows = [row for comparison in comparisons for row in difference_rows(comparison)]
    headers = ["task", "of", "items", "metric", "first", "other", "change", "95% from", "to", "p", "p (Holm)"]
    write_table([*headers, "won", "lost"], rows, spare=("p", "first", "other"))
    for c in comparisons if shown.items else ():
        for what, ids in (("won", c.gained), ("lost", c.lost)):
            say(f"{c.a.task}, {c.b.label}: {len(ids):,} items {what}, the first {min(len(ids), SHOWN_ITEMS)}")
            if ids:
                rows = [flip_row(c.a.items[name], c.b.items[name]) for name in ids[:SHOWN_ITEMS]]
                write_table(["id", "answer", "first said", "other said", "prompt"], rows, spare=("prompt",))


def difference_rows(comparison: Comparison) -> list[list[Any]]:
    """The table's rows for one comparison; flips and the corrected p-value belong to the task's own metric."""
    rows = []
    for number, d in enumerate(comparison.differences):
        flips = [f"{comparison.p_holm:.4f}", len(comparison.gained), len(comparison.lost)]
        values = [short(value) for value in (d.a, d.b, *d.interval)]
        about = [comparison.a.task, comparison.b.label, comparison.num_items, d.metric]
        rows.append([*about, *values, f"{d.p_value:.4f}", *(flips if number == 0 else [None] * 3)])
    return rows


def flip_row(a: ItemRecord, b: ItemRecord) -> list[Any]:
    """An item that one got right and the other wrong."""
    return [a.id, brief(a.answer), brief(a.prediction), brief(b.prediction), end_of(b.prompt)]


def scores_of(evaluated: Evaluated) -> list[Measured]:
    """The scores of one model, for gates."""
    from llmkit.evaluation.gate import Measured

    return [
        Measured(result.task.name, name, manner_of(result), estimate.value, estimate.low, estimate.high)
        for result in evaluated.results
        for name, estimate in result.metrics.items()
    ]


def manner_of(result: TaskResult) -> str:
    """How a task was asked, where its results must be told apart."""
    prompts = result.task.prompts
    wording = f", prompt {prompts.index(result.task.prompt) + 1}" if result.task.prompt in prompts[1:] else ""
    shots = f"{result.shots} shot{'s' if result.shots != 1 else ''}"
    return shots + wording + (f", draw {result.setting.draw + 1}" if result.setting.draw else "")


def differences_of(comparisons: Sequence[Comparison]) -> list[Measured]:
    """The differences between results, for gates."""
    from llmkit.evaluation.gate import Measured

    return [
        Measured(c.a.task, d.metric, f"{c.b.label} - {c.a.label}", *d.interval)
        for c in comparisons
        for d in c.differences
    ]
