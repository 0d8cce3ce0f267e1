"""A scene: what a raster says of itself before any pixel is read."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import urlsplit

import rasterio
from affine import Affine
from pyproj import Geod
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.env import setenv
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from rasterio.warp import transform as transform_points
from rasterio.warp import transform_bounds

from tiler.errors import SceneError

WGS84 = CRS.from_epsg(4326)

# National grids and UTM are meant to be read in their own metres (their scale factor stays within 0.1 %); only where a
# projection stretches the ground more than this (Web Mercator away from the equator) is the ground measured instead.
PROJECTION_STRETCH = 0.02

# How many tiles of the file enter the fingerprint: their compressed sizes and offsets tell two contents apart without
# reading a pixel, locally and through HTTP alike.
FINGERPRINT_BLOCKS = 16


@dataclass(frozen=True, slots=True)
class Band:
    """One band of a scene. `index` counts from 1; physical value = value * scale + offset."""

    index: int
    name: str
    color: str
    dtype: str
    scale: float
    offset: float


@dataclass(frozen=True, slots=True)
class SceneRef:
    """A scene that an operator has named. `bands` (from 1), in the models' order, replaces matching by name."""

    source: str = field(repr=False)
    bands: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Scene:
    """A raster that can be read by window.

    Attributes:
        source: what GDAL opens (a path or URL). May hold credentials: never shown, see `display_name`.
        driver: GDAL's short name of the driver that opened it; windows are read with no other.
        env: GDAL options that the scene was opened with.
        crs, transform, height, width: as in the file; `transform` is upright, rows may run up or down.
        bands: all of them; those of `color` alpha are used as data only when somebody names them.
        nodata: declared by the file or, if given, by the caller.
        nodata_given: True when the caller overrode the file's nodata.
        masked: True when nodata, a mask band or an alpha band can mask pixels.
        chosen: bands that the operator chose for the models, or None.
        state: size in bytes and time of change (ns) of a local file when it was opened, else None.
        fingerprint: sha256 (hex) of source, header and a sample of the file's block index.
    """

    source: str = field(repr=False)
    driver: str
    env: tuple[tuple[str, Any], ...] = field(repr=False)
    crs: CRS
    transform: Affine
    height: int
    width: int
    bands: tuple[Band, ...]
    nodata: float | None
    nodata_given: bool
    masked: bool
    fingerprint: str
    chosen: tuple[int, ...] | None = None
    state: tuple[int, int] | None = None

    @property
    def is_current(self) -> bool:
        """False when a local file has been replaced or written since; a look at its size and time, no read.

        A file that has gone, or lies elsewhere than on a disk, counts as what it was.
        """
        state = state_of(self.source)
        return state is None or state == self.state

    @property
    def display_name(self) -> str:
        """The file's name without folder, host, query or credentials: fit for messages."""
        return display_name(self.source)

    @property
    def data_bands(self) -> tuple[Band, ...]:
        """The bands without alpha. GDAL takes the fourth of four 8-bit bands for alpha, so it may be infrared."""
        return tuple(band for band in self.bands if band.color != ColorInterp.alpha.name)

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(left, bottom, right, top) in units of `crs`."""
        left, right = sorted((self.transform.c, self.transform.c + self.transform.a * self.width))
        bottom, top = sorted((self.transform.f, self.transform.f + self.transform.e * self.height))
        return left, bottom, right, top

    @property
    def geographic_bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north) in degrees of WGS84."""
        west, south, east, north = transform_bounds(self.crs, WGS84, *self.bounds, densify_pts=21)
        return west, south, east, north

    @property
    def ground_metres_per_unit(self) -> tuple[float, float]:
        """Ground metres per unit of `crs` along x and y, at the scene's centre."""
        left, bottom, right, top = self.bounds
        return ground_metres_per_unit(self.crs, (left + right) / 2, (bottom + top) / 2)

    @property
    def gsd(self) -> tuple[float, float]:
        """Ground metres per pixel along x and y, at the scene's centre."""
        along_x, along_y = self.ground_metres_per_unit
        return abs(self.transform.a) * along_x, abs(self.transform.e) * along_y


def open_scene(
    source: str | os.PathLike[str] | SceneRef,
    *,
    env: Mapping[str, Any] | None = None,
    driver: str | None = None,
    nodata: float | None = None,
) -> Scene:
    """Read a raster's header.

    Args:
        source: path or URL that GDAL opens.
        env: GDAL options to open and read with.
        driver: the GDAL driver that may open it; None means all.
        nodata: overrides the file's own nodata value.

    Raises:
        SceneError: not a raster, without CRS, rotated or only with ground control points.
    """
    named = source if isinstance(source, SceneRef) else SceneRef(os.fspath(source))
    source = named.source
    options = dict(env or {})
    try:
        with gdal_env(options), rasterio.open(source, driver=driver) as dataset:
            return replace(_describe(dataset, source, options, nodata), chosen=named.bands)
    except RasterioError as error:
        raise SceneError(
            f"{display_name(source)!r} cannot be opened as a raster",
            "Check that it exists, may be read, and is a GeoTIFF or another format that GDAL knows",
        ) from error


