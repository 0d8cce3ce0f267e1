"""A view of a layer -> its picture: which cells, their scores, put together. Tiles and blocks say the same words."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from rasterio.crs import CRS

from tiler import zoom
from tiler.assemble import Picture, assemble, blank, wants
from tiler.engine import ANYBODY, Engine, Stages
from tiler.errors import TooLargeError
from tiler.grid import Footprint, cells_covering, footprint, pixel_of_point
from tiler.layer import Layer
from tiler.materialised import NOTHING, Exports
from tiler.overview import distant
from tiler.sampled import Sampled, sample
from tiler.values import Cell, Scores, Style, View
from tiler.waiting import Origin

if TYPE_CHECKING:
    from morecantile import TileMatrixSet

# A request for all channels of an embedding may have this many per pixel of its limit; with more, fewer pixels.
FEW_CHANNELS = 8


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost.

    Attributes:
        max_tile_pixels: pixels of the grid that one tile may cover; decides a layer's minzoom.
        max_request_pixels: pixels of the grid that a preview, bbox, feature or statistics request may cover.
        max_side: pixels along each side of an answer.
    """

    max_tile_pixels: int = 2048 * 2048
    max_request_pixels: int = 4096 * 4096
    max_side: int = 4096


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """A view on a layer's grid, what exported files say of it, and the cells that it needs beside them."""

    layer: Layer
    view: View
    style: Style
    where: Footprint
    cells: list[Cell]
    sampled: Sampled | None = None


def plan(layer: Layer, view: View, style: Style, max_pixels: int, max_side: int, exports: Exports = NOTHING) -> Plan:
    """Work out what a view needs, before any pixel of the scene is read.

    Raises:
        TooLargeError: more pixels than allowed, of the answer or of the grid under it.
    """
    if max(view.height, view.width) > max_side:
        raise too_long(view, max_side)
    grid = layer.grid
    # A view inside the limit has hardly more than four samples per pixel of the grid (1.3 grid pixels take two a side).
    where = footprint(view, grid, max_total=4 * max_pixels)
    cells = cells_covering(where, grid, margin=1 if style.resampling == "bilinear" else 0)
    pixels = len(cells) * grid.cell**2
    # Cells are counted whole: what they hold beyond the view must not make a view at the limit fail.
    allowed = max_pixels * 1.5 + 4 * grid.cell * max(view.height, view.width)
    if layer.window_shape is not None:
        # Those of a model that is not exact are as large as windows, and neighbours come along to be blended.
        allowed += 4 * (grid.cell + grid.overlap) * (math.sqrt(max_pixels) + grid.cell)
    if pixels > allowed:
        raise TooLargeError(
            f"the request covers {pixels / 1e6:.1f} Mpx of {grid.gsd:g} m, the limit is {max_pixels / 1e6:.1f} Mpx",
            "Ask for a smaller area, or export the whole scene",
        )
    _check_channels(layer, style, pixels, max_pixels)
    return _less_known(Plan(layer, view, style, where, cells), exports)


def _less_known(plan: Plan, exports: Exports) -> Plan:
    """A plan without the cells of what exported files say.

    They are asked here, before the cells, and by pixel: so every way to look at a layer asks them, whatever shape they
    have, and whether cells overlap or not.
    """
    style, where, grid = plan.style, plan.where, plan.layer.grid
    if not exports.files or not plan.cells or not _told_by_files(plan.layer, style):
        return plan
    sampled = sample(exports, style.output, where, grid)
    if sampled is None or not sampled.known.any():
        return plan
    rows, cols = (np.where(sampled.known, np.nan, places) for places in (where.rows, where.cols))
    cells = cells_covering(Footprint(rows, cols, where.samples), grid)
    exports.count("part" if cells else "whole")
    return replace(plan, cells=cells, sampled=sampled)


def _told_by_files(layer: Layer, style: Style) -> bool:
    """Whether a file holds, bit by bit, what a style is made of: class numbers, or the values of a regression."""
    if style.output == "class":
        return not style.needs_probabilities
    return layer.model.kind == "regression" and style.output == "value" and style.resampling == "nearest"


def _check_channels(layer: Layer, style: Style, pixels: int, max_pixels: int) -> None:
    """Refuse more numbers of an embedding than memory should hold: it may have hundreds per pixel."""
    values = layer.model.values
    if values is None or style.output != "value" or pixels * values.channels <= FEW_CHANNELS * max_pixels:
        return
    raise TooLargeError(
        f"the request covers {pixels / 1e6:.2g} Mpx with {values.channels} channels each, the limit is "
        f"{FEW_CHANNELS * max_pixels / values.channels / 1e6:.2g} Mpx",
        "Ask for a smaller area, or for output=rgb",
    )


def too_long(view: View, max_side: int) -> TooLargeError:
    """The error of a view with too many pixels."""
    return TooLargeError(
        f"an answer of {view.width} x {view.height} px was asked for, the limit is {max_side} px a side",
        "Ask for a smaller tilesize, width, height or max_size",
    )


