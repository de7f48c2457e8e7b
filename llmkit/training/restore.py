"""Where a run goes on: its newest whole checkpoint, and whether it will be the same run to the last bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from llmkit.console import say, warn
from llmkit.errors import UsageError
from llmkit.training.checkpoint import newest_checkpoint, read_state
from llmkit.training.environment import list_differences
from llmkit.training.job import on_main_process
from llmkit.training.run import Run


@dataclass(frozen=True)
class Start:
    """Where the steps of this process begin: nowhere yet, or at a checkpoint whose weights were put back."""

    path: Path | None = None
    step: int = 0
    values: dict[str, Any] = field(default_factory=dict)


def find_start(run: Run, accelerator: Accelerator) -> Start:
    """The newest whole checkpoint of a run that is continued, or its beginning.

    Raises:
        UsageError: What the run depends on has changed, and the result is to be exact.
    """
    path = None
    if run.is_continued:
        path = on_main_process(accelerator, lambda: newest_checkpoint(run.checkpoints))
    if path is None:
        return Start()
    values = read_state(path)
    return Start(path, values["step"], values)


def go_on(run: Run, start: Start, load_model: Callable[[Path], None]) -> None:
    """Put the weights back, and note in the run where it goes on and what has changed.

    Raises:
        UsageError: With `require_exact`, something has changed that the last bit of the result depends on.
    """
    if start.path is None:
        run.forget_after(-1)
        run.begin(0)
        return
    changes = [*list_differences(start.values.get("fingerprint", {}), run.fingerprint), *run.changes.split]
    if changes and run.options.require_exact:
        raise UsageError(
            f"the run would go on, but not to the same last bit: {'; '.join(changes)}",
            where=str(start.path),
            fix="run it as it was run before, or leave --require-exact out",
        )
    load_model(start.path)
    say(f"continuing from {start.path}{''.join(f'; from here on {line}' for line in run.changes.keeping)}")
    if changes:
        warn(f"continues, not bit-identical: {'; '.join(changes)}")
    run.forget_after(start.step)
    run.begin(start.step, changes)
