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
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue the run in --output, for more steps if the recipe says so.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be done; write nothing.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON document on stdout.")]
