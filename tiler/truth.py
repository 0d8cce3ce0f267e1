"""Over HTTP: how right a prediction is, how much there is of each class, and labels and errors as tiles.

POST .../accuracy   confusion matrix and what follows from it, over a polygon, a bbox or all labels
POST .../areas      pixels, hectares and percent of each class, likewise; needs no labels
GET  .../errors/{z}/{x}/{y}.png, .../errors/legend.json
GET  /{scene}/labels/{z}/{x}/{y}.png?model=..., /{scene}/labels/legend.json?model=...
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Depends, Path, Query
from morecantile import TileMatrixSet
from pydantic import Field
from rasterio.crs import CRS
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from titiler.core.dependencies import CoordCRSParams

from model_registry import Model
from tiler import marks, zoom
from tiler.areas import area_of
from tiler.cache import Encoded
from tiler.labels import Labels, Reading, reading_of
from tiler.reader import PredictingReader, Service
from tiler.routes import IMMUTABLE, NO_STORE, SHORT, inline
from tiler.survey import Survey, accuracy, areas, classes_at, whole_classes
from tiler.tiles import client_has, layer_headers, open_reader, opened, origin_of

Bbox = Annotated[
    str | None, Query(description="minx,miny,maxx,maxy instead of a polygon; degrees unless coord_crs says otherwise")
]
Polygon = Annotated[
    dict[str, Any] | None,
    Body(
        description="GeoJSON Feature, FeatureCollection or geometry with polygons; pixels count by their centre",
        openapi_examples={
            "polygon": {
                "value": {
                    "type": "Feature",
                    "properties": {},
                    "geometry": {"type": "Polygon", "coordinates": [[[11, 48], [11.1, 48], [11.1, 48.1], [11, 48]]]},
                }
            }
        },
    ),
]
By = Annotated[
    Literal["truth", "prediction"], Query(description="Without class: whose colour a wrong pixel gets. Default: truth")
]
Version = Annotated[
    str | None, Query(description="The labels' version as /api/pairs tells it: then clients keep the tile for ever")
]
Scale = Annotated[int, Field(ge=1, le=4, description="Pixels per tile pixel, as in @2x")]


def add_surveys(factory: Any, open_labels: Callable[..., Any] | None) -> None:
    """Register accuracy and areas on a factory of predictions.

    Args:
        factory: as `extension.sub_factory` makes it.
        open_labels: a dependency that gives an `naming.OpenLabels`; None: no accuracy.
    """
    service: Service = factory.service
    router: APIRouter = factory.router
    reader_of = _reader_dependency(factory)

    @router.post("/areas", operation_id=f"{factory.operation_prefix}postAreas", response_class=JSONResponse)
    async def class_areas(
        request: Request,
        polygon: Polygon = None,
        bbox: Bbox = None,
        open_it: Any = Depends(reader_of),
        crs: CRS | None = Depends(CoordCRSParams),
    ) -> Response:
        """Pixels, hectares and percent of each class inside a polygon or bbox, or of the whole scene.

        Counted on the model's own pixels. `threshold=` leaves out what is less sure; those pixels are
        `no_prediction`, and not part of the 100 %.
        """
        area = area_of(polygon, bbox, crs)
        reader = await opened(service.engine, open_it)
        layer = reader.layer
        todo = Survey.of(layer, layer.grid, area, reader.style, service.limits, "the scene")
        found = await areas(todo, service.engine, origin_of(request, "areas"))
        return _answer(reader, {"model": reader.address, "gsd": layer.grid.gsd, **found})

    if open_labels is None:
        return

    @router.post("/accuracy", operation_id=f"{factory.operation_prefix}postAccuracy", response_class=JSONResponse)
    async def how_right(
        request: Request,
        polygon: Polygon = None,
        bbox: Bbox = None,
        open_it: Any = Depends(reader_of),
        find_labels: Any = Depends(open_labels),
        crs: CRS | None = Depends(CoordCRSParams),
    ) -> Response:
        """Confusion matrix (rows: truth, columns: prediction), IoU, F1, precision, recall, overall accuracy, kappa.

        Counted on the labels' own pixels inside a polygon or bbox, or wherever labels and scene overlap: each takes
        the prediction at its centre. Pixels without a label, ignored ones, numbers that the model has no class for and
        pixels without a prediction are counted apart. A closed connection ends the work.
        """
        area = area_of(polygon, bbox, crs)
        reader = await opened(service.engine, open_it)
        layer = reader.layer
        labels: Labels = await service.engine.open(find_labels, layer.scene)
        reading = reading_of(labels.ref, layer.model)
        todo = Survey.of(layer, labels.grid, area, reader.style, service.limits, "the labels")
        tally = await accuracy(todo, labels, reading, service.engine, origin_of(request, "accuracy"))
        told = {"title": labels.title, "version": labels.version, "gsd": list(labels.scene.gsd)}
        return _answer(reader, {"model": reader.address, "labels": told, **tally.report()})


def add_errors(factory: Any, open_labels: Callable[..., Any], tms: TileMatrixSet) -> None:
    """Register tiles and legend of errors on a factory of predictions; arguments as `add_surveys`."""
    service: Service = factory.service
    router: APIRouter = factory.router
    reader_of = _reader_dependency(factory)
    prefix = factory.operation_prefix

    async def errors(
        request: Request,
        z: int,
        x: int,
        y: int,
        scale: Scale = 1,
        by: By = "truth",
        v: Version = None,
        open_it: Any = Depends(reader_of),
        find_labels: Any = Depends(open_labels),
    ) -> Response:
        """Where prediction and labels differ. With `class=`: missed and false in two colours."""
        view = zoom.view_of_tile(tms, x, y, z, tms.tileMatrices[0].tileWidth * scale)
        engine, limits = service.engine, service.limits
        reader = await opened(engine, open_it)
        layer, wanted = reader.layer, reader.style.classes
        style = whole_classes(replace(reader.style, classes=()))
        labels: Labels = await engine.open(find_labels, layer.scene)
        reading = reading_of(labels.ref, layer.model)
        least = max(layer.minzoom(tms, limits.max_tile_pixels), marks.minzoom(labels, tms, limits.max_tile_pixels))
        etag = marks.etag_of("errors", layer.revision, labels.version, style, wanted, by, (z, x, y, scale), z < least)
        pinned = reader.pinned and v == labels.version and z >= least

        async def draw() -> bytes:
            truth = await engine.open(marks.labels_on, labels, reading, view)
            classes, known = await classes_at(layer, view, truth >= 0, style, engine, origin_of(request, z))
            return await engine.finish(marks.error_png, truth, classes, known, reading, wanted, by)

        return await _tile(
            request, service, etag, pinned, draw if z >= least else None, view.width, layer_headers(layer)
        )

    path = "/errors/{z}/{x}/{y}"
    router.get(path + "@{scale}x.png", operation_id=f"{prefix}getErrorTileWithScale", response_class=Response)(errors)
    router.get(path + ".png", operation_id=f"{prefix}getErrorTile", response_class=Response)(errors)

    @router.get("/errors/legend.json", operation_id=f"{prefix}getErrorLegend", response_class=JSONResponse)
    async def legend(
        by: By = "truth", open_it: Any = Depends(reader_of), find_labels: Any = Depends(open_labels)
    ) -> list[dict[str, Any]]:
        """What the colours of error tiles stand for."""
        reader = await opened(service.engine, open_it)
        labels: Labels = await service.engine.open(find_labels, reader.layer.scene)
        return marks.error_legend(reading_of(labels.ref, reader.layer.model), reader.style.classes, by)


def add_label_tiles(
    router: APIRouter, service: Service, find: Callable[[str, str | None], tuple[Labels, Model]], tms: TileMatrixSet
) -> None:
    """Register tiles and legend of labels.

    Args:
        router: where.
        service: engine and limits.
        find: gives labels and model by the names of scene and model; blocking.
        tms: the tiles' matrix set.
    """
    SceneName = Annotated[str, Path(description="Name of a scene")]
    ModelName = Annotated[
        str | None,
        Query(description="Name of the model in whose classes and colours they are shown; default: the first"),
    ]

    def both(scene: str, model: str | None) -> tuple[Labels, Reading]:
        labels, found = find(scene, model)
        return labels, reading_of(labels.ref, found)

    async def labels_tile(
        request: Request,
        scene: SceneName,
        z: int,
        x: int,
        y: int,
        model: ModelName = None,
        scale: Scale = 1,
        v: Version = None,
    ) -> Response:
        """The labels of a scene in a model's colours; transparent where there are none."""
        view = zoom.view_of_tile(tms, x, y, z, tms.tileMatrices[0].tileWidth * scale)
        engine = service.engine
        labels, reading = await engine.open(both, scene, model)
        least = marks.minzoom(labels, tms, service.limits.max_tile_pixels)
        etag = marks.etag_of("labels", labels.version, reading.classes, (z, x, y, scale), z < least)

        async def draw() -> bytes:
            truth = await engine.open(marks.labels_on, labels, reading, view)
            return await engine.finish(marks.label_png, truth, reading)

        pinned = v == labels.version and z >= least
        return await _tile(request, service, etag, pinned, draw if z >= least else None, view.width, {})

    path = "/{scene}/labels/{z}/{x}/{y}"
    router.get(path + "@{scale}x.png", operation_id="getLabelTileWithScale", response_class=Response)(labels_tile)
    router.get(path + ".png", operation_id="getLabelTile", response_class=Response)(labels_tile)

    @router.get("/{scene}/labels/legend.json", operation_id="getLabelLegend", response_class=JSONResponse)
    async def legend(scene: SceneName, model: ModelName = None) -> list[dict[str, Any]]:
        """Classes that labels can have, in a model's colours."""
        _, reading = await service.engine.open(both, scene, model)
        return marks.label_legend(reading)


