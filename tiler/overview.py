"""Views so wide that nothing is inferred for them: their pictures come from exports' overviews."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from rasterio.warp import transform as transform_points

from tiler.assemble import Picture, assemble, band_names, blank
from tiler.grid import NO_PLACE, footprint, pixels_per_view_pixel
from tiler.layer import Layer
from tiler.materialised import Export, Exports
from tiler.sampled import factor_of, sample
from tiler.values import Style, View

# Samples per view pixel and axis at most, where even the coarsest overview is finer than the view.
MAX_SAMPLES = 8

# Along each side of a file, to find its place on a map.
POINTS = 22

Bounds = tuple[float, float, float, float]


def shows(style: Style) -> bool:
    """Whether files can answer a style: class numbers without a threshold, which they do not know any more, or what a
    file was exported for.
    """
    return style.threshold is None or style.output == "probability"


def bands_of(layer: Layer, style: Style) -> int:
    """How many bands a file with a style's output has."""
    return len(band_names(layer, replace(style, classes=())))


def covers(layer: Layer, style: Style, exports: Exports) -> bool:
    """Whether files hold a style's answer for the whole scene."""
    return shows(style) and exports.cover(style.output, layer.grid.height, layer.grid.width)


def distant(layer: Layer, view: View, style: Style, exports: Exports) -> Picture | None:
    """The picture of a wide view; None where files tell nothing of it.

    A view pixel shows the majority of the class numbers (or the mean of the numbers) that it is sampled with, from the
    overview that is nearest to it and not coarser.

    Args:
        layer: whose.
        view: any; what lies beyond the files is without data.
        style: its `resampling` makes no difference.
        exports: the layer's.
    """
    files = [item for item in exports.of(style.output) if item.bands == bands_of(layer, style)]
    if not files or not shows(style):
        return None
    empty = blank(layer, view, style)
    part = _part(view, layer, files)
    if part is None:
        return empty if covers(layer, style, exports) else None
    picture = _seen(layer, view, part, style, exports, files)
    if picture is None:
        return None
    empty.values[:, *part], empty.valid[part] = picture.values, picture.valid
    return empty


def _seen(
    layer: Layer, view: View, part: tuple[slice, slice], style: Style, exports: Exports, files: list[Export]
) -> Picture | None:
    """The part of a view that files lie under; None if none of them could be read."""
    rows, cols = part
    (left, bottom, right, top), grid = view.bounds, layer.grid
    across, down = (right - left) / view.width, (top - bottom) / view.height
    bounds = (left + cols.start * across, top - rows.stop * down, left + cols.stop * across, top - rows.start * down)
    inner = View(bounds, view.crs, rows.stop - rows.start, cols.stop - cols.start)
    scale = pixels_per_view_pixel(inner, grid)
    finest = min(factor_of(item, scale) for item in files)
    samples = max(1, math.ceil(min(scale / finest, MAX_SAMPLES) - 0.25))
    where = footprint(inner, grid, max_samples=samples)
    found = sample(exports, style.output, where, grid, bands=bands_of(layer, style), coarsest=scale)
    return None if found is None else assemble(layer, inner, where, {}, replace(style, resampling="nearest"), found)


def _part(view: View, layer: Layer, files: list[Export]) -> tuple[slice, slice] | None:
    """Rows and columns of a view under which files lie, with a pixel around them; None if there are none."""
    boxes = [_bounds(item, view, layer) for item in files]
    left, bottom, right, top = (pick(box[side] for box in boxes) for side, pick in enumerate((min, min, max, max)))
    west, south, east, north = view.bounds
    across, down = (east - west) / view.width, (north - south) / view.height
    # As shares of the view first: what lies at infinity is at its end.
    cols = _run((left - west) / across, (right - west) / across, view.width)
    rows = _run((north - top) / down, (north - bottom) / down, view.height)
    return None if rows is None or cols is None else (rows, cols)


def _run(first: float, last: float, count: int) -> slice | None:
    if last <= 0 or first >= count:
        return None
    return slice(max(0, math.floor(max(first, 0.0)) - 1), min(count, math.ceil(min(last, count)) + 1))


def _bounds(export: Export, view: View, layer: Layer) -> Bounds:
    """Where a file lies in a view's CRS: too much rather than too little."""
    region, grid = export.region, layer.grid
    cols = region.col_off + region.width * np.linspace(0, 1, POINTS)
    rows = region.row_off + region.height * np.linspace(0, 1, POINTS)
    xs, ys = np.meshgrid(grid.left + cols * grid.res_x, grid.top - rows * grid.res_y)
    try:
        found = transform_points(grid.crs, view.crs, xs.ravel().tolist(), ys.ravel().tolist())
    except NO_PLACE:
        return view.bounds
    x, y = np.sort(found[0]), np.sort(found[1])
    # A pole has no place, and across the antimeridian one part lies far from the other.
    whole = np.isfinite(x).all() and np.isfinite(y).all() and np.diff(x).max() <= (x[-1] - x[0]) / 2
    if not whole:
        return view.bounds
    # What is straight there may be bent here, between the points.
    across, down = (x[-1] - x[0]) / POINTS**2, (y[-1] - y[0]) / POINTS**2
    return x[0] - across, y[0] - down, x[-1] + across, y[-1] + down
