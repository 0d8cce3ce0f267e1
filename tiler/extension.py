"""The one line inside TiTiler: `TilerFactory(extensions=[inferenceExtension(models={...})])`.

A sub-factory of the host's own type is built around a predicting reader, so tilejson, WMTS, map, point, statistics,
feature, bbox, preview and OpenAPI are TiTiler's own code. Only the tile endpoint is ours: it is async and knows ETags.
"""

import functools
import hashlib
import inspect
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path as FilePath
from typing import Annotated, Any, ClassVar, Literal

import attrs
import numpy
import rasterio
from attrs import define
from attrs import field as attr_field
from fastapi import APIRouter, Depends, HTTPException, Path, Query
from fastapi.routing import APIRoute
from pydantic import Field
from rio_tiler.errors import RioTilerError
from rio_tiler.io import Reader
from rio_tiler.models import ImageData
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from titiler.core.dependencies import DefaultDependency, StatisticsParams
from titiler.core.factory import BaseFactory, FactoryExtension, TilerFactory, img_endpoint_params
from titiler.core.resources.enums import ImageType
from titiler.core.telemetry import operation_tracer

from model_registry import LoadedModel
from tiler.assemble import band_names
from tiler.cache import Encoded
from tiler.catalog import Catalog
from tiler.documents import running
from tiler.engine import Engine
from tiler.errors import (
    BusyError,
    DeviceError,
    ForbiddenSource,
    InferenceError,
    MisfitError,
    OutsideError,
    ReadError,
    RequestError,
    SceneError,
    UnknownNameError,
)
from tiler.layer import Layer
from tiler.middleware import LISTENS, METHODS, run_until_gone
from tiler.paint import CLEAR, Color, ColorMap, check_format, encode
from tiler.predict import Limits, TileAnswer, predict_tile
from tiler.reader import PredictingReader, Service, image_of, reader_of
from tiler.values import Output, Style
from tiler.waiting import Origin

logger = logging.getLogger(__name__)

# The one place where the domain's errors become HTTP. The first class that fits counts.
STATUS_CODES: tuple[tuple[type[InferenceError], int], ...] = (
    (UnknownNameError, 404),
    (OutsideError, 404),
    (ForbiddenSource, 403),
    (RequestError, 400),
    (SceneError, 422),
    (MisfitError, 422),
    (BusyError, 503),
    (ReadError, 502),
    (DeviceError, 500),
    (InferenceError, 400),
)

# A URL that names a revision can never change; any other may with the next model.
IMMUTABLE = "public, max-age=31536000, immutable"
SHORT = "public, max-age=60"
NO_STORE = "no-store"


def http_error(error: InferenceError) -> HTTPException:
    """The HTTP answer of a domain error: JSON with a `detail` that says reason and remedy."""
    status = next(code for kind, code in STATUS_CODES if isinstance(error, kind))
    headers = {"Cache-Control": NO_STORE}
    if isinstance(error, BusyError):
        headers["Retry-After"] = str(error.retry_after)
    if status >= 500 and status != 503:
        logger.error("%s", error, exc_info=error)
    return HTTPException(status, detail=str(error), headers=headers)


class InferenceRoute(APIRoute):
    """A route that needs no help of the host application: it answers our errors, and drops what nobody waits for."""

    def get_route_handler(self) -> Callable[..., Any]:
        """Wrap the endpoint, dependencies included."""
        handler = super().get_route_handler()

        async def translated(request: Request) -> Response:
            try:
                response: Response = await until_gone(request, handler)
            except InferenceError as error:
                raise http_error(error) from error
            return response

        return translated


async def until_gone(request: Request, handler: Callable[[Request], Awaitable[Response]]) -> Response:
    """Answer a request, or give its work up when its client has gone.

    The host may have no cancelling middleware, and may have some that hide the closed connection from a poll; what they
    cannot hide is the connection's own message.
    """
    if request.method not in METHODS or LISTENS in request.scope:
        return await handler(request)
    answered: list[Response] = []

    async def answer() -> None:
        answered.append(await handler(request))

    await run_until_gone(answer, request.receive)
    # Nobody reads this one: its client has gone.
    return answered[0] if answered else Response(status_code=499)


