"""A place that somebody asks about, on a grid: which rectangle, which pixels in it, and how large they are."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.features import bounds as shape_bounds
from rasterio.features import is_valid_geom, rasterize
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds, transform_geom

from tiler.errors import OutsideError, RequestError
from tiler.grid import NO_PLACE, Grid
from tiler.scene import WGS84
from tiler.values import Mask, Rect

# No CRS of the Earth has coordinates beyond it; arithmetic with larger ones would overflow.
MAX_COORDINATE = 1e12
# Points of a polygon; drawn ones have dozens, coastlines thousands.
MAX_POINTS = 200_000
# Points along each side of a bbox, which is curved in another CRS.
BOX_POINTS = 21

_POLYGONS = ("Polygon", "MultiPolygon")


@dataclass(frozen=True)
class Area:
    """Polygons (GeoJSON geometries) in `crs`."""

    shapes: tuple[dict[str, Any], ...]
    crs: CRS


def area_of(body: Any, bbox: str | None, crs: CRS | None) -> Area | None:
    """What a request names: a GeoJSON Feature, FeatureCollection or polygon, or a bbox; None for neither.

    Args:
        body: parsed JSON.
        bbox: minx,miny,maxx,maxy.
        crs: of the coordinates; None is WGS84.

    Raises:
        RequestError: both, or nothing that has an area.
    """
    if body is not None and bbox is not None:
        raise RequestError("a polygon and bbox= were given", "Give one of them")
    if bbox is not None:
        return Area((_box(bbox),), crs or WGS84)
    if body is None:
        return None
    shapes = tuple(_shapes(body))
    points = [point for shape in shapes for point in _points(shape)]
    if len(points) > MAX_POINTS:
        raise RequestError(f"the polygons have {len(points)} points, the limit is {MAX_POINTS}", "Simplify them")
    if not points or not all(map(_is_position, points)) or not all(map(is_valid_geom, shapes)):
        raise _no_area()
    return Area(shapes, crs or WGS84)


@dataclass(frozen=True)
class Place:
    """An area on a grid.

    Attributes:
        grid: whose pixels are counted.
        rect: the pixels that hold it.
        shapes: polygons in the grid's CRS; None: the whole rectangle.
    """

    grid: Grid
    rect: Rect
    shapes: tuple[dict[str, Any], ...] | None

    def inside(self, rect: Rect) -> Mask:
        """Pixels of a rectangle, bool [rows, cols], whose centre lies in the area."""
        if self.shapes is None:
            return np.ones((rect.height, rect.width), bool)
        grid = self.grid
        burned = rasterize(
            self.shapes, out_shape=(rect.height, rect.width), fill=0, default_value=1, dtype="uint8",
            transform=grid.transform * grid.transform.translation(rect.col_off, rect.row_off),
        )  # fmt: skip
        return np.asarray(burned, bool)

    def blocks(self, side: int) -> Iterator[Rect]:
        """The rectangle in blocks of at most `side` x `side` pixels, cut at multiples of `side` of the grid."""
        whole = self.rect
        for top, height in _steps(whole.row_off, whole.height, side):
            for left, width in _steps(whole.col_off, whole.width, side):
                yield Rect(top, left, height, width)


def placed(area: Area | None, grid: Grid, within: tuple[float, float, float, float], what: str) -> Place:
    """An area on a grid.

    Args:
        area: what was asked about; None means all that lies in `within`.
        grid: whose pixels are counted.
        within: (left, bottom, right, top) in units of the grid's CRS.
        what: the grid's name, for messages.

    Raises:
        OutsideError: it has no pixel of the grid.
        RequestError: it has no place in the grid's CRS.
    """
    shapes: tuple[dict[str, Any], ...] | None = None
    box = within
    if area is not None:
        try:
            shapes = tuple(
                shape if area.crs == grid.crs else transform_geom(area.crs, grid.crs, shape) for shape in area.shapes
            )
            boxes = np.asarray([shape_bounds(shape) for shape in shapes], np.float64)
        except NO_PLACE:
            raise _no_place(what) from None
        box = (boxes[:, 0].min(), boxes[:, 1].min(), boxes[:, 2].max(), boxes[:, 3].max())
    if not np.isfinite(box).all():
        raise _no_place(what)
    rows = _pixels((grid.top - box[3]) / grid.res_y, (grid.top - box[1]) / grid.res_y, grid.height)
    cols = _pixels((box[0] - grid.left) / grid.res_x, (box[2] - grid.left) / grid.res_x, grid.width)
    if rows[1] <= rows[0] or cols[1] <= cols[0]:
        raise OutsideError(f"the area is outside of {what}", "Ask inside of its bounds")
    return Place(grid, Rect(rows[0], cols[0], rows[1] - rows[0], cols[1] - cols[0]), shapes)


def bounds_in(crs: CRS, grid: Grid) -> tuple[float, float, float, float]:
    """A grid's bounds in another CRS; not finite where they have no place there."""
    if crs == grid.crs:
        return grid.bounds
    try:
        left, bottom, right, top = transform_bounds(grid.crs, crs, *grid.bounds, densify_pts=21)
    except NO_PLACE:
        return (math.nan,) * 4
    return left, bottom, right, top


