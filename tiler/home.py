"""The front door of the standalone application: the map page, what it asks first, health and metrics."""

from typing import Any

from fastapi import FastAPI
from fastapi.responses import FileResponse, JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

from tiler import __version__
from tiler.errors import InferenceError
from tiler.labels import reading_of
from tiler.metrics import registry_of
from tiler.pairs import asks_wmts, wmts_kvp
from tiler.policy import page_headers
from tiler.scene import Scene, open_scene
from tiler.state import State
from tiler.vendor import static_dir


def add_page(app: FastAPI, state: State) -> None:
    """Page, /docs, /healthz, /metrics, /api."""
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
        if state.default_pair and asks_wmts(request):
            return await wmts_kvp(request, state, *state.default_pair)
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