def picture(plan: Plan, scores: dict[Cell, Scores]) -> Picture:
    """Put a plan's scores together."""
    return assemble(plan.layer, plan.view, plan.where, scores, plan.style, plan.sampled)


class Shown(NamedTuple):
    """A picture's bytes and media type, and the seconds that putting it together and encoding it took."""

    content: bytes
    media_type: str
    warp: float
    encode: float


@dataclass(frozen=True, slots=True)
class TileAnswer:
    """One tile.

    Attributes:
        shown: its bytes.
        kind: `predicted`, `materialised` (all of it from exported files), `outside` (of the scene), or `zoom-in` (below
            the layer's minzoom, where no file tells).
        source: `hit`, `shared` or `miss`, see `engine.Answer`; `export` where no cell was needed.
        stages: of its slowest window, None if none was inferred for it.
    """

    shown: Shown
    kind: str
    source: str = "hit"
    stages: Stages | None = None


async def predict_tile(
    layer: Layer,
    tms: TileMatrixSet,
    tile: tuple[int, int, int],
    tilesize: int | None,
    style: Style,
    engine: Engine,
    limits: Limits,
    encode: Callable[[Picture], tuple[bytes, str]],
    origin: Origin = ANYBODY,
    exports: Exports = NOTHING,
) -> TileAnswer:
    """One tile (z, x, y), as `encode` makes bytes and their media type of its picture."""

    def shown(make: Callable[[], Picture]) -> Shown:
        # One job: the second of two would wait until all other tiles of the view have had their first.
        begun = time.monotonic()
        made = make()
        between = time.monotonic()
        content, media_type = encode(made)
        return Shown(content, media_type, between - begun, time.monotonic() - between)

    z, x, y = tile
    view = zoom.view_of_tile(tms, x, y, z, tilesize)
    if max(view.height, view.width) > limits.max_side:
        raise too_long(view, limits.max_side)
    empty = partial(blank, layer, view, style)
    if z < layer.minzoom(tms, limits.max_tile_pixels):
        wide = await engine.finish(distant, layer, view, style, exports) if exports.files else None
        if wide is None:
            return TileAnswer(await engine.finish(shown, empty), "zoom-in")
        exports.count("overview")
        return TileAnswer(await engine.finish(shown, lambda: wide), "materialised", "export")
    with engine.coming():
        todo = await engine.finish(plan, layer, view, style, limits.max_tile_pixels, limits.max_side, exports)
    if not todo.cells:
        if todo.sampled is None:
            return TileAnswer(await engine.finish(shown, empty), "outside")
        return TileAnswer(await engine.finish(shown, partial(picture, todo, {})), "materialised", "export")
    answer = await engine.scores_async(layer, todo.cells, probabilities=wants(layer, style), origin=origin)
    made = await engine.finish(shown, partial(picture, todo, answer.scores))
    return TileAnswer(made, "predicted", answer.source, answer.stages)


def predict_view(
    layer: Layer, view: View, style: Style, engine: Engine, limits: Limits, exports: Exports = NOTHING
) -> Picture:
    """The picture of any view, waiting in the calling thread."""
    todo = plan(layer, view, style, limits.max_request_pixels, limits.max_side, exports)
    if not todo.cells:
        return picture(todo, {})
    answer = engine.scores(layer, todo.cells, probabilities=wants(layer, style))
    return picture(todo, answer.scores)


@dataclass(frozen=True, slots=True)
class PointAnswer:
    """One pixel of a layer.

    Attributes:
        valid: False where the scene has no data, or the style masks it.
        values: what the style shows, one number per band: the class value, probabilities (0..1) or values.
        band_names: one per value.
    """

    valid: bool
    values: tuple[float, ...]
    band_names: tuple[str, ...]


def predict_point(
    layer: Layer, x: float, y: float, crs: CRS, style: Style, engine: Engine, exports: Exports = NOTHING
) -> PointAnswer | None:
    """What a layer shows at a coordinate of `crs`, at native resolution; None outside of the scene."""
    grid, style = layer.grid, replace(style, resampling="nearest")
    found = pixel_of_point(x, y, crs, grid)
    if found is None:
        return None
    row, col = found
    left, top = grid.transform * (col, row)
    pixel = View((left, top - grid.res_y, left + grid.res_x, top), grid.crs, 1, 1)
    where = footprint(pixel, grid)
    todo = _less_known(Plan(layer, pixel, style, where, cells_covering(where, grid)), exports)
    scores = engine.scores(layer, todo.cells, probabilities=wants(layer, style)).scores if todo.cells else {}
    shown = picture(todo, scores)
    return PointAnswer(
        valid=bool(shown.valid[0, 0]),
        values=tuple(float(value) for value in shown.values[:, 0, 0]),
        band_names=shown.band_names,
    )
