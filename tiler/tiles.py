"""One tile over HTTP: 304 if the client has it, else predicted, painted, encoded and kept."""

import asyncio
import hashlib
import time
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy
import rasterio
from rio_tiler.models import ImageData
from starlette.requests import Request
from starlette.responses import Response
from titiler.core.resources.enums import ImageType
from titiler.core.telemetry import operation_tracer

from tiler import zoom
from tiler.assemble import Picture, band_names
from tiler.cache import Encoded
from tiler.engine import Engine
from tiler.errors import BusyError
from tiler.layer import Layer
from tiler.paint import CLEAR, ColorMap, check_colors, check_format, encode
from tiler.pool import StillLoading, without_waiting
from tiler.predict import Limits, TileAnswer, predict_tile
from tiler.ramps import Color, Rescale, rescale_of
from tiler.reader import PredictingReader, Service, image_of
from tiler.roster import parse_address
from tiler.routes import IMMUTABLE, NO_STORE, SHORT
from tiler.values import Output, Style
from tiler.waiting import Origin


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
    reader = await opened(service.engine, open_it)
    layer = reader.layer
    style = replace(reader.style, resampling=wanted.view.get("resampling", "nearest"))
    colormap = wanted.colormap or reader.colormap
    # What is shown below minzoom may change under the same revision: an operator's limit, a file exported meanwhile.
    # From there on a file has the same pixels that are inferred.
    below = wanted.z < reader.live_minzoom
    stamp = reader.exports.stamp
    etag = etag_of(layer, str(reader.tms.id), style, colormap, wanted, service.limits, stamp if below else "")
    kept_for = IMMUTABLE if reader.pinned and not below else SHORT
    headers = {"ETag": etag, "Cache-Control": kept_for, **layer_headers(layer)}
    if client_has(request, etag):
        return Response(status_code=304, headers=headers)
    bands = len(band_names(layer, style))
    check_format(wanted.format.value, bands, style.output)
    check_colors(style.output, bands, wanted.colormap, wanted.render.get("rescale"))
    engine = service.engine
    tilesize = (wanted.tilesize or reader.tms.tileMatrices[0].tileWidth) * wanted.scale
    # With the stamp: what came from a file that is gone, or has changed, is not shown any more.
    if (kept := engine.pictures.get((etag, stamp))) is not None:
        offer_to_shadow(service, reader, wanted, tilesize, kept.kind)
        headers |= {"X-Inference": kept.kind, "X-Cache": "tile"}
        return Response(kept.content, media_type=kept.media_type, headers=headers)

    def encoded(picture: Picture) -> tuple[bytes, str]:
        return render(image_of(layer, picture), colormap=colormap, output_format=wanted.format, **wanted.render)

    with operation_tracer("inference.predict", {"model": layer.model.name, "revision": layer.revision}) as span:
        answer = await predict_tile(
            layer,
            reader.tms,
            (wanted.z, wanted.x, wanted.y),
            tilesize,
            style,
            engine,
            service.limits,
            encoded,
            origin_of(request, wanted.z),
            reader.exports,
        )
        took = seconds_of(answer)
        span.set_attributes({"kind": answer.kind, "cells": answer.source, **took})
    content, media_type, warp, encode = answer.shown
    if not below or service.materialised.of(layer.revision).stamp == stamp:
        engine.pictures.put((etag, stamp), Encoded(content, media_type, answer.kind))
    else:
        headers["Cache-Control"] = NO_STORE  # a file turned out to be another one: the next answer has another ETag
    offer_to_shadow(service, reader, wanted, tilesize, answer.kind)
    engine.observe("warp", warp)
    engine.observe("encode", encode)
    headers |= {
        "X-Inference": answer.kind,
        "X-Cache": answer.source,
        "Server-Timing": server_timing(took),
    }
    return Response(content, media_type=media_type, headers=headers)


async def opened(engine: Engine, open_it: Callable[[], PredictingReader]) -> PredictingReader:
    """Open a reader in one of the engine's threads; while its model is being loaded, wait without one.

    A view asks for twenty tiles: they must not take all threads while others' models are there to answer.
    """

    def hurried() -> PredictingReader:
        with without_waiting():
            return open_it()

    until = time.monotonic() + engine.timeout
    while True:
        try:
            return await engine.open(hurried)
        except StillLoading as error:
            loading = asyncio.wrap_future(error.future)
        await asyncio.wait({loading}, timeout=max(0.0, until - time.monotonic()))
        if not loading.done():
            raise BusyError("the model is being loaded", "Ask again shortly", retry_after=5)
        # Whoever loads it has been told what was wrong; asking again says so here, too.
        loading.exception()