@contextmanager
def gdal_env(options: Mapping[str, Any]) -> Iterator[None]:
    """GDAL options for the calling thread: they are thread-local, so a pool's thread needs the request's own.

    They are set one level below `rasterio.Env`, whose constructor refuses the AWS options that a session of the
    caller's may have put among them.
    """
    with rasterio.Env():
        setenv(**options)
        yield


def display_name(source: str) -> str:
    """The last part of a path or URL, without query or credentials."""
    try:
        path = urlsplit(source).path
    except ValueError:  # http://[::1
        return "the scene"
    return os.path.basename(path.rstrip("/\\")) or "the scene"


def ground_metres_per_unit(crs: CRS, x: float, y: float) -> tuple[float, float]:
    """Ground metres per unit of `crs` along x and y at the coordinate (x, y).

    For projected CRS it is the unit's own length, unless the projection stretches the ground by more than
    `PROJECTION_STRETCH` there. Distances are geodesic on the WGS84 ellipsoid.
    """
    step = 1e-4 if crs.is_geographic else 1.0
    xs, ys = [x - step, x + step, x, x], [y, y, y - step, y + step]
    lons, lats = transform_points(crs, WGS84, xs, ys)[:2]
    _, _, metres = Geod(ellps="WGS84").inv(
        [lons[0], lons[2]], [lats[0], lats[2]], [lons[1], lons[3]], [lats[1], lats[3]]
    )
    along_x, along_y = metres[0] / (2 * step), metres[1] / (2 * step)
    if crs.is_geographic:
        return along_x, along_y
    unit = float(crs.linear_units_factor[1])
    if max(abs(along_x / unit - 1), abs(along_y / unit - 1)) <= PROJECTION_STRETCH:
        return unit, unit
    return along_x, along_y


def _describe(dataset: DatasetReader, source: str, env: dict[str, Any], nodata: float | None) -> Scene:
    name = display_name(source)
    if dataset.crs is None:
        remedy = "Assign one (rio edit-info --crs EPSG:... or gdal_edit.py -a_srs EPSG:...)"
        if dataset.gcps[0]:
            remedy = "It has ground control points only: warp it first (gdalwarp -t_srs EPSG:... in.tif out.tif)"
        raise SceneError(f"{name!r} has no coordinate reference system", remedy)
    transform = dataset.transform
    if not (transform.b == 0 and transform.d == 0) or transform.a <= 0:
        raise SceneError(
            f"{name!r} is rotated or mirrored (geotransform {tuple(round(v, 6) for v in transform[:6])})",
            "Warp it to an upright raster first (gdalwarp in.tif out.tif)",
        )
    if not all(map(math.isfinite, transform)):
        raise SceneError(f"{name!r} has a broken geotransform", "Write it anew with a valid one")
    bands = tuple(
        Band(
            index=index,
            name=dataset.descriptions[index - 1] or "",
            color=color.name,
            dtype=dataset.dtypes[index - 1],
            scale=float(dataset.scales[index - 1]),
            offset=float(dataset.offsets[index - 1]),
        )
        for index, color in zip(dataset.indexes, dataset.colorinterp, strict=True)
    )
    masked = nodata is not None or any(MaskFlags.all_valid not in flags for flags in dataset.mask_flag_enums)
    return Scene(
        source=source,
        driver=dataset.driver,
        env=tuple(sorted(env.items())),
        crs=dataset.crs,
        transform=transform,
        height=dataset.height,
        width=dataset.width,
        bands=bands,
        nodata=dataset.nodata if nodata is None else nodata,
        nodata_given=nodata is not None,
        masked=masked,
        fingerprint=fingerprint_of(dataset, source, nodata),
        state=state_of(source),
    )


def state_of(source: str) -> tuple[int, int] | None:
    """Size and time of change (ns) of a local file; None for any other source."""
    try:
        stat = os.stat(source)
    except (OSError, ValueError):
        return None
    return stat.st_size, stat.st_mtime_ns


def fingerprint_of(dataset: DatasetReader, source: str, nodata: float | None) -> str:
    """Changes when the file does, without reading a pixel: header, block index and, for a local file, size and time."""
    local = os.path.isfile(source)
    parts: list[Any] = [
        # One file is one scene, whatever folder its name is looked up from.
        os.path.abspath(source) if local else source,
        dataset.crs.to_wkt(),
        tuple(dataset.transform),
        dataset.shape,
        dataset.dtypes,
        dataset.nodatavals,
        dataset.scales,
        dataset.offsets,
        dataset.descriptions,
        sorted(dataset.tags().items()),
        nodata,
    ]
    block_height, block_width = dataset.block_shapes[0]
    rows, cols = -(-dataset.height // block_height), -(-dataset.width // block_width)
    for number in range(FINGERPRINT_BLOCKS):
        row, col = number * rows // FINGERPRINT_BLOCKS, (number * 7 % FINGERPRINT_BLOCKS) * cols // FINGERPRINT_BLOCKS
        for item in ("BLOCK_OFFSET", "BLOCK_SIZE"):
            parts.append(dataset.get_tag_item(f"{item}_{col}_{row}", "TIFF", bidx=1))
    if local:
        stat = os.stat(source)
        parts += [stat.st_size, stat.st_mtime_ns]
    return hashlib.sha256(repr(parts).encode()).hexdigest()
