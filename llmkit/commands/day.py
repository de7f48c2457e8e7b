"""The day that chat templates are told which write today's: one for a whole run, on whatever days it goes on."""

from __future__ import annotations

from datetime import date
from pathlib import Path


def day_of_run(output: Path | None) -> str:
    """The day that the recipe of the run in this folder keeps; today where there is none."""
    from llmkit.recipe.load import read_layer

    path = None if output is None else output / "recipe.yaml"
    data = read_layer(path).values.get("data") if path is not None and path.is_file() else None
    kept = data.get("date") if isinstance(data, dict) else None
    return str(kept or date.today())
