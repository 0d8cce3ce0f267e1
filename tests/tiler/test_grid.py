"""Which cells a view needs, held against counting every sample."""

from __future__ import annotations

import numpy as np
import pytest
from rasterio.crs import CRS

from tiler.grid import Footprint, Grid, cells_covering, footprint
from tiler.values import Cell, View

MERCATOR, UTM = CRS.from_epsg(3857), CRS.from_epsg(32631)


def grid(height: int, width: int, *, cell: int = 32, res: float = 1.0) -> Grid:
    return Grid(UTM, 400_000.0, 5_000_000.0, res, res, height, width, cell, 8, 48, res, True)


def counted(where: Footprint, made: Grid, margin: int) -> set[Cell]:
    """One sample after the other."""
    found = set()
    for row, col in zip(where.rows.ravel(), where.cols.ravel(), strict=True):
        if not (-margin < row < made.height + margin and -margin < col < made.width + margin):
            continue
        for down in {-margin, margin}:
            for right in {-margin, margin}:
                y, x = min(max(row + down, 0), made.height - 1), min(max(col + right, 0), made.width - 1)
                found.add(Cell(int(y) // made.cell, int(x) // made.cell))
    return found


@pytest.mark.parametrize("margin", [0, 1])
@pytest.mark.parametrize(
    "bounds",
    [
        (400_100.3, 4_999_700.1, 400_180.9, 4_999_780.2),
        (399_950.0, 4_999_950.0, 400_050.0, 5_000_050.0),
        (399_000.0, 4_998_000.0, 401_500.0, 5_000_500.0),
    ],
    ids=["inside", "over the corner", "all of it and more"],
)
def test_the_cells_are_those_that_hold_a_sample(bounds: tuple[float, float, float, float], margin: int) -> None:
    made = grid(500, 700)
    where = footprint(View(bounds, UTM, 64, 64), made)
    cells = cells_covering(where, made, margin=margin)
    assert set(cells) == counted(where, made, margin) and cells == sorted(cells)


def test_a_rotated_view_needs_no_cell_beside_its_samples() -> None:
    made = grid(4000, 4000)
    rows, cols = np.meshgrid(np.linspace(10, 1000, 60), np.linspace(10, 1000, 60), indexing="ij")
    where = Footprint(rows=rows + cols, cols=2000 + cols - rows, samples=1)
    cells = cells_covering(where, made)
    assert set(cells) == counted(where, made, 0)
    assert len(cells) < 0.6 * (2000 / 32) ** 2


def test_a_view_beside_the_grid_needs_none() -> None:
    made = grid(500, 700)
    assert cells_covering(footprint(View((0.0, 0.0, 1000.0, 1000.0), MERCATOR, 16, 16), made), made) == []
    nowhere = np.full((4, 4), np.nan)
    assert cells_covering(Footprint(rows=nowhere, cols=nowhere, samples=1), made) == []


def test_a_tile_of_an_enormous_scene_costs_no_more_than_one_of_a_small_one() -> None:
    """A terapixel has a billion cells; a tile touches a few dozen, and nothing as large as all of them is made."""
    made = grid(8_000_000, 8_000_000, res=0.01)
    where = footprint(View((440_000.0, 4_960_000.0, 440_002.56, 4_960_002.56), UTM, 256, 256), made)
    cells = cells_covering(where, made)
    assert 64 <= len(cells) <= 100
    assert cells[0] == Cell(int(where.rows[0, 0]) // 32, int(where.cols[0, 0]) // 32)
