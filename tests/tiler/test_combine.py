"""The mean of an ensemble's members: right by hand, and the same bits in every rectangle."""

from __future__ import annotations

import numpy as np
import pytest
from rasterio.crs import CRS

from tests.tiler.whole_ensemble import brought as independently
from tiler.combine import Look, brought, mean, reach
from tiler.grid import Grid
from tiler.values import Rect

METRES = CRS.from_epsg(32632)
EXTENT = (30.0, 42.0)


def grid(res: float, extent: tuple[float, float] = EXTENT) -> Grid:
    height, width = (max(1, round(length / res)) for length in extent)
    return Grid(METRES, 0.0, 0.0, res, res, height, width, 32, 1, 0, res, False)


def whole(of: Grid) -> Rect:
    return Rect(0, 0, of.height, of.width)


def look(res: float, weight: float = 1.0, seed: int = 0, holes: float = 0.0) -> Look:
    own = grid(res)
    random = np.random.default_rng(seed)
    planes = random.random((3, own.height, own.width)).astype(np.float32)
    valid = random.random((own.height, own.width)) >= holes
    return Look(own, whole(own), weight, valid, planes / planes.sum(axis=0))


def cut(one: Look, area: Rect) -> Look:
    rows = slice(area.row_off - one.rect.row_off, area.row_off - one.rect.row_off + area.height)
    cols = slice(area.col_off - one.rect.col_off, area.col_off - one.rect.col_off + area.width)
    return Look(one.grid, area, one.weight, one.valid[rows, cols], one.planes[:, rows, cols])


@pytest.mark.parametrize("holes", [0.0, 0.3])
@pytest.mark.parametrize(("res", "to"), [(1.0, 0.5), (2.0, 0.5), (0.7, 0.5), (1.1, 0.7), (0.5, 1.0), (0.5, 0.7)])
def test_a_look_is_brought_to_another_grid_as_by_dense_matrices(res: float, to: float, holes: float) -> None:
    one, target = look(res, holes=holes), grid(to)
    valid, planes = brought(one, whole(target), target)
    right, known = independently(one.planes.astype(float), one.valid, res, to, (target.height, target.width))
    np.testing.assert_array_equal(valid, known)
    np.testing.assert_allclose(planes[:, valid], right[:, valid], atol=1e-6)


def test_its_own_grid_changes_nothing() -> None:
    one = look(0.5, holes=0.2)
    valid, planes = brought(one, Rect(3, 5, 20, 30), one.grid)
    np.testing.assert_array_equal(valid, one.valid[3:23, 5:35])
    np.testing.assert_array_equal(planes, np.where(valid, one.planes[:, 3:23, 5:35], 0))


@pytest.mark.parametrize("gsds", [(0.5, 1.0, 2.0), (0.5, 0.7, 1.1), (0.7, 0.5, 0.55)])
def test_a_pixel_has_the_same_bits_in_every_rectangle(gsds: tuple[float, ...]) -> None:
    looks = [look(res, (0.5, 0.3, 0.2)[number], number, holes=0.1) for number, res in enumerate(gsds)]
    target = grid(gsds[0])
    everything = mean(whole(target), target, looks)
    random = np.random.default_rng(1)
    for _ in range(30):
        top, left = int(random.integers(0, target.height - 1)), int(random.integers(0, target.width - 1))
        height, width = random.integers(1, target.height - top + 1), random.integers(1, target.width - left + 1)
        area = Rect(top, left, int(height), int(width))
        part = mean(area, target, [cut(one, reach(area, target, one.grid)) for one in looks])
        for found, right in zip(part, everything, strict=True):
            np.testing.assert_array_equal(found, right[..., top : top + height, left : left + width])


def test_weights_count_only_where_there_is_data() -> None:
    own = grid(1.0, (2.0, 2.0))
    area = whole(own)

    def of(probability: float, weight: float, valid: list[list[bool]]) -> Look:
        planes = np.stack([np.full((2, 2), 1 - probability), np.full((2, 2), probability)]).astype(np.float32)
        return Look(own, area, weight, np.array(valid), planes)

    found = mean(
        area, own, [of(0.2, 0.75, [[True, True], [False, False]]), of(0.6, 0.25, [[True, False], [True, False]])]
    )
    np.testing.assert_array_equal(found.valid, [[True, True], [True, False]])
    np.testing.assert_allclose(found.planes[1], [[0.3, 0.2], [0.6, 0.0]], atol=1e-6)
    np.testing.assert_allclose(found.spread, [[0.4, 0.0], [0.0, 0.0]], atol=1e-6)


def test_the_reach_of_a_rectangle_is_no_larger_than_it_must_be() -> None:
    fine, coarse = grid(0.5), grid(2.0)
    assert reach(Rect(8, 16, 8, 8), fine, fine) == Rect(8, 16, 8, 8)
    assert reach(Rect(8, 16, 8, 8), fine, coarse) == Rect(1, 3, 4, 4)
    assert reach(Rect(2, 4, 2, 2), coarse, fine) == Rect(8, 16, 8 + 1, 8 + 1)
