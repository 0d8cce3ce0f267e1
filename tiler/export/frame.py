"""Which raster comes out: a layer's own grid, or one of another CRS, resolution, or extent of several scenes."""

from __future__ import annotations

import math
from dataclasses import replace

from rasterio.crs import CRS
from rasterio.warp import calculate_default_transform, transform_bounds

from tiler.crs import crs_of
from tiler.errors import MisfitError, RequestError
from tiler.export.order import Order
from tiler.export.plan import Frame
from tiler.grid import NO_PLACE, Grid
from tiler.layer import Layer
from tiler.scene import ground_metres_per_unit
from tiler.values import Rect

# Resolutions that differ by less are one.
SAME = 1e-3

# How much finer than a layer's own grid a result may be.
MOST_FINER = 32


def frame_of(layers: tuple[Layer, ...], order: Order) -> Frame:
    """The raster of an order, all of its scenes' extent.

    On the first layer's own grid (the very object) where neither CRS nor resolution was asked for and there is one
    scene: then no pixel is resampled.

    Raises:
        RequestError: a CRS that there is not, or in which the scene has no place; a resolution that is not positive.
        MisfitError: scenes of different CRS or resolution and no word on which the mosaic should have.
    """
    first = layers[0].grid
    crs = crs_of(order.crs) if order.crs else first.crs
    if order.gsd is not None and not (math.isfinite(order.gsd) and order.gsd > 0):
        raise RequestError(f"--gsd {order.gsd:g} is not a resolution", "Give metres per pixel, e.g. 10")
    if order.gsd is not None and order.gsd < first.gsd / MOST_FINER:
        raise RequestError(
            f"--gsd {order.gsd:g} is more than {MOST_FINER} times finer than the model's grid of {first.gsd:g} m",
            "It shows nothing more: give a coarser one, or none",
        )
    if len(layers) > 1:
        _check_mosaic(layers, order)
    same_gsd = order.gsd is None or abs(order.gsd / first.gsd - 1) < SAME
    if len(layers) == 1 and crs == first.crs and same_gsd:
        return Frame(first, Rect(0, 0, first.height, first.width))
    boxes = [_moved(layer.grid, crs) for layer in layers]
    left, bottom = min(box[0] for box in boxes), min(box[1] for box in boxes)
    right, top = max(box[2] for box in boxes), max(box[3] for box in boxes)
    res_x, res_y, gsd = _resolution(first, crs, order.gsd, (left, bottom, right, top))
    # From the first scene's own corner: a mosaic of neighbours in one grid is resampled nowhere.
    own = boxes[0]
    left, top = (
        own[0] - math.ceil((own[0] - left) / res_x - SAME) * res_x,
        own[3] + math.ceil((top - own[3]) / res_y - SAME) * res_y,
    )
    width, height = max(1, math.ceil((right - left) / res_x - SAME)), max(1, math.ceil((top - bottom) / res_y - SAME))
    grid = replace(
        first, crs=crs, left=left, top=top, res_x=res_x, res_y=res_y, height=height, width=width, gsd=gsd, native=False
    )
    return Frame(grid, Rect(0, 0, height, width))


def _check_mosaic(layers: tuple[Layer, ...], order: Order) -> None:
    first = layers[0]
    for layer in layers[1:]:
        names = f"{layer.scene.display_name!r} and {first.scene.display_name!r}"
        if order.crs is None and layer.grid.crs != first.grid.crs:
            raise MisfitError(f"{names} have different CRS", "Say which the mosaic should have (--dst-crs)")
        if order.gsd is None and abs(layer.grid.gsd / first.grid.gsd - 1) > SAME:
            raise MisfitError(
                f"{names} have {layer.grid.gsd:g} and {first.grid.gsd:g} m per pixel",
                "Say which resolution the mosaic should have (--gsd)",
            )


def _moved(grid: Grid, crs: CRS) -> tuple[float, float, float, float]:
    if crs == grid.crs:
        return grid.bounds
    try:
        box = transform_bounds(grid.crs, crs, *grid.bounds, densify_pts=21)
    except NO_PLACE:
        box = (math.nan,) * 4
    if not all(map(math.isfinite, box)):
        raise RequestError("the scene has no place in the CRS asked for", "Choose another with --dst-crs")
    return box[0], box[1], box[2], box[3]


def _resolution(
    grid: Grid, crs: CRS, gsd: float | None, box: tuple[float, float, float, float]
) -> tuple[float, float, float]:
    """(x, y) in units of the CRS and in ground metres."""
    along_x, along_y = ground_metres_per_unit(crs, (box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
    if gsd is not None:
        return gsd / along_x, gsd / along_y, gsd
    if crs == grid.crs:
        return grid.res_x, grid.res_y, grid.gsd
    transform, _, _ = calculate_default_transform(grid.crs, crs, grid.width, grid.height, *grid.bounds)
    return transform.a, -transform.e, math.sqrt(transform.a * along_x * -transform.e * along_y)