@dataclass
class ViewParams(DefaultDependency):
    """How scores become pixels, in TiTiler's words."""

    resampling: Annotated[
        Literal["nearest", "bilinear"] | None,
        Query(description="How predictions are warped; bilinear warps probabilities. Defaults to `nearest`."),
    ] = None


@dataclass
class RenderParams(DefaultDependency):
    """Rendering options that make sense for predictions."""

    add_mask: Annotated[
        bool | None, Query(alias="return_mask", description="Make pixels without a class transparent. Default: true.")
    ] = None


@dataclass
class StatsParams(StatisticsParams):
    """TiTiler's statistics options; a percentile that is none is the client's mistake."""

    def __post_init__(self) -> None:
        """Check the percentiles."""
        super().__post_init__()  # type: ignore[no-untyped-call]
        wrong = [value for value in self.percentiles or () if not 0 <= value <= 100]
        if wrong:
            raise RequestError(f"p={wrong[0]} is not a percentile", "Give whole numbers from 0 to 100")


def inline(dependency: Callable[..., Any]) -> Callable[..., Any]:
    """A dependency that only parses, run on the event loop.

    FastAPI runs every synchronous one, classes included, in a shared thread: ten hops a tile, and all of them wait when
    those threads are busy.
    """

    async def parse(*args: Any, **kwargs: Any) -> Any:
        return dependency(*args, **kwargs)

    # Evaluated here: FastAPI would look for a string annotation's names in this module and not in the dependency's.
    parse.__signature__ = inspect.signature(dependency, eval_str=True)  # type: ignore[attr-defined]
    return parse


def no_process() -> None:
    """Predictions are not put through TiTiler's algorithms: a hillshade of class numbers is rubbish."""


def inference_params(parent: Callable[..., Any], model: Any) -> Callable[..., Any]:
    """The reader dependency: a model, the few queries of ours, and the host reader's own options.

    Args:
        parent: the host factory's reader dependency.
        model: annotation of the path parameter `model`, or the name of the one model there is.
    """
    fixed = model if isinstance(model, str) else None
    named: Any = model

    @dataclass(kw_only=True)
    class StyleParams(DefaultDependency):
        """What is wanted of the model."""

        output: Annotated[Output, Query(description="Class numbers, probabilities per class, or confidence")] = "class"
        class_names: Annotated[
            str | None,
            Query(alias="class", description="Classes to show (names or numbers, comma-separated); default all"),
        ] = None
        threshold: Annotated[
            float | None, Query(ge=0, le=1, description="Mask pixels whose best probability is lower")
        ] = None
        indexes: Annotated[
            list[int] | None, Query(alias="bidx", description="Bands of the scene in the model's order")
        ] = None
        nodata: Annotated[
            Literal["nan"] | int | float | None, Query(description="Overwrite the scene's nodata value")
        ] = None
        reader_options: Any = Depends(inline(parent) if parent is DefaultDependency else parent)
        model: str = field(init=False, default=fixed or "")

        def as_dict(self, exclude_none: bool = True) -> dict[str, Any]:
            """Keyword arguments of the predicting reader."""
            given = {name: value for name, value in vars(self).items() if value is not None or not exclude_none}
            given |= {"model": self.model, "reader_options": self.reader_options.as_dict()}
            if self.nodata is not None:
                given["nodata"] = numpy.nan if self.nodata == "nan" else float(self.nodata)
            return given

    if fixed is not None:
        return StyleParams

    # A function, and no class that demands a model: TiTiler's WMTS calls whatever has queries with those alone.
    def params_of_model(model: named, params: Annotated[Any, Depends(inline(StyleParams))]) -> Any:
        params.model = model
        return params

    return params_of_model


def checked_colormap(dependency: Callable[..., Any]) -> Callable[..., Any]:
    """A colormap dependency that answers 400 to whatever the host's own cannot parse."""

    @functools.wraps(dependency)
    def parse(*args: Any, **kwargs: Any) -> Any:
        try:
            colormap = dependency(*args, **kwargs)
            # Only what paints now is right: a colour that cannot be painted would be a 500 at the first tile.
            if isinstance(colormap, Mapping):
                return {int(key): _color(color) for key, color in colormap.items() if 0 <= int(key) <= 255}
            if colormap is not None:
                return [((float(low), float(high)), _color(color)) for (low, high), color in colormap]
            return None
        except HTTPException as error:
            # TiTiler's own answer to broken JSON; whatever else a host refuses stays the host's word.
            if not isinstance(error.__cause__, ValueError):
                raise
        except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, RioTilerError):
            pass
        raise HTTPException(
            400,
            'The colormap cannot be parsed. Give JSON such as {"0": "#ff0000", "1": [0, 255, 0, 255]}.',
            headers={"Cache-Control": NO_STORE},
        )

    return parse


