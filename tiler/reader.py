"""A rio-tiler reader whose pixels are a prediction: what TiTiler's own endpoints read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import attr
import numpy as np
from morecantile import TileMatrixSet
from rasterio import Env
from rasterio.coords import BoundingBox
from rasterio.crs import CRS
from rasterio.env import getenv, hasenv
from rasterio.errors import RasterioError
from rasterio.features import bounds as shape_bounds
from rasterio.features import is_valid_geom, rasterize
from rasterio.vrt import WarpedVRT
from rasterio.warp import calculate_default_transform, transform_bounds, transform_geom
from rio_tiler.constants import WEB_MERCATOR_TMS, WGS84_CRS
from rio_tiler.io import BaseReader, Reader
from rio_tiler.models import BandStatistics, ImageData, Info, PointData
from rio_tiler.types import BBox
from rio_tiler.utils import CRS_to_uri

from tiler import zoom
from tiler.assemble import Picture, band_names
from tiler.catalog import Catalog
from tiler.engine import Engine
from tiler.errors import OutsideError, RequestError, SceneError
from tiler.grid import NO_PLACE
from tiler.layer import Layer
from tiler.legend import answer_of, kind_of, windows_of
from tiler.materialised import Exports, Materialised
from tiler.outputs import style_of
from tiler.overview import covers
from tiler.paint import default_palette
from tiler.predict import Limits, predict_point, predict_view
from tiler.ramps import rescale_of
from tiler.roster import Address, parse_address
from tiler.scene import Scene, SceneRef, display_name, gdal_env, open_scene
from tiler.shadow import Shadow
from tiler.values import Output, Resampling, Style, View

# No CRS of the Earth has coordinates beyond it; arithmetic with larger ones would overflow.
MAX_COORDINATE = 1e12


@dataclass(frozen=True, kw_only=True)
class Service:
    """What predicting readers share: models, engine, limits, the host's own reader, a shadow, and what was exported."""

    catalog: Catalog
    engine: Engine
    limits: Limits
    reader: type[BaseReader] = Reader
    shadow: Shadow | None = None
    materialised: Materialised = field(default_factory=lambda: Materialised(None))


