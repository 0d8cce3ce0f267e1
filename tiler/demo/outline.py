"""The ragged outline of a mosaic: flight lines end where the camera stopped, not at a map sheet's edge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def flown(rng: np.random.Generator, size: int) -> NDArray[np.bool_]:
    """Pixels the flight covered, bool [size, size]: steps of turned flight lines on the left, a slanting top edge."""
    angle = rng.uniform(0.05, 0.13) * rng.choice([-1, 1])
    part = np.arange(size, dtype=np.float64) / size
    x, y = part[None, :], part[:, None]
    along = (x - 0.5) * np.cos(angle) + (y - 0.5) * np.sin(angle)
    across = (y - 0.5) * np.cos(angle) - (x - 0.5) * np.sin(angle)
    line = np.clip(((across + 0.75) * 7).astype(np.int32), 0, 11)
    step = rng.uniform(0, 0.055, 12)
    left = along - step[line]
    top = across - (rng.uniform(0, 0.02, 6))[np.clip(((along + 0.75) * 4).astype(np.int32), 0, 5)]
    return _with_share(left, top, rng.uniform(0.045, 0.065))


def _with_share(left: NDArray[np.float64], top: NDArray[np.float64], share: float) -> NDArray[np.bool_]:
    """Move both edges inwards together until `share` of the picture lies outside."""
    start_left, start_top = float(left.min()), float(top.min())
    low, high = 0.0, 0.5
    for _ in range(14):
        middle = (low + high) / 2
        outside = (left < start_left + middle) | (top < start_top + middle)
        low, high = (middle, high) if outside.mean() < share else (low, middle)
    return np.asarray((left >= start_left + high) & (top >= start_top + high))
