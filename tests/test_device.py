"""The device: its speed, its memory, its number formats."""

from __future__ import annotations

import pytest
import torch

import llmkit.device as device_module
from llmkit.device import (
    available_memory_bytes,
    measure_copy_rate,
    measure_matrix_rate,
    peak_memory_bytes,
    pick_device,
    pick_dtype,
    seconds_of_product,
    warn_of_emulation,
)
from llmkit.machine import main_memory

CPU = torch.device("cpu")


def test_the_rate_of_products_is_not_below_that_of_one_product():
    inputs, weight = torch.randn(2048, 384), torch.randn(4096, 384)
    alone = 2 * 2048 * 384 * 4096 / min(seconds_of_product(inputs, weight) for _ in range(3))
    # A machine that others use too varies; the order of magnitude does not.
    assert alone / 10 < measure_matrix_rate(CPU, torch.float32) < alone * 100


def test_a_copy_moves_gigabytes_per_second():
    assert measure_copy_rate(CPU) > 1e8


def test_the_peak_of_memory_stays_when_memory_is_freed():
    block = torch.ones(64 << 20, dtype=torch.uint8)
    peak = peak_memory_bytes(CPU)
    assert peak > block.nbytes
    del block
    assert peak_memory_bytes(CPU) >= peak


def test_available_memory_is_part_of_what_there_is():
    total = main_memory().total
    assert 0 < available_memory_bytes(CPU) <= total


@pytest.mark.parametrize(("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_precision_that_is_named_is_taken(name, dtype):
    assert pick_dtype(name, CPU) == dtype


@pytest.mark.parametrize(("is_there", "told"), [(True, 0), (False, 1)])
def test_who_asks_for_bf16_is_told_once_where_it_is_emulated(is_there, told, monkeypatch, capsys):
    monkeypatch.setattr(device_module, "has_bf16", lambda device: is_there)
    warn_of_emulation.cache_clear()
    for _ in range(2):
        assert pick_dtype("bf16", CPU) == torch.bfloat16
    assert capsys.readouterr().err.count("no bf16 arithmetic") == told


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_memory_of_a_gpu_counts_what_torch_holds_for_itself():
    device = pick_device()
    before = available_memory_bytes(device)
    block = torch.ones(1 << 30, dtype=torch.uint8, device=device)
    assert peak_memory_bytes(device) >= 1 << 30
    del block
    assert available_memory_bytes(device) >= before - (1 << 28)
