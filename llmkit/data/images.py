"""Pictures as tensors of standardised brightness."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

AT_ONCE = 1024
"""Pictures whose figures are summed at a time."""


@dataclass(frozen=True)
class ImageEncoder:
    """Pictures of one size, standardised by mean and spread of each channel over the training pictures."""

    channels: int
    height: int
    width: int
    means: list[float]
    scales: list[float]
    form = "image"

    @classmethod
    def fit(cls, pictures: np.ndarray) -> ImageEncoder:
        """From the training pictures, (N, C, H, W)."""
        count, channels, height, width = pictures.shape
        total, squares = np.zeros(channels), np.zeros(channels)
        for start in range(0, count, AT_ONCE):
            part = pictures[start : start + AT_ONCE].astype(np.float64)
            total += part.sum(axis=(0, 2, 3))
            squares += np.square(part).sum(axis=(0, 2, 3))
        means = total / (count * height * width)
        spreads = np.sqrt(np.maximum(squares / (count * height * width) - np.square(means), 0.0))
        scales = [
            float(spread) if spread > 1e-9 * (1.0 + abs(mean)) else 1.0
            for spread, mean in zip(spreads, means, strict=True)
        ]
        return cls(channels, height, width, [float(mean) for mean in means], scales)

    @property
    def scaling(self) -> tuple[Tensor, Tensor]:
        """(gain, shift), (C, 1, 1) float32 each: what standardises a picture is picture * gain + shift."""
        means, scales = (
            torch.tensor(values, dtype=torch.float64)[:, None, None] for values in (self.means, self.scales)
        )
        return (1.0 / scales).float(), (-means / scales).float()

    def encode(self, pictures: np.ndarray) -> Tensor:
        """(N, C, H, W) of any numbers -> float32."""
        return standardise(torch.from_numpy(pictures), self.scaling)

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, **asdict(self)}


def standardise(pictures: Tensor, scaling: tuple[Tensor, Tensor]) -> Tensor:
    """Pictures (N, C, H, W) of any numbers as standardised float32."""
    gain, shift = scaling
    return torch.addcmul(shift, pictures.float(), gain)
