"""/models: what there is to say of the models, for programs (JSON) and for people (a page without scripts).

/models                    all of them, with their state here
/models/{model}            one; {model} is `name`, `name@alias` or `name:3`
/models/{model}/ready      200 while it is loaded, else 503 with its state
/models/{model}/item.json  the same as an item of STAC's Machine Learning Model extension
POST /models/reload        looks at folders and registry again; only where the operator has set a token

Nothing is registered, changed or removed over HTTP.
"""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, HTTPException, Path, Query
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from tiler.cards import Cards
from tiler.documents import page
from tiler.reader import Service
from tiler.routes import NO_STORE, InferenceRoute, check_bearer
from tiler.turnover import Reloaded

# Nothing but its own style sheet; a page that shows others' texts must not be able to do more.
POLICY = (
    "default-src 'none'; style-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)

ModelPath = Annotated[str, Path(description="name, name@alias or name:3")]
Form = Annotated[Literal["json", "html"] | None, Query(alias="f", description="Default: html for browsers, else json")]


def showcase(
    service: Service, scenes: Sequence[str], reload: Callable[[], Reloaded], token: str | None = None
) -> APIRouter:
    """The routes.

    Args:
        service: whose models.
        scenes: names of the scenes that they are served over.
        reload: what POST /models/reload does.
        token: what it wants to be shown; None: it is not there.
    """
    router = APIRouter(prefix="/models", tags=["models"], route_class=InferenceRoute)
    cards = Cards(service.catalog.models, service.shadow)

    def links(request: Request, name: str) -> dict[str, Any]:
        base = f"{request.base_url}"
        return {
            "self": f"{base}models/{name}",
            "item": f"{base}models/{name}/item.json",
            "ready": f"{base}models/{name}/ready",
            "tilejson": {scene: f"{base}{scene}/{name}/tilejson.json" for scene in scenes},
        }

    @router.get("", operation_id="listAllModels", response_class=JSONResponse)
    async def models(request: Request, form: Form = None) -> Response:
        """All models: the operator's own names, and every version of the registry."""
        found = await service.engine.open(cards.everything)
        for item in found:
            item["links"] = links(request, item["id"])
        return _answer(request, form, "models", {"models": found}, root="./")

    @router.post("/reload", operation_id="reloadModels", response_class=JSONResponse)
    async def reload_models(request: Request) -> Response:
        """Let what changed in folders and registry take over; 422 when something of it cannot be used."""
        if not token:
            raise HTTPException(404, "Not Found", headers={"Cache-Control": NO_STORE})
        check_bearer(request, token)
        done = await service.engine.open(reload)
        body = {"changed": list(done.changed), "failed": dict(done.failed)}
        return JSONResponse(body, 422 if done.failed else 200, {"Cache-Control": NO_STORE})

    @router.get("/{model}/ready", operation_id="isModelReady", response_class=JSONResponse)
    async def ready(model: ModelPath) -> Response:
        """Whether a model is loaded. Asking loads nothing; its first tile does."""
        state = await service.engine.open(cards.state, model)
        body = {"ready": state.name == "ready", "state": state.name, "reason": state.reason}
        return JSONResponse(body, 200 if body["ready"] else 503, {"Cache-Control": NO_STORE})

    @router.get("/{model}/item.json", operation_id="getModelItem", response_class=JSONResponse)
    async def item(request: Request, model: ModelPath) -> Response:
        """The model as a STAC item (MLM). Its files are named, with checksums, but not served."""
        found = await service.engine.open(cards.item, model)
        here = {"rel": "self", "href": str(request.url.replace(query="")), "type": "application/geo+json"}
        about = {"rel": "about", "href": links(request, model)["self"], "type": "text/html"}
        return JSONResponse(
            {**found, "links": [here, about]}, media_type="application/geo+json", headers={"Cache-Control": "no-cache"}
        )

    @router.get("/{model}", operation_id="getModel", response_class=JSONResponse)
    async def model(request: Request, model: ModelPath, form: Form = None) -> Response:
        """Everything about a model: where it is from, what it answers, how exact and how fast it is, how it goes."""
        found = await service.engine.open(cards.details, model)
        found["links"] = links(request, model)
        return _answer(request, form, "model", found, root="../")

    return router


def _answer(request: Request, form: str | None, template: str, found: dict[str, Any], root: str) -> Response:
    headers = {"Cache-Control": "no-cache", "Vary": "Accept"}
    if form is None:
        form = "html" if "text/html" in request.headers.get("accept", "") else "json"
    if form == "json":
        return JSONResponse(found, headers=headers)
    headers |= {"Content-Security-Policy": POLICY, "X-Content-Type-Options": "nosniff"}
    return HTMLResponse(page(template, {**found, "root": root}), headers=headers)
