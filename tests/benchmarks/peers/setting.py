"""What every tool of the benchmark trains, and the clock that stops it. It needs no llmkit: a peer's Python runs it."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

NUM_LAYERS, HIDDEN_SIZE, NUM_HEADS, INTERMEDIATE_SIZE = 6, 384, 6, 1024
"""A Llama of 12 million parameters with a vocabulary of 4,096."""

SEQ_LEN, BATCH_SIZE = 256, 8
WARM_UP = 3
"""Steps that are not timed: they compile and allocate."""

LONG_RUN = 2000
"""Steps that each tool is told to make (ten minutes and more on a laptop); the clock ends it long before."""

LR = 1e-3


@dataclass
class Clock:
    """Takes the time at the end of each step; after the last one it reports and ends the process, as it stands.

    Attributes:
        data: Folder of prepared tokens.
        vocab_size: Of the model.
        steps: How many are timed, after the warm-up.
        begun: When the command was started, in seconds since 1970.
    """

    data: Path
    vocab_size: int
    steps: int
    begun: float
    flags: list[str] = field(default_factory=list)
    ends: list[float] = field(default_factory=list)
    first_step_seconds: float = 0.0

    @classmethod
    def from_arguments(cls) -> Clock:
        """The clock that the benchmark asks for on the command line."""
        parser = argparse.ArgumentParser()
        parser.add_argument("--data", type=Path, required=True)
        parser.add_argument("--vocab-size", type=int, required=True)
        parser.add_argument("--steps", type=int, required=True)
        parser.add_argument("--begun", type=float, required=True)
        parser.add_argument("flags", nargs="*")
        return cls(**vars(parser.parse_args()))

    def tick(self) -> None:
        """A step has ended, and so the next has begun: what lies between them belongs to it."""
        if not self.ends:
            self.first_step_seconds = time.time() - self.begun
        self.ends.append(time.perf_counter())
        if len(self.ends) == WARM_UP + self.steps:
            ends = self.ends[WARM_UP - 1 :]
            seconds = [end - begin for begin, end in pairwise(ends)]
            report(step_seconds=seconds, first_step_seconds=self.first_step_seconds, peak_mb=peak_mb())

    def rows(self, size: int = BATCH_SIZE):
        """Batches of rows of SEQ_LEN + 1 ids, (size, SEQ_LEN + 1) int64, from the same tokens for every tool."""
        import numpy as np

        tokens = np.load(self.data / "tokens-train.npy", mmap_mode="r")
        width = size * (SEQ_LEN + 1)
        for start in range(0, LONG_RUN * width, width):
            place = start % (len(tokens) - width)
            yield np.asarray(tokens[place : place + width], dtype=np.int64).reshape(size, SEQ_LEN + 1)


def has_bf16() -> bool:
    """Whether the hardware multiplies matrices in bf16."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def peak_mb() -> float:
    """The most memory that this process has held: of the GPU where there is one, else in all."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    found = re.search(r"^VmHWM:\s+(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 / 1e6


def report(**values: object) -> None:
    """Tell the benchmark in one last line, and end at once: no tool is to save what nobody wants."""
    sys.stdout.write("\n" + json.dumps(values) + "\n")
    sys.stdout.flush()
    os._exit(0)
