"""lm-evaluation-harness on a file of prompts: seconds of `loglikelihood` of its model `hf`."""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser()
    for name in ("--model", "--prompts", "--dtype"):
        parser.add_argument(name, required=True)
    parser.add_argument("--batch-size", type=int, required=True)
    parser.add_argument("--rows", type=int)
    options = parser.parse_args()
    rows = [json.loads(line) for line in Path(options.prompts).read_text(encoding="utf-8").splitlines()][: options.rows]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = {"fp32": "float32", "bf16": "bfloat16"}[options.dtype]
    begin = time.perf_counter()
    model = HFLM(pretrained=options.model, dtype=dtype, device=device, batch_size=options.batch_size)
    loaded = time.perf_counter() - begin
    requests = [
        Instance(request_type="loglikelihood", doc=row, arguments=(row["prompt"], f" {choice}"), idx=number)
        for row in rows
        for number, choice in enumerate(row["choices"])
    ]
    begin, worked = time.perf_counter(), time.process_time()
    found = iter(model.loglikelihood(requests, disable_tqdm=True))
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - worked
    scores = [[next(found)[0] for _ in row["choices"]] for row in rows]
    right = [values.index(max(values)) == row["answer"] for row, values in zip(rows, scores, strict=True)]
    result = {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "load_seconds": loaded,
        "accuracy": sum(right) / len(right),
        "scores": scores,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
