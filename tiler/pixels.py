"""Read one window of the grid: the only place that reads a scene's pixels.

The grid's pixels are the scene's own (a plain windowed read), or a resampling of them that does not depend on the
window. What hangs over the scene's edge is reflected; what has no data is filled and reported in a mask.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from tiler.errors import ReadError
from tiler.grid import Grid
from tiler.scene import Scene, fingerprint_of, gdal_env, state_of
from tiler.taps import taps
from tiler.values import Mask, Rect

# Dataset handles are not thread-safe: every thread keeps its own, this many at most.
HANDLES_PER_THREAD = 8
# Scene pixels per band that are held at once while resampling.
MAX_SCENE_PIXELS = 2**24


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
        ReadError: GDAL could not read it, or the file is not the one that the scene was opened from any more.
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
        # One axis after the other: both at once takes seven times as long.
        pixels, valid = pixels.take(rows, 1).take(cols, 2), valid.take(rows, 0).take(cols, 1)
    return pixels, valid


def sample_windows(source: Source, shape: tuple[int, int], count: int = 4) -> list[NDArray[Any]]:
    """Windows [bands, height, width] from different parts of a scene, as `samples` chooses them."""
    return [pixels for pixels, _ in samples(source, shape, count)]


def samples(source: Source, shape: tuple[int, int], count: int = 4) -> list[tuple[NDArray[Any], Mask]]:
    """Windows from different parts of a scene, those with most data: pixels [bands, height, width] and mask.

    Args:
        source: what to read.
        shape: (height, width) of each window.
        count: how many at most; windows without any data are left out.
    """
    return [(pixels, valid) for _, pixels, valid in busiest(source, shape, count)]


def busiest(source: Source, shape: tuple[int, int], count: int) -> list[tuple[Rect, NDArray[Any], Mask]]:
    """`samples` with the places where they lie, in grid pixels; some may hang over the grid's edge."""
    grid, (height, width) = source.grid, shape
    found: list[tuple[float, int, Rect, NDArray[Any], Mask]] = []
    for down in (0.5, 0.25, 0.75):
        for across in (0.5, 0.25, 0.75):
            row, col = round(grid.height * down) - height // 2, round(grid.width * across) - width // 2
            place = Rect(row, col, height, width)
            pixels, valid = read_window(source, place)
            found.append((float(valid.mean()), len(found), place, pixels, valid))
    best = sorted((item for item in found if item[0] > 0), key=lambda item: (-item[0], item[1]))
    return [(place, pixels, valid) for _, _, place, pixels, valid in best[:count]]


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
    scene, grid = source.scene, source.grid
    with gdal_env(dict(scene.env)):
        dataset = _handles.get(scene)
        if grid.native:
            pixels, valid = _read_scene(source, dataset, window)
        else:
            pixels, valid = _read_resampled(source, dataset, window)
    return (pixels, valid) if valid.all() else (_filled(pixels, valid, source.fill), valid)


def _read_scene(source: Source, dataset: DatasetReader, window: Window) -> tuple[NDArray[Any], Mask]:
    """Pixels and mask of a window of the scene's own pixels, rows counted from the north, in the model's raw units."""
    flip = source.scene.transform.e > 0
    if flip:
        row_off = source.scene.height - window.row_off - window.height
        window = Window(window.col_off, row_off, window.width, window.height)
    pixels = dataset.read(list(source.indexes), window=window)
    valid = _valid(source, dataset, window, pixels)
    if flip:
        pixels, valid = pixels[:, ::-1], valid[::-1]
    if source.unscale is not None:
        scale, offset = (np.asarray(values, np.float64)[:, None, None] for values in source.unscale)
        pixels = (pixels * scale + offset).astype(np.float32)
    if source.mask == "all" and np.issubdtype(pixels.dtype, np.floating):
        # A pixel counts although one of its bands is missing: NaN must not reach the network even so.
        pixels = _filled(pixels, np.isfinite(pixels), source.fill)
    return pixels, valid


def _valid(source: Source, dataset: DatasetReader, window: Window, pixels: NDArray[Any]) -> Mask:
    scene = source.scene
    per_band = np.ones(pixels.shape, bool)
    masks = source.mask != "none"
    if (scene.nodata_given or not masks) and scene.nodata is not None and not np.isnan(scene.nodata):
        # The caller's nodata replaces the file's own, as in TiTiler; alpha and mask bands go on counting.
        per_band &= pixels != scene.nodata
    if masks and scene.masked and not (scene.nodata_given and _only_nodata(dataset)):
        values = _plain_nodata(dataset, source.indexes, pixels.dtype)
        if values is not None:
            per_band &= pixels != values
        else:
            per_band &= dataset.read_masks(list(source.indexes), window=window) > 0
    if np.issubdtype(pixels.dtype, np.floating):
        per_band &= np.isfinite(pixels)
    return np.asarray(per_band.any(axis=0) if source.mask == "all" else per_band.all(axis=0))


