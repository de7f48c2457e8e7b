"""Which device this machine offers, which number format is fast on it, how fast, and in how much memory."""

from __future__ import annotations

import gc
import sys
import time
from functools import cache

import torch
import torch.nn.functional as F

from llmkit.console import warn
from llmkit.machine import forget_peak, main_memory, peak_resident_bytes

SECONDS_TO_MEASURE = 0.3

SHAPES = {"cpu": ((2048, 384, 4096), (2048, 1024, 2048), (2048, 2048, 2048)), "other": ((4096,) * 3, (8192,) * 3)}
"""Matrix products whose speed is the limit: (rows, inner, columns). A GPU is not filled by less."""

SIGNS = ("can't allocate memory", "not enough memory", "out of memory", "bad_alloc", "ALLOC_FAILED")
"""What errors of torch say that are no OutOfMemoryError and yet mean it."""


def pick_device() -> torch.device:
    """CUDA, then Apple's MPS, then the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def has_bf16(device: torch.device) -> bool:
    """Whether `device` multiplies bf16 matrices in hardware (emulation is slower than fp32)."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or has_amx())
    return False


def has_amx() -> bool:
    """Whether the processor has units for tiles of matrices: products in bf16 are several times as fast."""
    return bool(torch.cpu._is_amx_tile_supported())


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """torch.float32 or torch.bfloat16 for "fp32", "bf16" or "auto" (bf16 where the hardware has it).

    Who asks for bf16 where it is emulated is told so, once.
    """
    if precision == "auto":
        precision = "bf16" if has_bf16(device) else "fp32"
    elif precision == "bf16" and device.type == "cpu" and not has_bf16(device):
        warn_of_emulation()
    return {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


@cache
def warn_of_emulation() -> None:
    """A product in emulated bf16 takes 100 times as long as in fp32 (torch 2.13 on a CPU with AVX2)."""
    warn("this processor has no bf16 arithmetic: emulated, it is far slower than fp32, which auto takes here")


def measure_matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of matrix products: the best of several shapes and tries, in about 0.3 s."""
    best, shapes = 0.0, SHAPES.get(device.type, SHAPES["other"])
    for number, (rows, inner, columns) in enumerate(shapes, start=1):
        end = time.perf_counter() + SECONDS_TO_MEASURE / len(shapes)
        inputs = torch.randn(rows, inner, device=device, dtype=dtype)
        weight = torch.randn(columns, inner, device=device, dtype=dtype)
        with torch.no_grad():
            # The first product of a shape chooses its kernel. A slow machine has seen enough with one shape.
            first = seconds_of_product(inputs, weight)
            while time.perf_counter() < end or (number == 1 and not best):
                best = max(best, 2 * rows * inner * columns / seconds_of_product(inputs, weight))
        if first > SECONDS_TO_MEASURE:
            break
    return best


def seconds_of_product(inputs: torch.Tensor, weight: torch.Tensor) -> float:
    """How long one linear layer takes."""
    begin = time.perf_counter()
    F.linear(inputs, weight)
    wait_for(inputs.device)
    return time.perf_counter() - begin


def measure_copy_rate(device: torch.device) -> float:
    """Bytes per second that memory takes and gives: the best of some copies of 128 MiB, read and written."""
    source = torch.ones(1 << 25, device=device)
    target = torch.zeros_like(source)
    best, end = 0.0, time.perf_counter() + SECONDS_TO_MEASURE
    while time.perf_counter() < end or not best:
        begin = time.perf_counter()
        target.copy_(source)
        wait_for(device)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - begin))
    return best


def wait_for(device: torch.device) -> None:
    """Wait until the device has done all that it was told to."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory that this process has held so far: on the GPU where `device` is one, else in all."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_resident_bytes()


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory_bytes` begin again from what is held now."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
    else:
        forget_peak()


def available_memory_bytes(device: torch.device) -> int:
    """Memory that this process can still have on `device`, within the limits of containers and of `ulimit`.

    Where the system does not tell what is free, half of what there is.
    """
    if device.type == "cuda":
        # What torch has taken and does not use is there for this process too.
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + unused
    total, available = main_memory()
    return available if available is not None else (total or 0) // 2


def forget_model() -> None:
    """Give back what a model has held before the next one is built: its memory, and what was compiled for its sizes."""
    gc.collect()
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_memory_error(error: BaseException) -> bool:
    """Whether an error says that there is no memory left, on whatever device."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in SIGNS)
