"""What a run says of itself while it goes on."""

from __future__ import annotations

from collections.abc import Mapping

from llmkit.training.step import StepResult
from llmkit.training.summary import Totals


def describe_step(result: StepResult, pace: str, mfu: float | None, memory_bytes: int, totals: Totals) -> str:
    """What stands beside the bar: `pace` is the speed with its unit, `mfu` a share of the devices' best."""
    parts = [
        f"loss {result.loss:.4f}",
        f"lr {result.lr:.2e}",
        f"norm {result.grad_norm:.2f}",
        pace,
        *([] if mfu is None else [f"MFU {mfu:.2f}"]),
        f"{memory_bytes / 1e9:.1f} GB",
        *([f"{totals.skipped} skipped"] if totals.skipped else []),
    ]
    return "  ".join(parts)


def describe_metrics(values: Mapping[str, float]) -> str:
    """Metrics on one line."""
    return "  ".join(
        f"{name.replace('_', ' ')} {value:.4f}" for name, value in values.items() if isinstance(value, int | float)
    )


def describe_speed(per_second: float) -> str:
    """A speed as people read it: whole numbers, but for what is slow.

    >>> describe_speed(1234.5), describe_speed(0.123)
    ('1,234', '0.12')
    """
    return f"{per_second:,.0f}" if per_second >= 10 else f"{per_second:.2g}"
