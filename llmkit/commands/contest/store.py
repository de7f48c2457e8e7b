"""The folder of a comparison: what it is of, and a folder for each method that is finished, whole or absent.

contest.json  comparison.json  comparison.html
methods/mlp-1a2b3c4d/   result.json  items.jsonl  validation.jsonl
curve/mlp-8-0-1a2b3c4d.json
.unfinished/mlp-1a2b3c4d/   the run, or the answers, of a method that was stopped
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.commands.contest.methods import Outcome
from llmkit.commands.contest.rows import Contest, Part
from llmkit.errors import UsageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

CONTEST = "contest.json"
RESULT = "result.json"
ITEMS = {"test": "items.jsonl", "validation": "validation.jsonl"}


@dataclass(frozen=True)
class Result:
    """What became of a method.

    Attributes:
        name: As it was asked for.
        title: As it is shown.
        outcome: What it made of the rows; None where it cannot run on them.
        reason: Why it cannot.
        peak_bytes: The most memory that the process held while it learned and answered.
        folder: Where its records are.
        recipe: The settings of its training.
    """

    name: str
    title: str
    outcome: Outcome | None = None
    reason: str | None = None
    peak_bytes: int | None = None
    folder: Path | None = None
    recipe: dict[str, Any] | None = None

    def costs(self) -> dict[str, Any]:
        """What it took, for people and comparison.json."""
        assert self.outcome is not None
        found = self.outcome
        return {
            "labelled_examples": found.examples,
            "trained_parameters": found.parameters,
            "training_seconds": round(found.seconds, 3),
            "milliseconds_per_item": None if found.milliseconds is None else round(found.milliseconds, 4),
            "peak_memory_bytes": self.peak_bytes,
        }


def claim_folder(output: Path, contest: Contest) -> None:
    """Make the folder of a comparison, or check that the one there is of the same rows.

    Raises:
        UsageError: It is of others, or of something else.
    """
    from llmkit.files import check_output_free, write_file

    path = output / CONTEST
    if not path.is_file():
        check_output_free(output)
        counts = {name: len(part) for name, part in contest.parts.items()}
        about = {"task": contest.name, "source": contest.source, "rows": counts, "hash": contest.content_hash}
        write_file(path, json.dumps(about, ensure_ascii=False, indent=1) + "\n")
        return
    known = json.loads(path.read_text(encoding="utf-8"))
    if known.get("hash") != contest.content_hash:
        message = f"this folder holds a comparison on other rows ({known.get('task')}: {known.get('rows')})"
        raise UsageError(message, where=str(output), fix="choose another --output, or give the same task and limits")


@contextmanager
def held_alone(output: Path) -> Iterator[None]:
    """Within the block no other process writes to this comparison: both would train the same methods.

    Raises:
        BlockedError: Another one does.
    """
    from llmkit.training.folder import lock_folder

    lock = lock_folder(output, "comparison")
    try:
        yield
    finally:
        os.close(lock)


def save_result(result: Result, contest: Contest) -> None:
    """Write the folder of a finished method."""
    from llmkit.files import new_folder

    outcome, folder = result.outcome, result.folder
    assert outcome is not None
    assert folder is not None
    about = {"method": result.name, "title": result.title, **result.costs(), "recipe": result.recipe}
    with new_folder(folder) as aside:
        for split, chances in (("test", outcome.test), ("validation", outcome.validation)):
            lines = (json.dumps(line, ensure_ascii=False) + "\n" for line in records(contest, split, chances))
            (aside / ITEMS[split]).write_text("".join(lines), encoding="utf-8")
        (aside / RESULT).write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def records(contest: Contest, split: str, chances: NDArray[Any]) -> list[dict[str, Any]]:
    """A line for each row: what is right, what was said, and how likely each class was."""
    part = contest.parts[split]
    lines = []
    for row, (name, answer) in enumerate(zip(part.ids, part.answers, strict=True)):
        names, said = choices_of(contest, part, row), int(chances[row].argmax())
        lines.append(
            {
                "id": name,
                "answer": names[answer],
                "prediction": names[said],
                "correct": said == answer,
                "probabilities": chances[row][: len(names)].tolist(),
            }
        )
    return lines


def choices_of(contest: Contest, part: Part, row: int) -> Sequence[str]:
    """What a row is to be told apart from."""
    return contest.labels or (part.examples or [])[row].choices


def load_result(folder: Path, name: str, title: str, contest: Contest) -> Result | None:
    """What a method came to before, None where it is not finished."""
    if not (folder / RESULT).is_file():
        return None
    about = json.loads((folder / RESULT).read_text(encoding="utf-8"))
    outcome = Outcome(
        read_chances(folder / ITEMS["test"], contest),
        read_chances(folder / ITEMS["validation"], contest),
        examples=about["labelled_examples"],
        parameters=about["trained_parameters"],
        seconds=about["training_seconds"],
        milliseconds=about["milliseconds_per_item"],
    )
    return Result(name, title, outcome, None, about["peak_memory_bytes"], folder, about["recipe"])


def read_chances(path: Path, contest: Contest) -> NDArray[Any]:
    """The probabilities (N, K) of a file of records."""
    import numpy as np

    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line)["probabilities"] for line in file]
    found = np.zeros((len(rows), contest.num_outputs))
    for row, chances in enumerate(rows):
        found[row, : len(chances)] = chances
    return found


def forget_unfinished(folder: Path) -> None:
    """Delete what a finished method no longer needs."""
    shutil.rmtree(folder, ignore_errors=True)
    with suppress(OSError):  # another method's run is in it
        folder.parent.rmdir()
