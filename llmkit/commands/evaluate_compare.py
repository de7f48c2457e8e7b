"""`llmkit evaluate --compare`: results of earlier evaluations, item by item."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from llmkit.commands.evaluate_view import Shown, differences_of, show_comparisons
from llmkit.console import is_main_process
from llmkit.errors import UsageError


def compare_folders(folders: Sequence[str], shown: Shown, *, seed: int) -> None:
    """The first folder's results with each of the others'."""
    from llmkit.evaluation.compare import compare, read_outcomes

    if len(folders) < 2:
        fix = "for example --compare evaluations/before evaluations/after"
        raise UsageError("one result cannot be compared", where="--compare", fix=fix)
    shown.parse_gates()
    comparisons = compare([read_outcomes(Path(folder)) for folder in folders], seed=seed)
    if is_main_process():
        shown.document = {"comparisons": [comparison.to_json() for comparison in comparisons]}
        show_comparisons(comparisons, shown)
        shown.close(differences_of(comparisons))