def _color(parts: Sequence[Any]) -> Color:
    """Red, green, blue and alpha of 0..255; ValueError otherwise."""
    red, green, blue, alpha = (int(part) for part in parts)
    if not all(0 <= part <= 255 for part in (red, green, blue, alpha)):
        raise ValueError(f"{parts} is not a colour")
    return red, green, blue, alpha


async def offered_format(request: Request) -> None:
    """A dependency that refuses a format before anything is inferred for it. FastAPI refuses those it does not know."""
    wanted = request.path_params.get("format")
    if wanted in {item.value for item in ImageType}:
        check_format(wanted)


def render(
    image: ImageData,
    colormap: ColorMap | None = None,
    output_format: ImageType | None = None,
    add_mask: bool = True,
    **_: Any,
) -> tuple[bytes, str]:
    """TiTiler's `render_func` for predictions: PNG unless told otherwise, indexed, masked pixels transparent."""
    palette: ColorMap = colormap if colormap is not None else dict[int, Color]()
    return encode(
        image.array.data,
        # Not image.mask: that of floats has finite numbers other than 0 for what is masked.
        numpy.asarray(~numpy.ma.getmaskarray(image.array).all(axis=0), bool),
        output_format=output_format.value if output_format else "png",
        colormap=palette,
        nodata=int(image.nodata) if image.nodata is not None else CLEAR,
        crs=image.crs,
        transform=image.transform,
        add_mask=add_mask,
    )


class InferenceFactory:
    """What our sub-factories change in the host's factory type; mixed in before it by `sub_factory`.

    Attributes:
        service: models, engine and limits.
        tile_paths: where tiles are served below the router's prefix; without `{tileMatrixSetId}` it is WebMercatorQuad.
    """

    service: ClassVar[Service]
    tile_paths: ClassVar[tuple[str, ...]] = ("/tiles/{tileMatrixSetId}/{z}/{x}/{y}",)

    def url_for(self, request: Request, name: str, **path_params: Any) -> str:
        """As the host's, with the path parameters of our own prefix filled from the request."""
        own = {key: value for key, value in request.path_params.items() if f"{{{key}}}" in self.router.prefix}  # type: ignore[attr-defined]
        return str(super().url_for(request, name, **{**own, **path_params}))  # type: ignore[misc]

    def tile(self) -> None:
        """Register the tile endpoints; replaces TiTiler's synchronous one."""
        factory: Any = self
        endpoint = tile_endpoint(factory)
        for number, path in enumerate(self.tile_paths):
            base = f"{factory.operation_prefix}getTile{number or ''}"
            for suffix, ending in (
                ("WithFormatAndScale", "@{scale}x.{format}"),
                ("WithScale", "@{scale}x"),
                ("WithFormat", ".{format}"),
                ("", ""),
            ):
                factory.router.get(path + ending, operation_id=base + suffix, **img_endpoint_params)(endpoint)


