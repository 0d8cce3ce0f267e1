"""The named pairs of the standalone application: their endpoints, documents and WMTS, and the scenes themselves."""

import functools
import re
from collections.abc import Callable
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Path
from fastapi.responses import JSONResponse
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from titiler.core.dependencies import DefaultDependency
from titiler.core.factory import TilerFactory

from tiler import documents, zoom
from tiler.errors import RequestError
from tiler.extension import InferenceFactory, sub_factory
from tiler.label_params import OpenLabels
from tiler.legend import legend_of
from tiler.params import inference_params, offered_format
from tiler.reader import PredictingReader
from tiler.roster import parse_address
from tiler.routes import REVALIDATE, SHORT, InferenceRoute
from tiler.scene import SceneRef
from tiler.state import WEB_MERCATOR, State, title_of
from tiler.tiles import TileRequest, answer_tile
from tiler.truth import add_errors, add_label_tiles, add_surveys
from tiler.values import Output

# Of a WMTS document's query, what its tiles are asked with; clients put words of their own there.
STYLE_WORDS = frozenset(
    "output class threshold colormap colormap_name rescale resampling bidx nodata return_mask".split()
)


class StandaloneFactory(InferenceFactory):
    """TiTiler's endpoints under our own paths."""

    tile_paths = ("/{z}/{x}/{y}", "/tiles/{tileMatrixSetId}/{z}/{x}/{y}")


def add_pairs(app: FastAPI, state: State, default: tuple[str, str] | None) -> None:
    """The named pairs, the default one in short form, and the scenes themselves."""

    named_model = Annotated[str, Path(description="Name of a model, name@alias or name:3; with @revision or without")]
    first = default or ("", "")

    async def named_scene(scene: Annotated[str, Path(description="Name of a scene")]) -> SceneRef:
        return state.scene(scene)

    async def named_pair(
        scene: Annotated[str, Path(description="Name of a scene")],
        model: named_model,
    ) -> tuple[str, str]:
        state.scene(scene)  # before anything else is wrong: two parts of any path look like a pair
        return scene, model

    async def default_scene() -> SceneRef:
        return state.scene(first[0])

    async def default_pair() -> tuple[str, str]:
        return first

    async def no_environment() -> dict[str, Any]:
        return {}

    async def named_labels(scene: Annotated[str, Path(description="Name of a scene")]) -> OpenLabels:
        return functools.partial(state.labels_of, scene)

    async def default_labels() -> OpenLabels:
        return functools.partial(state.labels_of, first[0])

    together = APIRouter()
    _add_imagery(together, state)
    labels = APIRouter(tags=["labels"], route_class=InferenceRoute)
    add_label_tiles(labels, state.service, state.labels_and_model, WEB_MERCATOR)
    together.routes.extend(labels.routes)
    for name, prefix, path, pair, find_labels, model in (
        ("pair", "/{scene}/{model}", named_scene, named_pair, named_labels, named_model),
        ("default", "", default_scene, default_pair, default_labels, first[1]),
    ):
        if name == "default" and default is None:
            continue
        router = APIRouter(
            prefix=prefix, tags=[name], route_class=InferenceRoute, dependencies=[Depends(offered_format)]
        )
        _add_documents(router, state, name, pair)
        sub = sub_factory(
            TilerFactory(
                router=_Unasked(),
                path_dependency=path,
                environment_dependency=no_environment,  # type: ignore[arg-type]
                add_viewer=False,
            ),
            state.service,
            StandaloneFactory,
            router=router,
            name=name,
            reader_dependency=inference_params(DefaultDependency, model),
        )
        add_surveys(sub, find_labels)
        add_errors(sub, find_labels, WEB_MERCATOR)
        together.routes.extend(sub.router.routes)
    together.routes.sort(key=_parameters)
    app.include_router(together)


class _Unasked(APIRouter):
    """The router of a factory that only tells another one its settings: working out its routes takes 0.2 s."""

    def add_api_route(self, *args: Any, **kwargs: Any) -> None:
        """Leave it out."""


def _parameters(route: BaseRoute) -> list[bool]:
    """Which parts of a path are parameters. Sorted by it, what is literal is asked first, part by part.

    Else /point/1,2 would be a scene called point, and /tiles/WebMercatorQuad/3/4/5 one called tiles.
    """
    return [part.startswith("{") for part in getattr(route, "path", "").split("/")]


