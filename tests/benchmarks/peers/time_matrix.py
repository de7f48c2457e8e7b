"""The best matrix product in the format that training uses, and in fp32: the limit of all that is measured."""

from __future__ import annotations

import torch
from setting import report

from llmkit.device import measure_matrix_rate, pick_device, pick_dtype

device = pick_device()
rates = {
    name: max(measure_matrix_rate(device, dtype) for _ in range(3))
    for name, dtype in (("auto", pick_dtype("auto", device)), ("fp32", torch.float32))
}
report(**rates)
