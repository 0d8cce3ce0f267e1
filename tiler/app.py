"""The standalone application: named scenes and models from the settings, nothing else is opened.

/{z}/{x}/{y}.png                                  the default pair
/{scene}/{model}@{revision}/{z}/{x}/{y}.png       a named pair, kept by clients for ever
/{scene}/{model}/{z}/{x}/{y}.png                  the same without revision, kept shortly
    where {model} is `name`, and of a registry also `name@alias` or `name:3`, each with or without @{revision}
... tilejson.json  1.0.0/WMTSCapabilities.xml  point/{lon},{lat}  legend.json  statistics  feature  bbox  preview
/{scene}/imagery/{z}/{x}/{y}.png                  the scene itself
/{scene}/labels/{z}/{x}/{y}.png                   its labels; ... errors/{z}/{x}/{y}.png, POST accuracy, areas: `truth`
/models  /models/{model}                          what is known of the models, see `showcase`
"""

import functools
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Path
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from morecantile import tms as default_tms
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute
from starlette.staticfiles import StaticFiles
from titiler.core.dependencies import DefaultDependency
from titiler.core.errors import DEFAULT_STATUS_CODES, add_exception_handlers
from titiler.core.factory import TilerFactory

from model_registry import LoadedModel, Model
from tiler import __version__, documents, zoom
from tiler.allowed import UrlReader, allowed_path
from tiler.catalog import Catalog
from tiler.engine import Engine
from tiler.errors import InferenceError, RequestError, UnknownNameError
from tiler.export.order import Order, SceneOrder
from tiler.export.session import Session
from tiler.exporting import ExportRequest, exporting
from tiler.extension import InferenceFactory, inferenceExtension, sub_factory
from tiler.imagery import Imagery
from tiler.jobs import Jobs, Wish
from tiler.label_params import OpenLabels
from tiler.labels import Labels, labels_over, reading_of
from tiler.legend import legend_of
from tiler.materialised import Materialised
from tiler.metrics import registry_of
from tiler.middleware import CancelOnDisconnect
from tiler.params import inference_params, offered_format
from tiler.policy import page_headers
from tiler.predict import Limits
from tiler.reader import PredictingReader, Service, reader_of
from tiler.roster import parse_address
from tiler.routes import NO_STORE, REVALIDATE, SHORT, InferenceRoute, http_error
from tiler.scene import Scene, SceneRef, open_scene
from tiler.settings import SceneSettings, Settings
from tiler.shadow import Shadow
from tiler.shared_cache import SharedCache
from tiler.showcase import showcase
from tiler.tiles import TileRequest, answer_tile, open_reader
from tiler.truth import add_errors, add_label_tiles, add_surveys
from tiler.turnover import Reloaded
from tiler.values import Output
from tiler.vendor import static_dir
from tiler.watch import Watch

logger = logging.getLogger(__name__)

WEB_MERCATOR = default_tms.get("WebMercatorQuad")
# Of a WMTS document's query, what its tiles are asked with; clients put words of their own there.
STYLE_WORDS = frozenset(
    "output class threshold colormap colormap_name rescale resampling bidx nodata return_mask".split()
)
EXPOSED = [
    "ETag",
    "Retry-After",
    "Server-Timing",
    "X-Cache",
    "X-Exactness",
    "X-GSD",
    "X-Inference",
    "X-Model",
    "X-Revision",
]


class StandaloneFactory(InferenceFactory):
    """TiTiler's endpoints under our own paths."""

    tile_paths = ("/{z}/{x}/{y}", "/tiles/{tileMatrixSetId}/{z}/{x}/{y}")


