"""The built-in tasks: each a task file in Python, and the function that shapes its rows where they need it."""

from __future__ import annotations

from dataclasses import dataclass

from llmkit.evaluation.task_file import Shape, TaskFile
from llmkit.evaluation.tasks.python_docs import shape_description, shape_package


@dataclass(frozen=True)
class BuiltIn:
    """A task that has a name."""

    spec: TaskFile
    about: str
    """One line for `evaluate --list`."""
    chance: float | None
    metric: str
    shape: Shape | None = None


BUILT_IN: dict[str, BuiltIn] = {
    "python-docs-package": BuiltIn(
        TaskFile(
            name="python-docs-package",
            kind="label",
            test="python-docs:labelled@test",
            train="python-docs:labelled@train",
            question="question",
            answer="answer",
            prompt="Documentation: {question}\nPackage:",
            shots="balanced",
        ),
        about="which of ten packages does this documentation belong to",
        chance=0.1,
        metric="accuracy",
        shape=shape_package,
    ),
    "python-docs-description": BuiltIn(
        TaskFile(
            name="python-docs-description",
            kind="choice",
            test="python-docs:functions@test",
            train="python-docs:functions@train",
            question="question",
            choices="choices",
            answer="answer",
            prompt="Function: {question}\nDescription:",
        ),
        about="which of four descriptions fits this function",
        chance=0.25,
        metric="accuracy",
        shape=shape_description,
    ),
    "python-docs-perplexity": BuiltIn(
        TaskFile(name="python-docs-perplexity", kind="perplexity", test="python-docs@test"),
        about="how well held-out Python documentation and source is predicted",
        chance=None,
        metric="bits_per_byte",
    ),
    "perplexity": BuiltIn(
        TaskFile(name="perplexity", kind="perplexity"),
        about="how well a text of your own (--data) is predicted",
        chance=None,
        metric="bits_per_byte",
    ),
}
"""By name, as `evaluate --task` takes them."""
