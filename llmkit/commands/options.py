"""The arguments that all training verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    str | None, typer.Argument(metavar="RECIPE", help="A YAML file, or a name that `llmkit recipe list` shows.")
]
Output = Annotated[Path | None, typer.Option(help="Folder of the run.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a field of the recipe; may be repeated.")
]
Resume = Annotated[bool, typer.Option("--resume", help="Continue the run in --output, with its own recipe.")]
Extend = Annotated[bool, typer.Option("--extend", help="Continue the run in --output with another number of steps.")]
Fresh = Annotated[bool, typer.Option("--fresh", help="If --output holds a run, start over in a new folder beside it.")]
TimeLimit = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Stop with a checkpoint after so long: 3h55m, 45m, 90s (exit code 75)."),
]
RequireExact = Annotated[
    bool, typer.Option("--require-exact", help="Refuse to continue where the result would not be bit-identical.")
]
Branch = Annotated[
    Path | None,
    typer.Option(metavar="CHECKPOINT", help="Begin a new run at this checkpoint folder of another run."),
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]
