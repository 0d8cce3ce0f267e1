"""The U-Net of the RESFlow paper, as far as its parameters tell: 13,395,329 of them, three bands in, one channel out.

That is the bilinear U-Net of github.com/milesial/Pytorch-UNet before its blocks got a narrower middle: five levels, the
two deepest of 512 channels, bilinear upsampling without weights, convolutions with a bias. Used by the benchmark only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PARAMETERS = 13_395_329
DEPTH = 4


class Double(nn.Sequential):
    """Two 3x3 convolutions with batch norm and ReLU: [B, inside, H, W] -> [B, outside, H, W]."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__(
            nn.Conv2d(inside, outside, 3, padding=1),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
            nn.Conv2d(outside, outside, 3, padding=1),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
        )


class BilinearUNet(nn.Module):
    """Scores: [B, 3, H, W] -> [B, 1, H, W]; H and W multiples of 16, or padded on the way up."""

    def __init__(self, in_channels: int = 3, classes: int = 1) -> None:
        super().__init__()
        self.stem = Double(in_channels, 64)
        self.down = nn.ModuleList([Double(64, 128), Double(128, 256), Double(256, 512), Double(512, 512)])
        self.merge = nn.ModuleList([Double(1024, 256), Double(512, 128), Double(256, 64), Double(128, 64)])
        self.pool = nn.MaxPool2d(2)
        self.up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
        self.head = nn.Conv2d(64, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Down four levels keeping each, then back up joining what was kept."""
        x = self.stem(x)
        kept = []
        for down in self.down:
            kept.append(x)
            x = down(self.pool(x))
        for merge, skip in zip(self.merge, reversed(kept), strict=True):
            x = self.up(x)
            missing = skip.shape[2] - x.shape[2], skip.shape[3] - x.shape[3]
            if any(missing):  # 500 is no multiple of 16
                x = nn.functional.pad(x, (0, missing[1], 0, missing[0]))
            x = merge(torch.cat([skip, x], dim=1))
        scores: Tensor = self.head(x)
        return scores
