"""Pictures as tensors of standardised brightness."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


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
        means, scales = pictures.mean(axis=(0, 2, 3)), pictures.std(axis=(0, 2, 3))
        channels, height, width = pictures.shape[1:]
        return cls(channels, height, width, [float(mean) for mean in means], [float(scale) or 1.0 for scale in scales])

    def encode(self, pictures: np.ndarray) -> Tensor:
        """(N, C, H, W) of any numbers -> float32."""
        means, scales = (np.array(values)[:, None, None] for values in (self.means, self.scales))
        return torch.from_numpy((pictures - means) / scales).float()

    def to_json(self) -> dict[str, Any]:
        return {"form": self.form, **asdict(self)}