def offer_to_shadow(service: Service, reader: PredictingReader, wanted: TileRequest, tilesize: int, kind: str) -> None:
    """Let the shadow, if there is one, take a tile into its sample."""
    if service.shadow is None or kind != "predicted":
        return
    place = (str(reader.tms.id), wanted.z, wanted.x, wanted.y, tilesize)
    service.shadow.offer(
        parse_address(reader.address).model,
        reader.layer,
        zoom.view_of_tile(reader.tms, wanted.x, wanted.y, wanted.z, tilesize),
        place,
        reader.layer_of,
    )


def origin_of(request: Request, level: Hashable) -> Origin:
    """Who asks, as far as a request tells: address (the first that a proxy names) and program."""
    host = request.client.host if request.client else ""
    forwarded = request.headers.get("x-forwarded-for", "").partition(",")[0].strip()
    return Origin(f"{forwarded or host} {request.headers.get('user-agent', '')}", level)


def seconds_of(answer: TileAnswer) -> dict[str, float]:
    """Seconds of a tile's stages: its slowest window's, if one was inferred for it, and its own."""
    stages = {} if answer.stages is None else answer.stages._asdict()
    return {**stages, "warp": answer.shown.warp, "encode": answer.shown.encode}


def server_timing(stages: Mapping[str, float]) -> str:
    """Stages in milliseconds, as the Server-Timing header wants them (W3C)."""
    return ", ".join(f"{name};dur={seconds * 1e3:.1f}" for name, seconds in stages.items())


def client_has(request: Request, etag: str) -> bool:
    """Whether If-None-Match names the tile; compared weakly, since a proxy that compresses weakens it (RFC 9110)."""
    named = [part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")]
    return etag in named or "*" in named


def etag_of(
    layer: Layer,
    tms_id: str,
    style: Style,
    colormap: ColorMap,
    wanted: TileRequest,
    limits: Limits,
    exports: str = "",
) -> str:
    """A strong ETag: the revision and everything of the request and of the limits that decides a byte.

    `exports`: the stamp of the files that are shown where nothing is inferred.
    """
    colors = sorted(colormap.items()) if isinstance(colormap, Mapping) else list(colormap)
    tile = (wanted.z, wanted.x, wanted.y, wanted.tilesize, wanted.scale, wanted.format.value, dict(wanted.render))
    shown = rescale_of(layer.model, style)
    decides = repr((layer.revision, tms_id, style, colors, shown, tile, limits.max_tile_pixels, exports))
    return f'"{layer.revision}-{hashlib.sha256(decides.encode()).hexdigest()[:16]}"'


def layer_headers(layer: Layer) -> dict[str, str]:
    """What every answer says of its layer: model, exactness, and the resolution when it is not the model's own."""
    name = layer.version or layer.model.name
    headers = {"X-Model": f"{name}#{layer.model.digest[:12]}", "X-Revision": layer.revision}
    if layer.model.exactness != "exact":
        headers["X-Exactness"] = layer.exactness
    wanted = layer.model.resolution
    if wanted is None or abs(layer.grid.gsd / wanted.value - 1) > 1e-3:
        headers["X-GSD"] = f"{layer.grid.gsd:.6g}; model={wanted.value if wanted else 'unknown'}"
    return headers


def render(
    image: ImageData,
    colormap: ColorMap | None = None,
    output_format: ImageType | None = None,
    add_mask: bool = True,
    rescale: Rescale | None = None,
    **_: Any,
) -> tuple[bytes, str]:
    """TiTiler's `render_func` for predictions: PNG unless told otherwise, indexed, masked pixels transparent."""
    palette: ColorMap = colormap if colormap is not None else dict[int, Color]()
    told = image.metadata or {}
    output: Output = told.get("output", "class")
    check_colors(output, image.count, palette, rescale)
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
        output=output,
        rescale=rescale or told.get("rescale", ((0.0, 1.0),)),
        band_names=image.band_descriptions,
    )
