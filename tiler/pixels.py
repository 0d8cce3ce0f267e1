"""Read one window of the grid: the only place that reads a scene's pixels.

The grid's pixels are the scene's own (a plain windowed read), or a resampling of them that does not depend on the
window. What hangs over the scene's edge is reflected; what has no data is filled and reported in a mask.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.vrt import WarpedVRT
from rasterio.windows import Window

from tiler.errors import ReadError
from tiler.grid import Grid
from tiler.scene import Scene, gdal_env
from tiler.values import Mask, Rect

# Dataset handles are not thread-safe: every thread keeps its own, this many at most.
HANDLES_PER_THREAD = 8


@dataclass(frozen=True, slots=True)
class Source:
    """Which pixels of a scene the model sees.

    Attributes:
        scene, grid: the raster, and the grid to read it on.
        indexes: bands (from 1) in the model's order.
        unscale: (scale, offset) per band, applied when the model wants physical values, else None.
        fill: per band, in the model's raw units, what a pixel without data is replaced with.
        mask: a pixel counts as without data when `any` or `all` of the bands have none there; `none` lets no mask or
            alpha band count (nodata values do), for scenes whose alpha band is data.
    """

    scene: Scene
    grid: Grid
    indexes: tuple[int, ...]
    unscale: tuple[tuple[float, ...], tuple[float, ...]] | None
    fill: tuple[float, ...]
    mask: str


def read_window(source: Source, window: Rect) -> tuple[NDArray[Any], Mask]:
    """Pixels and mask of one window of the grid, halo included.

    Args:
        source: what to read.
        window: in grid pixels; may hang over the grid's edge on any side.

    Returns:
        pixels [bands, rows, cols] in the scene's dtype (float32 when resampled or unscaled), and valid [rows, cols].

    Raises:
        ReadError: GDAL could not read it.
    """
    grid = source.grid
    rows = reflect(window.row_off, window.height, grid.height)
    cols = reflect(window.col_off, window.width, grid.width)
    top, left = int(rows.min()), int(cols.min())
    inner = Window(left, top, int(cols.max()) - left + 1, int(rows.max()) - top + 1)
    try:
        pixels, valid = _read(source, inner)
    except (RasterioError, OSError) as error:
        raise ReadError(
            f"{source.scene.display_name!r} could not be read at rows {top}.., columns {left}.. of its grid",
            "The file may be damaged, or its server may not answer; try again",
        ) from error
    rows, cols = rows - top, cols - left
    if not (_is_run(rows) and _is_run(cols)):
        pixels, valid = pixels[:, rows[:, None], cols], valid[rows[:, None], cols]
    return pixels, valid


def reflect(start: int, count: int, size: int) -> NDArray[np.int64]:
    """Indices start .. start + count - 1 folded into 0 .. size - 1 by reflection without repeating the edge."""
    index = np.arange(start, start + count)
    if size == 1:
        return np.zeros_like(index)
    period = 2 * (size - 1)
    index = np.abs(index) % period
    return np.minimum(index, period - index)


def _is_run(index: NDArray[np.int64]) -> bool:
    return len(index) == int(index[-1]) - int(index[0]) + 1 and index[0] == 0


def _read(source: Source, window: Window) -> tuple[NDArray[Any], Mask]:
    scene = source.scene
    with gdal_env(dict(scene.env)):
        dataset, flip = _handles.get(source)
        if flip:
            # South-up: the file's last row is the grid's first.
            row_off = scene.height - window.row_off - window.height
            window = Window(window.col_off, row_off, window.width, window.height)
        pixels = dataset.read(list(source.indexes), window=window)
        valid = _valid(source, dataset, window, pixels)
    if flip:
        pixels, valid = pixels[:, ::-1], valid[::-1]
    if source.unscale is not None:
        scale, offset = (np.asarray(values, np.float64)[:, None, None] for values in source.unscale)
        pixels = (pixels * scale + offset).astype(np.float32)
    if not valid.all():
        pixels = _filled(pixels, valid, source.fill)
    return pixels, valid


def _valid(source: Source, dataset: DatasetReader, window: Window, pixels: NDArray[Any]) -> Mask:
    scene = source.scene
    per_band = np.ones(pixels.shape, bool)
    if scene.nodata_given and scene.nodata is not None and not np.isnan(scene.nodata):
        # The caller's nodata replaces the file's own, as in TiTiler; alpha and mask bands go on counting.
        per_band &= pixels != scene.nodata
    if source.mask == "none":
        if scene.nodata is not None and not np.isnan(scene.nodata):
            per_band &= pixels != scene.nodata
    elif scene.masked and not (scene.nodata_given and _only_nodata(dataset)):
        per_band &= dataset.read_masks(list(source.indexes), window=window) > 0
    if np.issubdtype(pixels.dtype, np.floating):
        per_band &= np.isfinite(pixels)
    return np.asarray(per_band.any(axis=0) if source.mask == "all" else per_band.all(axis=0))


def _only_nodata(dataset: DatasetReader) -> bool:
    return all(MaskFlags.nodata in flags or MaskFlags.all_valid in flags for flags in dataset.mask_flag_enums)


def _filled(pixels: NDArray[Any], valid: Mask, fill: tuple[float, ...]) -> NDArray[Any]:
    values = np.asarray(fill, np.float64)
    if np.issubdtype(pixels.dtype, np.integer):
        limits = np.iinfo(pixels.dtype)
        exact = (values == np.round(values)) & (values >= limits.min) & (values <= limits.max)
        if not exact.all():
            pixels = pixels.astype(np.float32)
    return np.where(valid, pixels, values.astype(pixels.dtype)[:, None, None])


class _Handles(threading.local):
    """Each thread's open datasets, the least recently used closed first."""

    def __init__(self) -> None:
        self.open: OrderedDict[Any, tuple[ExitStack, DatasetReader, bool]] = OrderedDict()

    def get(self, source: Source) -> tuple[DatasetReader, bool]:
        """The dataset on the source's grid, and whether its rows run upwards."""
        grid, scene = source.grid, source.scene
        key = (scene.fingerprint, scene.env, None if grid.native else (grid.transform, grid.height, grid.width))
        if key in self.open:
            self.open.move_to_end(key)
            return self.open[key][1:]
        while len(self.open) >= HANDLES_PER_THREAD:
            self.open.popitem(last=False)[1][0].close()
        stack = ExitStack()
        dataset = stack.enter_context(rasterio.open(scene.source, driver=scene.driver))
        flip = dataset.transform.e > 0
        if not grid.native:
            dataset, flip = stack.enter_context(_on_grid(dataset, scene, grid)), False
        self.open[key] = (stack, dataset, flip)
        return dataset, flip


_handles = _Handles()


def _on_grid(dataset: DatasetReader, scene: Scene, grid: Grid) -> WarpedVRT:
    """The scene resampled to the grid: averaged when it is finer, bilinear when it is coarser, in float32.

    XSCALE and YSCALE fix the kernel; GDAL would otherwise derive it from each window, and neighbouring windows would
    differ in the pixels they share. SOURCE_EXTRA widens what is read so that the kernel is never cut at a block's edge.
    """
    ratio_x, ratio_y = abs(scene.transform.a) / grid.res_x, abs(scene.transform.e) / grid.res_y
    finer = min(ratio_x, ratio_y) < 1
    has_alpha = ColorInterp.alpha in dataset.colorinterp
    nodata = scene.nodata
    return WarpedVRT(
        dataset,
        crs=scene.crs,
        transform=grid.transform,
        height=grid.height,
        width=grid.width,
        resampling=Resampling.average if finer else Resampling.bilinear,
        src_nodata=nodata,
        nodata=nodata,
        add_alpha=nodata is None and scene.masked and not has_alpha,
        dtype="float32",
        tolerance=1e-6,
        XSCALE=str(ratio_x),
        YSCALE=str(ratio_y),
        SOURCE_EXTRA="8",
    )
