"""Measures how far a network looks: the halo inside which a window's answer does not depend on what lies outside."""

from __future__ import annotations

import torch
from torch import Tensor, nn


@torch.inference_mode()
def reach(model: nn.Module, period: int, halo: int, channels: int = 3) -> bool:
    """Whether a core of 64 pixels surrounded by `halo` known ones answers bit for bit the same, whatever is outside."""
    outside, core = 2 * period, 64
    side = core + 2 * (halo + outside)
    first, second = (_noise(seed, channels, side) for seed in (1, 2))
    known = slice(outside, side - outside)
    second[..., known, known] = first[..., known, known]
    inner = slice(outside + halo, outside + halo + core)
    return bool(torch.equal(model(first)[..., inner, inner], model(second)[..., inner, inner]))


def _noise(seed: int, channels: int, side: int) -> Tensor:
    """Standard normal noise float32 [1, channels, side, side]."""
    return torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(seed))


def measure_halo(model: nn.Module, period: int, limit: int = 256) -> int:
    """Smallest halo in pixels, a multiple of `period`, that hides everything outside from the core.

    The network must be in eval mode. Cores and halos are aligned to `period`, as the server's windows are.
    """
    for halo in range(0, limit + 1, period):
        if reach(model, period, halo):
            return halo
    raise ValueError(f"the network looks further than {limit} pixels")