def hectares(grid: Grid, rect: Rect) -> float:
    """Ground area of one pixel in the middle of a rectangle of a grid: on the ellipsoid, whatever the projection."""
    left, top = grid.transform * (rect.col_off, rect.row_off)
    right, bottom = grid.transform * (rect.col_off + rect.width, rect.row_off + rect.height)
    # Half of the way along each side, too: parallels are no geodesics.
    xs = [left, (left + right) / 2, right, right, right, (left + right) / 2, left, left]
    ys = [top, top, top, (top + bottom) / 2, bottom, bottom, bottom, (top + bottom) / 2]
    try:
        lons, lats = transform_points(grid.crs, WGS84, xs, ys)[:2]
    except NO_PLACE:
        return 0.0
    area, _ = Geod(ellps="WGS84").polygon_area_perimeter(lons, lats)
    return abs(float(area)) / rect.pixels / 1e4


def _steps(start: int, length: int, side: int) -> Iterator[tuple[int, int]]:
    end, begin = start + length, start
    while begin < end:
        stop = min(end, (begin // side + 1) * side)
        yield begin, stop - begin
        begin = stop


def _pixels(first: float, last: float, size: int) -> tuple[int, int]:
    """Whole pixels from `first` to `last`, kept inside the grid. A rounding error adds no row of pixels."""
    return max(0, math.floor(first + 1e-9)), min(size, math.ceil(last - 1e-9))


def _shapes(body: Any) -> Iterator[dict[str, Any]]:
    whole = isinstance(body, dict) and body.get("type") == "FeatureCollection"
    parts = body.get("features") if whole else [body]
    for part in parts if isinstance(parts, list) else ():
        geometry = part.get("geometry") if isinstance(part, dict) and part.get("type") == "Feature" else part
        if not isinstance(geometry, dict):
            raise _no_area()
        yield geometry


def _points(shape: dict[str, Any]) -> Iterator[Any]:
    """Every position of a polygon, or of several; RequestError if its coordinates are not nested as those are."""
    kind, coordinates = shape.get("type"), shape.get("coordinates")
    if kind not in _POLYGONS or not isinstance(coordinates, list):
        raise _no_area()
    for rings in coordinates if kind == "MultiPolygon" else [coordinates]:
        if not isinstance(rings, list) or not rings or not all(isinstance(ring, list) for ring in rings):
            raise _no_area()
        for ring in rings:
            yield from ring


def _is_position(point: Any) -> bool:
    # Looked at here: GDAL's own reader is handed nothing but numbers.
    return (
        isinstance(point, list)
        and len(point) >= 2
        and all(type(value) in (int, float) and abs(value) < MAX_COORDINATE for value in point)
    )


def _box(text: str) -> dict[str, Any]:
    try:
        left, bottom, right, top = (float(part) for part in text.split(","))
    except ValueError:
        left = bottom = right = top = math.nan
    if not (left < right and bottom < top and max(abs(left), abs(bottom), abs(right), abs(top)) < MAX_COORDINATE):
        raise RequestError(f"bbox={text[:80]!r} is empty or endless", "Give minx,miny,maxx,maxy, e.g. bbox=11,48,12,49")
    xs, ys = np.linspace(left, right, BOX_POINTS).tolist(), np.linspace(bottom, top, BOX_POINTS).tolist()
    ring = (
        [(x, bottom) for x in xs]
        + [(right, y) for y in ys]
        + [(x, top) for x in xs[::-1]]
        + [(left, y) for y in ys[::-1]]
    )
    return {"type": "Polygon", "coordinates": [ring]}


def _no_area() -> RequestError:
    return RequestError("the body has no polygon", "Send a GeoJSON Feature with a Polygon, bbox=, or nothing")


def _no_place(what: str) -> RequestError:
    return RequestError(
        f"the area has no place in the CRS of {what}", "Give coordinates near the scene, or name their CRS (coord_crs=)"
    )
