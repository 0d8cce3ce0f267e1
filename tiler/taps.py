"""Which pixels of one axis make each pixel of another: means where it is coarser, bilinear where it is finer.

A pixel's taps follow from its own number and the ratio of the two pixel sizes, never from the window that is asked for.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Taps(NamedTuple):
    """Which source pixels make each pixel along one axis.

    place: int64 [count, taps], ascending; weight: float32 [count, taps], each row sums to 1; nearest: int64 [count].
    """

    place: NDArray[np.int64]
    weight: NDArray[np.float32]
    nearest: NDArray[np.int64]

    @property
    def span(self) -> slice:
        """All source pixels that are needed."""
        return slice(int(self.place.min()), int(self.place.max()) + 1)

    def apply(self, array: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        """Weighted sums along an axis of `array` [rows, cols], which begins at `span.start`.

        Tap by tap, never as one product of matrices: the order of additions, and so each bit of the answer, must not
        depend on the window.
        """
        total = np.float32(0)
        for index, weight in zip((self.place - self.span.start).T, self.weight.T, strict=True):
            total = total + array.take(index, axis) * np.expand_dims(weight, 1 - axis)
        return np.asarray(total)


def taps(start: int, count: int, ratio: float, size: int, *, average: bool) -> Taps:
    """Taps of the pixels start .. start + count - 1, each `ratio` source pixels long, of a source `size` long.

    Both axes begin at the same place. What lies beyond the source's end is its last pixel.

    average: the share of the pixel that a source pixel covers; else nearness of the two centres (bilinear).
    """
    grid = np.arange(start, start + count)
    nearest = np.clip(np.floor((grid + 0.5) * ratio), 0, size - 1).astype(np.int64)
    if average:
        low = (grid * ratio)[:, None]
        index = np.floor(low).astype(np.int64) + np.arange(math.ceil(ratio) + 1)
        weight = np.clip(np.minimum(low + ratio, index + 1) - np.maximum(low, index), 0, None)
        weight[index >= size] = 0
    else:
        place = np.clip((grid + 0.5) * ratio - 0.5, 0, size - 1)[:, None]
        index = np.floor(place).astype(np.int64) + np.arange(2)
        weight = 1 - np.abs(place - index)
    weight /= weight.sum(axis=1, keepdims=True)
    return Taps(np.minimum(index, size - 1), weight.astype(np.float32), nearest)
