"""An ensemble's answer over a whole scene in one go, with none of the product's code: numpy and ONNX Runtime alone.

The image is brought to each resolution by dense matrices, put through the network in one pass, its probabilities are
brought to the finest member's pixels by dense matrices, and averaged. All in float64 but for the network itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.tiler.helpers import softmax, whole_scores

Array = NDArray[Any]


@dataclass
class Whole:
    """planes [classes, rows, cols], valid and spread [rows, cols], on the finest member's pixels."""

    planes: Array
    valid: Array
    spread: Array

    @property
    def classes(self) -> Array:
        return self.planes.argmax(axis=0)

    @property
    def sure(self) -> Array:
        """Pixels whose two best classes do not lie within 1e-5."""
        ordered = np.sort(self.planes, axis=0)
        return ordered[-1] - ordered[-2] > 1e-5


def matrix(count: int, size: int, ratio: float, *, mean: bool) -> Array:
    """[count, size]: how much each of `size` source pixels has of each of `count` pixels, `ratio` of them long."""
    found = np.zeros((count, size))
    for pixel in range(count):
        if mean:
            for source in range(size):
                found[pixel, source] = max(0.0, min((pixel + 1) * ratio, source + 1) - max(pixel * ratio, source))
        else:
            centre = min(max((pixel + 0.5) * ratio - 0.5, 0.0), size - 1.0)
            below = int(centre)
            found[pixel, below] += 1 - (centre - below)
            if centre > below:
                found[pixel, below + 1] += centre - below
    return found / found.sum(axis=1, keepdims=True)


def brought(planes: Array, valid: Array, res: float, to: float, shape: tuple[int, int]) -> tuple[Array, Array]:
    """Planes and mask of pixels `res` metres wide as pixels `to` metres wide; what has no data does not count."""
    if res == to:
        return np.where(valid, planes, 0.0), valid
    ratio, mean = to / res, to > res
    down = matrix(shape[0], valid.shape[0], ratio, mean=mean)
    across = matrix(shape[1], valid.shape[1], ratio, mean=mean)
    share = down @ valid.astype(float) @ across.T
    sums = np.stack([down @ np.where(valid, plane, 0.0) @ across.T for plane in planes])
    if mean:
        known = share >= 0.5 - 1e-6
    else:
        rows, cols = (
            np.minimum(((np.arange(count) + 0.5) * ratio).astype(int), size - 1)
            for count, size in zip(shape, valid.shape, strict=True)
        )
        known = valid[rows[:, None], cols]
    return sums / np.where(share > 0, share, 1.0), known


def whole_ensemble(
    networks: Sequence[Path],
    pixels: Array,
    res: float,
    gsds: Sequence[float],
    weights: Sequence[float],
    *,
    valid: Array | None = None,
    divisor: float = 255,
    pad: int = 8,
    multiple: int = 1,
    finish: Any = softmax,
) -> Whole:
    """The ensemble of networks (one ONNX file for each resolution) over `pixels` [bands, rows, cols], `res` m wide."""
    valid = np.ones(pixels.shape[1:], bool) if valid is None else valid
    extent = [size * res for size in pixels.shape[1:]]
    shapes = [tuple(max(1, round(length / gsd)) for length in extent) for gsd in gsds]
    finest = int(np.argmin(gsds))
    looks = []
    for network, gsd, shape in zip(networks, gsds, shapes, strict=True):
        image, known = brought(pixels.astype(float), valid, res, gsd, shape)
        image = np.where(known, image, 0.0)
        scores = whole_scores(network, (image / divisor).astype(np.float32), pad=pad, multiple=multiple)
        looks.append(brought(finish(scores.astype(float)), known, gsd, gsds[finest], shapes[finest]))
    masses = np.stack([weight * known for (_, known), weight in zip(looks, weights, strict=True)])
    total = sum(mass * planes for (planes, _), mass in zip(looks, masses, strict=True))
    found = masses.sum(axis=0) > 0
    planes = total / np.where(found, masses.sum(axis=0), 1.0)
    highest = np.max([np.where(known, plane, -np.inf) for plane, known in looks], axis=0)
    lowest = np.min([np.where(known, plane, np.inf) for plane, known in looks], axis=0)
    with np.errstate(invalid="ignore"):
        spread = np.where(found, (highest - lowest).max(axis=0), 0.0)
    return Whole(planes, found, spread)
