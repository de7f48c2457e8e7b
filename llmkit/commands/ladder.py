"""The rungs of `llmkit scale`: each is an ordinary run with a command of its own, and what they came to."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmkit.console import say
from llmkit.errors import RunError, StoppedError, UsageError

if TYPE_CHECKING:
    from llmkit.recipe.schema import BaselineRecipe

RUNGS, CHECK = "rungs", "check"
"""Folders of the runs: those that the law is fitted to, and the one that it predicts."""


@dataclass(frozen=True)
class Base:
    """What the commands of all rungs have in common."""

    kind: str
    """The verb: pretrain or baseline."""
    recipe: str | None
    data: str | None
    overrides: tuple[str, ...]
    output: Path


@dataclass(frozen=True)
class Rung:
    """A model of the ladder."""

    name: str
    values: dict[str, Any]
    """Dotted fields of its recipe."""
    about: dict[str, Any] = field(default_factory=dict)
    """What it will be, as far as that is known before it is trained."""
    place: str = RUNGS

    def folder(self, base: Base) -> Path:
        """Of its run."""
        return base.output / self.place / self.name


def command_of(rung: Rung, base: Base) -> str:
    """The line that trains a rung, for a shell."""
    words = ["llmkit", base.kind, *([base.recipe] if base.recipe else [])]
    words += ["--data", base.data] if base.data else []
    words += ["--output", str(rung.folder(base))]
    for text in overrides_of(rung, base):
        words += ["--set", text]
    return shlex.join(words)


def overrides_of(rung: Rung, base: Base) -> list[str]:
    """What is set for a rung: what the user said for all of them, and its own."""
    return [*base.overrides, *(f"{key}={value}" for key, value in rung.values.items())]


def climb(rungs: Sequence[Rung], base: Base, *, time_limit: str | None) -> None:
    """Train the rungs that are not trained yet, one after the other, each in its own run folder.

    A rung that another process is training is left to it.

    Raises:
        StoppedError: A signal came, the time is over, or others are still at work: the same command goes on.
    """
    from llmkit.files import is_held
    from llmkit.training.signals import StopRequest

    left = [rung for rung in rungs if not is_finished(rung, base)]
    with StopRequest() as stop:
        for rung in left:
            done = len(rungs) - sum(not is_finished(other, base) for other in left)
            if is_held(rung.folder(base) / ".lock"):
                say(f"{rung.name}: another process is training it")
                continue
            if is_finished(rung, base):
                continue
            say(f"\n{rung.name}: {done} of {len(rungs)} are done")
            try:
                train(rung, base, time_limit=time_limit)
            except StoppedError as error:
                raise stopped(base, done, len(rungs)) from error
            if stop.name is not None:
                raise stopped(base, done + 1, len(rungs))
    missing = [rung.name for rung in rungs if not is_finished(rung, base)]
    if missing:
        raise StoppedError(
            f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} being trained by another process",
            where=str(base.output),
            fix="run the same command again when that is done",
        )


def stopped(base: Base, done: int, total: int) -> StoppedError:
    """The end of a command whose ladder is not finished."""
    message = f"stopped with {done} of {total} models trained"
    return StoppedError(message, where=str(base.output), fix="run the same command again to continue")


def train(rung: Rung, base: Base, *, time_limit: str | None) -> None:
    """Run the verb of a rung in this process; what it has to tell goes to people."""
    from llmkit.device import forget_model

    work = train_model if base.kind == "pretrain" else train_network
    with redirect_stdout(sys.stderr):
        work(rung, base, time_limit)
    forget_model()


def train_model(rung: Rung, base: Base, time_limit: str | None) -> None:
    """As `llmkit pretrain` does."""
    from llmkit.commands.pretrain import pretrain

    output, overrides = rung.folder(base), overrides_of(rung, base)
    pretrain(base.recipe, data=base.data, output=output, overrides=overrides, time_limit=time_limit)


def train_network(rung: Rung, base: Base, time_limit: str | None) -> None:
    """As `llmkit baseline` does."""
    from llmkit.commands.baseline import prepare, run_baseline, use_one_thread
    from llmkit.training.job import start_job
    from llmkit.training.run import run_options

    settings = network_settings(rung, base)
    accelerator = start_job(settings.train)
    use_one_thread()
    options = run_options(time_limit=time_limit)
    run_baseline(prepare(settings), rung.folder(base), accelerator, options=options, as_json=False)


def network_settings(rung: Rung, base: Base) -> BaselineRecipe:
    """The recipe of a rung that is a baseline."""
    from llmkit.recipe.load import load_recipe
    from llmkit.recipe.schema import BaselineRecipe

    return load_recipe(BaselineRecipe, base.recipe, overrides_of(rung, base), {"data.source": ("--data", base.data)})


def is_finished(rung: Rung, base: Base) -> bool:
    """Whether the run of a rung has come to its end."""
    return (rung.folder(base) / "summary.json").is_file()


def result_of(rung: Rung, base: Base) -> dict[str, Any]:
    """What a finished rung came to, from its run folder alone.

    Raises:
        UsageError: The folder holds a run with other settings.
        RunError: The run has no validation.
    """
    folder = rung.folder(base)
    check_settings(rung, base)
    summary, plan = read(folder / "summary.json"), read(folder / "plan.json") or read(folder / "results.json")
    validation = summary.get("validation") or {}
    measure = next((name for name in ("nats_per_token", "loss", "rmse") if name in validation), None)
    if measure is None:
        fix = "hold rows out: `llmkit data prepare --validation 0.05`, or data.validation of a baseline"
        raise RunError("this run has no validation to be measured by", where=str(folder), fix=fix)
    names = ("parameters", "parameters_without_embeddings", "tokens", "flops", "epochs")
    measured = {name: plan[name] for name in names if name in plan}
    return {
        **rung.about,
        **measured,
        "name": rung.name,
        "run": str(folder),
        "loss": validation[measure],
        "measure": measure,
        "seconds": summary.get("seconds"),
    }


def check_settings(rung: Rung, base: Base) -> None:
    """Raise unless the run in a rung's folder was made with the rung's settings."""
    from llmkit.recipe.load import flatten, read_layer

    folder = rung.folder(base)
    saved, size = flatten(read_layer(folder / "recipe.yaml").values), read(folder / "plan.json").get("parameters")
    # A size is saved as the sizes that it stands for.
    asked = {key: value for key, value in rung.values.items() if key != "model.size"}
    if base.kind == "baseline":
        asked = flatten(network_settings(rung, base).model_dump(mode="json"))
    wrong = [
        f"{key} is {saved.get(key)}, not {value}" for key, value in asked.items() if str(saved.get(key)) != str(value)
    ]
    if "model.size" in rung.values and size != rung.about["parameters"]:
        wrong.append(f"it has {size:,} parameters, not {rung.about['parameters']:,}")
    if wrong:
        fix = "choose another --output, or give the command that the ladder was begun with"
        raise UsageError(f"this run has other settings: {'; '.join(wrong)}", where=str(folder), fix=fix)


def read(path: Path) -> dict[str, Any]:
    """A JSON object of a run; empty where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