def tile_endpoint(factory: Any) -> Callable[..., Any]:
    """The endpoint of a factory's tiles. Parameters that a path does not hold can be given as queries."""
    tms_ids: Any = Literal[tuple(factory.supported_tms.list())]
    reader_dependency, view_dependency, colormap_dependency, render_dependency = (
        Depends(inline(dependency))
        for dependency in (
            factory.reader_dependency,
            factory.dataset_dependency,
            factory.colormap_dependency,
            factory.render_dependency,
        )
    )

    async def tile(
        request: Request,
        z: Annotated[int, Path(description="Zoom")],
        x: Annotated[int, Path(description="Column")],
        y: Annotated[int, Path(description="Row")],
        tileMatrixSetId: Annotated[tms_ids, Field(description="A supported tile matrix set")] = "WebMercatorQuad",
        scale: Annotated[int, Field(ge=1, le=4, description="Pixels per tile pixel, as in @2x")] = 1,
        format: Annotated[ImageType, Field(description="Image format")] = ImageType.png,
        tilesize: Annotated[int | None, Query(gt=0, description="Tile size in pixels")] = None,
        src_path: Any = Depends(factory.path_dependency),
        reader_params: Any = reader_dependency,
        dataset_params: Any = view_dependency,
        colormap: Any = colormap_dependency,
        render_params: Any = render_dependency,
        env: Any = Depends(factory.environment_dependency),
    ) -> Response:
        """A map tile of the prediction."""
        tms = factory.supported_tms.get(tileMatrixSetId)
        return await answer_tile(
            request,
            factory.service,
            functools.partial(open_reader, factory.reader, src_path, env, tms=tms, **reader_params.as_dict()),
            TileRequest(z, x, y, tilesize, scale, format, colormap, dataset_params.as_dict(), render_params.as_dict()),
        )

    return tile


@dataclass(frozen=True)
class TileRequest:
    """One tile as asked for; everything but the layer that decides its bytes."""

    z: int
    x: int
    y: int
    tilesize: int | None = None
    scale: int = 1
    format: ImageType = ImageType.png
    colormap: ColorMap | None = None
    view: Mapping[str, Any] = field(default_factory=dict)
    render: Mapping[str, Any] = field(default_factory=dict)


def open_reader(
    reader: type[PredictingReader], src_path: Any, env: Mapping[str, Any], **options: Any
) -> PredictingReader:
    """Open a predicting reader under the request's GDAL environment."""
    with rasterio.Env(**env):
        return reader(src_path, **options)


async def answer_tile(
    request: Request, service: Service, open_it: Callable[[], PredictingReader], wanted: TileRequest
) -> Response:
    """The HTTP answer of one tile: 304 if the client has it, else predicted, painted and encoded.

    Args:
        request: for its `If-None-Match`.
        service: engine and limits.
        open_it: finds the layer; blocking.
        wanted: the tile.
    """
    reader = await service.engine.open(open_it)
    layer = reader.layer
    style = replace(reader.style, resampling=wanted.view.get("resampling", "nearest"))
    colormap = wanted.colormap or reader.colormap
    etag = etag_of(layer, str(reader.tms.id), style, colormap, wanted)
    headers = {"ETag": etag, "Cache-Control": IMMUTABLE if reader.pinned else SHORT, **layer_headers(layer)}
    if client_has(request, etag):
        return Response(status_code=304, headers=headers)
    check_format(wanted.format.value, len(band_names(layer, style)))
    engine = service.engine
    if (kept := engine.pictures.get(etag)) is not None:
        headers |= {"X-Inference": kept.kind, "X-Cache": "tile"}
        return Response(kept.content, media_type=kept.media_type, headers=headers)
    tilesize = (wanted.tilesize or reader.tms.tileMatrices[0].tileWidth) * wanted.scale
    with operation_tracer("inference.predict", {"model": layer.model.name, "revision": layer.revision}) as span:
        answer = await predict_tile(
            layer,
            reader.tms,
            (wanted.z, wanted.x, wanted.y),
            tilesize,
            style,
            engine,
            service.limits,
            origin_of(request, wanted.z),
        )
        span.set_attributes({"kind": answer.kind, "cells": answer.source, **seconds_of(answer)})
    begun = time.monotonic()
    with operation_tracer("inference.encode"):
        content, media_type = await engine.finish(
            render,
            image_of(layer, answer.picture),
            colormap=colormap,
            output_format=wanted.format,
            **wanted.render,
        )
    encode = time.monotonic() - begun
    engine.pictures.put(etag, Encoded(content, media_type, answer.kind))
    engine.observe("warp", answer.warp)
    engine.observe("encode", encode)
    headers |= {
        "X-Inference": answer.kind,
        "X-Cache": answer.source,
        "Server-Timing": server_timing({**seconds_of(answer), "encode": encode}),
    }
    return Response(content, media_type=media_type, headers=headers)


def origin_of(request: Request, level: int) -> Origin:
    """Who asks, as far as a request tells: address (the first that a proxy names) and program."""
    host = request.client.host if request.client else ""
    forwarded = request.headers.get("x-forwarded-for", "").partition(",")[0].strip()
    return Origin(f"{forwarded or host} {request.headers.get('user-agent', '')}", level)


