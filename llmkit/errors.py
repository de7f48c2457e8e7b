"""The errors a user can mend: where it happened, what is true, what to do.

LlmkitError
├── UsageError     a flag, an argument or an output folder
├── RecipeError    a YAML recipe or a --set override
├── DataError      a file of text, rows or tables
├── ModelError     a model, adapter or tokenizer folder
├── RunError       a run folder, its checkpoints, the processes of a job
│   └── BlockedError   another process or a full disk; the same command goes on once it is gone
├── CheckError     a check that was asked for has failed (exit code 3)
└── StoppedError   stopped early with a checkpoint; the same command continues (exit code 75)
"""

from __future__ import annotations


class LlmkitError(Exception):
    """An error that the user can mend. `cli` turns it into text on stderr and an exit code.

    Args:
        message: What is true, in one sentence without a full stop.
        where: The place: `file:line`, a flag, a recipe key, a folder.
        fix: What to do about it.
    """

    exit_code = 2

    def __init__(self, message: str, *, where: str | None = None, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.fix = fix

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  fix: {self.fix}" if self.fix else text


class UsageError(LlmkitError):
    """A flag, an argument or an output folder that cannot be used."""


class RecipeError(LlmkitError):
    """A recipe or an override that does not say what can be done."""


class DataError(LlmkitError):
    """A file of text, rows or tables that cannot be read as asked."""


class ModelError(LlmkitError):
    """A model, adapter or tokenizer folder that cannot be used as asked."""


class RunError(LlmkitError):
    """A run folder, a checkpoint or a job of several processes that is not as it must be."""


class BlockedError(RunError):
    """What stands in the way of a run is outside of it, another process or a full disk: what is there stays good."""


class CheckError(LlmkitError):
    """A check that the user asked for has failed."""

    exit_code = 3


class StoppedError(LlmkitError):
    """The run stopped early and left a checkpoint: the same command continues it."""

    exit_code = 75