def _add_documents(router: APIRouter, state: State, name: str, pair: Callable[..., Any]) -> None:
    """TileJSON, WMTS and legend of a pair."""

    @router.get("/tilejson.json", operation_id=f"{name}.getShortTileJSON", response_class=JSONResponse)
    async def tilejson(
        request: Request, response: Response, names: Annotated[tuple[str, str], Depends(pair)]
    ) -> dict[str, Any]:
        """TileJSON 3.0 whose tiles name the revision."""
        response.headers["Cache-Control"] = REVALIDATE
        reader = await state.service.engine.open(state.open, *names)
        query = urlencode(request.query_params.multi_items(), safe=",")
        return documents.tilejson(
            reader, _pinned(request, names, reader), f"?{query}" if query else "", title_of(state, names[0], reader)
        )

    @router.get("/legend.json", operation_id=f"{name}.getLegend", response_class=JSONResponse)
    async def legend(
        response: Response, names: Annotated[tuple[str, str], Depends(pair)], output: Output | None = None
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """Classes with numbers, names and colours, or what the colours of values, or of output=spread, stand for."""
        response.headers["Cache-Control"] = REVALIDATE
        reader = await state.service.engine.open(state.open, *names)
        return legend_of(reader.layer.loaded, output)

    @router.get("/1.0.0/WMTSCapabilities.xml", operation_id=f"{name}.getWMTS", response_class=Response)
    async def wmts(request: Request, names: Annotated[tuple[str, str], Depends(pair)]) -> Response:
        """WMTS 1.0.0 capabilities with one WebMercatorQuad layer."""
        return await _wmts_document(request, state, *names)

    if router.prefix:

        @router.get("", operation_id=f"{name}.getWMTSByKVP", response_class=Response)
        async def kvp(request: Request, names: Annotated[tuple[str, str], Depends(pair)]) -> Response:
            """WMTS by key-value pairs: request=GetCapabilities or GetTile."""
            return await wmts_kvp(request, state, *names)


def _add_imagery(router: APIRouter, state: State) -> None:
    async def imagery(
        scene: Annotated[str, Path(description="Name of a scene")],
        z: int,
        x: int,
        y: int,
        scale: Annotated[int, Field(ge=1, le=4)] = 1,
    ) -> Response:
        """The scene itself, stretched to 8 bit."""
        zoom.view_of_tile(WEB_MERCATOR, x, y, z)
        shown = await state.service.engine.open(state.image, scene)
        content = await state.service.engine.finish(shown.tile, WEB_MERCATOR, x, y, z, 256 * scale)
        return Response(content, media_type="image/png", headers={"Cache-Control": SHORT})

    path = "/{scene}/imagery/{z}/{x}/{y}"
    router.get(path + "@{scale}x.png", operation_id="getImageryTileWithScale", response_class=Response)(imagery)
    router.get(path + ".png", operation_id="getImageryTile", response_class=Response)(imagery)


def _pinned(request: Request, names: tuple[str, str], reader: PredictingReader) -> str:
    """Absolute base address of a pair at its present revision, which means it also after an alias has moved."""
    return f"{request.base_url}{names[0]}/{reader.address}"


def asks_wmts(request: Request) -> bool:
    """Whether a query is one of WMTS by key-value pairs."""
    return "request" in {key.casefold() for key in request.query_params}


async def _wmts_document(request: Request, state: State, scene: str, model: str) -> Response:
    reader = await state.service.engine.open(state.open, scene, model)
    identifier = re.sub("[@:]", "-", f"{scene}-{parse_address(model).model}")
    # The styling that the document was asked for with is that of its tiles.
    style = [(key, value) for key, value in request.query_params.multi_items() if key in STYLE_WORDS]
    base, title = _pinned(request, (scene, model), reader), title_of(state, scene, reader)
    xml = documents.wmts(reader, base, title, identifier, f"?{urlencode(style, safe=',')}" if style else "")
    return Response(xml, media_type="application/xml", headers={"Cache-Control": REVALIDATE})


async def wmts_kvp(request: Request, state: State, scene: str, model: str) -> Response:
    """What WMTS asks by key-value pairs."""
    query = {key.casefold(): value for key, value in request.query_params.items()}
    asked = query.get("request", "").casefold()
    if asked == "getcapabilities":
        return await _wmts_document(request, state, scene, model)
    if asked != "gettile":
        raise RequestError(f"request={query.get('request')!r} is not answered here", "Use GetCapabilities or GetTile")
    if query.get("tilematrixset", WEB_MERCATOR.id) != WEB_MERCATOR.id:
        raise RequestError(f"tilematrixset={query['tilematrixset']!r} is not offered", f"Use {WEB_MERCATOR.id}")
    try:
        z, x, y = (int(query[name]) for name in ("tilematrix", "tilecol", "tilerow"))
    except (KeyError, ValueError):
        raise RequestError(
            "GetTile needs the whole numbers tilematrix, tilecol and tilerow", "See the capabilities document"
        ) from None
    return await answer_tile(request, state.service, functools.partial(state.open, scene, model), TileRequest(z, x, y))
