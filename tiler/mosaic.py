"""Cells put together, and which of their pixels lie under a view's samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tiler.blend import area_under, blended
from tiler.grid import Footprint, Grid
from tiler.values import Cell, Classes, Floats, Mask, Resampling, Scores

Indices = NDArray[np.int64]
Planes = NDArray[Any]
Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True, slots=True, eq=False)
class Mosaic:
    """Cells put together. `top`, `left`: grid pixels of the first row and column.

    Attributes:
        valid: bool [rows, cols].
        classes: uint8 [rows, cols]; zeros for a model without, None where they follow from the planes (`over`).
        planes: [planes, rows, cols] in the cells' own dtype: probabilities, values or components; None if not wanted.
    """

    top: int
    left: int
    valid: Mask
    classes: Classes | None
    planes: Planes | None

    @classmethod
    def over(
        cls,
        where: Footprint,
        grid: Grid,
        scores: Mapping[Cell, Scores],
        planes_of: Callable[[Scores], Planes | None] | None,
    ) -> Mosaic:
        """What a footprint needs: cells side by side, or blended under its samples where they overlap.

        `planes_of` says which of their planes are wanted, None for none of them; blended are planes and no classes.
        """
        if not grid.overlap:
            return cls.of(grid, scores, planes_of)
        assert planes_of is not None, "overlapping cells have planes"
        # Bilinear samples look at the pixels around them.
        area = area_under(where, grid, scores, margin=1)
        valid, planes = blended(grid, scores, planes_of, area)
        return cls(area.row_off, area.col_off, valid, None, planes)

    @classmethod
    def of(
        cls, grid: Grid, scores: Mapping[Cell, Scores], planes_of: Callable[[Scores], Planes | None] | None
    ) -> Mosaic:
        """Put cells side by side; `planes_of` says which of their planes are wanted, None for none of them."""
        rows, cols = [cell.row for cell in scores], [cell.col for cell in scores]
        top, left = min(rows) * grid.cell, min(cols) * grid.cell
        height = min((max(rows) + 1) * grid.cell, grid.height) - top
        width = min((max(cols) + 1) * grid.cell, grid.width) - left
        classes, valid = np.zeros((height, width), np.uint8), np.zeros((height, width), bool)
        planes: Planes | None = None
        for cell, score in scores.items():
            row, col = cell.row * grid.cell - top, cell.col * grid.cell - left
            area = (slice(row, row + score.valid.shape[0]), slice(col, col + score.valid.shape[1]))
            valid[area] = score.valid
            if score.classes is not None:
                classes[area] = score.classes
            own = None if planes_of is None else planes_of(score)
            if own is not None:
                if planes is None:
                    planes = np.zeros((len(own), height, width), own.dtype)
                planes[(slice(None), *area)] = own
        return cls(top, left, valid, classes, planes)

    def taps(self, where: Footprint, resampling: Resampling) -> Taps:
        """What of the mosaic is under each sample: the nearest pixel, or the four around it with their weights.

        A sample is valid as its nearest pixel is; neighbours without data do not count.
        """
        height, width = self.valid.shape
        places, inside = self._nearest(where)
        valid = self.valid.ravel()[places] if inside is None else self.valid.ravel()[places] & inside
        if resampling == "nearest":
            return Taps(valid, places, ())
        y, x = np.nan_to_num(where.rows) - self.top - 0.5, np.nan_to_num(where.cols) - self.left - 0.5
        row0, col0 = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
        around: list[tuple[Indices, Floats]] = []
        total = np.zeros(valid.shape, np.float32)
        for down in (0, 1):
            for right in (0, 1):
                row, col = np.clip(row0 + down, 0, height - 1), np.clip(col0 + right, 0, width - 1)
                weight = np.abs(1 - down - (y - row0)) * np.abs(1 - right - (x - col0)) * self.valid[row, col]
                around.append((row * width + col, weight.astype(np.float32)))
                total += around[-1][1]
        valid &= total > 0
        total[total == 0] = 1
        for _, weight in around:
            weight /= total
        return Taps(valid, places, tuple(around))

    def _nearest(self, where: Footprint) -> tuple[Indices, Mask | None]:
        """Each sample's pixel, counted along the rows of the mosaic, and whether it lies on it; None if all do."""
        height, width = self.valid.shape
        y, x = where.rows - self.top, where.cols - self.left
        # Comparisons with NaN are False.
        if y.min() >= 0 and x.min() >= 0 and y.max() < height and x.max() < width:
            places = y.astype(np.int64)
            places *= width
            places += x.astype(np.int64)
            return places, None
        with np.errstate(invalid="ignore"):
            inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
        return np.where(inside, y, 0).astype(np.int64) * width + np.where(inside, x, 0).astype(np.int64), inside


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """What lies under each sample. Pixels of the mosaic are counted along its rows.

    Attributes:
        valid: bool [rows, cols].
        places: int [rows, cols], the nearest pixel.
        around: (places, weights) of the pixels to be mixed; empty takes the nearest.
    """

    valid: Mask
    places: Indices
    around: tuple[tuple[Indices, Floats], ...]

    def nearest(self, plane: NDArray[Scalar]) -> NDArray[Scalar]:
        """One plane [rows, cols] of the mosaic at the samples' nearest pixels."""
        # One index is looked up in half the time that two take.
        return plane.ravel()[self.places]

    def take(self, plane: NDArray[Any]) -> Floats:
        """One plane [rows, cols] at the samples, float32."""
        if not self.around:
            return np.asarray(self.nearest(plane), np.float32)
        mixed = np.zeros(self.valid.shape, np.float32)
        for places, weight in self.around:
            mixed += weight * plane.ravel()[places]
        return mixed


def pool(array: NDArray[Any], samples: int) -> Floats:
    """Sums of blocks of `samples` x `samples`, over the last two axes, float32."""
    height, width = array.shape[-2] // samples, array.shape[-1] // samples
    blocks = array.reshape(*array.shape[:-2], height, samples, width, samples)
    pooled: Floats = blocks.sum(axis=(-3, -1), dtype=np.float32)
    return pooled
