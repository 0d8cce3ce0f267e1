"""A scene cut into blocks, and blocks into windows. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from tiler.grid import Grid
from tiler.values import Cell, Rect
from tiler.windows import Block, Shape


@dataclass(frozen=True, slots=True)
class Frame:
    """The raster that comes out: a rectangle of a grid's pixels.

    Attributes:
        grid: a layer's own, or one of another CRS or resolution.
        region: which of its pixels; all inside of it.
    """

    grid: Grid
    region: Rect

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in units of the grid's CRS."""
        return bounds_of(self.grid, self.region)


def bounds_of(grid: Grid, rect: Rect) -> tuple[float, float, float, float]:
    """(left, bottom, right, top) of some pixels of a grid, in units of its CRS."""
    left, top = grid.left + rect.col_off * grid.res_x, grid.top - rect.row_off * grid.res_y
    return left, top - rect.height * grid.res_y, left + rect.width * grid.res_x, top


def window_cells(total: int, shape: Shape) -> int:
    """Cells along each side of an export's windows: as few windows as the limit allows, all of about one size.

    Args:
        total: cells along the side of what is exported.
        shape: the limit.
    """
    most = 1
    while shape.fits(most + 1, most + 1):
        most += 1
    return math.ceil(total / math.ceil(total / most))


def blocks(region: Rect, row_step: int, col_step: int, row_origin: int = 0, col_origin: int = 0) -> list[Rect]:
    """A region cut along a grid of lines `row_step` and `col_step` pixels apart, row by row.

    `row_origin`, `col_origin`: a pixel that a line goes through.
    """
    return [
        Rect(top, left, bottom - top, right - left)
        for top, bottom in _cuts(region.row_off, region.height, row_step, row_origin)
        for left, right in _cuts(region.col_off, region.width, col_step, col_origin)
    ]


def windows(rect: Rect, cell: int, rows: int, cols: int, origin: Cell) -> Iterator[Block]:
    """The blocks of cells that hold a rectangle, cut along a grid of `rows` x `cols` cells through `origin`."""
    last_row, last_col = (rect.row_off + rect.height - 1) // cell, (rect.col_off + rect.width - 1) // cell
    first_row, first_col = rect.row_off // cell, rect.col_off // cell
    for top, bottom in _cuts(first_row, last_row - first_row + 1, rows, origin.row):
        for left, right in _cuts(first_col, last_col - first_col + 1, cols, origin.col):
            yield Block(Cell(top, left), Cell(bottom - 1, right - 1))


def _cuts(start: int, length: int, step: int, origin: int) -> Iterator[tuple[int, int]]:
    end = start + length
    while start < end:
        stop = min(end, start + step - (start - origin) % step)
        yield start, stop
        start = stop
