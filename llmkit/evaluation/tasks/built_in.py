"""What a built-in task is: how it asks, how its rows are read, and where they are looked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from llmkit.evaluation.task import Author, Example, PlainRow, TaskRow
from llmkit.evaluation.task_file import TaskFile
from llmkit.evaluation.tasks.forms import Lines


@dataclass(frozen=True)
class BuiltIn:
    """A task that has a name."""

    spec: TaskFile
    """How it asks and is scored; `test` and `train` are what is read when no data is given."""
    about: str
    """One line for `evaluate --list`."""
    prompt_by: Author = "llmkit"
    """Who worded the first of its prompts; the others are llmkit's own."""
    num_choices: int | None = None
    """How many choices a row has, or most rows have."""
    examples: Callable[[Sequence[TaskRow]], list[Example]] | None = None
    """Rows as examples; None where the columns tell."""
    lines: Callable[[Lines], Iterator[PlainRow]] | None = None
    """Lines as rows, for sets that are published as text or as tables without names of columns."""
    encoding: str = "utf-8"
    """Of text that is not UTF-8."""
    test_files: tuple[str, ...] = ()
    """Patterns of the file to be scored, in a folder of data; the first that fits counts."""
    train_files: tuple[str, ...] = ()
    """The same for the rows that shots are drawn from."""
    is_many_files: bool = False
    """Whether all files that fit a pattern belong together."""

    @property
    def metric(self) -> str:
        """The metric that stands for it."""
        return self.spec.main_metric

    @property
    def chance(self) -> float | None:
        """What guessing reaches in this metric."""
        if self.num_choices is None:
            return None
        return 0.0 if self.metric == "matthews" else 1 / self.num_choices
