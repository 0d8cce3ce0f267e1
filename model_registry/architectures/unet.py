"""A small U-Net, all of it.

Exact tiling rests on three properties: a finite receptive field, no operation that looks at the size of its input, and
normalisation with fixed statistics (batch norm in eval mode). Sides must be multiples of 2**depth pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class UNetConfig:
    """Sizes of the network; a level halves the resolution and doubles the width."""

    in_channels: int = 3
    classes: int = 2
    base: int = 16
    depth: int = 3

    def __post_init__(self) -> None:
        for name, least in (("in_channels", 1), ("classes", 1), ("base", 1), ("depth", 1)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")

    def width(self, level: int) -> int:
        """Channels at a level; level 0 is full resolution."""
        return self.base << level


class DoubleConv(nn.Sequential):
    """Two 3x3 convolutions with batch norm and ReLU: [B, inside, H, W] -> [B, outside, H, W]."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
            nn.Conv2d(outside, outside, 3, padding=1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
        )


class UNet(nn.Module):
    """Scores for every pixel: [B, in_channels, H, W] -> [B, classes, H, W] logits; H, W multiples of 2**depth."""

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        levels = range(config.depth)
        self.stem = DoubleConv(config.in_channels, config.width(0))
        self.down = nn.ModuleList(DoubleConv(config.width(i), config.width(i + 1)) for i in levels)
        self.pool = nn.MaxPool2d(2)
        # Stride equals kernel, so one input pixel makes a 2x2 block and blocks never overlap.
        self.up = nn.ModuleList(nn.ConvTranspose2d(config.width(i + 1), config.width(i), 2, stride=2) for i in levels)
        self.merge = nn.ModuleList(DoubleConv(2 * config.width(i), config.width(i)) for i in levels)
        self.head = nn.Conv2d(config.width(0), config.classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Down the levels keeping each, then back up joining what was kept."""
        x = self.stem(x)  # [B, base, H, W]
        kept = []
        for down in self.down:
            kept.append(x)
            x = down(self.pool(x))  # [B, 2^i base, H/2^i, W/2^i]
        for up, merge, skip in zip(reversed(self.up), reversed(self.merge), reversed(kept), strict=True):
            x = merge(torch.cat([skip, up(x)], dim=1))
        scores: Tensor = self.head(x)  # [B, classes, H, W]
        return scores
