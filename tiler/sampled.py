"""What exported files say at a view's samples: the other way, beside inference, to know a pixel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.errors import RasterioError
from rasterio.features import geometry_mask
from rasterio.windows import Window

from tiler.grid import Footprint, Grid
from tiler.materialised import TAG, Export, Exports, opened
from tiler.values import Classes, Floats, Mask

# A file's corner may lie this far off its place on the grid, in grid pixels: what a GeoTIFF's numbers lose.
MAX_SHIFT = 1e-3


class Changed(Exception):
    """A file is not what its registration says."""


@dataclass(frozen=True, slots=True, eq=False)
class Sampled:
    """The answer of files under a footprint.

    Attributes:
        known: bool [rows, cols], where a file has the answer, which may be that there is no data.
        valid: bool [rows, cols], where it is a value; never beyond `known`.
        values: uint8 [1, rows, cols] class numbers, or float32 [bands, rows, cols]; 0 where not valid.
    """

    known: Mask
    valid: Mask
    values: Classes | Floats


class _Block(NamedTuple):
    """Pixels [bands, rows, cols] of a file, or of one of its overviews, which are valid, and which are answers."""

    pixels: NDArray[Any]
    valid: Mask
    known: Mask


class _Told(NamedTuple):
    """What a file says of its numbers; GDAL does not repeat it for overviews."""

    nodata: float | None
    scales: tuple[float, ...]
    offsets: tuple[float, ...]


def sample(
    exports: Exports, output: str, where: Footprint, grid: Grid, *, bands: int = 1, coarsest: float = 1.0
) -> Sampled | None:
    """What files say under a footprint, the newest first; None if there are none that can be read.

    At `coarsest` 1 pixels are the grid's own, and no data is an answer, too: the model was asked there. Beyond it the
    coarsest overview is read that is not coarser than that, and what one file has no value for the next may have.

    Args:
        exports: the files.
        output: which of them, by what they hold.
        where: samples on the layer's grid.
        grid: the layer's.
        bands: that a file must have.
        coarsest: grid pixels, along a side, that one pixel read may stand for.
    """
    shape, dtype = where.rows.shape, np.uint8 if output == "class" else np.float32
    found = Sampled(np.zeros(shape, bool), np.zeros(shape, bool), np.zeros((bands, *shape), dtype))
    answered = False
    for export in exports.of(output):
        if export.bands != bands:
            continue
        with np.errstate(invalid="ignore"):
            rows, cols = np.floor(where.rows) - export.region.row_off, np.floor(where.cols) - export.region.col_off
            here = (rows >= 0) & (rows < export.region.height) & (cols >= 0) & (cols < export.region.width)
        here &= ~found.known
        if here.any():
            try:
                block, row, col = _under(export, rows[here], cols[here], grid, coarsest)
            except (RasterioError, OSError, Changed) as error:
                exports.refuse(export, str(error) if isinstance(error, Changed) else "it cannot be read")
                continue
            found.known[here], found.valid[here] = block.known[row, col], block.valid[row, col]
            found.values[:, here] = block.pixels[:, row, col] * block.valid[row, col]
        answered = True
    return found if answered else None


def factor_of(export: Export, coarsest: float) -> int:
    """How many grid pixels, along a side, one pixel of the coarsest overview stands for that is not too coarse."""
    return max((factor for factor in export.overviews if factor <= coarsest), default=1)


def _under(
    export: Export, rows: NDArray[Any], cols: NDArray[Any], grid: Grid, coarsest: float
) -> tuple[_Block, NDArray[np.int64], NDArray[np.int64]]:
    """Read what lies under some pixels of a file; returns it with each one's row and column in it.

    Args:
        export: the file.
        rows, cols: pixels of the file, counted from its corner.
        grid, coarsest: as `sample`.
    """
    factor = factor_of(export, coarsest)
    overview = None if factor == 1 else export.overviews.index(factor)
    with opened(export.path) as dataset:
        _check(dataset, export, grid)
        told = _Told(dataset.nodata, dataset.scales, dataset.offsets)
        if overview is None:
            block, row, col = _read(dataset, told, export, rows, cols, exact=coarsest == 1)
    if overview is not None:
        with opened(export.path, overview) as dataset:
            block, row, col = _read(dataset, told, export, rows, cols, exact=False)
    if not export.is_current:
        raise Changed("it was changed while it was read")
    return block, row, col


def _read(
    dataset: rasterio.DatasetReader,
    told: _Told,
    export: Export,
    rows: NDArray[Any],
    cols: NDArray[Any],
    *,
    exact: bool,
) -> tuple[_Block, NDArray[np.int64], NDArray[np.int64]]:
    # The centre of each pixel, on the pixels of what is read.
    row = ((rows + 0.5) * (dataset.height / export.region.height)).astype(np.int64)
    col = ((cols + 0.5) * (dataset.width / export.region.width)).astype(np.int64)
    top, left = int(row.min()), int(col.min())
    window = Window(left, top, int(col.max()) - left + 1, int(row.max()) - top + 1)
    pixels = dataset.read(window=window)
    valid = _valid(pixels[0], told.nodata)
    known = valid
    if exact:
        known = np.ones_like(valid)
        if export.area is not None and not valid.all():
            known = valid | _well_inside(export.area, dataset.window_transform(window), valid.shape)
    if export.output != "class":
        scale, offset = (np.asarray(numbers, np.float32)[:, None, None] for numbers in (told.scales, told.offsets))
        pixels = np.where(valid, pixels * scale + offset, 0).astype(np.float32)
    return _Block(pixels, valid, known), row - top, col - left


def _valid(band: NDArray[Any], nodata: float | None) -> Mask:
    """Where a band has a value."""
    valid = np.isfinite(band) if np.issubdtype(band.dtype, np.floating) else np.ones(band.shape, bool)
    return np.asarray(valid if nodata is None or np.isnan(nodata) else valid & (band != nodata))


def _well_inside(area: Any, transform: Affine, shape: tuple[int, int]) -> Mask:
    """Pixels of a window that lie inside of a geometry with all their neighbours.

    Where a pixel at its edge has no value, nobody can say whether the model had none or was not asked.
    """
    wider = geometry_mask([area], (shape[0] + 2, shape[1] + 2), transform * Affine.translation(-1, -1), invert=True)
    inside = np.ones(shape, bool)
    for down in range(3):
        for across in range(3):
            inside &= wider[down : down + shape[0], across : across + shape[1]]
    return inside


def _check(dataset: rasterio.DatasetReader, export: Export, grid: Grid) -> None:
    """Refuse a file that lies elsewhere than its registration says, or is another one by now."""
    tags, region = dataset.tags(), export.region
    if tags.get(f"{TAG}REVISION") != export.revision or tags.get(f"{TAG}JOB", "") != export.job:
        raise Changed("it holds something else now")
    place = grid.transform * Affine.translation(region.col_off, region.row_off)
    corner = ~place * (dataset.transform.c, dataset.transform.f)
    far = ~place * (dataset.transform * (dataset.width, dataset.height))
    off = np.abs(np.subtract((*corner, *far), (0, 0, region.width, region.height)))
    if dataset.shape != (region.height, region.width) or off.max() > MAX_SHIFT or dataset.crs != grid.crs:
        raise Changed("it does not lie on the layer's grid")