def seconds_of(answer: TileAnswer) -> dict[str, float]:
    """Seconds of a tile's stages: its slowest window's, if one was inferred for it, and putting it together."""
    stages = {} if answer.stages is None else answer.stages._asdict()
    return {**stages, "warp": answer.warp}


def server_timing(stages: Mapping[str, float]) -> str:
    """Stages in milliseconds, as the Server-Timing header wants them (W3C)."""
    return ", ".join(f"{name};dur={seconds * 1e3:.1f}" for name, seconds in stages.items())


def client_has(request: Request, etag: str) -> bool:
    """Whether If-None-Match names the tile; compared weakly, since a proxy that compresses weakens it (RFC 9110)."""
    named = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    return etag in named or "*" in named


def etag_of(layer: Layer, tms_id: str, style: Style, colormap: ColorMap, wanted: TileRequest) -> str:
    """A strong ETag: the revision and everything of the request that decides a byte."""
    colors = sorted(colormap.items()) if isinstance(colormap, Mapping) else list(colormap)
    tile = (wanted.z, wanted.x, wanted.y, wanted.tilesize, wanted.scale, wanted.format.value, dict(wanted.render))
    decides = repr((layer.revision, tms_id, style, colors, tile))
    return f'"{layer.revision}-{hashlib.sha256(decides.encode()).hexdigest()[:16]}"'


def layer_headers(layer: Layer) -> dict[str, str]:
    """What every answer says of its layer: model, exactness, and the resolution when it is not the model's own."""
    headers = {"X-Model": f"{layer.model.name}#{layer.model.digest[:12]}", "X-Revision": layer.revision}
    if layer.model.exactness != "exact":
        headers["X-Exactness"] = str(layer.model.exactness)
    wanted = layer.model.resolution
    if wanted is None or abs(layer.grid.gsd / wanted.value - 1) > 1e-3:
        headers["X-GSD"] = f"{layer.grid.gsd:.6g}; model={wanted.value if wanted else 'unknown'}"
    return headers


def _no_renders(_: Any) -> dict[str, dict[str, Any]]:
    return {}


def sub_factory(
    parent: TilerFactory, service: Service, mixin: type[InferenceFactory] = InferenceFactory, **changes: Any
) -> TilerFactory:
    """A factory of the parent's own type whose pixels are predictions.

    Args:
        parent: whose path, environment and colormap dependencies, tile matrix sets and templates are kept.
        service: models, engine and limits.
        mixin: what overrides the parent's type.
        changes: fields of the factory to set otherwise (router, router_prefix, name, reader_dependency...).
    """
    kind = type(f"Inference{type(parent).__name__}", (mixin, type(parent)), {"service": service})
    kept = {item.name: getattr(parent, item.name) for item in attrs.fields(type(parent)) if item.init}
    # Newer hosts describe ways to render the imagery; none of them is one of predictions.
    kept |= {name: _no_renders for name in ("get_renders",) if name in kept}
    factory: TilerFactory = kind(
        **{
            **kept,
            "reader": reader_of(service),
            "layer_dependency": DefaultDependency,
            "dataset_dependency": ViewParams,
            "tile_dependency": DefaultDependency,
            "process_dependency": no_process,
            "colormap_dependency": checked_colormap(parent.colormap_dependency),
            "render_dependency": RenderParams,
            "stats_dependency": StatsParams,
            "render_func": render,
            # The parent puts these on our routes too, once they are its own.
            "route_dependencies": [],
            "extensions": [],
            "enable_telemetry": False,
            **changes,
        }
    )
    return factory


