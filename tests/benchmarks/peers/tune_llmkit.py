"""The command `llmkit finetune` with nothing set but what the benchmark sets for all; or its preparation alone."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from setting import peak_mb, report
from tune_setting import ALPHA, BATCH_SIZE, LR, MAX_LENGTH, RANK, SEED, parse_arguments

from llmkit import cli

SETTINGS = {
    "lora.rank": RANK,
    "lora.alpha": ALPHA,
    "data.max_length": MAX_LENGTH,
    "data.validation": 0,
    "train.epochs": 1,
    "train.batch_size": BATCH_SIZE,
    "train.lr": LR,
    "train.seed": SEED,
    "train.warmup_steps": 0,
    "end_check": 0,
}


def train(options) -> None:
    """Run the command as it would be typed; what it trained and how long that took stands in its own files."""
    folder = Path(tempfile.mkdtemp()) / "run"
    settings = SETTINGS | dict(flag.split("=", 1) for flag in options.flags)
    words = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    sys.argv = ["llmkit", "finetune", "--model", options.model, "--data", str(options.data), "--output", str(folder)]
    sys.argv += words
    try:
        cli.main()
    except SystemExit as ended:
        if ended.code:
            raise
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = next(line["seconds"] for line in reversed(lines) if "seconds" in line)
    tokens = json.loads((folder / "data-report.json").read_text())["train"]["tokens"]
    report(tokens=tokens, seconds=seconds, peak_mb=peak_mb())


def prepare(options) -> None:
    """From the file to rows that can be trained."""
    from llmkit.data.dialogue import DialogueRows
    from llmkit.data.dialogue_forms import read_dialogues
    from llmkit.data.dialogue_set import encode_set
    from llmkit.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(options.model)
    begin = time.perf_counter()
    dialogues = list(read_dialogues(str(options.data)))
    rows, _ = encode_set(dialogues, tokenizer, name="train", max_length=MAX_LENGTH, overlong="cut-right")
    DialogueRows(rows, is_flat=True)
    report(rows=len(dialogues), seconds=time.perf_counter() - begin)


arguments = parse_arguments()
train(arguments) if arguments.job == "train" else prepare(arguments)