def _reader_dependency(factory: Any) -> Callable[..., Any]:
    """A dependency that gives what opens the reader of a request; blocking when called."""

    read = Depends(inline(factory.reader_dependency))

    async def find(
        source: Any = Depends(factory.path_dependency),
        params: Any = read,
        env: Any = Depends(factory.environment_dependency),
    ) -> Callable[[], PredictingReader]:
        return functools.partial(open_reader, factory.reader, source, env, **params.as_dict())

    return find


def _answer(reader: PredictingReader, body: dict[str, Any]) -> Response:
    return JSONResponse(body, headers={"Cache-Control": NO_STORE, **layer_headers(reader.layer)})


async def _tile(
    request: Request, service: Service, etag: str, pinned: bool, draw: Any, side: int, headers: dict[str, str]
) -> Response:
    """304, a kept tile, or one that `draw` makes; transparent if it is None (below the lowest zoom)."""
    headers = {"ETag": etag, "Cache-Control": IMMUTABLE if pinned else SHORT, **headers}
    if client_has(request, etag):
        return Response(status_code=304, headers=headers)
    pictures = service.engine.pictures
    kind = "zoom-in" if draw is None else "predicted"
    kept = pictures.get(etag)
    if kept is None:
        content = marks.clear_png(side) if draw is None else await draw()
        kept = Encoded(content, "image/png", kind)
        pictures.put(etag, kept)
    if draw is None:
        headers["X-Inference"] = kind
    return Response(kept.content, media_type=kept.media_type, headers=headers)
