"""Overlapping cells -> one answer: their weighted mean, for models whose answer depends on the window.

Each cell is the middle of one fixed window, and keeps its pixels and `overlap` more on every side. Along each axis a
cell's weight is a Hann ramp (half a raised cosine) over the 2 * overlap pixels that it shares with its neighbour: from
1 down to 0 at the outer edge of what it keeps, where its window saw least of the surroundings. The two ramps sum to
one, and where the scene ends there is none. So the answer of a pixel depends on the fixed windows that hold it and on
nothing else.

nnU-Net weights overlapping windows likewise (Isensee et al., Nature Methods 18, 2021); its Gaussian needs a division.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tiler.grid import Footprint, Grid
from tiler.values import Cell, Floats, Mask, Rect, Scores

Planes = NDArray[Any]


def blended(
    grid: Grid, scores: Mapping[Cell, Scores], planes_of: Callable[[Scores], Planes | None], area: Rect
) -> tuple[Mask, Planes | None]:
    """The answer of overlapping cells over a rectangle.

    Args:
        grid: whose cells these are.
        scores: every cell that keeps a pixel that will be looked at; elsewhere the answer is not the whole sum.
        planes_of: says which of a cell's planes are wanted.
        area: grid pixels, inside of the grid.

    Returns:
        valid, bool [rows, cols]; planes [planes, rows, cols] in the cells' own dtype, None when they have none. Summed
        in float32, cell by cell in one order, so that a pixel gets the same bits in every rectangle.
    """
    valid = np.zeros((area.height, area.width), bool)
    parts = []
    for cell in sorted(scores):
        kept = grid.kept_of(cell)
        rows = _shared(area.row_off, area.height, kept.row_off, kept.height)
        cols = _shared(area.col_off, area.width, kept.col_off, kept.width)
        if rows is None or cols is None:
            continue
        here, there = (rows[0], cols[0]), (rows[1], cols[1])
        valid[here] = scores[cell].valid[there]
        own = planes_of(scores[cell])
        if own is not None:
            down = weights(cell.row, grid.cell_rows, grid.cell, grid.overlap, grid.height)[rows[1]]
            across = weights(cell.col, grid.cell_cols, grid.cell, grid.overlap, grid.width)[cols[1]]
            parts.append((here, own[:, *there], down[:, None], across))
    if not parts:
        return valid, None
    planes = np.empty((len(parts[0][1]), *valid.shape), parts[0][1].dtype)
    total = np.empty(valid.shape, np.float32)
    # One plane at a time: an embedding has many, and their sums would be twice what is kept.
    for number in range(len(planes)):
        total[:] = 0
        for here, own, down, across in parts:
            total[here] += own[number] * down * across
        planes[number] = total
    return valid, planes


@lru_cache(1024)
def weights(number: int, count: int, cell: int, overlap: int, size: int) -> Floats:
    """What the pixels of one axis weigh that cell `number` of `count` keeps, float32, read-only; 0 < weight <= 1.

    cell, overlap, size: pixels of a cell, beyond each of its sides, and of the whole grid.
    """
    # The middles of the cell's pixels, counted from its own first edge.
    place = np.arange(-overlap, cell + overlap, dtype=np.float64) + 0.5
    whole = np.ones(len(place))
    if number > 0:
        whole *= _rise(place + overlap, 2 * overlap)
    if number < count - 1:
        whole *= _rise(cell + overlap - place, 2 * overlap)
    # The first cell keeps nothing before the grid, the last one nothing beyond it.
    start = number * cell - overlap
    found = whole[max(0, -start) : size - start].astype(np.float32)
    found.flags.writeable = False
    return found


def area_under(where: Footprint, grid: Grid, cells: Iterable[Cell], margin: int = 0) -> Rect:
    """The grid pixels that hold a footprint's samples, and `margin` more on every side, as far as the cells reach."""
    kept = [grid.kept_of(cell) for cell in cells]
    rows = _span(where.rows, [(rect.row_off, rect.height) for rect in kept], margin)
    cols = _span(where.cols, [(rect.col_off, rect.width) for rect in kept], margin)
    return Rect(rows[0], cols[0], rows[1] - rows[0], cols[1] - cols[0])


def cells_keeping(area: Rect, grid: Grid) -> list[Cell]:
    """The cells that keep a pixel of a rectangle, row by row."""
    rows, cols = (
        range(
            max(0, (start - grid.overlap) // grid.cell), min(cells, (start + count - 1 + grid.overlap) // grid.cell + 1)
        )
        for start, count, cells in (
            (area.row_off, area.height, grid.cell_rows),
            (area.col_off, area.width, grid.cell_cols),
        )
    )
    return [Cell(row, col) for row in rows for col in cols]


def _rise(place: NDArray[Any], length: int) -> NDArray[np.float64]:
    """Half a raised cosine: 0 before 0, 1 after `length`."""
    rise: NDArray[np.float64] = np.sin(np.clip(place / length, 0, 1) * (np.pi / 2)) ** 2
    return rise


def _span(places: NDArray[np.float64], kept: list[tuple[int, int]], margin: int) -> tuple[int, int]:
    """First pixel and the one after the last, of one axis."""
    first, end = min(start for start, _ in kept), max(start + count for start, count in kept)
    # Samples without a place are NaN, which these two pass over.
    low, high = np.fmin.reduce(places, axis=None) - margin, np.fmax.reduce(places, axis=None) + margin
    low, high = (int(np.floor(np.clip(np.nan_to_num(place), first, end - 1))) for place in (low, high))
    return low, high + 1


def _shared(start: int, count: int, other: int, length: int) -> tuple[slice, slice] | None:
    """What two stretches of an axis share, as slices of the first and of the second; None for nothing."""
    first, last = max(start, other), min(start + count, other + length)
    return (slice(first - start, last - start), slice(first - other, last - other)) if first < last else None
