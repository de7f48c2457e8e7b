"""What a model could do before it was tuned and cannot do after: tasks that are evaluated twice."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from llmkit.console import format_table, say
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from llmkit.evaluation.task import Task
    from llmkit.recipe.schema import FinetuneRecipe
    from llmkit.training.run import Run

FORGET_CHECK = "forget-check.json"


def open_watched(settings: FinetuneRecipe) -> list[Task]:
    """The tasks of `forget_check` with their rows: what is wrong with them is told before anything is trained.

    Raises:
        UsageError: There is no such task, a classifier is to answer it, or no task wants `forget_data`.
    """
    from llmkit.commands.tasks import Flags, has_own_data, open_tasks

    if settings.forget_check and settings.task == "classify":
        fix = "leave it out"
        raise UsageError("a classifier writes no text to evaluate on other tasks", where="forget_check", fix=fix)
    data = [] if settings.forget_data is None else [settings.forget_data]
    given = {name: [] if has_own_data(name) else data for name in settings.forget_check}
    if data and not any(given.values()):
        message = "no task of forget_check takes its rows from elsewhere"
        raise UsageError(message, where="forget_data", fix="leave it out, or name a task of `llmkit evaluate --list`")
    tasks = [task for name, rows in given.items() for task in open_tasks(name, Flags(), rows)]
    for task in tasks:
        for note in task.notes:
            say(f"{task.name}: {note}")
    return tasks


class Forgetting:
    """Evaluates `tasks` before and after; what came out stands in forget-check.json of the run."""

    def __init__(self, settings: FinetuneRecipe, tasks: Sequence[Task], run: Run, accelerator: Accelerator) -> None:
        self.settings = settings
        self.tasks = tasks
        self.run = run
        self.accelerator = accelerator

    @property
    def known(self) -> dict[str, Any]:
        """What was measured so far, in this process or an earlier one of the run."""
        path = self.run.folder / FORGET_CHECK
        return json.loads(path.read_text()) if path.is_file() else {}

    def look_before(self) -> None:
        """Evaluate the model as it comes, unless that was done."""
        if self.tasks and "before" not in self.known:
            self.note("before", str(self.settings.model.source))

    def look_after(self, step: int) -> dict[str, Any] | None:
        """Evaluate the result of `step`, unless that was done, and show what was lost; None where no task was named."""
        if not self.tasks:
            return None
        if self.known.get("step") != step:
            self.note("after", str(self.run.folder / "model"), step=step)
        known = self.known
        say(format_table(["task", "metric", "before", "after", "change", "95%"], rows_of(known)))
        return known

    def note(self, when: str, model: str, **more: int) -> None:
        """Evaluate a model on all tasks, and keep the metrics, and what more is to be known of them."""
        measured = measure(self.tasks, model, seed=self.settings.train.seed, limit=self.settings.forget_limit)
        self.accelerator.wait_for_everyone()
        self.run.write_json(FORGET_CHECK, {**self.known, when: measured, **more})
        self.accelerator.wait_for_everyone()


def measure(tasks: Sequence[Task], model: str, *, seed: int, limit: int | None) -> dict[str, Any]:
    """Of each task: its metrics, and which of its items were right."""
    from llmkit.commands.evaluation_job import load_subject, run_task
    from llmkit.evaluation.subject import Setting

    subject = load_subject(model, "auto", None, tasks=tasks)
    results = [run_task(subject, task, Setting(seed=seed, limit=limit)) for task in tasks]
    return {
        result.task.name: {
            "metrics": {name: estimate.to_json() for name, estimate in result.metrics.items()},
            "correct": [item.correct for item in result.items],
        }
        for result in results
    }


def rows_of(known: dict[str, Any]) -> list[list[Any]]:
    """A line for each metric that both have; of accuracy also the 95% interval of the change, item by item."""
    from llmkit.evaluation.statistics import paired_bootstrap
    from llmkit.reporting.tuning import changes_of

    rows = []
    for change in changes_of(known):
        interval = None
        if change.lost is not None:
            before, after = (known[when][change.task]["correct"] for when in ("before", "after"))
            found = paired_bootstrap(before, after, seed=0)
            interval = f"{found.low:+.4f} to {found.high:+.4f}"
        values = [f"{change.before:.4f}", f"{change.after:.4f}", f"{change.difference:+.4f}"]
        rows.append([change.task, change.metric, *values, interval])
    return rows