@dataclass
class State:
    """What the application shares between requests."""

    settings: Settings
    service: Service
    default_pair: tuple[str, str] | None = None
    imagery: dict[str, Imagery] = field(default_factory=dict)
    labels: dict[str, tuple[float, Labels]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make the one reader class of all named pairs."""
        self.reader_class = reader_of(self.service)

    def scene(self, name: str) -> SceneRef:
        """A named scene; 404 with the known names otherwise."""
        known = self.settings.scenes
        if name not in known:
            raise UnknownNameError(f"there is no scene {name!r}", f"Known are: {', '.join(known)}")
        bands = known[name].bands
        return SceneRef(known[name].path, tuple(bands) if bands else None)

    def image(self, name: str) -> Imagery:
        """A named scene to look at."""
        if name not in self.imagery:
            scene, chosen = open_scene(self.scene(name)), self.settings.scenes[name]
            self.imagery[name] = Imagery(scene, chosen.display_bands, chosen.rescale)
        return self.imagery[name]

    def labels_of(self, name: str, imagery: Scene | None = None) -> Labels:
        """The labels of a named scene, which is opened unless given.

        Raises:
            UnknownNameError: it has none.
            SceneError: they cannot be used.
        """
        scene, chosen = self.scene(name), self.settings.scenes[name].labels
        if chosen is None:
            raise UnknownNameError(f"scene {name!r} has no labels", "Register them as scenes.NAME.labels")
        until, kept = self.labels.get(name, (0.0, None))
        if kept is None or time.monotonic() > until or not kept.scene.is_current:
            kept = labels_over(open_scene(chosen.path), chosen.ref(), imagery or open_scene(scene))
            self.labels[name] = time.monotonic() + self.settings.layer_ttl, kept
        return kept

    def labels_and_model(self, scene: str, model: str | None) -> tuple[Labels, Model]:
        """Labels by the scene's name, and the model in whose classes they are read, by its own; it is not loaded."""
        labels, models = self.labels_of(scene), self.service.catalog.models
        wanted = model or (self.default_pair[1] if self.default_pair else models.names[0])
        return labels, models.look_at(models.identify(parse_address(wanted).model))

    def warm(self, loaded: LoadedModel) -> None:
        """Put windows through a model before it answers, none larger than the operator allows."""
        self.service.engine.warm(loaded, self.settings.max_window_pixels)

    def reload(self) -> list[str]:
        """Let models that have changed take over, warmed; returns their names.

        Raises:
            MisfitError: one of them cannot be used; it was not replaced.
        """
        return self.service.catalog.reload(self.warm)

    def refresh(self) -> Reloaded:
        """As `reload`; tells of what failed instead of raising."""
        return self.service.catalog.refresh(self.warm)

    def add(self, scenes: Mapping[str, SceneSettings], models: Mapping[str, str]) -> None:
        """Serve more scenes and models than the settings named, from now on."""
        self.settings.scenes = {**self.settings.scenes, **scenes}
        for name, source in models.items():
            self.service.catalog.models.add(name, source)

    def wish_of(self, wanted: ExportRequest) -> Wish:
        """What an export over HTTP means here."""
        found = self.open(wanted.scene, wanted.model)
        chosen, outputs = self.settings.scenes[wanted.scene], wanted.output
        order = Order(
            scenes=(SceneOrder(chosen.path),),
            model=wanted.model,
            outputs=(outputs,) if isinstance(outputs, str) else tuple(outputs),
            bbox=wanted.bbox,
            aoi=wanted.aoi,
            gsd=wanted.gsd,
            crs=wanted.crs,
            device=self.settings.device,
            max_window_pixels=self.settings.max_window_pixels,
            attribution=chosen.attribution or "",
        )
        name = f"{wanted.scene}-{parse_address(found.address).model.replace(':', '-').replace('@', '-')}"
        return Wish(name, _title(self, wanted.scene, found), order, found.layer, wanted.vector or "")

    def session_of(self, wish: Wish) -> Session:
        """An export's session over the layers and the engine that serve maps."""
        return Session(wish.order, (wish.layer,), self.service.engine)

    def open(self, scene: str, model: str) -> PredictingReader:
        """A predicting reader of a named pair. `model` may be name@revision."""
        return open_reader(self.reader_class, self.scene(scene), {}, tms=WEB_MERCATOR, model=model)


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application.

    Raises:
        InferenceError: the default pair does not fit, or its scene or model cannot be opened.
    """
    settings = settings or Settings()
    engine = Engine(
        cache_bytes=settings.cache_bytes,
        picture_bytes=settings.picture_bytes,
        read_ahead=settings.read_ahead,
        batch=settings.batch,
        read_threads=settings.read_threads,
        finish_threads=settings.finish_threads,
        max_pending_cells=settings.max_pending_cells,
        timeout=settings.timeout,
        shared=SharedCache(settings.shared_cache_url) if settings.shared_cache_url else None,
    )
    catalog = Catalog(
        settings.models,
        registry=settings.registry,
        model_bytes=settings.model_bytes,
        max_models=settings.max_models,
        device=settings.device,
        threads=settings.threads,
        policy=settings.precision,
        runtime=settings.runtime,
        max_gsd_factor=settings.max_gsd_factor,
        max_window_pixels=settings.max_window_pixels,
        ttl=settings.layer_ttl,
        gsds=settings.gsds,
    )
    limits = Limits(settings.max_tile_pixels, settings.max_request_pixels, settings.max_side)
    shadow = None
    if settings.shadow:
        shadow = Shadow(engine, limits, settings.shadow, catalog.models.identify, settings.shadow_share)
    materialised = Materialised(settings.materialised or None)
    service = Service(catalog=catalog, engine=engine, limits=limits, shadow=shadow, materialised=materialised)
    state = State(settings, service, _default_pair(settings, catalog))
    jobs = None
    if settings.exports is not None:
        jobs = Jobs(
            settings.exports.absolute(),
            state.session_of,
            materialised.register,
            max_pixels=settings.max_export_pixels,
            keep=settings.keep_exports,
        )
    catalog.busy = lambda: engine.busy | (jobs.busy if jobs is not None else frozenset())
    registry = catalog.models.registry
    watch = None
    if settings.watch_seconds is not None and registry is not None:
        watch = Watch(registry, lambda: catalog.models.roster.fingerprint, state.refresh, settings.watch_seconds)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        _work_out_routes(app)
        yield
        if watch is not None:
            watch.close()
        if jobs is not None:
            jobs.close()
        if shadow is not None:
            shadow.stop()
        engine.close()
        if shadow is not None:
            shadow.close()
        catalog.close()

    # FastAPI's own documentation page loads its scripts from a CDN, which an air-gapped server must not ask for: ours
    # is below.
    app = FastAPI(title="titiler-inference", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None)
    app.add_middleware(
        CORSMiddleware,
        allow_origins=settings.cors_origins,
        allow_methods=["GET", "HEAD", "POST", "DELETE", "OPTIONS"],
        allow_headers=["*"],
        expose_headers=EXPOSED,
    )
    app.add_middleware(CancelOnDisconnect)
    app.state.inference = state

    @app.exception_handler(InferenceError)
    async def answer(_: Request, error: InferenceError) -> JSONResponse:
        translated = http_error(error)
        return JSONResponse({"detail": translated.detail}, translated.status_code, dict(translated.headers or {}))

    @app.exception_handler(HTTPException)
    async def refuse(request: Request, error: HTTPException) -> Response:
        return _unkept(await http_exception_handler(request, error))

    @app.exception_handler(RequestValidationError)
    async def refuse_parameters(request: Request, error: RequestValidationError) -> Response:
        try:
            return _unkept(await request_validation_exception_handler(request, error))
        except ValueError:
            # What was given is no JSON when it is given back: NaN, Infinity.
            told = [{key: item[key] for key in ("type", "loc", "msg")} for item in error.errors()]
            return _unkept(JSONResponse({"detail": told}, 422))

    if jobs is not None:
        wanted = settings.export_token.get_secret_value() if settings.export_token else None
        app.include_router(exporting(jobs, engine, state.wish_of, wanted))
    _add_page(app, state)
    token = settings.admin_token.get_secret_value() if settings.admin_token else None
    app.include_router(showcase(service, tuple(settings.scenes), state.refresh, token))
    if settings.allowed_urls:
        _add_urls(app, state)
    if state.default_pair:
        # It answers at once, always.
        catalog.models.pinned.add(parse_address(state.default_pair[1]).model)
        state.warm(state.open(*state.default_pair).layer.loaded)
    if state.default_pair or (settings.scenes and registry is not None):
        _add_pairs(app, state, state.default_pair)
    return app


def _work_out_routes(app: FastAPI) -> None:
    """Let FastAPI do now what it otherwise leaves to the first request: 0.2 s for which a map page would wait."""
    nowhere = {"type": "http", "method": "GET", "path": "/-", "root_path": "", "headers": []}
    for route in app.routes:
        route.matches(nowhere)


def _default_pair(settings: Settings, catalog: Catalog) -> tuple[str, str] | None:
    """The settings' own, else the first scene and the registry's first model."""
    if settings.default_pair or not settings.scenes or not catalog.names:
        return settings.default_pair
    return settings.default_scene or next(iter(settings.scenes)), catalog.names[0]


def _unkept(response: Response) -> Response:
    """An error that no cache keeps: the next settings may have the scene that this one misses."""
    response.headers.setdefault("Cache-Control", NO_STORE)
    return response


def _add_page(app: FastAPI, state: State) -> None:
    static = static_dir()
    app.mount("/static", StaticFiles(directory=static), name="static")

    @app.get("/healthz", operation_id="healthz")
    async def healthz() -> Response:
        """The process answers, its default model is loaded and its devices live; 503 when one does not."""
        engine = state.service.engine
        devices = {
            name: {"alive": device.alive, "heartbeat_age": round(device.heartbeat_age, 3)}
            for name, device in list(engine.devices.items())
        }
        body = {
            "status": "ok" if engine.healthy else "failed",
            "version": __version__,
            "models": list(state.service.catalog.names),
            "devices": devices,
        }
        return JSONResponse(body, 200 if engine.healthy else 503, {"Cache-Control": "no-store"})

    models, shadow = state.service.catalog.models, state.service.shadow
    registry = registry_of(
        state.service.engine,
        lambda: {name: entry.nbytes for name, entry in models.pool.entries().items()},
        list if shadow is None else shadow.report,
        state.service.materialised.counts,
    )

    @app.get("/metrics", include_in_schema=False)
    async def metrics() -> Response:
        """Metrics for Prometheus."""
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        """The map page; a WMTS client that asks here by KVP gets the default pair."""
        if state.default_pair and _asks_wmts(request):
            return await _wmts_kvp(request, state, *state.default_pair)
        return FileResponse(static / "index.html", headers=page_headers(state.settings.frame_ancestors))

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """Swagger UI over /openapi.json. React writes styles into its elements, which the map's policy forbids."""
        headers = page_headers(state.settings.frame_ancestors, inline_styles=True)
        return FileResponse(static / "docs.html", headers=headers)

    @app.get("/api/features", operation_id="listFeatures")
    async def features() -> dict[str, bool]:
        """What the operator has switched on; the page asks here, since browsers log each 404 as an error."""
        return {"exports": state.settings.exports is not None}

    @app.get("/api/pairs", operation_id="listPairs")
    async def pairs() -> list[dict[str, Any]]:
        """Pairs of scene and model that fit, the default one first. Asking for another's tiles says why it does not.

        No model is loaded for it: whether one works is known once somebody has asked for its tiles.
        """
        names = [(scene, model) for scene in state.settings.scenes for model in state.service.catalog.names]
        names.sort(key=lambda pair: pair != state.default_pair)
        return await state.service.engine.open(_describe_pairs, state, names)


def _describe_pairs(state: State, names: list[tuple[str, str]]) -> list[dict[str, Any]]:
    scenes: dict[str, Scene | None] = {}
    found = []
    for scene, model in names:
        if scene not in scenes:
            try:
                scenes[scene] = open_scene(state.scene(scene))
            except InferenceError:
                scenes[scene] = None
        opened = scenes[scene]
        if opened is not None and (title := _title_if_fits(state, opened, model)) is not None:
            found.append(
                {
                    "scene": scene,
                    "model": model,
                    "title": f"{state.settings.scenes[scene].title or scene}: {title}",
                    "imagery": f"{scene}/imagery/{{z}}/{{x}}/{{y}}.png",
                    "tilejson": f"{scene}/{model}/tilejson.json",
                    "scene_title": state.settings.scenes[scene].title or scene,
                    "bounds": list(opened.geographic_bounds),
                    "gsd": max(opened.gsd),
                    **_told_of_labels(state, scene, opened, model),
                }
            )
    return found


def _told_of_labels(state: State, name: str, scene: Scene, model: str) -> dict[str, Any]:
    """Whether a pair has labels, and which; where they cannot be used: why."""
    if state.settings.scenes[name].labels is None:
        return {"labels": False}
    models = state.service.catalog.models
    try:
        labels = state.labels_of(name, scene)
        if models.is_here(identity := models.identify(model)):
            reading_of(labels.ref, models.look_at(identity))
    except InferenceError as error:
        return {"labels": False, "labels_problem": str(error)}
    return {"labels": True, "labels_title": labels.title, "labels_version": labels.version}


def _title_if_fits(state: State, scene: Scene, model: str) -> str | None:
    catalog = state.service.catalog
    try:
        if not catalog.models.is_here(catalog.models.identify(model)):
            return model  # to look at it is to fetch it
        return catalog.fits(model, scene).title
    except InferenceError:
        return None


def _title(state: State, scene: str, reader: PredictingReader) -> str:
    return f"{state.settings.scenes[scene].title or scene}: {reader.layer.model.title}"


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


def _add_urls(app: FastAPI, state: State) -> None:
    """`url=` for files below the operator's prefixes: a TiTiler application with the extension, as anybody's."""
    settings, service = state.settings, state.service
    factory = TilerFactory(
        router=APIRouter(route_class=InferenceRoute),
        router_prefix="/cog",
        reader=UrlReader,
        path_dependency=allowed_path(settings.allowed_urls, allow_private=settings.allow_private_addresses),
        add_viewer=False,
        extensions=[
            inferenceExtension(
                catalog=service.catalog,
                engine=service.engine,
                limits=service.limits,
                materialised=service.materialised,
            )
        ],
    )
    app.include_router(factory.router, prefix="/cog", tags=["url"])
    # Of the imagery's own endpoints; without the one for everything, whose answer would tell what went wrong inside.
    add_exception_handlers(app, {kind: code for kind, code in DEFAULT_STATUS_CODES.items() if kind is not Exception})


def _add_pairs(app: FastAPI, state: State, default: tuple[str, str] | None) -> None:
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
            reader, _pinned(request, names, reader), f"?{query}" if query else "", _title(state, names[0], reader)
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
            return await _wmts_kvp(request, state, *names)


def _pinned(request: Request, names: tuple[str, str], reader: PredictingReader) -> str:
    """Absolute base address of a pair at its present revision, which means it also after an alias has moved."""
    return f"{request.base_url}{names[0]}/{reader.address}"


def _asks_wmts(request: Request) -> bool:
    return "request" in {key.casefold() for key in request.query_params}


async def _wmts_document(request: Request, state: State, scene: str, model: str) -> Response:
    reader = await state.service.engine.open(state.open, scene, model)
    identifier = re.sub("[@:]", "-", f"{scene}-{parse_address(model).model}")
    # The styling that the document was asked for with is that of its tiles.
    style = [(key, value) for key, value in request.query_params.multi_items() if key in STYLE_WORDS]
    base, title = _pinned(request, (scene, model), reader), _title(state, scene, reader)
    xml = documents.wmts(reader, base, title, identifier, f"?{urlencode(style, safe=',')}" if style else "")
    return Response(xml, media_type="application/xml", headers={"Cache-Control": REVALIDATE})


async def _wmts_kvp(request: Request, state: State, scene: str, model: str) -> Response:
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
