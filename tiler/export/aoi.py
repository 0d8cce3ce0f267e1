"""A polygon of GeoJSON on its way to a grid's pixels."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.crs import CRS
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds

from tiler.crs import crs_of
from tiler.errors import RequestError
from tiler.grid import NO_PLACE, Grid
from tiler.scene import WGS84
from tiler.values import Mask, Rect

Points = NDArray[np.float64]
# A polygon: its shell and holes, closed; float64 [points, 2].
Rings = list[Points]

# A straight edge is divided until it is right to this many pixels where it is straight no longer.
MAX_ERROR = 0.02
MAX_HALVINGS = 12
# A polygon is cut off this far beyond the scene, as a share of its size: coordinates far away may have no place there.
MARGIN = 0.5
MAX_AOI_BYTES = 64 * 2**20


def read_aoi(path: Path) -> dict[str, Any]:
    """A GeoJSON file.

    Raises:
        RequestError: it cannot be read as one.
    """
    try:
        if path.stat().st_size > MAX_AOI_BYTES:
            raise RequestError(f"{path.name!r} is larger than {MAX_AOI_BYTES >> 20} MiB", "Simplify the polygon")
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError:
        raise RequestError(f"the polygon file {path.name!r} cannot be read", "Check its name and rights") from None
    except (ValueError, RecursionError):
        raise RequestError(f"{path.name!r} is not JSON", "Give a GeoJSON file with a polygon") from None
    if not isinstance(document, dict):
        raise RequestError(
            f"{path.name!r} is not GeoJSON", "Give a Feature, FeatureCollection, Polygon or MultiPolygon"
        )
    return document


def declared_crs(document: Mapping[str, Any]) -> CRS:
    """The CRS of a GeoJSON document; WGS84 unless its member `crs` (GeoJSON 2008) says something else."""
    declared = document.get("crs")
    if declared is None:
        return WGS84
    try:
        return crs_of(str(declared["properties"]["name"]))
    except (KeyError, TypeError):
        raise RequestError("the GeoJSON's member crs cannot be read", "Remove it and use WGS84 (RFC 7946)") from None


def polygons_of(document: Any) -> list[Rings]:
    """All polygons of a GeoJSON object.

    Raises:
        RequestError: there is none, or one cannot be read.
    """
    found: list[Rings] = []
    others: set[str] = set()

    def collect(item: Any) -> None:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == "Polygon":
            found.append([_ring(ring) for ring in item["coordinates"]])
        elif kind == "MultiPolygon":
            found.extend([_ring(ring) for ring in polygon] for polygon in item["coordinates"])
        elif kind == "Feature":
            collect(item["geometry"])
        elif kind in ("FeatureCollection", "GeometryCollection"):
            for part in item["features" if kind == "FeatureCollection" else "geometries"]:
                collect(part)
        else:
            others.add(str(kind)[:40])

    try:
        collect(document)
        found = [rings for rings in found if rings]
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):
        raise RequestError("the polygon's coordinates cannot be read", "Give valid GeoJSON (RFC 7946)") from None
    if others or not found:
        raise RequestError(
            f"the GeoJSON holds {', '.join(sorted(others)) or 'nothing'} where a polygon was expected",
            "Give a Feature, FeatureCollection, Polygon or MultiPolygon",
        )
    return found


def _ring(positions: Any) -> Points:
    ring = np.array([position[:2] for position in positions], np.float64)
    if ring.ndim != 2 or len(ring) < 3 or not np.isfinite(ring).all():
        raise ValueError("not a ring")
    return ring if (ring[0] == ring[-1]).all() else np.concatenate([ring, ring[:1]])


def near(rings: Rings, grid: Grid, crs: CRS) -> Rings:
    """A polygon without what is far outside of the scene; empty if nothing is left."""
    try:
        left, bottom, right, top = transform_bounds(grid.crs, crs, *grid.bounds, densify_pts=51)
    except NO_PLACE:
        return rings
    if not (np.isfinite((left, bottom, right, top)).all() and left < right and bottom < top):
        return rings  # over the 180th meridian
    margin = MARGIN * max(right - left, top - bottom)
    lowest, highest = np.array([left, bottom]) - margin, np.array([right, top]) + margin
    kept = []
    for ring in rings:
        for axis in (0, 1):
            ring = _cut(ring, axis, lowest[axis], 1)
            ring = _cut(ring, axis, highest[axis], -1)
        if len(ring):
            kept.append(ring)
        elif not kept:
            return []  # no shell, no holes
    return kept


def _cut(ring: Points, axis: int, line: float, side: int) -> Points:
    """A closed ring beyond a line (side 1) or before it (-1); where it left, it now runs along the line.

    Sutherland and Hodgman 1974, Reentrant polygon clipping.
    """
    if not len(ring):
        return ring
    depth = side * (ring[:, axis] - line)
    if (depth >= 0).all():
        return ring
    one, other, near, far = ring[:-1], ring[1:], depth[:-1], depth[1:]
    crosses = (near < 0) != (far < 0)
    share = np.where(crosses, near / np.where(crosses, near - far, 1), 0)
    between = one + (other - one) * share[:, None]
    between[:, axis] = line
    points = np.stack([between, other], axis=1).reshape(-1, 2)
    kept = points[np.stack([crosses, far >= 0], axis=1).ravel()]
    return np.concatenate([kept, kept[:1]]) if len(kept) else kept


def to_pixels(ring: Points, grid: Grid, crs: CRS) -> Points:
    """A ring in (column, row) of the grid, with more points where its straight edges are bent there."""
    corner, scale = np.array([grid.left, grid.top]), np.array([grid.res_x, -grid.res_y])

    def moved(points: Points) -> Points:
        if crs == grid.crs:
            same: Points = (points - corner) / scale
            return same
        try:
            xs, ys = transform_points(crs, grid.crs, *points.T.tolist())[:2]
        except NO_PLACE:
            xs = ys = [math.inf]
        found: Points = (np.stack([xs, ys], axis=1) - corner) / scale
        if not np.isfinite(found).all():
            raise RequestError(
                "the polygon has no place in the scene's CRS",
                "Cut it to the scene's surroundings",
            )
        return found

    there = moved(ring)
    for halving in range(0 if crs == grid.crs else MAX_HALVINGS):
        middle = (ring[:-1] + ring[1:]) / 2
        exact = moved(middle)
        error = np.abs(exact - (there[:-1] + there[1:]) / 2).max(axis=1)
        # The first two are for all: the middle of an edge may lie right by chance.
        bent = np.flatnonzero((error > MAX_ERROR) | (halving < 2))
        if not len(bent):
            break
        ring, there = np.insert(ring, bent + 1, middle[bent], axis=0), np.insert(there, bent + 1, exact[bent], axis=0)
    return there


def filled(rings: Sequence[Points], rect: Rect) -> Mask:
    """The pixels of a rectangle whose centres are inside of a polygon: bool [rows, cols].

    Even-odd rule on the row through the centres; a centre on an edge is inside if the polygon lies to its right, or on
    a level edge below it, so that polygons side by side share every pixel out. `rings` are closed, in (column, row).
    """
    # One byte each: only whether they are odd counts, and 256 is even.
    turns = np.zeros((rect.height, rect.width + 1), np.uint8)
    for ring in rings:
        (x0, y0), (x1, y1) = ring[:-1].T, ring[1:].T
        # Always from the upper end, so that neighbours compute the same crossing.
        swap = y0 > y1
        x0, x1, y0, y1 = np.where(swap, x1, x0), np.where(swap, x0, x1), np.where(swap, y1, y0), np.where(swap, y0, y1)
        first = np.maximum(np.ceil(y0 - 0.5), rect.row_off)
        count = np.minimum(np.ceil(y1 - 0.5), rect.row_off + rect.height) - first
        crosses = count > 0
        first, count = first[crosses].astype(np.int64), count[crosses].astype(np.int64)
        x0, y0, x1, y1 = x0[crosses], y0[crosses], x1[crosses], y1[crosses]
        edge = np.repeat(np.arange(len(count)), count)
        row = first[edge] + np.arange(len(edge)) - (np.cumsum(count) - count)[edge]
        x = x0[edge] + (row + 0.5 - y0[edge]) * ((x1 - x0) / (y1 - y0))[edge]
        col = np.clip(np.ceil(x - 0.5) - rect.col_off, 0, rect.width).astype(np.int64)
        np.add.at(turns, (row - rect.row_off, col), 1)
    inside: Mask = (np.cumsum(turns[:, :-1], axis=1, dtype=np.uint8) & 1).view(bool)
    return inside
