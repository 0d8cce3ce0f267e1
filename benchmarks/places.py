"""Where a benchmark looks: tiles of a viewport, and what they cover of the model's grid. No server, no clock."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from morecantile import tms as default_tms
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from tiler import zoom
from tiler.grid import Grid, cells_covering, footprint
from tiler.values import Cell

WEB_MERCATOR = default_tms.get("WebMercatorQuad")
MERCATOR = CRS.from_epsg(3857)
TILE = 256


class Tile(NamedTuple):
    """A map tile."""

    z: int
    x: int
    y: int


@dataclass(frozen=True)
class Place:
    """A pair of scene and model as the server has it.

    Attributes:
        path: of its tiles, with `{z}/{x}/{y}` to fill in.
        grid: the model's pixels over the scene.
        minzoom, maxzoom: that it answers, and at which a tile's pixels are the model's.
    """

    path: str
    grid: Grid
    minzoom: int
    maxzoom: int
    about: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def of(cls, scene: str, model: str, told: Mapping[str, Any]) -> Place:
        """From what `/benchmark/pair` says."""
        fields = dict(told["grid"])
        grid = Grid(crs=CRS.from_wkt(fields.pop("crs")), **fields)
        return cls(
            path=f"/{scene}/{model}/{{z}}/{{x}}/{{y}}.png",
            grid=grid,
            minzoom=zoom.minzoom(grid, WEB_MERCATOR, told["max_tile_pixels"]),
            maxzoom=zoom.maxzoom(grid, WEB_MERCATOR),
            about={name: told[name] for name in ("runtime", "precision", "device", "exactness")},
        )

    def url(self, tile: Tile) -> str:
        """Where a tile is asked for."""
        return self.path.format(z=tile.z, x=tile.x, y=tile.y)

    def extent(self, z: int) -> tuple[float, float, float, float]:
        """The scene in tile coordinates of a zoom: (left, top, right, bottom), fractions included."""
        left, bottom, right, top = transform_bounds(self.grid.crs, MERCATOR, *self.grid.bounds)
        world = WEB_MERCATOR.matrix(z)
        span = world.cellSize * TILE
        corner_x, corner_y = world.pointOfOrigin
        return (left - corner_x) / span, (corner_y - top) / span, (right - corner_x) / span, (corner_y - bottom) / span

    def inner(self, z: int) -> tuple[int, int, int, int]:
        """Whole tiles inside the scene: first column, first row, columns, rows."""
        left, top, right, bottom = self.extent(z)
        first_x, first_y = math.ceil(left), math.ceil(top)
        return first_x, first_y, math.floor(right) - first_x, math.floor(bottom) - first_y

    def tile_pixels(self, z: int) -> float:
        """Pixels of the grid under one tile."""
        return zoom.tile_pixels(self.grid, WEB_MERCATOR, z)

    def cells(self, tile: Tile) -> frozenset[Cell]:
        """The cells that a tile shows."""
        return _cells(self.grid, tile)

    def chips(self, tiles: Sequence[Tile], side: int = 512) -> int:
        """How many fixed chips of the grid the tiles touch."""
        found = set()
        for tile in tiles:
            for cell in self.cells(tile):
                top, left = cell.row * self.grid.cell, cell.col * self.grid.cell
                for row in (top, top + self.grid.cell - 1):
                    for col in (left, left + self.grid.cell - 1):
                        found.add((row // side, col // side))
        return len(found)


@lru_cache(maxsize=65536)
def _cells(grid: Grid, tile: Tile) -> frozenset[Cell]:
    view = zoom.view_of_tile(WEB_MERCATOR, tile.x, tile.y, tile.z)
    return frozenset(cells_covering(footprint(view, grid), grid))


def centre_out(tiles: Sequence[Tile]) -> list[Tile]:
    """Tiles in the order in which map clients ask for them."""
    x = sum(tile.x for tile in tiles) / len(tiles)
    y = sum(tile.y for tile in tiles) / len(tiles)
    return sorted(tiles, key=lambda tile: (math.hypot(tile.x - x, tile.y - y), tile.y, tile.x))


def block(z: int, x: int, y: int, cols: int, rows: int) -> list[Tile]:
    """A viewport of whole tiles from its upper left one, centre out."""
    return centre_out([Tile(z, x + col, y + row) for row in range(rows) for col in range(cols)])


def random_viewports(place: Place, count: int, seed: int, cols: int = 5, rows: int = 3) -> list[list[Tile]]:
    """Viewports at the native zoom anywhere inside the scene; a small scene gets smaller ones."""
    z = place.maxzoom
    first_x, first_y, across, down = place.inner(z)
    cols, rows = min(cols, across), min(rows, down)
    chance = random.Random(seed)
    return [
        block(z, first_x + chance.randint(0, across - cols), first_y + chance.randint(0, down - rows), cols, rows)
        for _ in range(count)
    ]


def apart_viewports(place: Place, seed: int, cols: int = 5, rows: int = 3) -> list[list[Tile]]:
    """As many viewports at the native zoom as fit beside each other, in random order."""
    z = place.maxzoom
    first_x, first_y, across, down = place.inner(z)
    cols, rows = min(cols, across), min(rows, down)
    found = [
        block(z, first_x + col, first_y + row, cols, rows)
        for row in range(0, down - rows + 1, rows)
        for col in range(0, across - cols + 1, cols)
    ]
    random.Random(seed).shuffle(found)
    return found


def serpentine(place: Place, count: int, cols: int = 5, rows: int = 3) -> list[list[Tile]]:
    """Viewports of a pan in steps of half a viewport: along a row, down, and back along the next."""
    z = place.maxzoom
    first_x, first_y, across, down = place.inner(z)
    cols, rows = min(cols, across), min(rows, down)
    over, under = max(1, cols // 2), max(1, (rows + 1) // 2)
    path: list[tuple[int, int]] = []
    columns = list(range(0, across - cols + 1, over))[:4]
    for number, y in enumerate(range(0, down - rows + 1, under)):
        path += [(x, y) for x in (columns if number % 2 == 0 else columns[::-1])]
    return [block(z, first_x + x, first_y + y, cols, rows) for x, y in path[:count]]


def looking_at(place: Place, x: float, y: float, dz: int, size: tuple[int, int]) -> list[Tile]:
    """The tiles that a map window shows, centre out.

    Args:
        place: what is looked at.
        x, y: the window's centre, as a share of the scene from its left and from its top.
        dz: zooms above (or below) the native one; never below minzoom.
        size: width and height of the window in pixels.
    """
    z = max(place.minzoom, place.maxzoom + dz)
    left, top, right, bottom = place.extent(z)
    centre_x, centre_y = left + x * (right - left), top + y * (bottom - top)
    half_x, half_y = size[0] / TILE / 2, size[1] / TILE / 2
    columns = range(
        max(math.floor(centre_x - half_x), math.floor(left)), min(math.ceil(centre_x + half_x), math.ceil(right))
    )
    lines = range(
        max(math.floor(centre_y - half_y), math.floor(top)), min(math.ceil(centre_y + half_y), math.ceil(bottom))
    )
    tiles = [Tile(z, column, line) for line in lines for column in columns]
    return sorted(tiles, key=lambda tile: (math.hypot(tile.x + 0.5 - centre_x, tile.y + 0.5 - centre_y), tile))
