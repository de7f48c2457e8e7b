"""`llmkit scale`: a ladder of models, the law of their losses, and what it predicts of the next one."""

from __future__ import annotations

import json
import os
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from llmkit.commands.ladder import Base, climb, command_of, result_of
from llmkit.commands.ladder_lr import are_finished, trials_of, with_best
from llmkit.commands.ladder_lr import search_lr as search
from llmkit.commands.ladder_plan import (
    DEFAULT_TOKENS,
    LadderPlan,
    TextPlanner,
    plan_baseline,
    read_amounts,
    read_sizes,
    split_list,
)
from llmkit.commands.options import AsJson, Overrides, RecipeArgument, TimeLimit
from llmkit.commands.scale_show import show_document, show_plan, write_pictures
from llmkit.console import format_seconds, say, write, write_json
from llmkit.errors import CheckError, UsageError

if TYPE_CHECKING:
    from llmkit.recipe.schema import PretrainRecipe

SHARE_FOR_TRAINING = 0.75
"""Of the minutes; the rest is for starting each model, its validation and its checkpoints, and for small models, which
reach fewer FLOPs per second than the one that is timed."""
LADDER, RESULT = "ladder.json", "scaling.json"


class Asked(NamedTuple):
    """What the command line says about sizes and tokens."""

    sizes: str | None
    tokens: str | None
    minutes: float | None
    flops: float | None
    has_check: bool
    searches_lr: bool


