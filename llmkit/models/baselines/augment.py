"""Pictures changed a little in every step, so that a network learns what does not depend on place and side."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Augment(nn.Module):
    """Moves each picture by up to `shift` pixels and, with `flips`, mirrors every second one; only in training.

    What moves in is the mean of its channel (0: pictures are standardised). Drawn, like dropout, from the generator
    that the loop seeds with (seed, step, process): a run that was resumed sees the same pictures.
    """

    def __init__(self, *, shift: int, flips: bool) -> None:
        super().__init__()
        self.shift = shift
        self.flips = flips

    def forward(self, pictures: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training:
            return pictures
        if self.flips:
            is_flipped = torch.rand(len(pictures), 1, 1, 1, device=pictures.device) < 0.5
            pictures = torch.where(is_flipped, pictures.flip(3), pictures)
        return self.move(pictures) if self.shift else pictures

    def move(self, pictures: Tensor) -> Tensor:
        """A window of the padded picture, at a place of its own for each."""
        count, _, height, width = pictures.shape
        padded = F.pad(pictures, [self.shift] * 4)
        down, right = torch.randint(2 * self.shift + 1, (2, count, 1), device=pictures.device)
        rows = (down + torch.arange(height, device=pictures.device))[:, :, None]  # (B, H, 1)
        columns = (right + torch.arange(width, device=pictures.device))[:, None]  # (B, 1, W)
        place = torch.arange(count, device=pictures.device)[:, None, None]
        return padded.permute(0, 2, 3, 1)[place, rows, columns].permute(0, 3, 1, 2)
