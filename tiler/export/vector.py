"""A class raster as polygons: one feature for each connected area of a class, in a GeoPackage, FlatGeobuf or GeoJSON.

What is held in memory does not grow with the raster, but with what is in it: a window of `block_pixels` (about 80 bytes
a pixel, 250 where hardly a pixel is like the next), the outlines of areas that are not complete yet (8 bytes a vertex),
and the polygons of one strip. An area that spans the scene is complete with its last strip, and is one feature however
many vertices it has. With `simplify` all polygons are held at once, since neighbours are simplified together: about 200
bytes a vertex, for at most `MOST_VERTICES`. On disk, besides the result: a byte for each pixel with `min_area`, and a
GeoPackage of the result for the two other formats, both beside `out` until it is complete.

Needs the extra `vector`.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from math import ceil, inf, isqrt
from pathlib import Path

import numpy as np
import rasterio
import shapely
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from model_registry.manifest import ModelClass
from tiler.errors import ReadError, RequestError, TooLargeError
from tiler.export.features import FeatureFile, check_target
from tiler.export.ground import ground_of
from tiler.export.regions import Strips, Survey, numbered, survey, too_many
from tiler.export.sieve import merged_all
from tiler.export.trace import Batch, polygons
from tiler.values import Classes, Rect

BLOCK_PIXELS = 2**22
MOST_POLYGONS = 5_000_000
MOST_VERTICES = 10_000_000
# Weights of pixels are integers, so that sums do not depend on their order: 2^20 for the raster's mean pixel.
WEIGHT = 2**20

Progress = Callable[[str, int, int], None]


def write_polygons(
    raster: Path,
    out: Path,
    *,
    classes: Sequence[ModelClass],
    min_area: float | None = None,
    simplify: float | None = None,
    crs: CRS | None = None,
    progress: Progress = lambda stage, done, total: None,
    overwrite: bool = False,
    block_pixels: int = BLOCK_PIXELS,
    most: int = MOST_POLYGONS,
) -> int:
    """Write the areas of a class raster as polygons.

    Each feature has `class` (the number), `name`, `area_m2` (on the ground, of the polygon as written: it may be below
    `min_area` where `simplify` took a corner) and `color` (#rrggbb). Areas hang together by pixel sides. Polygons are
    valid and fit together without gaps or overlaps: neighbours have the same vertices along their common border. Pixels
    without data belong to none.

    Args:
        raster: an upright raster whose first band holds class numbers (uint8), as exports write it.
        out: ends in .gpkg, .fgb or .geojson (RFC 7946: WGS84, right-hand rule). It appears when it is complete.
        classes: names and colours; a number that is not among them is named by itself.
        min_area: m2. Smaller areas are merged into the neighbour with which they share the longest border, the smallest
            first (`sieve`); only those without any neighbour, alone in 'no data', stay.
        simplify: m. Borders are simplified, common ones once for both sides, by removing the corners that add the least
            area, as long as that is less than simplify^2 (Visvalingam and Whyatt 1993, by `shapely.coverage_simplify`).
        crs: CRS of the polygons; None is the raster's own. GeoJSON is always WGS84.
        progress: called with what is being done ('merge', 'survey', 'trace', 'write'), steps done, and steps in all.
        overwrite: replace `out` if it is there.
        block_pixels: pixels that are worked on at a time; the result does not depend on it.
        most: more polygons than this are refused.

    Returns:
        The number of features written.

    Raises:
        RequestError: what is asked for cannot be: another ending, a file in the way, values that are not positive.
        TooLargeError: more polygons, or vertices to simplify, than a machine should be asked for.
        ReadError: `raster` cannot be read as class numbers.
    """
    check_target(out, crs)
    for name, value in (("min_area", min_area), ("simplify", simplify)):
        if value is not None and not 0 < value < inf:
            raise RequestError(f"{name}={value:g} is not a positive number", f"Use more than 0, or leave {name} out")
    if out.exists() and not overwrite:
        raise RequestError(f"{out.name!r} is already there", "Choose another name, remove it, or ask for overwriting")
    with ExitStack() as stack:
        source = stack.enter_context(_opened(raster))
        ground = ground_of(source.crs, source.transform, source.height, source.width)
        if min_area is not None and shutil.disk_usage(out.parent).free < source.width * source.height:
            size = f"{source.width * source.height / 2**20:,.0f} MiB"
            raise RequestError(
                f"merging small areas needs {size} of disk beside {out.name!r}", "Free some, or leave it"
            )
        aside = Path(tempfile.mkdtemp(prefix=f".{out.stem}-", dir=out.parent))
        stack.callback(shutil.rmtree, aside, ignore_errors=True)
        areas = ground.pixel_areas()
        weights = np.maximum(1, np.rint(areas / areas.mean() * WEIGHT)).astype(np.int64)
        # Polygons of a strip are far larger than its pixels.
        rows = max(1, min(source.height, block_pixels // 4 // source.width))
        nodata = None if source.nodata is None else int(source.nodata)
        strips = Strips(_reader(source), source.height, source.width, nodata, rows, weights)
        if min_area is None:
            found = survey(strips, most=most, step=lambda done: progress("survey", done, strips.count))
        else:
            # A hair less: an area of exactly min_area is not small by the last digit of a float.
            least = ceil(min_area / areas.mean() * WEIGHT * (1 - 1e-9))
            strips, found = _merged(source, strips, aside / "merged.tif", least, isqrt(block_pixels), stack, progress)
            if found.count > most:
                raise too_many(most)
        file = FeatureFile(out, aside, source.crs, crs, source.transform, ground, classes, source.tags())
        batches = polygons(numbered(strips, found), source.width, found.last)
        if simplify is not None:
            batches = iter([simplified(batches, simplify, ground.metres_per_pixel)])
        for done, shapes, numbers in batches:
            file.add(shapes, numbers)
            progress("trace", done, strips.count)
        file.finish()
    return file.count


def simplified(batches: Iterator[Batch], tolerance: float, metres: tuple[float, float]) -> Batch:
    """All polygons with simpler borders, common ones once for both sides.

    Args:
        batches: (strips done, polygons in pixel coordinates, classes uint8).
        tolerance: metres; corners that add less than its square are removed.
        metres: per pixel along (x, y).

    Raises:
        TooLargeError: more vertices than `MOST_VERTICES`.
    """
    kept, vertices, steps = [], 0, 0
    for done, shapes, numbers in batches:
        steps = done
        vertices += int(shapely.get_num_coordinates(shapes).sum())
        if vertices > MOST_VERTICES:
            raise TooLargeError(
                f"the polygons have more than {MOST_VERTICES:,} vertices, too many to simplify together",
                "Raise min_area, leave simplify out, or export a smaller area",
            )
        kept.append((shapes, numbers))
    shapes = np.concatenate([shapes for shapes, _ in kept])
    numbers = np.concatenate([numbers for _, numbers in kept])
    scale = np.array(metres)
    kept.clear()
    # Where corners are equal in area, their order decides: one that does not depend on strips. A normal ring begins at
    # its lowest leftmost point, which is that of no other polygon.
    shapes = shapely.normalize(shapely.transform(shapes, lambda points: points * scale))
    begins = shapely.get_coordinates(shapely.get_point(shapely.get_exterior_ring(shapes), 0))
    order = np.lexsort(begins.T)
    shapes, numbers = shapely.orient_polygons(shapely.coverage_simplify(shapes[order], tolerance)), numbers[order]
    # Corners of pixels are integers: rounding undoes the scaling exactly, so neighbours still have the same vertices.
    return steps, shapely.transform(shapes, lambda points: np.rint(points / scale)), numbers


def _merged(
    source: DatasetReader,
    strips: Strips,
    path: Path,
    least: int,
    side: int,
    stack: ExitStack,
    progress: Progress,
) -> tuple[Strips, Survey]:
    """A copy of the raster in which small areas are merged, by strips, and its survey."""
    profile = {
        "driver": "GTiff",
        "dtype": "uint8",
        "count": 1,
        "height": source.height,
        "width": source.width,
        "crs": source.crs,
        "transform": source.transform,
        "tiled": True,
        "blockxsize": 256,
        "blockysize": 256,
        "bigtiff": "if_safer",
    }
    copy = stack.enter_context(rasterio.open(path, "w+", **profile))
    for number in range(strips.count):
        row = number * strips.rows
        pixels = strips.read(row, min(strips.rows, source.height - row))
        copy.write(pixels, 1, window=Window(0, row, source.width, len(pixels)))

    def read(rect: Rect) -> Classes:
        pixels: Classes = copy.read(1, window=Window(rect.col_off, rect.row_off, rect.width, rect.height))
        return pixels

    def write(rect: Rect, pixels: Classes) -> None:
        copy.write(pixels, 1, window=Window(rect.col_off, rect.row_off, rect.width, rect.height))

    by_copy = replace(strips, read=_reader(copy))
    return by_copy, merged_all(read, write, by_copy, least, side, lambda *steps: progress("merge", *steps))


def _opened(raster: Path) -> DatasetReader:
    """The raster, if it holds class numbers.

    Raises:
        ReadError: it does not, or cannot be read.
    """
    try:
        source: DatasetReader = rasterio.open(raster)
    except RasterioError as error:
        raise ReadError(f"{raster.name!r} cannot be opened as a raster", "Name an exported class raster") from error
    transform = source.transform
    upright = transform.b == transform.d == 0 and transform.a > 0 > transform.e
    if source.dtypes[0] == "uint8" and source.crs is not None and upright:
        return source
    source.close()
    raise ReadError(
        f"{raster.name!r} is not an upright raster of class numbers (uint8) with a CRS",
        "Name an exported class raster; probabilities and values have no polygons",
    )


def _reader(source: DatasetReader) -> Callable[[int, int], Classes]:
    """A function that reads full rows."""

    def read(row: int, rows: int) -> Classes:
        try:
            pixels: Classes = source.read(1, window=Window(0, row, source.width, rows))
        except RasterioError as error:
            name = os.path.basename(source.name)
            raise ReadError(f"rows {row} to {row + rows} of {name!r} cannot be read", "Export it again") from error
        return pixels

    return read
