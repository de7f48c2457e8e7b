"""Where there is no NVIDIA GPU, 4 bits are refused with what to do instead."""

from __future__ import annotations

import pytest
import torch

from llmkit.errors import RecipeError
from llmkit.models import four_bits


def test_4_bits_elsewhere_are_refused_in_words(monkeypatch):
    monkeypatch.setattr(four_bits, "pick_device", lambda: torch.device("cpu"))
    with pytest.raises(RecipeError, match="need an NVIDIA GPU, and this machine trains on cpu") as raised:
        four_bits.four_bit_options()
    assert "method=lora" in raised.value.fix


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setattr(four_bits, "pick_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(four_bits, "find_spec", lambda name: None)
    with pytest.raises(RecipeError, match="bitsandbytes, which is not installed"):
        four_bits.four_bit_options()
