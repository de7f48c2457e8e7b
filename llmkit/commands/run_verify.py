"""`llmkit run verify`: every byte of checkpoints, results and prepared data against its checksum."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import typer

from llmkit.commands.options import AsJson
from llmkit.commands.terminal import write_table
from llmkit.console import Progress, say, write_json
from llmkit.errors import CheckError, DataError, UsageError

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Check:
    """What was found of one folder. `state`: whole, damaged, set aside, no checksums, gone."""

    path: str
    what: str
    bytes: int
    state: str
    problem: str | None = None


def verify(
    paths: Annotated[
        list[Path],
        typer.Argument(metavar="PATH", help="Runs, checkpoints, or prepared data.", show_default=False),
    ],
    as_json: AsJson = False,
) -> None:
    """Check checkpoints byte by byte against their checksums. Nothing is changed; exit code 3 when one is damaged.

    \b
    Examples:
      llmkit run verify run
      llmkit run verify run/checkpoints/step-00000500
      llmkit run verify runs/* data --json

    Of a run, all checkpoints are checked, the result in model/ where it has checksums, and whether its recipe and its
    other records can be read. What resuming has set aside as damaged is listed, and is no error any more.
    """
    with Progress("checking", unit="folders") as progress:
        checks = []
        for path in paths:
            for check in check_path(path):
                checks.append(check)
                progress.update(note=check.path)
    damaged = [check for check in checks if check.state == "damaged"]
    if as_json:
        write_json({"ok": not damaged, "checks": [asdict(check) for check in checks]})
    else:
        show_checks(checks)
    if damaged:
        message = "; ".join(f"{check.path}: {check.problem}" for check in damaged)
        fix = "the same training command takes the newest whole checkpoint; take damaged files from a copy"
        raise CheckError(message, where="run verify", fix=fix)


def show_checks(checks: Sequence[Check]) -> None:
    """The table of what was checked."""
    if not checks:
        say("there is nothing with checksums here yet")
        return
    rows = [[c.path, c.what, f"{c.bytes / 1e6:.1f}", c.state, c.problem] for c in checks]
    write_table(["path", "what", "MB", "state", "problem"], rows, spare=("what", "MB"))


def check_path(path: Path) -> Iterator[Check]:
    """All that can be checked of a path that was named.

    Raises:
        UsageError: It is nothing that carries checksums.
    """
    from llmkit.reporting.runs import is_run

    if is_run(path):
        yield from check_run(path)
    elif is_prepared(path):
        yield check_prepared(path)
    elif (path / MANIFEST).is_file() or (path.name.startswith("step-") and path.is_dir()):
        yield check_folder(path, "checkpoint")
    else:
        message = "this is no run, no checkpoint and no prepared data" if path.exists() else "there is nothing here"
        raise UsageError(message, where=str(path), fix="name the folder of a run, or of one of its checkpoints")


def check_run(folder: Path) -> Iterator[Check]:
    """The records of a run, its checkpoints, and its result."""
    from llmkit.files import bytes_below
    from llmkit.reporting.collect import read_run

    problems = read_run(folder, folder).problems
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    state = "damaged" if problems else "whole"
    yield Check(str(folder), "records", size, state, "; ".join(problems) or None)
    for path in sorted((folder / "checkpoints").glob("*")):
        if path.name.startswith("step-"):
            yield check_folder(path, "checkpoint")
        elif path.is_dir() and not path.name.startswith("."):
            yield Check(str(path), "checkpoint", bytes_below(path), "set aside")
    result = folder / "model"
    if (result / MANIFEST).is_file():
        yield check_folder(result, "result")
    elif result.is_dir():
        yield Check(str(result), "result", bytes_below(result), "no checksums")


def check_folder(path: Path, what: str) -> Check:
    """A folder with a manifest of checksums."""
    from llmkit.files import bytes_below
    from llmkit.training.checkpoint import find_damage

    size = bytes_below(path)
    problem = find_damage(path)
    if not path.exists():
        return Check(str(path), what, 0, "gone", "removed while it was read: the run goes on")
    return Check(str(path), what, size, "damaged" if problem else "whole", problem)


def is_prepared(path: Path) -> bool:
    """Whether this is a folder that `llmkit data prepare` wrote."""
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(manifest, dict) and "splits" in manifest


def check_prepared(path: Path) -> Check:
    """Prepared data: the sizes and the hashes of its arrays, and its tokenizer."""
    from llmkit.data.prepared import open_prepared
    from llmkit.files import bytes_below, sha256_of

    problem = None
    try:
        prepared = open_prepared(path)
        wrong = [
            name for name, about in prepared.manifest["files"].items() if sha256_of(path / name) != about["sha256"]
        ]
        problem = f"{wrong[0]} does not match its checksum" if wrong else None
        prepared.tokenizer  # noqa: B018 (raises where it is another one)
    except DataError as error:
        problem = f"{error.where}: {error.message}"
    return Check(str(path), "prepared data", bytes_below(path), "damaged" if problem else "whole", problem)
