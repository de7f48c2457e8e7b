"""What a run is made with: versions, machine, command, and all that the last bit of its result depends on."""

from __future__ import annotations

import platform
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

import llmkit
from llmkit.machine import installed_version

PACKAGES = ("transformers", "tokenizers", "accelerate", "peft", "datasets", "numpy", "safetensors")


def fingerprint_of(accelerator: Accelerator) -> dict[str, Any]:
    """All that the last bit of a result depends on besides the recipe and the data."""
    return {
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name() if accelerator.device.type == "cuda" else accelerator.device.type,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "processes": accelerator.num_processes,
        "precision": accelerator.mixed_precision,
    }


def list_differences(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """What of a fingerprint is not as it was, in words."""
    return [
        f"{key} was {saved.get(key)}, is {now.get(key)}" for key in {**saved, **now} if saved.get(key) != now.get(key)
    ]


def describe_environment(fingerprint: Mapping[str, Any]) -> dict[str, Any]:
    """What the run is made with: versions, machine, the command as it was typed."""
    return {
        "llmkit": llmkit.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **fingerprint,
        "packages": {name: installed_version(name) for name in PACKAGES},
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "began": datetime.now(UTC).isoformat(timespec="seconds"),
    }
