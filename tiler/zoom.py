"""Which zooms of a tile matrix set a layer answers: where its pixels are native, and where a tile gets too wide."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING

from rasterio.crs import CRS
from rasterio.warp import transform as transform_points

from tiler.errors import RequestError
from tiler.grid import Grid, pixels_per_view_pixel
from tiler.values import View

if TYPE_CHECKING:  # it takes 0.2 s to import, and an export has no tiles
    from morecantile import TileMatrixSet


def view_of_tile(tms: TileMatrixSet, x: int, y: int, z: int, tilesize: int | None = None) -> View:
    """The view of one tile.

    Args:
        tms: tile matrix set.
        x, y, z: column, row and zoom.
        tilesize: pixels along each side; the set's own by default.

    Raises:
        RequestError: no such tile in the set.
    """
    if not tms.minzoom <= z <= tms.maxzoom:
        raise RequestError(f"zoom {z} is not in {tms.id}", f"It has zooms {tms.minzoom} to {tms.maxzoom}")
    matrix = tms.matrix(z)
    if not (0 <= x < matrix.matrixWidth and 0 <= y < matrix.matrixHeight):
        raise RequestError(
            f"tile {z}/{x}/{y} is outside of {tms.id}",
            f"At zoom {z}, x is 0 to {matrix.matrixWidth - 1} and y is 0 to {matrix.matrixHeight - 1}",
        )
    return View(
        bounds=tuple(tms.xy_bounds(x, y, z)),  # type: ignore[arg-type]
        crs=_rasterio_crs(tms),
        height=tilesize or matrix.tileHeight,
        width=tilesize or matrix.tileWidth,
    )


def minzoom(grid: Grid, tms: TileMatrixSet, max_pixels: int) -> int:
    """The lowest zoom at which one tile covers at most `max_pixels` pixels of the grid."""
    for z in range(tms.minzoom, tms.maxzoom + 1):
        # A tile of exactly the limit must not fail by a rounding error.
        if tile_pixels(grid, tms, z) <= max_pixels * 1.01:
            return z
    return int(tms.maxzoom)


def maxzoom(grid: Grid, tms: TileMatrixSet) -> int:
    """The lowest zoom at which a tile's pixel is no larger than the grid's: nothing is gained beyond it."""
    for z in range(tms.minzoom, tms.maxzoom + 1):
        matrix = tms.matrix(z)
        if tile_pixels(grid, tms, z) <= matrix.tileWidth * matrix.tileHeight * 1.02:
            return z
    return int(tms.maxzoom)


def tile_pixels(grid: Grid, tms: TileMatrixSet, z: int) -> float:
    """Pixels of the grid under a tile at the scene's centre."""
    matrix = tms.matrix(z)
    return _pixels_under(grid, _rasterio_crs(tms), matrix.cellSize, matrix.tileHeight, matrix.tileWidth)


@lru_cache(maxsize=8192)
def _pixels_under(grid: Grid, crs: CRS, resolution: float, height: int, width: int) -> float:
    left, bottom, right, top = grid.bounds
    xs, ys = transform_points(grid.crs, crs, [(left + right) / 2], [(bottom + top) / 2])[:2]
    half_x, half_y = resolution * width / 2, resolution * height / 2
    tile = View((xs[0] - half_x, ys[0] - half_y, xs[0] + half_x, ys[0] + half_y), crs, height, width)
    return pixels_per_view_pixel(tile, grid) ** 2 * height * width


def _rasterio_crs(tms: TileMatrixSet) -> CRS:
    crs: CRS = tms.rasterio_crs
    return crs


def epsg_of(tms: TileMatrixSet) -> int | None:
    """EPSG code of a tile matrix set's CRS, if it has one."""
    code: int | None = _rasterio_crs(tms).to_epsg()
    return code
