"""The part of a scene that somebody wants: a box, or a polygon.

A pixel belongs to an area if its centre is inside. All is decided in coordinates of the grid's pixels, counted from the
grid's corner, so that a pixel's answer does not depend on the rectangle in which it is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform_bounds

from tiler.crs import crs_of
from tiler.errors import OutsideError, RequestError
from tiler.export.aoi import Rings, declared_crs, filled, near, polygons_of, to_pixels
from tiler.grid import NO_PLACE, Grid
from tiler.scene import WGS84
from tiler.values import Mask, Rect

Box = tuple[float, float, float, float]
BAND_PIXELS = 2**20


@dataclass(frozen=True, slots=True, eq=False)
class Area:
    """A part of a grid.

    Attributes:
        region: the rectangle of grid pixels that holds it, inside of the grid.
        geometry: GeoJSON MultiPolygon in the grid's CRS, cut off some way outside of the scene; None for a rectangle.
    """

    region: Rect
    geometry: dict[str, Any] | None = None
    _polygons: tuple[Rings, ...] = field(default=(), repr=False)
    _boxes: NDArray[np.int64] = field(default_factory=lambda: np.empty((0, 4), np.int64), repr=False)

    @classmethod
    def within(cls, region: Rect, geometry: dict[str, Any], polygons: Sequence[Rings]) -> Area:
        """An area of polygons in (column, row) of the grid."""
        ends = [(ring[0].min(axis=0), ring[0].max(axis=0)) for ring in polygons]
        boxes = np.array([[*np.floor(low), *np.ceil(high)] for low, high in ends], np.float64)
        return cls(region, geometry, tuple(polygons), boxes.astype(np.int64))

    def mask(self, rect: Rect) -> Mask | None:
        """Which pixels of a rectangle belong to the area: bool [rows, cols]; None where all of `region` does."""
        if self.geometry is None:
            return None
        inside = np.zeros((rect.height, rect.width), bool)
        for number, (top, left, bottom, right) in self._near(rect):
            # Many small ones must not cost what the whole rectangle does, each.
            part = Rect(top, left, bottom - top, right - left)
            place = slice(top - rect.row_off, bottom - rect.row_off), slice(left - rect.col_off, right - rect.col_off)
            inside[place] |= filled(self._polygons[number], part)
        return inside

    def touches(self, rect: Rect) -> bool:
        """Whether any pixel of a rectangle belongs to the area."""
        if self.geometry is None:
            return True
        middle = Rect(rect.row_off + rect.height // 2, rect.col_off, 1, rect.width)
        return any(bool(np.any(self.mask(part))) for part in (middle, *_bands(rect)))

    def _near(self, rect: Rect) -> Iterator[tuple[int, list[int]]]:
        """(number, [top, left, bottom, right] of what it has in common with the rectangle) of each polygon there."""
        corner = np.array([rect.row_off, rect.col_off])
        lowest = np.maximum(self._boxes[:, 1::-1], corner)
        highest = np.minimum(self._boxes[:, :1:-1], corner + (rect.height, rect.width))
        for number in np.flatnonzero((lowest < highest).all(axis=1)).tolist():
            yield number, [*lowest[number].tolist(), *highest[number].tolist()]


def area_of(
    grid: Grid, *, bbox: Box | None = None, bbox_crs: str = "EPSG:4326", aoi: Mapping[str, Any] | None = None
) -> Area:
    """What an order's words mean on a grid; the whole of it without any.

    Args:
        grid: of the result.
        bbox: left, bottom, right, top.
        bbox_crs: of `bbox`, say EPSG:32632; default: degrees of WGS84, longitude first.
        aoi: a GeoJSON document with polygons.

    Raises:
        RequestError: they cannot be understood, or contradict each other.
        OutsideError: no pixel's centre is inside.
    """
    if bbox is not None and aoi is not None:
        raise RequestError("a box and a polygon are both given", "Give one of them")
    if aoi is not None:
        return area_of_polygon(grid, aoi)
    if bbox is None:
        return Area(Rect(0, 0, grid.height, grid.width))
    return area_of_box(grid, bbox, crs_of(bbox_crs))


def parse_bbox(text: str) -> Box:
    """'left,bottom,right,top' as numbers.

    Raises:
        RequestError: it is something else.
    """
    try:
        left, bottom, right, top = (float(part) for part in text.split(","))
    except ValueError:
        left = bottom = right = top = math.nan
    if not all(map(math.isfinite, (left, bottom, right, top))):
        raise RequestError(
            f"bbox={text[:100]!r} is not four numbers", "Write left,bottom,right,top, say 4.1,50.2,4.3,50.4"
        )
    return left, bottom, right, top


def area_of_box(grid: Grid, box: Box, crs: CRS = WGS84) -> Area:
    """The pixels whose centres lie in a box (left, bottom, right, top) of `crs`; of another CRS, in the box around it.

    Raises:
        RequestError: the box is empty, crosses the 180th meridian, or has no place in the grid's CRS.
        OutsideError: the scene is not there.
    """
    left, bottom, right, top = box
    shown = ",".join(f"{value:g}" for value in box)
    if not all(map(math.isfinite, box)):
        raise RequestError(f"the bbox {shown} has numbers that are not finite", "Write left,bottom,right,top")
    if crs.is_geographic and left > right:
        raise RequestError(f"the bbox {shown} crosses the 180th meridian", "Give the part on the scene's side of it")
    if crs.is_geographic and not (-90 <= bottom <= 90 and -90 <= top <= 90):
        raise RequestError(
            f"the bbox {shown} has latitudes beyond 90 degrees",
            "Write longitudes first, or name its CRS with --bbox-crs",
        )
    if not (left < right and bottom < top):
        raise RequestError(
            f"the bbox {shown} is empty", "Write left,bottom,right,top with left < right and bottom < top"
        )
    if crs != grid.crs:
        try:
            left, bottom, right, top = transform_bounds(crs, grid.crs, *box, densify_pts=51)
        except NO_PLACE:
            left = math.inf
        if not (np.isfinite((left, bottom, right, top)).all() and left < right and bottom < top):
            raise RequestError(
                f"the bbox {shown} has no place in the scene's CRS", f"Give one near the scene: {_where(grid, crs)}"
            )
    rect = _rect(
        ((left - grid.left) / grid.res_x, (grid.top - top) / grid.res_y),
        ((right - grid.left) / grid.res_x, (grid.top - bottom) / grid.res_y),
        grid,
    )
    if rect is None:
        raise OutsideError(f"no pixel of the scene is inside of the bbox {shown}", f"The scene is {_where(grid, crs)}")
    return Area(rect)


def area_of_polygon(grid: Grid, document: Mapping[str, Any]) -> Area:
    """The pixels whose centres lie in the polygons of a GeoJSON document; in any of them, where they overlap.

    Args:
        grid: of the layer.
        document: Feature, FeatureCollection, GeometryCollection, Polygon or MultiPolygon in WGS84 (RFC 7946), or in
            what its member `crs` says (GeoJSON 2008).

    Raises:
        RequestError: it holds no polygon, or one that has no place in the grid's CRS.
        OutsideError: the scene is not there.
    """
    crs = declared_crs(document)
    polygons = [rings for rings in (near(rings, grid, crs) for rings in polygons_of(document)) if rings]
    found = tuple([to_pixels(ring, grid, crs) for ring in rings] for rings in polygons)
    ends = np.concatenate([rings[0] for rings in found]) if found else np.empty((0, 2))
    rect = _rect(ends.min(axis=0), ends.max(axis=0), grid) if len(ends) else None
    scale, corner = (grid.res_x, -grid.res_y), (grid.left, grid.top)
    coordinates = [[(ring * scale + corner).tolist() for ring in rings] for rings in found]
    area = None if rect is None else Area.within(rect, {"type": "MultiPolygon", "coordinates": coordinates}, found)
    if area is None or not area.touches(area.region):
        raise OutsideError("no pixel of the scene is inside of the polygon", f"The scene is {_where(grid, crs)}")
    return area


def _rect(upper_left: Sequence[float], lower_right: Sequence[float], grid: Grid) -> Rect | None:
    """The pixels of the grid whose centres are between two corners (column, row)."""
    col, row = (max(0, math.ceil(value - 0.5)) for value in upper_left)
    col_end, row_end = (
        min(size, math.ceil(value - 0.5)) for value, size in zip(lower_right, (grid.width, grid.height), strict=True)
    )
    return Rect(row, col, row_end - row, col_end - col) if col < col_end and row < row_end else None


def _bands(rect: Rect) -> Iterator[Rect]:
    """A rectangle in pieces that fit into memory."""
    rows = max(1, BAND_PIXELS // rect.width)
    for row in range(0, rect.height, rows):
        yield Rect(rect.row_off + row, rect.col_off, min(rows, rect.height - row), rect.width)


def _where(grid: Grid, crs: CRS) -> str:
    """Where the scene is, in words."""
    try:
        bounds = transform_bounds(grid.crs, crs, *grid.bounds, densify_pts=51)
    except NO_PLACE:
        bounds, crs = grid.bounds, grid.crs
    return f"at {','.join(f'{value:.7g}' for value in bounds)} (left,bottom,right,top)"
