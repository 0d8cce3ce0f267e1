"""The model's pixel grid over one scene: integers, and the way from a map's pixels to the grid's.

The grid has the scene's own CRS and upper left corner, and exactly the model's ground sampling distance. It does not
depend on the map, so every tile, point, polygon and export reads the same pixels. Opens no file.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.warp import transform as transform_points

from tiler.values import Cell, Rect, View

Coordinates = NDArray[np.float64]

# What rasterio raises when coordinates have no image in another CRS: GDAL's own error, unless it has a word for it.
NO_PLACE = (CPLE_BaseError, CRSError, RasterioError)

# A map pixel is looked up with this accuracy (in grid pixels); far below what a nearest lookup can show.
MAX_INTERPOLATION_ERROR = 0.01
MAX_CONTROL_INTERVALS = 128
# Within this share of a grid pixel a place is on its border: more than float64 loses, less than anybody knows.
BORDER = 1e-6


@dataclass(frozen=True, slots=True)
class Grid:
    """A raster of `height` x `width` pixels, north up, cut into square cells.

    Attributes:
        crs: the scene's own.
        left, top: upper left corner in units of `crs`.
        res_x, res_y: pixel size in units of `crs`, both positive; rows run down.
        height, width: in grid pixels.
        cell: side of a cell in grid pixels, a multiple of the model's alignment.
        align: windows start at multiples of this (the model's period and size multiple), in pixels.
        halo: context that the model needs on each side, in pixels, a multiple of `align`.
        gsd: ground metres per pixel that the model sees.
        native: True when grid pixels are the scene's own, so that nothing is resampled.
        overlap: pixels beyond each of its sides that a kept cell holds, to be blended with its neighbours (`blend`); 0
            where cells lie side by side.
    """

    crs: CRS
    left: float
    top: float
    res_x: float
    res_y: float
    height: int
    width: int
    cell: int
    align: int
    halo: int
    gsd: float
    native: bool
    overlap: int = 0

    def __post_init__(self) -> None:
        if min(self.res_x, self.res_y) <= 0 or min(self.height, self.width, self.cell, self.align) < 1:
            raise ValueError(f"impossible grid: {self}")
        if self.cell % self.align or self.halo % self.align:
            raise ValueError(f"cell {self.cell} and halo {self.halo} must be multiples of {self.align}")
        if not 0 <= self.overlap <= min(self.halo, self.cell // 2):
            # Beyond half a cell three windows would share a pixel, whose two ramps do not sum to one.
            raise ValueError(f"overlap {self.overlap} is more than the halo {self.halo} or half the cell {self.cell}")

    @property
    def transform(self) -> Affine:
        """Affine from (column, row) to (x, y) of `crs`."""
        return Affine(self.res_x, 0.0, self.left, 0.0, -self.res_y, self.top)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in units of `crs`."""
        return (
            self.left,
            self.top - self.height * self.res_y,
            self.left + self.width * self.res_x,
            self.top,
        )

    @property
    def cell_rows(self) -> int:
        """Number of rows of cells."""
        return -(-self.height // self.cell)

    @property
    def cell_cols(self) -> int:
        """Number of columns of cells."""
        return -(-self.width // self.cell)

    def core_of(self, first: Cell, last: Cell) -> Rect:
        """The pixels of the cells from `first` to `last` (both inclusive), without halo.

        At the scene's right and lower edge it ends where the scene ends, rounded up to `align`: pixels beyond that
        would only be inferred to be thrown away.
        """
        row_off, col_off = first.row * self.cell, first.col * self.cell
        row_end = min((last.row + 1) * self.cell, _round_up(self.height, self.align))
        col_end = min((last.col + 1) * self.cell, _round_up(self.width, self.align))
        return Rect(row_off, col_off, row_end - row_off, col_end - col_off)

    def kept_of(self, cell: Cell) -> Rect:
        """The pixels of the scene whose scores are kept with a cell: its own, and the overlap with its neighbours."""
        top, left = max(0, cell.row * self.cell - self.overlap), max(0, cell.col * self.cell - self.overlap)
        bottom = min((cell.row + 1) * self.cell + self.overlap, self.height)
        right = min((cell.col + 1) * self.cell + self.overlap, self.width)
        return Rect(top, left, bottom - top, right - left)


@dataclass(frozen=True, slots=True, eq=False)
class Footprint:
    """Where the samples of a view fall on a grid.

    `rows`, `cols`: float64 [height * samples, width * samples], grid pixel coordinates (0.5 is the centre of the first
    pixel); NaN where the map's coordinate has no image in the grid's CRS. `samples` per axis and view pixel.
    """

    rows: Coordinates
    cols: Coordinates
    samples: int


def footprint(view: View, grid: Grid, *, max_samples: int = 8, max_total: int = 2**28) -> Footprint:
    """Where each pixel of `view` lies on `grid`.

    A view coarser than the grid gets several samples per pixel and axis (at most `max_samples`), so that what it shows
    is a share of real predictions and not one picked pixel. All of them together are at most `max_total` (but at least
    one per pixel): the memory of a view that lies mostly beside the scene must have a bound, too.
    """
    scale = min(pixels_per_view_pixel(view, grid), float(max_samples))
    # The small tolerance keeps a tile at native zoom at one sample, whatever the projection's scale factor does.
    samples = max(1, min(math.ceil(scale - 0.25), math.isqrt(max_total // (view.height * view.width))))
    col_grid, row_grid = _map_to_grid(view, grid, samples)
    return Footprint(rows=row_grid, cols=col_grid, samples=samples)


def centres(view: View, grid: Grid) -> Footprint:
    """`footprint` of one sample per pixel, its centre; exact by borders of grid pixels, so the nearest is right.

    A centre on a border (of labels twice as coarse as the grid each is) belongs to the pixel on its right or below it,
    whatever rounding errors say, so that it does not depend on the view.
    """
    where = footprint(view, grid, max_samples=1)
    if view.crs == grid.crs:
        return Footprint(_snapped(where.rows), _snapped(where.cols), where.samples)
    rows, cols = where.rows, where.cols
    reach = 2 * MAX_INTERPOLATION_ERROR
    doubtful = (np.abs(rows - np.round(rows)) < reach) | (np.abs(cols - np.round(cols)) < reach)
    doubtful &= (rows > -1) & (rows < grid.height + 1) & (cols > -1) & (cols < grid.width + 1)
    down, across = np.nonzero(doubtful)
    if len(down):
        to_map = view.transform
        xs, ys = to_map.c + to_map.a * (across + 0.5), to_map.f + to_map.e * (down + 0.5)
        exact = _to_grid(view.crs, grid, xs.tolist(), ys.tolist())
        cols[doubtful], rows[doubtful] = map(_snapped, exact)
    return where


def _snapped(places: Coordinates) -> Coordinates:
    """Coordinates, those within BORDER of a whole number being that number."""
    whole = np.round(places)
    return np.where(np.abs(places - whole) < BORDER, whole, places)


def pixels_per_view_pixel(view: View, grid: Grid) -> float:
    """Grid pixels along one side of a view's pixel, measured at the view's centre (the larger axis); inf if unknown."""
    left, bottom, right, top = view.bounds
    x, y = (left + right) / 2, (bottom + top) / 2
    dx, dy = (right - left) / view.width, (top - bottom) / view.height
    cols, rows = _to_grid(view.crs, grid, [x, x + dx, x], [y, y, y + dy])
    along_x = math.hypot(cols[1] - cols[0], rows[1] - rows[0])
    along_y = math.hypot(cols[2] - cols[0], rows[2] - rows[0])
    largest = max(along_x, along_y)
    return largest if math.isfinite(largest) else math.inf


def cells_covering(where: Footprint, grid: Grid, *, margin: int = 0) -> list[Cell]:
    """The cells that keep at least one sample of the footprint (`kept_of`), row by row; empty when it misses the grid.

    `margin` widens each sample by that many pixels (1 for bilinear warping, which looks at its neighbours).
    """
    rows, cols = where.rows, where.cols
    # Comparisons with NaN are False: samples without an image in the grid's CRS drop out here.
    lowest, highest = min(rows.min(), cols.min()), max(rows.max() - grid.height, cols.max() - grid.width)
    if not (lowest > 0 and highest < 0):
        inside = (rows > -margin) & (rows < grid.height + margin) & (cols > -margin) & (cols < grid.width + margin)
        if not inside.any():
            return []
        rows, cols = rows[inside], cols[inside]
    reach = margin + grid.overlap
    # Wider than a cell, a sample may reach the cells on either side of its own.
    shifts = {-reach, reach} if 2 * reach < grid.cell else {-reach, 0, reach}
    found = [
        (_cell_numbers(rows, down, grid.height, grid.cell), _cell_numbers(cols, right, grid.width, grid.cell))
        for down in shifts
        for right in shifts
    ]
    # Only where the footprint lies: a scene of a terapixel has a billion cells.
    top, left = (min(int(numbers[axis].min()) for numbers in found) for axis in (0, 1))
    bottom, right = (max(int(numbers[axis].max()) for numbers in found) for axis in (0, 1))
    width = right - left + 1
    hit = np.zeros((bottom - top + 1) * width, bool)
    for row, col in found:
        # By one number each: two are looked up in twice the time.
        row -= top
        row *= width
        row += col
        row -= left
        hit[row] = True
    return [Cell(top + number // width, left + number % width) for number in np.flatnonzero(hit).tolist()]


def _cell_numbers(pixels: Coordinates, shift: int, size: int, cell: int) -> NDArray[np.int32]:
    """The row (or column) of cells in which each pixel coordinate lies, moved by `shift` and kept inside the grid."""
    # Cut off, not floored: all coordinates are positive once they are clipped.
    numbers = np.clip(pixels + shift if shift else pixels, 0, size - 1).astype(np.int32)
    numbers //= cell
    return numbers


def pixel_of_point(x: float, y: float, crs: CRS, grid: Grid) -> tuple[int, int] | None:
    """The pixel (row, column) that holds a coordinate, or None outside of the grid."""
    cols, rows = _to_grid(crs, grid, [x], [y])
    if not (0 <= rows[0] < grid.height and 0 <= cols[0] < grid.width):
        return None
    return int(rows[0]), int(cols[0])


def _map_to_grid(view: View, grid: Grid, samples: int) -> tuple[Coordinates, Coordinates]:
    """Grid coordinates (columns, rows) of every sample of a view: exact at control points, bilinear between them.

    Their number is doubled until half as many would be right to MAX_INTERPOLATION_ERROR in the middle of every mesh.
    """
    height, width = view.height * samples, view.width * samples
    left, bottom, right, top = view.bounds
    if view.crs == grid.crs:
        xs = left + (np.arange(width) + 0.5) * ((right - left) / width)
        ys = top - (np.arange(height) + 0.5) * ((top - bottom) / height)
        cols = (xs - grid.left) / grid.res_x
        rows = (grid.top - ys) / grid.res_y
        shape = (height, width)
        return np.broadcast_to(cols[None, :], shape), np.broadcast_to(rows[:, None], shape)
    intervals = 8
    while True:
        cols, rows = _control_points(view, grid, intervals)
        if intervals >= MAX_CONTROL_INTERVALS or max(_error(cols), _error(rows)) <= MAX_INTERPOLATION_ERROR:
            return _interpolate(cols, height, width), _interpolate(rows, height, width)
        intervals *= 2


def _control_points(view: View, grid: Grid, intervals: int) -> tuple[Coordinates, Coordinates]:
    """Exact grid coordinates (columns, rows) at (intervals + 1)^2 points."""
    left, bottom, right, top = view.bounds
    steps = np.arange(intervals + 1) / intervals
    xs, ys = np.meshgrid(left + steps * (right - left), top - steps * (top - bottom))
    cols, rows = _to_grid(view.crs, grid, xs.ravel().tolist(), ys.ravel().tolist())
    return cols.reshape(xs.shape), rows.reshape(xs.shape)


def _error(points: Coordinates) -> float:
    """How far every second point is from the middle of the four around it, at most."""
    corners = points[::2, ::2]
    between = (corners[:-1, :-1] + corners[1:, :-1] + corners[:-1, 1:] + corners[1:, 1:]) / 4
    error = np.abs(points[1::2, 1::2] - between)
    error = error[np.isfinite(error)]
    return float(error.max(initial=0.0))


def _interpolate(corners: Coordinates, height: int, width: int) -> Coordinates:
    """Bilinear interpolation of a regular mesh at the centres of `height` x `width` pixels.

    No product of matrices: BLAS has threads of its own for it, which then spin on the cores that the network needs.
    """
    intervals = corners.shape[0] - 1

    def between(count: int) -> tuple[NDArray[np.int64], Coordinates]:
        position = (np.arange(count) + 0.5) / count * intervals
        low = np.minimum(position.astype(np.int64), intervals - 1)
        return low, position - low

    (row, down), (col, right) = between(height), between(width)

    def blend(mesh: Coordinates) -> Coordinates:
        lines = mesh[row] * (1 - down)[:, None] + mesh[row + 1] * down[:, None]
        if width % intervals:
            return np.asarray(lines[:, col] * (1 - right) + lines[:, col + 1] * right)
        # As many pixels in each mesh: the same without looking up which.
        shares = right.reshape(intervals, -1)
        blended = lines[:, :-1, None] * (1 - shares)
        blended += lines[:, 1:, None] * shares
        return blended.reshape(height, width)

    if np.isfinite(corners).all():
        return blend(corners)
    # A weight of 0 times NaN would be NaN beside the touching meshes, too.
    values = blend(np.nan_to_num(corners, nan=0.0, posinf=0.0, neginf=0.0))
    values[blend((~np.isfinite(corners)).astype(np.float64)) > 0] = np.nan
    return values


def _to_grid(crs: CRS, grid: Grid, xs: list[float], ys: list[float]) -> tuple[Coordinates, Coordinates]:
    """(columns, rows) of coordinates of any CRS, by the GDAL transformation that TiTiler draws imagery with, too."""
    if crs != grid.crs:
        xs, ys = _transformed(crs, grid.crs, xs, ys)
    x, y = np.asarray(xs, np.float64), np.asarray(ys, np.float64)
    with np.errstate(invalid="ignore"):
        cols, rows = (x - grid.left) / grid.res_x, (grid.top - y) / grid.res_y
    return np.where(np.isfinite(cols), cols, np.nan), np.where(np.isfinite(rows), rows, np.nan)


def _transformed(source: CRS, target: CRS, xs: list[float], ys: list[float]) -> tuple[list[float], list[float]]:
    """Coordinates in another CRS, infinite where they have none there.

    rasterio raises for all points when one has none: then each half is asked for on its own.
    """
    try:
        found = transform_points(source, target, xs, ys)
        return found[0], found[1]
    except NO_PLACE:
        if len(xs) == 1:
            return [math.inf], [math.inf]
        half = len(xs) // 2
        left = _transformed(source, target, xs[:half], ys[:half])
        right = _transformed(source, target, xs[half:], ys[half:])
        return left[0] + right[0], left[1] + right[1]


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step
