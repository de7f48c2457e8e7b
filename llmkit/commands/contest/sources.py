"""What is compared on: a task that `evaluate` reads, or a labelled set that `baseline` reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.commands.contest.rows import Contest, Limits, Part, contest_of_task, tell_limits, tell_tested
from llmkit.commands.tasks import Flags, open_tasks
from llmkit.errors import DataError, LlmkitError, UsageError

if TYPE_CHECKING:
    from llmkit.data.labelled import LabelledData
    from llmkit.data.table import Table
    from llmkit.evaluation.task import Example
    from llmkit.recipe.schema import BaselineData


def open_contest(name: str, flags: Flags, rows: Sequence[str], data: BaselineData, limits: Limits) -> Contest:
    """The rows of a task that `evaluate` knows or reads, or else of a labelled set that `baseline` reads.

    Args:
        name: A task, a task file, or rows.
        flags: What the command line says of a task's columns and prompt.
        rows: Where the rows of a built-in task lie.
        data: How a labelled set is to be read.
        limits: How many rows are used.
    """
    from llmkit.data.labelled import BUILT_IN as LABELLED_SETS
    from llmkit.evaluation.tasks import BUILT_IN

    section = data.model_copy(update={"source": name})
    given = [flag for flag, _ in flags.given().values()] + ["--data"] * bool(rows)
    is_task = name in BUILT_IN or name.endswith((".yaml", ".yml")) or bool(given)
    if name in LABELLED_SETS and given:
        raise UsageError(f"{name} has rows and columns of its own", where=given[0], fix="leave the flag out")
    if is_task and said(data):
        fix = "leave it out, or the task's flags" if given else "leave it out"
        raise UsageError("this is how `llmkit baseline` reads rows, and they are a task's", where="--set data", fix=fix)
    if not is_task:
        check_name(name, [*BUILT_IN, *LABELLED_SETS])
    if name in LABELLED_SETS or said(data):
        return contest_of_set(section, name, limits)
    try:
        return contest_of_task(open_tasks(name, flags, rows)[0], name, limits)
    except (DataError, UsageError) as error:
        is_file = Path(name).exists() or name.startswith("hf:")
        if is_task or not is_file or asks_with_choices(name):
            raise
        return contest_instead(section, limits, error)


def check_name(name: str, known: Sequence[str]) -> None:
    """Raise for a name that is neither known nor that of rows."""
    from llmkit.evaluation.task_file import NO_PATHS
    from llmkit.recipe.load import did_you_mean

    is_source = Path(name).exists() or name.startswith(NO_PATHS) or any(sign in name for sign in "*?[")
    if name not in known and not is_source:
        fix = did_you_mean(name, known) or "see `llmkit evaluate --list`, or name a file"
        raise UsageError("there is no task of this name and no such file", where=name, fix=fix)


def said(data: BaselineData) -> bool:
    """Whether something was said of how a labelled set is to be read."""
    return bool(data.model_fields_set - {"source"})


def asks_with_choices(source: str) -> bool:
    """Whether rows are questions with choices of their own: no labelled set, so what is wrong with one is told."""
    from llmkit.commands.task_data import read_rows
    from llmkit.evaluation.columns import Wanted, recognise

    try:
        first = next(iter(read_rows(source)))
        return recognise([first], Wanted()).form == "choice"
    except (LlmkitError, StopIteration):
        return False


def contest_instead(data: BaselineData, limits: Limits, error: LlmkitError) -> Contest:
    """Rows that `evaluate` does not read, as a labelled set; that it does not, and why, is told.

    Raises:
        DataError: `baseline` does not read them either; it says both reasons.
    """
    source = str(data.source)
    try:
        contest = contest_of_set(data, source, limits)
    except (DataError, UsageError) as other:
        if other.message == error.message:
            raise
        also = f"{other.message}; as a task of `llmkit evaluate`: {error.message}"
        raise type(other)(also, where=other.where, fix=other.fix) from other
    if contest.form == "image":
        return contest
    place = f"{error.where}: " if error.where and error.where != source else ""
    told = f"read as `baseline` reads rows; `evaluate` sees no task in them ({place}{error.message})"
    return replace(contest, notes=[told, *contest.notes])


def contest_of_set(data: BaselineData, source: str, limits: Limits) -> Contest:
    """The rows of a labelled set: texts as a task of their own, pictures and tables as they are."""
    from llmkit.data.labelled import read_labelled
    from llmkit.data.splits import TOO_GOOD
    from llmkit.data.table import Table, find_target, find_texts

    found = open_rows(data)
    if isinstance(found, Table):
        target = find_target(found, data)
        texts = find_texts(found, data, target)
        if texts:
            return contest_of_texts(found, target, texts, data, limits)
    labelled = read_labelled(data, vocab_size=8192, max_words=256)
    if labelled.task != "classification":
        message = f"methods are compared on classes, and this is {labelled.task}"
        fix = "name another column with --set data.target=COLUMN, or use `llmkit baseline`"
        raise UsageError(message, where=source, fix=fix)
    parts, told = parts_of_set(labelled, limits)
    if not len(parts["test"]):
        raise DataError("there is no row to test", where=source, fix="set data.test to a share or a file")
    if not len(parts["train"]):
        raise DataError("there is no row to learn from", where=source, fix="give more rows, or other ones to test")
    name = Path(source).name if Path(source).exists() else source
    notes = [note for note in labelled.notes if not note.endswith(TOO_GOOD.format("test"))]
    return Contest(name, source, "accuracy", labelled.classes, parts, [*notes, *told], labelled=labelled)


def parts_of_set(labelled: LabelledData, limits: Limits) -> tuple[dict[str, Part], list[str]]:
    """The rows of each split, as many as are wanted; none is learned from that is tested."""
    from llmkit.evaluation.label_efficiency import nested_order

    parts = {name: numbered(labelled, name) for name in labelled.splits}
    tested, dropped = {content_at(labelled, "test", row) for row in range(len(parts["test"]))}, 0
    for name in ("train", "validation"):
        kept = [row for row in range(len(parts[name])) if content_at(labelled, name, row) not in tested]
        dropped += len(parts[name]) - len(kept)
        parts[name] = parts[name].only(kept)
    told = tell_limits(limits, len(parts["train"]) + len(parts["validation"]), len(parts["test"]))
    if limits.train is not None:
        for name, count in (("train", limits.train - limits.train // 10), ("validation", limits.train // 10)):
            order = nested_order(parts[name].answers, seed=limits.seed)[:count]
            parts[name] = parts[name].only(sorted(order))
    parts["test"] = parts["test"].only(range(len(parts["test"]))[: limits.test])
    return parts, [*tell_tested(dropped), *told]


def content_at(labelled: LabelledData, split: str, row: int) -> bytes:
    """What a row is known by: a picture's pixels, or all that a network sees of a table's row."""
    return hashlib.sha256(labelled.splits[split].inputs[row].numpy().tobytes()).digest()


def open_rows(data: BaselineData) -> Any:
    """A table, or something else that `read_labelled` opens by itself."""
    from llmkit.data.labelled import built_in, check_name
    from llmkit.data.open_source import open_source

    source = str(data.source)
    if source == "mackey-glass" or data.task in ("forecast", "language"):
        return None
    found = built_in(source, data)
    if found is None:
        check_name(source)
        found = open_source(data)
    return found


def numbered(labelled: LabelledData, split: str) -> Part:
    """The rows of a split of a labelled set."""
    answers, numbers = labelled.splits[split].targets.tolist(), list(range(len(labelled.splits[split])))
    return Part([f"{split}-{i}" for i in numbers], answers, numbers=numbers)


def contest_of_texts(table: Table, target: str, columns: Sequence[str], data: BaselineData, limits: Limits) -> Contest:
    """A table of texts and their classes, as a task that a language model can be asked."""
    from llmkit.data.labelled import join_texts, task_of
    from llmkit.data.splits import assign_splits
    from llmkit.data.table import drop_unlabelled
    from llmkit.data.targets import class_name, fit_classes
    from llmkit.evaluation.task import Example, Task

    where = str(data.source)
    if task_of(table, target, data) != "classification":
        message = f"methods are compared on classes, and column {target} holds numbers"
        raise UsageError(message, where=where, fix="set data.target to a column of classes")
    table, notes = drop_unlabelled(table, target, where, is_number=False)
    texts = [join_texts(row, columns) for row in table.rows]
    names = [class_name(table.class_names.get(class_name(value), value)) for value in table.column(target)]
    labels = fit_classes(names, where=where).names
    splits, told = assign_splits(texts, table.splits, data)
    examples: dict[str, list[Example]] = {"train": [], "validation": [], "test": []}
    for number, (text, name, split) in enumerate(zip(texts, names, splits, strict=True)):
        place = f"{where}: row {number + 1}"
        examples[split].append(Example(str(number), place, {"question": text}, tuple(labels), labels.index(name)))
    # What a source holds out for validation is theirs who learn; ours is cut from it by the rule of all comparisons.
    split_rows = {"train": [*examples["train"], *examples["validation"]], "test": examples["test"]}
    task = Task(
        name=Path(where).stem if Path(where).exists() else where.replace(":", "-"),
        kind="label",
        load=lambda split: split_rows[split],
        prompt="Text: {question}\nLabel:",
        shots="balanced",
        labels=tuple(labels),
        notes=(*table.notes, f"text: {', '.join(columns)}; label: {target}", *notes, *told),
    )
    return contest_of_task(task, where, limits)