@define(kw_only=True)
class inferenceExtension(FactoryExtension):
    """Predictions of models over whatever the host's factory reads.

    Attributes:
        models: by name: a folder with model.yaml, a bare ONNX with metadata, or a loaded model.
        prefix: where the endpoints go below the factory's own; must hold `{model}`.
        dependencies: FastAPI dependencies of the new routes, beside the host's own.
        extensions: TiTiler extensions to register on the predictions (e.g. `wmtsExtension()`).
        catalog, engine: to share between several factories; made when not given.
        limits: what one request may cost.
        device, max_gsd_factor: see `Catalog`.
    """

    models: Mapping[str, str | FilePath | LoadedModel] = attr_field(factory=dict)
    prefix: str = "/inference/{model}"
    dependencies: Sequence[Any] = attr_field(factory=tuple)
    extensions: Sequence[FactoryExtension] = attr_field(factory=tuple)
    catalog: Catalog | None = None
    engine: Engine | None = None
    limits: Limits = attr_field(factory=Limits)
    device: str = "cpu"
    max_gsd_factor: float = 4.0

    def register(self, factory: BaseFactory) -> None:
        """Add the endpoints to the host's router.

        Raises:
            TypeError: the factory has no reader of single rasters (mosaics are not supported yet).
        """
        if not isinstance(factory, TilerFactory) or not _reads_one_raster(factory.reader):
            raise TypeError(
                f"inferenceExtension works on a TilerFactory over single rasters, not yet on {type(factory).__name__}"
                f" with {getattr(getattr(factory, 'reader', None), '__name__', 'no reader')}"
            )
        if "{model}" not in self.prefix:
            raise ValueError(f"prefix={self.prefix!r} must hold {{model}}")
        # Kept, so that one extension on several factories loads its models once.
        self.catalog = self.catalog or Catalog(self.models, device=self.device, max_gsd_factor=self.max_gsd_factor)
        self.engine = self.engine or Engine()
        catalog = self.catalog
        service = Service(catalog=catalog, engine=self.engine, limits=self.limits, reader=factory.reader)
        # Flat routes with the parent's prefix and dependencies: an included router would break `route_dependencies`,
        # and without the parent's dependencies its auth would silently not cover ours.
        router = APIRouter(
            prefix=factory.router.prefix + self.prefix,
            dependencies=[*factory.router.dependencies, *self.dependencies, Depends(offered_format)],
            route_class=InferenceRoute,
        )
        name = f"{factory.operation_prefix}inference".strip(".")
        sub = sub_factory(
            factory,
            service,
            router=router,
            router_prefix=factory.router_prefix,
            name=name,
            reader_dependency=inference_params(
                factory.reader_dependency,
                Annotated[Literal[tuple(catalog.names)], Path(description="Name of the model")],
            ),
            extensions=list(self.extensions),
        )
        add_legend(sub.router, catalog, f"{name}.getLegend")
        factory.router.routes.extend(sub.router.routes)

        @factory.router.get(
            self.prefix.partition("{model}")[0].rstrip("/") or "/models",
            operation_id=f"{name}.listModels",
            dependencies=list(self.dependencies),
            response_class=JSONResponse,
        )
        def models() -> list[dict[str, Any]]:
            """The models that predictions can be asked of."""
            return [describe(catalog.model(model)) for model in catalog.names]


def _reads_one_raster(reader: Any) -> bool:
    return isinstance(reader, type) and issubclass(reader, Reader)


def add_legend(router: APIRouter, catalog: Catalog, operation_id: str) -> None:
    """Register `/legend.json` on a router whose prefix holds `{model}`."""

    @router.get("/legend.json", operation_id=operation_id, response_class=JSONResponse)
    def legend(model: Annotated[str, Path(description="Name of the model")]) -> list[dict[str, Any]]:
        """Classes with numbers, names and colours."""
        return classes_of(catalog.model(model.partition("@")[0]))


def classes_of(loaded: LoadedModel) -> list[dict[str, Any]]:
    """Legend entries: value, name, colour as #rrggbb and description."""
    return [
        {
            "value": item.value,
            "name": item.name,
            "color": "#{:02x}{:02x}{:02x}".format(*item.color[:3]),
            "description": item.description,
        }
        for item in loaded.model.classes
    ]


def describe(loaded: LoadedModel) -> dict[str, Any]:
    """What a user wants to know of a model before using it."""
    model = loaded.model
    return {
        "id": model.name,
        "title": model.title,
        "version": model.version,
        "bands": list(model.bands),
        "gsd": model.resolution.value if model.resolution else None,
        "halo": model.window.halo,
        "exactness": model.exactness,
        **running(loaded),
        "classes": classes_of(loaded),
        "license": model.license,
        "attribution": model.attribution,
    }
