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

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import APIRouter, FastAPI
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from titiler.core.errors import DEFAULT_STATUS_CODES, add_exception_handlers
from titiler.core.factory import TilerFactory

from tiler import __version__
from tiler.allowed import UrlReader, allowed_path
from tiler.catalog import Catalog
from tiler.engine import Engine
from tiler.errors import InferenceError
from tiler.exporting import exporting
from tiler.extension import inferenceExtension
from tiler.home import add_page
from tiler.jobs import Jobs
from tiler.materialised import Materialised
from tiler.middleware import CancelOnDisconnect
from tiler.pairs import add_pairs
from tiler.predict import Limits
from tiler.reader import Service
from tiler.roster import parse_address
from tiler.routes import NO_STORE, InferenceRoute, http_error
from tiler.settings import Settings
from tiler.shadow import Shadow
from tiler.shared_cache import SharedCache
from tiler.showcase import showcase
from tiler.state import State
from tiler.watch import Watch

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
    add_page(app, state)
    token = settings.admin_token.get_secret_value() if settings.admin_token else None
    app.include_router(showcase(service, tuple(settings.scenes), state.refresh, token))
    if settings.allowed_urls:
        _add_urls(app, state)
    if state.default_pair:
        # It answers at once, always.
        catalog.models.pinned.add(parse_address(state.default_pair[1]).model)
        state.warm(state.open(*state.default_pair).layer.loaded)
    if state.default_pair or (settings.scenes and registry is not None):
        add_pairs(app, state, state.default_pair)
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