def _plain_nodata(dataset: DatasetReader, indexes: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any] | None:
    """Nodata values [bands, 1, 1] where GDAL's masks are nothing but a comparison with them, which is quicker here."""
    if dtype.kind not in "iu" or dtype.itemsize > 4:
        return None  # NaN and rounding have rules of their own
    if any(dataset.mask_flag_enums[index - 1] != [MaskFlags.nodata] for index in indexes):
        return None
    values = np.array([dataset.nodatavals[index - 1] for index in indexes], np.float64)
    same = values.astype(dtype)
    return same[:, None, None] if (same == values).all() else None


def _only_nodata(dataset: DatasetReader) -> bool:
    return all(MaskFlags.nodata in flags or MaskFlags.all_valid in flags for flags in dataset.mask_flag_enums)


def _filled(pixels: NDArray[Any], valid: Mask, fill: tuple[float, ...]) -> NDArray[Any]:
    """`pixels` with `fill` where `valid`, [rows, cols] or [bands, rows, cols], is False."""
    values = np.asarray(fill, np.float64)
    if np.issubdtype(pixels.dtype, np.integer):
        limits = np.iinfo(pixels.dtype)
        exact = (values == np.round(values)) & (values >= limits.min) & (values <= limits.max)
        if not exact.all():
            pixels = pixels.astype(np.float32)
    return np.where(valid, pixels, values.astype(pixels.dtype)[:, None, None])


def _read_resampled(source: Source, dataset: DatasetReader, window: Window) -> tuple[NDArray[np.float32], Mask]:
    """The scene on the grid: means where the grid is coarser, bilinear where it is finer, in float32.

    Pixels without data never count. A grid pixel has data where half of it has, or, on a finer grid, where the scene
    pixel at its centre has. Done here and not by a WarpedVRT, which forgets masks and alpha bands in float32, takes a
    mean that happens to be the nodata value for nodata, and derives its kernel from each window.
    """
    scene, grid = source.scene, source.grid
    ratio_x, ratio_y = grid.res_x / abs(scene.transform.a), grid.res_y / abs(scene.transform.e)
    average = max(ratio_x, ratio_y) > 1
    cols = taps(window.col_off, window.width, ratio_x, scene.width, average=average)
    pixels = np.empty((len(source.indexes), window.height, window.width), np.float32)
    valid = np.empty((window.height, window.width), bool)
    width = cols.span.stop - cols.span.start
    step = max(1, int(MAX_SCENE_PIXELS // (width * max(ratio_y, 1))))
    for start in range(0, window.height, step):
        part = slice(start, min(start + step, window.height))
        rows = taps(window.row_off + start, part.stop - start, ratio_y, scene.height, average=average)
        read, known = _read_scene(source, dataset, Window.from_slices(rows.span, cols.span))
        share = cols.apply(rows.apply(known.astype(np.float32), 0), 1)
        for band, values in enumerate(read):
            sums = cols.apply(rows.apply(np.where(known, values, 0).astype(np.float32), 0), 1)
            pixels[band, part] = sums / np.where(share > 0, share, 1)
        if average:
            valid[part] = share >= 0.5 - 1e-6
        else:
            valid[part] = known[(rows.nearest - rows.span.start)[:, None], cols.nearest - cols.span.start]
    return pixels, valid


class _Handles(threading.local):
    """Each thread's open datasets, the least recently used closed first."""

    def __init__(self) -> None:
        self.open: OrderedDict[Any, tuple[DatasetReader, Any]] = OrderedDict()

    def get(self, scene: Scene) -> DatasetReader:
        """The scene's dataset, as it is in the file.

        Raises:
            ReadError: the file has changed since the scene was opened; its pixels belong to another revision.
        """
        key, state = (scene.fingerprint, scene.env), state_of(scene.source)
        if key in self.open:
            dataset, opened_at = self.open[key]
            if opened_at == state:
                self.open.move_to_end(key)
                return dataset
            del self.open[key]
            dataset.close()
        while len(self.open) >= HANDLES_PER_THREAD:
            self.open.popitem(last=False)[1][0].close()
        dataset = rasterio.open(scene.source, driver=scene.driver)
        if fingerprint_of(dataset, scene.source, scene.nodata if scene.nodata_given else None) != scene.fingerprint:
            dataset.close()
            raise ReadError(f"{scene.display_name!r} has changed since it was opened", "Ask again in a minute")
        self.open[key] = dataset, state
        return dataset


_handles = _Handles()