@attr.s(kw_only=False)
class PredictingReader(BaseReader):
    """Reads a model's prediction over `input` as if it were a raster of one band.

    A subclass made by `reader_of` carries the `service`.

    Attributes:
        input: what the host's path dependency returned: a path, a URL, or a SceneRef.
        tms: tile matrix set of the request.
        model: as the catalog knows it (`name`, `name@alias`, `name:3`), or that and @revision; then `pinned` is True.
            `address` is the model at its present revision.
        output, class_names, threshold, numbers: see `outputs.style_of`.
        indexes: bands of the scene in the model's order.
        nodata: overrides the scene's nodata.
        reader_options: keyword arguments of the host's own reader.
        exports: files of the layer's revision that were there when the reader was opened.
    """

    service: ClassVar[Service]

    input: Any = attr.ib()
    tms: TileMatrixSet = attr.ib(default=WEB_MERCATOR_TMS)
    model: str = attr.ib(default="")
    output: Output | None = attr.ib(default=None)
    class_names: str | None = attr.ib(default=None)
    threshold: float | None = attr.ib(default=None)
    indexes: Sequence[int] | None = attr.ib(default=None)
    nodata: float | None = attr.ib(default=None)
    numbers: bool = attr.ib(default=False)
    reader_options: dict[str, Any] = attr.ib(factory=dict)
    layer: Layer = attr.ib(init=False)
    exports: Exports = attr.ib(init=False)
    style: Style = attr.ib(init=False)
    pinned: bool = attr.ib(init=False)
    address: str = attr.ib(init=False)
    colormap: dict[int, tuple[int, int, int, int]] = attr.ib(init=False)

    def __attrs_post_init__(self) -> None:
        """Find the layer; raises what cannot be served."""
        service, env = self.service, dict(getenv()) if hasenv() else {}
        key = (
            service.reader,
            self.input,
            repr(sorted(self.reader_options.items())),
            repr(sorted(env.items())),
            self.nodata,
        )
        name, revision = parse_address(self.model)
        self.layer = service.catalog.layer(key, name, lambda: self._open(env), indexes=self.indexes, revision=revision)
        self.exports = service.materialised.of(self.layer.revision)
        self.address = str(Address(self.layer.version or name, self.layer.revision))
        self.pinned = bool(revision)
        self.style = style_of(self.layer, self.output, self.class_names, self.threshold, self.numbers)
        self.colormap = default_palette(self.layer, self.style)
        grid = self.layer.grid
        self.bounds, self.crs, self.transform = grid.bounds, grid.crs, grid.transform
        self.height, self.width = grid.height, grid.width

    @property
    def minzoom(self) -> int:
        """Lowest zoom at which the whole prediction is shown: inferred, or read from exports that hold all of it."""
        live, grid = self.live_minzoom, self.layer.grid
        if not covers(self.layer, self.style, self.exports):
            return live
        # Where the scene is smaller than a pixel of the map, there is nothing to see.
        matrix = self.tms.tileMatrices[0]
        visible = min(grid.height, grid.width) ** 2 * matrix.tileHeight * matrix.tileWidth
        return min(live, self.layer.minzoom(self.tms, visible))

    @property
    def live_minzoom(self) -> int:
        """Lowest zoom at which the prediction is inferred."""
        return self.layer.minzoom(self.tms, self.service.limits.max_tile_pixels)

    @property
    def maxzoom(self) -> int:
        """Zoom at which the prediction has its native resolution."""
        return zoom.maxzoom(self.layer.grid, self.tms)

    def info(self) -> Info:
        """Describe the prediction, not the imagery."""
        layer, model = self.layer, self.layer.model
        is_class = self.style.output == "class"
        names = band_names(layer, self.style)
        ends = rescale_of(model, self.style)
        return Info.model_validate(
            {
                "bounds": self.bounds,
                "crs": CRS_to_uri(self.crs) or self.crs.to_wkt(),
                "band_metadata": [(f"b{number}", {}) for number in range(1, len(names) + 1)],
                "band_descriptions": [(f"b{number}", name) for number, name in enumerate(names, 1)],
                "dtype": "uint8" if is_class else "float32",
                "nodata_type": "Nodata" if is_class else "Mask",
                "colorinterp": ["palette" if is_class else "gray"] * len(names),
                "colormap": self.colormap if is_class else None,
                "driver": "inference",
                "count": len(names),
                "width": self.width,
                "height": self.height,
                "overviews": [],
                "nodata_value": layer.nodata if is_class else None,
                "minmax": None if is_class else list(ends if len(ends) == len(names) else ends * len(names)),
                "model": model.name,
                "revision": layer.revision,
                "classes": [{"value": item.value, "name": item.name} for item in model.classes],
                **kind_of(model),
                **answer_of(model),
                "gsd": layer.grid.gsd,
                "halo": layer.grid.halo,
                "cell": layer.grid.cell,
                "exactness": model.exactness,
                **windows_of(layer),
            }
        )

    def statistics(self, *args: Any, **kwargs: Any) -> dict[str, BandStatistics]:
        """Statistics of the whole scene's prediction, as `preview` shows it."""
        options = {name: kwargs.pop(name) for name in ("max_size", "height", "width") if name in kwargs}
        return self.preview(**options).statistics(*args, **kwargs)

    def tile(self, tile_x: int, tile_y: int, tile_z: int, tilesize: int | None = None, **kwargs: Any) -> ImageData:
        """One tile of the reader's tile matrix set, at any zoom that the request limit allows."""
        return self._read(zoom.view_of_tile(self.tms, tile_x, tile_y, tile_z, tilesize), kwargs)

    def part(
        self,
        bbox: BBox,
        dst_crs: CRS | None = None,
        bounds_crs: CRS = WGS84_CRS,
        max_size: int | None = None,
        height: int | None = None,
        width: int | None = None,
        align_bounds_with_dataset: bool = False,
        **kwargs: Any,
    ) -> ImageData:
        """The prediction inside a bounding box (left, bottom, right, top) of `bounds_crs`.

        Without a size the answer has the grid's own resolution, `max_size` bounds its longer side. With
        `align_bounds_with_dataset` and no `dst_crs` the pixels are the grid's own, each counted once.
        """
        if not (bbox[0] < bbox[2] and bbox[1] < bbox[3] and np.abs(bbox).max() < MAX_COORDINATE):
            raise RequestError(
                f"bbox {','.join(f'{value:g}' for value in bbox)} is empty or endless",
                "Give minx,miny,maxx,maxy with minx < maxx and miny < maxy",
            )
        if align_bounds_with_dataset and dst_crs is None and not (height or width):
            view = self._aligned(bbox, bounds_crs, max_size)
        else:
            view = self._sized(tuple(bbox), bounds_crs, dst_crs or bounds_crs, max_size, height, width)
        return self._read(view, kwargs)

    def preview(
        self,
        max_size: int | None = 1024,
        height: int | None = None,
        width: int | None = None,
        dst_crs: CRS | None = None,
        **kwargs: Any,
    ) -> ImageData:
        """The whole scene's prediction."""
        return self._read(self._sized(self.bounds, self.crs, dst_crs or self.crs, max_size, height, width), kwargs)

    def point(self, lon: float, lat: float, coord_crs: CRS = WGS84_CRS, **kwargs: Any) -> PointData:
        """What the model says of one coordinate, at native resolution."""
        answer = predict_point(self.layer, lon, lat, coord_crs, self.style, self.service.engine, self.exports)
        if answer is None:
            raise OutsideError(
                f"the point {lon:g},{lat:g} is outside of {self.layer.scene.display_name!r}", "Ask inside of its bounds"
            )
        dtype = np.uint8 if self.style.output == "class" else np.float32
        values = np.ma.MaskedArray(np.asarray(answer.values, dtype), mask=not answer.valid)
        return PointData(values, band_descriptions=list(answer.band_names), coordinates=(lon, lat), crs=coord_crs)

    def feature(
        self, shape: dict[str, Any], dst_crs: CRS | None = None, shape_crs: CRS = WGS84_CRS, **kwargs: Any
    ) -> ImageData:
        """The prediction inside a GeoJSON feature or geometry; pixels that it does not touch are masked."""
        geometry = shape.get("geometry", shape)
        image = self.part(_extent(geometry), dst_crs=dst_crs, bounds_crs=shape_crs, **kwargs)
        if image.crs != shape_crs:
            geometry = transform_geom(shape_crs, image.crs, geometry)
        outside = rasterize(
            [geometry],
            out_shape=(image.height, image.width),
            transform=image.transform,
            all_touched=True,
            default_value=0,
            fill=1,
            dtype="uint8",
        ).astype(bool)
        image.cutline_mask = outside
        image.array.mask = np.where(outside, True, np.ma.getmaskarray(image.array))
        return image

    def layer_of(self, model: str) -> Layer:
        """The layer of another model over the same scene, read the same way."""
        options: dict[str, Any] = {
            "indexes": self.indexes,
            "nodata": self.nodata,
            "reader_options": self.reader_options,
        }
        with Env(**dict(self.layer.scene.env)):
            return type(self)(self.input, tms=self.tms, model=model, **options).layer

    def _open(self, env: dict[str, Any]) -> Scene:
        """Read the header, through the host's own reader when it is one that rewrites what it opens."""
        return scene_behind(self.service.reader, self.input, env, nodata=self.nodata, options=self.reader_options)

    def _read(self, view: View, options: dict[str, Any]) -> ImageData:
        resampling: Resampling = options.get("resampling") or "nearest"
        style = replace(self.style, resampling=resampling)
        picture = predict_view(self.layer, view, style, self.service.engine, self.service.limits, self.exports)
        return image_of(self.layer, picture)

    def _aligned(self, bbox: Sequence[float], crs: CRS, max_size: int | None) -> View:
        """The grid's own pixels that a box touches."""
        grid = self.layer.grid
        left, bottom, right, top = _moved(bbox, crs, grid.crs)
        cols = int((left - grid.left) // grid.res_x), int(-(-(right - grid.left) // grid.res_x))
        rows = int((grid.top - top) // grid.res_y), int(-(-(grid.top - bottom) // grid.res_y))
        height, width = max(1, rows[1] - rows[0]), max(1, cols[1] - cols[0])
        bounds = (
            grid.left + cols[0] * grid.res_x,
            grid.top - (rows[0] + height) * grid.res_y,
            grid.left + (cols[0] + width) * grid.res_x,
            grid.top - rows[0] * grid.res_y,
        )
        return View(bounds, grid.crs, *_fitted(height, width, max_size))

    def _sized(
        self,
        bounds: tuple[float, ...],
        bounds_crs: CRS,
        crs: CRS,
        max_size: int | None,
        height: int | None,
        width: int | None,
    ) -> View:
        """A view of `crs` over `bounds`, at the grid's resolution unless a size is given."""
        for name, size, least in (("width", width, 1), ("height", height, 1), ("max_size", max_size, 0)):
            if size is not None and size < least:
                raise RequestError(f"{name}={size} is not a number of pixels", f"Use at least {max(1, least)}")
        grid = self.layer.grid
        box = _moved(bounds, bounds_crs, crs)
        if not (height and width):
            left, bottom, right, top = _moved(box, crs, grid.crs)
            native_height, native_width = (
                max(1, round((top - bottom) / grid.res_y)),
                max(1, round((right - left) / grid.res_x)),
            )
            if crs != grid.crs:
                try:
                    transform, _, _ = calculate_default_transform(
                        grid.crs, crs, native_width, native_height, left, bottom, right, top
                    )
                except NO_PLACE:
                    raise _no_place(box) from None
                native_height = max(1, round((box[3] - box[1]) / -transform.e))
                native_width = max(1, round((box[2] - box[0]) / transform.a))
            if height or width:
                ratio = native_width / native_height
                height, width = (
                    height or max(1, round((width or 1) / ratio)),
                    width or max(1, round((height or 1) * ratio)),
                )
            else:
                height, width = _fitted(native_height, native_width, max_size)
        return View((box[0], box[1], box[2], box[3]), crs, height, width)


def scene_behind(
    reader: type[BaseReader],
    source: Any,
    env: dict[str, Any],
    *,
    nodata: float | None = None,
    options: Mapping[str, Any] | None = None,
) -> Scene:
    """A raster's header, through a host's reader with its options, unless an operator has named it (SceneRef).

    Raises:
        SceneError: it cannot be opened, or not as one raster.
    """
    driver = None
    if not isinstance(source, SceneRef) and (reader is not Reader or options):
        try:
            with gdal_env(env), reader(source, **(options or {})) as opened:
                dataset = getattr(opened, "dataset", None)
                if dataset is None:
                    raise SceneError(f"{reader.__name__} does not read one raster", "Use a factory over single rasters")
                if not isinstance(dataset, WarpedVRT):
                    # Whatever lies there now: what the host's reader would not open is not opened either.
                    source, driver = dataset.name, dataset.driver
        except RasterioError as error:
            raise SceneError(
                f"{display_name(str(source))!r} cannot be opened as a raster",
                "Check that it exists and may be read",
            ) from error
    return open_scene(source, env=env, driver=driver, nodata=nodata)


def reader_of(service: Service) -> type[PredictingReader]:
    """A reader class for one host factory."""
    return type("PredictingReader", (PredictingReader,), {"service": service})


def image_of(layer: Layer, picture: Picture) -> ImageData:
    """A picture as TiTiler wants it."""
    values = np.ma.MaskedArray(
        picture.values, mask=np.broadcast_to(~picture.valid, picture.values.shape).copy(), copy=False
    )
    return ImageData(
        values,
        assets=[layer.scene.display_name],
        bounds=BoundingBox(*picture.view.bounds),
        crs=picture.view.crs,
        band_descriptions=list(picture.band_names),
        nodata=layer.nodata if picture.style.output == "class" else None,
        metadata={
            "model": layer.model.name,
            "revision": layer.revision,
            "output": picture.style.output,
            "rescale": rescale_of(layer.model, picture.style),
        },
    )


def _moved(bounds: Sequence[float], source: CRS, target: CRS) -> tuple[float, float, float, float]:
    """Bounds in another CRS.

    Raises:
        RequestError: they have no place there.
    """
    if source == target:
        return (bounds[0], bounds[1], bounds[2], bounds[3])
    try:
        left, bottom, right, top = transform_bounds(source, target, *bounds, densify_pts=21)
    except NO_PLACE:
        raise _no_place(bounds) from None
    if not (np.isfinite((left, bottom, right, top)).all() and left < right and bottom < top):
        raise _no_place(bounds)
    return left, bottom, right, top


def _extent(geometry: dict[str, Any]) -> BBox:
    """The box of a GeoJSON geometry.

    Raises:
        RequestError: it has none.
    """
    try:
        if is_valid_geom(geometry):
            left, bottom, right, top = shape_bounds(geometry)
            return left, bottom, right, top
    except (ValueError, TypeError, LookupError):
        pass
    raise RequestError("the feature has no geometry with coordinates", "Give a GeoJSON Feature with a polygon")


def _no_place(bounds: Sequence[float]) -> RequestError:
    return RequestError(
        f"the area {','.join(f'{value:g}' for value in bounds)} has no place in the scene's CRS",
        "Give coordinates near the scene, or name their CRS (coord_crs=)",
    )


def _fitted(height: int, width: int, max_size: int | None) -> tuple[int, int]:
    if not max_size or max(height, width) <= max_size:
        return height, width
    shrink = max_size / max(height, width)
    return max(1, round(height * shrink)), max(1, round(width * shrink))
