"""Models in 4 bits, for adapters on an NVIDIA GPU (QLoRA, Dettmers et al. 2023, arXiv:2305.14314)."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch

from llmkit.device import pick_device
from llmkit.errors import RecipeError


def four_bit_options() -> dict[str, Any]:
    """What transformers must be told to load a model in 4 bits, on the GPU of this process.

    Raises:
        RecipeError: There is no such GPU, or no bitsandbytes.
    """
    fix = "set method=lora: it trains the same adapters on weights in bf16"
    device = pick_device()
    if device.type != "cuda":
        raise RecipeError(
            f"4 bits need an NVIDIA GPU, and this machine trains on {device.type}", where="method", fix=fix
        )
    if find_spec("bitsandbytes") is None:
        message = "4 bits come from bitsandbytes, which is not installed"
        raise RecipeError(message, where="method", fix=f"pip install 'llmkit[8bit]', or {fix}")
    from transformers import BitsAndBytesConfig  # noqa: PLC0415 - it looks for bitsandbytes

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": config, "device_map": {"": torch.cuda.current_device()}}