def scale(
    recipe: RecipeArgument = None,
    data: Annotated[str | None, typer.Option(help="Prepared folder; with --kind a labelled set or a file.")] = None,
    kind: Annotated[
        str | None, typer.Option(metavar="mlp|cnn|rnn", help="Scale a baseline of this kind, by its width.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder of the ladder: its runs, scaling.json, the page.")] = None,
    sizes: Annotated[
        str | None, typer.Option(metavar="SIZES", help="Parameters of each model: 0.5m,1m,2m,4m; of baselines widths.")
    ] = None,
    tokens: Annotated[
        str | None,
        typer.Option(metavar="TOKENS", help="Tokens of each: 2m,8m,32m, or 20x for 20 per parameter (the default)."),
    ] = None,
    minutes: Annotated[float | None, typer.Option(min=0.1, help="Choose sizes that take about so long.")] = None,
    flops: Annotated[float | None, typer.Option(min=1.0, help="Choose sizes that take so many FLOPs: 1e15.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Train the predicted model too, and tell the error.")] = False,
    budget: Annotated[
        str | None, typer.Option(metavar="FLOPS", help="Tell the best size and tokens for these FLOPs: 1e16,1e17.")
    ] = None,
    search_lr: Annotated[
        bool, typer.Option("--search-lr", help="Try five learning rates on the smallest model first.")
    ] = False,
    count: Annotated[
        str, typer.Option(metavar="all|without-embeddings", help="Which parameters the law counts.")
    ] = "all",
    overrides: Overrides = None,
    time_limit: TimeLimit = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print one command per model, for a scheduler; write nothing.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train models of several sizes, fit the law of their losses, and predict the next size.

    \b
    Examples:
      llmkit scale --data data --output ladder --minutes 30 --check
      llmkit scale --data data --output ladder --sizes 0.5m,1m,2m,4m --tokens 2m,8m,32m --budget 1e16
      llmkit scale scale-laptop --data data --output ladder --flops 1e15
      llmkit scale --data data --output ladder --sizes 1m,2m,4m,8m,16m --dry-run > commands.sh
      llmkit scale --data data --output ladder --minutes 60 --search-lr
      llmkit scale --kind cnn --data digits --output ladder --sizes 2,4,8,16,32

    Each model is an ordinary run below the folder. The same command goes on where it was stopped, and takes what the
    printed commands have trained elsewhere. Where the points do not support a law, that is said in place of one.
    """
    begin = time.monotonic()
    if output is None and not dry_run:
        raise UsageError("a ladder needs a folder", where="--output", fix="add --output DIR")
    asked = Asked(sizes, tokens, minutes, flops, check, search_lr)
    check_flags(asked, count)
    given = [*(overrides or []), *([f"model.kind={kind}"] if kind else [])]
    base = Base(kind_of(recipe, kind), recipe, data, tuple(given), output or Path("ladder"))
    budgets = read_budgets(budget)
    if base.kind == "baseline":
        plan, size_dial = plan_networks(base, asked, budgets), "width"
    else:
        plan = plan_models(base, asked, begin=begin, is_kept=not dry_run)
        size_dial = "parameters" if count == "all" else "parameters_without_embeddings"
    if dry_run:
        show_commands(plan, base, asked, as_json=as_json)
        return
    plan = search(plan, base, time_limit=time_limit) if search_lr else plan
    show_plan(plan, base, has_check=check)
    climb(plan.rungs, base, time_limit=time_limit)
    document = conclude(plan, base, size_dial=size_dial, budgets=budgets)
    if check:
        document = check_prediction(plan, base, document, time_limit=time_limit)
    write_json(document) if as_json else show_document(document)
    say(f"page: {base.output / 'scaling.html'}")


def check_flags(asked: Asked, count: str) -> None:
    """Raise for flags that contradict each other, and for what is missing before any time is spent."""
    if sum(value is not None for value in (asked.sizes, asked.minutes, asked.flops)) > 1:
        message = "--sizes, --minutes and --flops each decide about the sizes"
        raise UsageError(message, where="llmkit scale", fix="keep one of them")
    if count not in ("all", "without-embeddings"):
        raise UsageError(f"{count!r} is neither all nor without-embeddings", where="--count", fix="say one of them")
    if os.environ.get("WORLD_SIZE", "1") != "1":
        fix = "start each model under the launcher: `llmkit scale ... --dry-run` prints the commands"
        raise UsageError("a ladder is climbed by one process", where="WORLD_SIZE", fix=fix)
    if find_spec("scipy") is None:
        fix = "pip install 'llmkit[scale]'"
        raise UsageError("laws are fitted with scipy, which is not installed", where="llmkit scale", fix=fix)


def kind_of(recipe: str | None, kind: str | None) -> str:
    """Whether language models or baselines are scaled: as the recipe says, or by --kind."""
    from llmkit.recipe.load import find_recipe, recipe_kind

    found = recipe_kind(find_recipe(recipe)) if recipe else "baseline" if kind else "pretrain"
    if found == "finetune":
        fix = "name a recipe of kind pretrain or baseline"
        raise UsageError("a ladder trains models from scratch, and this recipe tunes one", where=recipe, fix=fix)
    if kind and found == "pretrain":
        raise UsageError(f"{recipe} is a recipe of a language model", where="--kind", fix="leave --kind out")
    return found


def read_budgets(text: str | None) -> list[float]:
    """`1e16,1e17` as FLOPs."""
    try:
        budgets = [float(part) for part in split_list(text, "--budget")] if text else []
    except ValueError as error:
        raise UsageError(f"{text!r} is no number of FLOPs", where="--budget", fix="write 1e16,1e17") from error
    if any(not 0 < budget < float("inf") for budget in budgets):
        raise UsageError(f"{text!r} is no number of FLOPs", where="--budget", fix="write 1e16,1e17")
    return budgets


def plan_networks(base: Base, asked: Asked, budgets: list[float]) -> LadderPlan:
    """The ladder of a baseline: its widths."""
    from llmkit.recipe.load import load_recipe
    from llmkit.recipe.schema import BaselineRecipe

    flags = {"--tokens": asked.tokens, "--minutes": asked.minutes, "--flops": asked.flops, "--budget": budgets or None}
    for flag, value in flags.items():
        if value is not None:
            fix = "name widths: --sizes 4,8,16,32,64"
            raise UsageError("the ladder of a baseline is one of widths alone", where=flag, fix=fix)
    settings = load_recipe(BaselineRecipe, base.recipe, base.overrides, {"data.source": ("--data", base.data)})
    if settings.data.source is None:
        raise UsageError("there is nothing to train on", where="--data", fix="add --data digits, say, or --data FILE")
    return plan_baseline(settings, asked.sizes)


def plan_models(base: Base, asked: Asked, *, begin: float, is_kept: bool) -> LadderPlan:
    """The ladder of a language model. What a budget chose is kept in the folder: the same command must mean the same.

    Args:
        base: Of all commands.
        asked: Sizes and tokens, or a budget.
        begin: When this command began.
        is_kept: Whether the ladder is to be begun, and not only shown.
    """
    from llmkit.data.pretraining import open_pretraining
    from llmkit.errors import RunError
    from llmkit.files import write_file
    from llmkit.recipe.load import dump_recipe, load_recipe
    from llmkit.recipe.schema import PretrainRecipe
    from llmkit.training.job import start_job

    settings = load_recipe(PretrainRecipe, base.recipe, base.overrides, {"data.source": ("--data", base.data)})
    accelerator = start_job(settings.train)
    data = open_pretraining(settings.data, tokenizer_source=None)
    if data.validation(1) is None and not data.validation_parts(1):
        fix = "prepare it again with a larger --validation share"
        raise RunError("nothing is held out to measure the models by", where="--data", fix=fix)
    planner = TextPlanner(settings, data, accelerator)
    request = {
        "recipe": dump_recipe(settings),
        "data": data.content_hash,
        **{name: value for name, value in asked._asdict().items() if name != "has_check"},
    }
    sizes = earlier_sizes(base.output, request)
    amounts = read_amounts(asked.tokens or DEFAULT_TOKENS)
    if sizes is None:
        sizes = (
            read_sizes(asked.sizes)
            if asked.sizes
            else planner.sizes_for(find_flops(asked, settings, planner, begin), amounts, has_check=asked.has_check)
        )
        if not asked.sizes:
            say(f"the same ladder, named: --sizes {','.join(sizes)} --tokens {','.join(a.text for a in amounts)}")
    plan = planner.plan(sizes, amounts)
    planner.warn_of_repetition(plan.rungs)
    if is_kept:
        write_file(base.output / LADDER, json.dumps({"request": request, "sizes": sizes}, indent=1) + "\n")
    return plan


def earlier_sizes(output: Path, request: dict[str, Any]) -> list[str] | None:
    """The sizes of the ladder that was begun in this folder with the same command; None where there is none.

    Raises:
        UsageError: The folder holds another ladder.
    """
    path = output / LADDER
    if not path.is_file():
        return None
    known = json.loads(path.read_text(encoding="utf-8"))
    # A flag that is new in llmkit is not in the folder of an earlier one, and was not given then.
    changed = [name for name, value in request.items() if (known["request"].get(name) or None) != (value or None)]
    if changed:
        raise UsageError(
            f"this folder holds another ladder; not the same: {', '.join(changed)}",
            where=str(output),
            fix="give the command that it was begun with, or choose another --output",
        )
    return list(known["sizes"])


def find_flops(asked: Asked, settings: PretrainRecipe, planner: TextPlanner, begin: float) -> float:
    """What all models together may take: as said, or what fits into the minutes by a short probe."""
    from llmkit.commands.minutes import probe
    from llmkit.commands.plan import describe_rate

    if asked.flops is not None:
        return asked.flops
    if asked.minutes is None:
        fix = "name sizes (--sizes 0.5m,1m,2m,4m), --minutes 30, or --flops 1e15"
        raise UsageError("how large the models are to be is not said", where="--sizes", fix=fix)
    seconds = 60 * asked.minutes
    probed = probe(settings, planner.data, planner.accelerator, seconds=seconds)
    left = seconds - (time.monotonic() - begin)
    say(f"--minutes {asked.minutes:g}: a probe reached {describe_rate(probed.rate)}; {format_seconds(left)} are left")
    return probed.rate * left * SHARE_FOR_TRAINING


def show_commands(plan: LadderPlan, base: Base, asked: Asked, *, as_json: bool) -> None:
    """One command per model on stdout. A search for the learning rate comes first, and alone."""
    trials = trials_of(plan.rungs[0]) if asked.searches_lr else []
    if trials and are_finished(trials, base):
        plan, trials = with_best(plan, trials, base), []
    show_plan(plan, base, has_check=asked.has_check)
    rungs = trials or [*plan.rungs, *([plan.following] if asked.has_check else [])]
    if as_json:
        write_json({"rungs": [{**rung.about, "name": rung.name, "command": command_of(rung, base)} for rung in rungs]})
    else:
        for rung in rungs:
            write(command_of(rung, base))
    if trials:
        say("when these are trained, the same command prints those of the ladder, with the best of their rates")


def conclude(plan: LadderPlan, base: Base, *, size_dial: str, budgets: list[float]) -> dict[str, Any]:
    """Fit the law to what the models came to, and write it down before anything is checked against it."""
    from llmkit.commands.ladder_law import describe

    results = [result_of(rung, base) for rung in plan.rungs]
    following = {"name": plan.following.name, **plan.following.about}
    document = {
        "kind": base.kind,
        "recipe": base.recipe,
        "data": base.data,
        "rule": plan.rule,
        "search": plan.search,
        "measure": results[0]["measure"],
        "size": size_dial,
        "rungs": results,
        **describe(results, following, size_dial=size_dial, budgets=budgets),
        "check": None,
    }
    save(document, base)
    return document


def check_prediction(
    plan: LadderPlan, base: Base, document: dict[str, Any], *, time_limit: str | None
) -> dict[str, Any]:
    """Train the model that was predicted, and hold its loss against the prediction.

    Raises:
        CheckError: There is no prediction: the points do not support a law.
    """
    predicted = document["prediction"]
    if predicted is None or not document["is_supported"]:
        show_document(document)
        reasons = "; ".join(document["doubts"])
        fix = "train more sizes, further apart, or longer"
        raise CheckError(f"the points support no law, and so no prediction: {reasons}", where="--check", fix=fix)
    climb([plan.following], base, time_limit=time_limit)
    result = result_of(plan.following, base)
    loss = result["loss"]
    document = {
        **document,
        "check": {
            **result,
            "error": predicted["loss"] - loss,
            "error_share": predicted["loss"] / loss - 1,
            "is_inside": predicted["low"] <= loss <= predicted["high"],
        },
    }
    save(document, base)
    return document


def save(document: dict[str, Any], base: Base) -> None:
    """Write scaling.json, the page and, where matplotlib is there, the picture."""
    from llmkit.files import write_file

    write_file(base.output / RESULT, json.dumps(document, ensure_ascii=False, indent=1) + "\n")
    write_pictures(document, base.output)
