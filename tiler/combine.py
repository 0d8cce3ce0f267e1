"""Members of an ensemble -> one answer on one grid: their weighted mean, and how far they lie apart. Numpy only.

    P = sum(weight * valid * R(p)) / sum(weight * valid)

R brings a member's probabilities to the answer's grid: area means where the member is finer, bilinear where it is
coarser. Pixels without data never count. Each bit of a pixel's answer follows from the pixel alone, whatever rectangle
it was asked for in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from tiler.grid import Grid
from tiler.taps import Taps, taps
from tiler.values import Floats, Mask, Rect


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one member says of a rectangle of its own grid.

    Attributes:
        grid, rect: whose pixels, and which.
        weight: the member's share.
        valid: bool [rows, cols].
        planes: float32 [classes, rows, cols], probabilities.
    """

    grid: Grid
    rect: Rect
    weight: float
    valid: Mask
    planes: Floats


class Mean(NamedTuple):
    """What the members say together.

    valid: bool [rows, cols], where at least one of them says something.
    planes: float32 [classes, rows, cols], the weighted mean of those that do.
    spread: float32 [rows, cols], 0..1: the largest of the classes' differences between any two of them; None if nobody
        asked.
    """

    valid: Mask
    planes: Floats
    spread: Floats | None


def reach(area: Rect, grid: Grid, member: Grid) -> Rect:
    """The pixels of a member's grid that decide a rectangle of the answer's grid."""
    if _ratios(grid, member) == (1.0, 1.0):
        return area
    rows, cols = _taps(area, grid, member)
    top, left = rows.span.start, cols.span.start
    return Rect(top, left, rows.span.stop - top, cols.span.stop - left)


def mean(area: Rect, grid: Grid, looks: Sequence[Look], spread: bool = True) -> Mean:
    """Put looks together.

    Args:
        area: the pixels wanted, inside of `grid`.
        grid: of the answer.
        looks: one for each member, each over at least the `reach` of the area.
        spread: whether it is wanted.
    """
    shape = (len(looks[0].planes), area.height, area.width)
    total, mass = np.zeros(shape, np.float32), np.zeros(shape[1:], np.float32)
    on_grid = []
    for look in looks:
        valid, planes = brought(look, area, grid)
        weight = np.float32(look.weight) * valid
        total += weight * planes
        mass += weight
        if spread:
            on_grid.append((valid, planes))
    found = mass > 0
    total /= np.where(found, mass, np.float32(1))
    return Mean(found, total, _spread(on_grid) if spread else None)


def _spread(looks: Sequence[tuple[Mask, Floats]]) -> Floats:
    largest = np.zeros(looks[0][0].shape, np.float32)
    # Class by class: all at once would not stay in the processor's cache.
    for number in range(len(looks[0][1])):
        lowest, highest = np.full_like(largest, np.inf), np.full_like(largest, -np.inf)
        for valid, planes in looks:
            np.minimum(lowest, planes[number], out=lowest, where=valid)
            np.maximum(highest, planes[number], out=highest, where=valid)
        # Minus infinity where no member says anything.
        np.maximum(largest, highest - lowest, out=largest)
    return largest


def brought(look: Look, area: Rect, grid: Grid) -> tuple[Mask, Floats]:
    """One look on the answer's grid: valid [rows, cols], and planes [classes, rows, cols], 0 where nothing is known.

    A pixel is valid where half of it is, or, on a finer grid, where the member's pixel at its centre is.
    """
    wanted = reach(area, grid, look.grid)
    top, left = wanted.row_off - look.rect.row_off, wanted.col_off - look.rect.col_off
    here = slice(top, top + wanted.height), slice(left, left + wanted.width)
    known, planes = look.valid[here], look.planes[:, *here]
    if not known.all():
        planes = np.where(known, planes, np.float32(0))
    if _ratios(grid, look.grid) == (1.0, 1.0):
        return known, planes
    rows, cols = _taps(area, grid, look.grid)
    share = cols.apply(rows.apply(known.astype(np.float32), 0), 1)
    divisor = np.where(share > 0, share, np.float32(1))
    found = np.empty((len(planes), area.height, area.width), np.float32)
    for number, plane in enumerate(planes):
        np.divide(cols.apply(rows.apply(plane, 0), 1), divisor, out=found[number])
    if max(_ratios(grid, look.grid)) > 1:
        return share >= 0.5 - 1e-6, found
    return known[(rows.nearest - rows.span.start)[:, None], cols.nearest - cols.span.start], found


def _ratios(grid: Grid, member: Grid) -> tuple[float, float]:
    """Member pixels along one pixel of the answer, down and across."""
    return grid.res_y / member.res_y, grid.res_x / member.res_x


def _taps(area: Rect, grid: Grid, member: Grid) -> tuple[Taps, Taps]:
    down, across = _ratios(grid, member)
    return (
        taps(area.row_off, area.height, down, member.height, average=down > 1),
        taps(area.col_off, area.width, across, member.width, average=across > 1),
    )
