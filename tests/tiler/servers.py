"""Real servers on a free port of this machine, and clients that can hang up in the middle."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI
from starlette.middleware.base import BaseHTTPMiddleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import Response
from titiler.core.factory import TilerFactory
from titiler.core.middleware import CacheControlMiddleware, TotalTimeMiddleware

import tiler.catalog
from tests.tiler.controlled import DEADLINE, GatedRunner, World, gated, until
from tests.tiler.helpers import tiles_over
from tiler.app import create_app
from tiler.engine import Engine
from tiler.extension import inferenceExtension
from tiler.settings import Settings


@contextmanager
def serving(app: Any, parser: str = "h11") -> Iterator[int]:
    """uvicorn in a thread; gives the port."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, http=parser, log_level="error", timeout_graceful_shutdown=5)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="uvicorn", daemon=True)
    thread.start()
    try:
        until(lambda: server.started or not thread.is_alive(), "the server's start")
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(DEADLINE)
        assert not thread.is_alive()


class HostsOwn(BaseHTTPMiddleware):
    """What many hosts have: a middleware behind which a poll never hears of a closed connection."""

    async def dispatch(self, request: Request, call_next: Callable[..., Any]) -> Response:
        response: Response = await call_next(request)
        response.headers["X-Host"] = "own"
        return response


@dataclass
class Served:
    """An application with one model, its network behind a gate."""

    app: Any
    engine: Engine
    runner: GatedRunner
    paths: list[str]
    extra: dict[str, str] = field(default_factory=dict)


def standalone(place: World, **settings: Any) -> Served:
    """The standalone application."""
    loaded, runner = gated(place.loaded)
    kept = tiler.catalog.load
    tiler.catalog.load = lambda *args, **kwargs: loaded  # type: ignore[assignment]
    try:
        app = create_app(
            Settings(
                **{"scenes": {"field": {"path": str(place.scene)}}, "models": {"cover": str(place.folder)}, **settings}
            )
        )
    finally:
        tiler.catalog.load = kept
    runner.shapes.clear()
    tiles = [f"/field/cover/{tile.z}/{tile.x}/{tile.y}.png" for tile in tiles_over(place.scene)]
    return Served(app, app.state.inference.service.engine, runner, tiles)


def foreign(place: World, **options: Any) -> Served:
    """A TiTiler application that knows nothing of us but one line, with all the middleware that such have."""
    loaded, runner = gated(place.loaded)
    engine = Engine(**options)
    factory = TilerFactory(extensions=[inferenceExtension(models={"cover": loaded}, engine=engine)])
    app = FastAPI()
    app.include_router(factory.router)
    app.add_middleware(CORSMiddleware, allow_origins=["*"])
    app.add_middleware(GZipMiddleware, minimum_size=0)
    app.add_middleware(CacheControlMiddleware, cachecontrol="public, max-age=60")
    app.add_middleware(TotalTimeMiddleware)
    app.add_middleware(HostsOwn)
    tiles = [
        f"/inference/cover/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.png?url={place.scene}"
        for tile in tiles_over(place.scene)
    ]
    return Served(app, engine, runner, tiles)


def call(port: int, path: str, method: str = "GET", body: str = "") -> socket.socket:
    """Send a request and leave the answer where it is. Closing the socket hangs up."""
    connection = socket.create_connection(("127.0.0.1", port), DEADLINE)
    more = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
    connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: x\r\nUser-Agent: test\r\n{more}\r\n{body}".encode())
    return connection


def answer_of(connection: socket.socket) -> http.client.HTTPResponse:
    """The answer to `call`, read to its end."""
    response = http.client.HTTPResponse(connection)
    response.begin()
    response.content = response.read()  # type: ignore[attr-defined]
    connection.close()
    return response


def get(port: int, path: str) -> http.client.HTTPResponse:
    return answer_of(call(port, path))
