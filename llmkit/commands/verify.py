"""`llmkit verify`: what must hold of a recipe, a run or a model, tried on the user's own data in about a minute."""

from __future__ import annotations

import io
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer

from llmkit.commands.checks.answering import check_batch_size, check_cache, check_tree
from llmkit.commands.checks.case import Case, CheckOutcome
from llmkit.commands.checks.dialogues import check_same_ids, check_supervision
from llmkit.commands.checks.opening import Named, open_case
from llmkit.commands.checks.saving import check_adapter_start, check_files, check_merged, check_saved
from llmkit.commands.checks.training import (
    check_first_loss,
    check_gradients,
    check_heart,
    check_packing,
    check_resume,
    check_split,
)
from llmkit.commands.options import AsJson, Overrides
from llmkit.commands.replace import check_replaceable, is_certificate
from llmkit.commands.terminal import write_table
from llmkit.console import Progress, format_seconds, say, write_json
from llmkit.errors import CheckError

CERTIFICATE = "certificate.json"


class Check(NamedTuple):
    """One thing that must hold."""

    name: str
    work: Callable[[Case], CheckOutcome]


CHECKS = (
    Check("files whole", check_files),
    Check("batch split k x 1 = 1 x k", check_split),
    Check("packed = unpacked loss", check_packing),
    Check("killed and resumed = whole", check_resume),
    Check("saved and loaded = same", check_saved),
    Check("adapter at start = base", check_adapter_start),
    Check("adapter merged = attached", check_merged),
    Check("answers and their ends trained, prompts not", check_supervision),
    Check("ids in training = ids in chat", check_same_ids),
    Check("cached = uncached generation", check_cache),
    Check("scores do not depend on the batch", check_batch_size),
    Check("scores of the tree = naive", check_tree),
    Check("gradients finite, for all that is trained", check_gradients),
    Check("first loss is that of blind guessing", check_first_loss),
    Check("a batch can be learnt by heart", check_heart),
)
"""In the order in which they are shown."""


def verify(
    subject: Annotated[str, typer.Argument(metavar="RECIPE|RUN|MODEL", help="What to verify.", show_default=False)],
    data: Annotated[str | None, typer.Option(help="Data of a recipe that names none, as its verb takes it.")] = None,
    model: Annotated[str | None, typer.Option(help="Model of a recipe that names none.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="Where to write the certificate. [default: certificate.json in the run]")
    ] = None,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Check that training, saving and answering do what they should, on your recipe, your model and your data.

    \b
    Examples:
      llmkit verify laptop/pretrain-python --data data
      llmkit verify laptop/finetune-python --model runs/python --data chats.jsonl
      llmkit verify runs/python
      llmkit verify smollm2/model --output certificate.json
      llmkit verify runs/python --json | jq .passed

    A few rows and a few steps, in fp32; of a large model training is tried on the first layers. Each check shows its
    number and how large it may be. Exit code 3 when one fails. `llmkit run verify` checks the files of a run alone.
    """
    from llmkit.files import write_file

    begin = time.monotonic()
    if output is not None:
        check_replaceable(output, "--output", "certificate", is_certificate)
    with tempfile.TemporaryDirectory() as name:
        case = open_case(Named(subject, data, model, overrides or []), Path(name))
        outcomes = run_checks(case)
    seconds = time.monotonic() - begin
    document = certificate_of(case, outcomes, seconds)
    path = output or (Path(subject) / CERTIFICATE if (Path(subject) / "recipe.yaml").is_file() else None)
    if path is not None:
        write_file(path, json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    write_json(document) if as_json else show(case, outcomes)
    failed = [check.name for check, outcome in outcomes if outcome.state == "fail"]
    passed = sum(outcome.state == "pass" for _, outcome in outcomes)
    say(
        f"{passed} passed, {len(failed)} failed, {len(outcomes) - passed - len(failed)} not applicable: "
        f"{format_seconds(seconds)}"
    )
    say(f"certificate: {path}" if path is not None else "add --output FILE to keep this as a certificate")
    if failed:
        fix = "do not trust what is trained with it before that is mended; the table says where to look"
        raise CheckError(f"failed: {', '.join(failed)}", where=subject, fix=fix)


def run_checks(case: Case) -> list[tuple[Check, CheckOutcome]]:
    """All checks, one after the other; one that breaks down has failed."""
    outcomes = []
    with Progress("verifying", total=len(CHECKS), unit="checks") as progress:
        for check in CHECKS:
            outcomes.append((check, run_check(check, case)))
            progress.update(note=check.name)
    return outcomes


def run_check(check: Check, case: Case) -> CheckOutcome:
    """What a check finds; an exception is a finding too."""
    try:
        with quiet():
            return check.work(case)
    except Exception as error:
        reason = str(error).strip().splitlines() or [""]
        return CheckOutcome("fail", note=f"{type(error).__name__}: {reason[0]}")


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what training has to tell to itself; a table comes of it."""
    with redirect_stderr(io.StringIO()):
        yield


def show(case: Case, outcomes: list[tuple[Check, CheckOutcome]]) -> None:
    """The table: each check with its number and its tolerance."""
    rows = [
        [check.name, outcome.state, number(outcome.value), number(outcome.tolerance), outcome.note]
        for check, outcome in outcomes
    ]
    write_table(["check", "state", "found", "at most", "on"], rows)
    for note in case.notes:
        say(note)


def number(value: float | None) -> str | None:
    """A number as it is read: 0, 1e-07, 0.41."""
    return None if value is None else f"{value:.2g}"


def certificate_of(case: Case, outcomes: list[tuple[Check, CheckOutcome]], seconds: float) -> dict[str, Any]:
    """What was verified, by hashes; with what; when; and what was found."""
    from llmkit.training.environment import describe_environment, fingerprint_of

    environment = describe_environment(fingerprint_of(case.accelerator))
    return {
        "subject": case.subject,
        "kind": case.kind,
        "passed": all(outcome.state != "fail" for _, outcome in outcomes),
        "date": environment.pop("began"),
        "seconds": round(seconds, 1),
        "hashes": case.hashes,
        "notes": case.notes,
        "checks": [
            {"name": check.name, **{key: finite(value) for key, value in outcome._asdict().items()}}
            for check, outcome in outcomes
        ],
        "environment": environment,
    }


def finite(value: Any) -> Any:
    """JSON knows no infinity."""
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
