"""Classes against those of one pass over the whole scene."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray

NOTHING = 255


@dataclass(frozen=True, slots=True)
class Difference:
    """What a result has otherwise, among the pixels with data; ties (see `whole.TIE`) aside.

    Attributes:
        pixels: that differ.
        inside: of these, further from the scene's edge than the halo: not all reflect what lies beyond it.
        all, all_inside: pixels compared.
        classed: pixels without data that got a class.
    """

    pixels: int
    inside: int
    all: int
    all_inside: int
    classed: int

    @property
    def percent(self) -> float:
        """Of the pixels that differ."""
        return 100 * self.pixels / self.all

    @property
    def percent_inside(self) -> float:
        """The same away from the edge."""
        return 100 * self.inside / self.all_inside


def read(path: Path) -> NDArray[Any]:
    """Classes [rows, cols] of a raster's first band, or of a saved array."""
    if path.suffix == ".npy":
        return np.asarray(np.load(path))
    with rasterio.open(path) as dataset:
        return np.asarray(dataset.read(1))


def difference(found: NDArray[Any], whole: Path, halo: int) -> Difference:
    """A result against the file that `whole.py` wrote."""
    with np.load(whole) as file:
        classes, valid, tie = file["classes"], file["valid"], file["tie"]
    if found.shape != classes.shape:
        raise RuntimeError(f"a result has {found.shape} pixels, the scene {classes.shape}")
    counts = valid & ~tie
    other = counts & (found != classes)
    inside = np.zeros_like(counts)
    inside[halo:-halo, halo:-halo] = True
    return Difference(
        int(other.sum()),
        int((other & inside).sum()),
        int(counts.sum()),
        int((counts & inside).sum()),
        int((~valid & (found != NOTHING)).sum()),
    )
