"""What every tool of bench_finetune tunes. It needs no llmkit: a peer's Python runs it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

RANK, ALPHA = 16, 32
MAX_LENGTH = 512
BATCH_SIZE = 8
LR = 1e-4
SEED = 0


def parse_arguments() -> argparse.Namespace:
    """The job (train or prepare), the model, the rows, and settings of the tool as KEY=VALUE."""
    parser = argparse.ArgumentParser()
    parser.add_argument("job", choices=["train", "prepare"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], dest="flags", metavar="KEY=VALUE")
    return parser.parse_args()


def read_rows(path: Path) -> list[dict[str, list[dict[str, str]]]]:
    """The rows as TRL wants them: a prompt and a completion, each a list of messages."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        extra = row.get("input") or ""
        question = f"{row['instruction']}\n\n{extra}" if extra.strip() else row["instruction"]
        rows.append(
            {
                "prompt": [{"role": "user", "content": question}],
                "completion": [{"role": "assistant", "content": row["output"]}],
            }
        )
    return rows
