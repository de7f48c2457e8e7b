"""The convolutional networks of pictures and series: plain and residual blocks."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from llmkit.models.baselines.spec import ACTIVATIONS, BaselineSpec, prod
from llmkit.recipe.schema import BaselineModel

CELLS_KEPT = 4
"""A picture is averaged to at most this many cells a side before the last layer."""


class CNN(nn.Module):
    """A convolutional network for pictures (2-d) and series (1-d): blocks of filters, each half the size of the last.

    A filter looks at 3 x 3 neighbours (or 3 points in time); after each block a cell stands for twice as wide a part,
    so that deeper filters see larger shapes. Channels double as the size halves.
    """

    def __init__(self, section: BaselineModel, spec: BaselineSpec) -> None:
        super().__init__()
        self.is_series = spec.form == "series"
        channels, *sides = (spec.input_shape[1], spec.input_shape[0]) if self.is_series else spec.input_shape
        blocks: list[nn.Module] = []
        if section.blocks == "residual":
            blocks.append(Filters(channels, section.hidden_size, section, dims=len(sides)))
            channels = section.hidden_size
        make = ResidualBlock if section.blocks == "residual" else PlainBlock
        for depth in range(section.num_layers or 1):
            width = section.hidden_size * 2**depth
            halves = min(sides) >= 2
            blocks.append(make(channels, width, section, dims=len(sides), halves=halves))
            channels, sides = width, [side // 2 if halves else side for side in sides]
        # Cells are kept apart to the end: where a stroke lies, or how long ago, tells much. Large pictures are pooled.
        kept = sides if self.is_series else [min(side, CELLS_KEPT) for side in sides]
        self.blocks = nn.Sequential(*blocks)
        self.pool = nn.Identity() if kept == sides else nn.AdaptiveAvgPool2d((kept[0], kept[1]))
        self.head = nn.Linear(channels * prod(kept), spec.num_outputs)

    def forward(self, inputs: Tensor) -> Tensor:
        """Pictures (B, C, H, W) or series (B, T, C) -> (B, K)."""
        planes = inputs.transpose(1, 2) if self.is_series else inputs
        return self.head(self.pool(self.blocks(planes)).flatten(1))  # type: ignore[no-any-return]


class Filters(nn.Sequential):
    """Filters over 3 x 3 neighbours (or 3 points), normalisation and, unless it comes later, the non-linearity."""

    def __init__(self, channels: int, width: int, section: BaselineModel, *, dims: int, is_active: bool = True) -> None:
        conv = nn.Conv1d if dims == 1 else nn.Conv2d
        layers = [conv(channels, width, kernel_size=3, padding=1, bias=False), make_norm(width, section, dims=dims)]
        super().__init__(*layers, *([ACTIVATIONS[section.activation]()] if is_active else []))


class PlainBlock(nn.Sequential):
    """Filters, then the strongest of each 2 x 2 cells, then dropout."""

    def __init__(self, channels: int, width: int, section: BaselineModel, *, dims: int, halves: bool) -> None:
        pool = nn.MaxPool1d if dims == 1 else nn.MaxPool2d
        super().__init__(
            Filters(channels, width, section, dims=dims),
            pool(2) if halves else nn.Identity(),
            nn.Dropout(section.dropout),
        )


class ResidualBlock(nn.Module):
    """Two layers of filters that learn what to add to their input (He et al. 2015, arXiv:1512.03385).

    The input goes past them on a way of its own, and so does the gradient: deep networks stay trainable. The strongest
    of each 2 x 2 cells is taken first, so that the filters work at half the size.
    """

    def __init__(self, channels: int, width: int, section: BaselineModel, *, dims: int, halves: bool) -> None:
        super().__init__()
        conv, pool = (nn.Conv1d, nn.MaxPool1d) if dims == 1 else (nn.Conv2d, nn.MaxPool2d)
        self.pool = pool(2) if halves else nn.Identity()
        self.filters = nn.Sequential(
            Filters(channels, width, section, dims=dims), Filters(width, width, section, dims=dims, is_active=False)
        )
        # Where the number of channels changes, the way past the filters is a matrix.
        self.past = nn.Identity() if channels == width else conv(channels, width, kernel_size=1, bias=False)
        self.activation = ACTIVATIONS[section.activation]()
        self.dropout = nn.Dropout(section.dropout)

    def forward(self, planes: Tensor) -> Tensor:
        """(B, C, ...) -> (B, D, ...), half the size."""
        planes = self.pool(planes)
        return self.dropout(self.activation(self.filters(planes) + self.past(planes)))  # type: ignore[no-any-return]


def make_norm(width: int, section: BaselineModel, *, dims: int) -> nn.Module:
    """The normalisation of a layer of filters.

    Over the batch (Ioffe and Szegedy 2015, arXiv:1502.03167), or over groups of channels of one row (Wu and He 2018,
    arXiv:1803.08494): then a row's result depends on no other row.
    """
    if section.norm == "none":
        return nn.Identity()
    if section.norm == "group":
        return nn.GroupNorm(next(groups for groups in (8, 4, 2, 1) if width % groups == 0), width)
    return BatchNorm1d(width) if dims == 1 else BatchNorm2d(width)


class RunningNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation that takes its running statistics for a batch without spread: one value per channel, or none.

    The last batch of a run that was cut into processes may be as small as that.
    """

    def forward(self, planes: Tensor) -> Tensor:
        """(B, C, ...) -> (B, C, ...)."""
        if self.training and planes.numel() <= self.num_features:
            return F.batch_norm(
                planes, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
            )
        return super().forward(planes)


class BatchNorm1d(RunningNorm, nn.BatchNorm1d):
    """For series: (B, C, T)."""


class BatchNorm2d(RunningNorm, nn.BatchNorm2d):
    """For pictures: (B, C, H, W)."""
