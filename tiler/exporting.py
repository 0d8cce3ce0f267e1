"""/exports: whole scenes over HTTP, where the operator has named a folder for them.

POST   /exports               asks for one: 202, or 200 when it is there already
GET    /exports               all, the newest first
GET    /exports/{id}          one
GET    /exports/{id}/events   its progress as server-sent events
GET    /exports/{id}/files/{name}
DELETE /exports/{id}          stops it, and deletes its files
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from tiler.engine import Engine
from tiler.jobs import Jobs, Wish, as_event, told
from tiler.routes import NO_STORE, InferenceRoute, check_bearer

# Seconds between two words of progress.
PACE = 0.5

JobPath = Annotated[str, Path(description="Id of an export", pattern="^[0-9a-f]{12}$")]
FilePath = Annotated[str, Path(description="Name of a file", pattern=r"^[\w.-]+$")]


class ExportRequest(BaseModel):
    """What to export."""

    model_config = ConfigDict(extra="forbid")

    scene: str = Field(description="Name of a scene")
    model: str = Field(description="name, name@alias or name:3; with @revision or without")
    bbox: tuple[float, float, float, float] | None = Field(None, description="west, south, east, north in degrees")
    aoi: dict[str, Any] | None = Field(None, description="GeoJSON with polygons, in degrees")
    output: list[Literal["probability", "confidence", "spread"]] | Literal["probability", "confidence", "spread"] = (
        Field(default_factory=list, description="Files beside the classes")
    )
    gsd: float | None = Field(None, gt=0, description="Metres per pixel of the result; default: the model's grid")
    crs: str | None = Field(None, description="CRS of the result; default: the scene's own")
    vector: Literal["gpkg", "fgb", "geojson"] | None = Field(None, description="The classes as polygons, too")


def exporting(jobs: Jobs, engine: Engine, wish_of: Callable[[ExportRequest], Wish], token: str | None) -> APIRouter:
    """The routes.

    Args:
        jobs: the exports.
        engine: whose threads open scenes and models.
        wish_of: finds the layer of a request; blocking.
        token: what POST and DELETE want to be shown as a bearer token; None lets anybody.
    """
    router = APIRouter(prefix="/exports", tags=["exports"], route_class=InferenceRoute)

    def base(request: Request) -> str:
        return f"{request.base_url}exports"

    @router.post("", operation_id="createExport", response_class=JSONResponse)
    async def create(request: Request, wanted: ExportRequest) -> JSONResponse:
        """Ask for an export. The same again gives the same one: it goes on, or is there already."""
        if token is not None:
            check_bearer(request, token)
        job = await engine.open(lambda: jobs.ask(wish_of(wanted)))
        body = told(job, base(request))
        headers = {"Cache-Control": NO_STORE, "Location": body["links"]["self"]}
        return JSONResponse(body, 200 if job.ended else 202, headers)

    @router.get("", operation_id="listExports", response_class=JSONResponse)
    async def every(request: Request) -> JSONResponse:
        """All exports, the newest first."""
        body = {"exports": [told(job, base(request)) for job in jobs.all()]}
        return JSONResponse(body, headers={"Cache-Control": NO_STORE})

    @router.get("/{export}", operation_id="getExport", response_class=JSONResponse)
    async def one(request: Request, export: JobPath) -> JSONResponse:
        """Where an export stands."""
        return JSONResponse(told(jobs.get(export), base(request)), headers={"Cache-Control": NO_STORE})

    @router.get("/{export}/events", operation_id="getExportEvents", response_class=StreamingResponse)
    async def events(request: Request, export: JobPath) -> StreamingResponse:
        """Its progress, as server-sent events, until it has ended."""
        job, place = jobs.get(export), base(request)

        async def stream() -> AsyncIterator[str]:
            while True:
                ended = job.ended
                yield as_event(told(job, place))
                if ended:
                    return
                await asyncio.sleep(PACE)

        # Proxies that collect an answer before they pass it on would hold progress back.
        headers = {"Cache-Control": NO_STORE, "X-Accel-Buffering": "no"}
        return StreamingResponse(stream(), media_type="text/event-stream", headers=headers)

    @router.head("/{export}/files/{name}", include_in_schema=False)
    @router.get("/{export}/files/{name}", operation_id="getExportFile", response_class=FileResponse)
    async def file(export: JobPath, name: FilePath) -> FileResponse:
        """A result, whole or by ranges: GDAL reads it as /vsicurl/."""
        return FileResponse(jobs.path(export, name), filename=name, headers={"Cache-Control": NO_STORE})

    @router.delete("/{export}", operation_id="deleteExport", response_class=JSONResponse)
    async def cancel(request: Request, export: JobPath) -> JSONResponse:
        """Stop an export, and delete its files."""
        if token is not None:
            check_bearer(request, token)
        job = await engine.open(jobs.cancel, export)
        return JSONResponse(told(job, base(request)), headers={"Cache-Control": NO_STORE})

    return router
