"""A child: the standalone app as anybody runs it, in a process of its own.

Beside it, below /benchmark: what went through the networks, the grid of a pair, and a way to forget what is kept.
"""

from __future__ import annotations

import gc
import os
import socket
import threading
import time
from collections import deque
from dataclasses import replace
from typing import Any

import uvicorn
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

import tiler.catalog
from benchmarks.processes import end_with_parent, tell
from model_registry import LoadedModel, load
from tiler.app import create_app
from tiler.cli import GDAL_DEFAULTS
from tiler.settings import Settings

FORWARDS_KEPT = 200_000


class Recording:
    """A runner that notes each batch's shape and times. Everything else is the runner's own."""

    def __init__(self, runner: Any, notes: deque[tuple[int, int, int, float, float]]) -> None:
        self._runner, self._notes = runner, notes

    def __call__(self, pixels: Any, *args: Any, **kwargs: Any) -> Any:
        """Run it, and note it."""
        begun = time.monotonic()
        answer = self._runner(pixels, *args, **kwargs)
        batch, _, height, width = pixels.shape
        self._notes.append((batch, height, width, begun, time.monotonic() - begun))
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._runner, name)


def main() -> None:
    """Serve what the environment (TILER_...) names, on a free port of 127.0.0.1."""
    end_with_parent()

    for key, value in GDAL_DEFAULTS.items():
        os.environ.setdefault(key, value)
    notes: deque[tuple[int, int, int, float, float]] = deque(maxlen=FORWARDS_KEPT)

    def recorded(*args: Any, **kwargs: Any) -> LoadedModel:
        loaded = load(*args, **kwargs)
        return replace(loaded, runner=Recording(loaded.runner, notes))

    # The one place where the catalog gets its models from.
    tiler.catalog.load = recorded  # type: ignore[attr-defined]
    app = create_app(Settings())
    state = app.state.inference

    async def forwards(_: Request) -> JSONResponse:
        """What went through the networks since the last question."""
        taken = [notes.popleft() for _ in range(len(notes))]
        return JSONResponse(taken)

    async def forget(_: Request) -> JSONResponse:
        """Empty all caches: what comes next is cold."""
        engine = state.service.engine
        engine.cache.clear()
        engine.pictures.clear()
        notes.clear()
        return JSONResponse({})

    async def forget_pictures(_: Request) -> JSONResponse:
        """Empty the cache of encoded tiles only."""
        state.service.engine.pictures.clear()
        return JSONResponse({})

    async def counters(_: Request) -> JSONResponse:
        """Cells inferred, dropped and so on, so far."""
        found = state.service.engine.counters
        return JSONResponse({name: getattr(found, name) for name in ("hits", "shared", "inferred", "again", "dropped")})

    async def threads(_: Request) -> JSONResponse:
        """The system's numbers of our threads, by name; a runtime's own are none of them."""
        return JSONResponse({str(thread.native_id): thread.name for thread in threading.enumerate()})

    async def pair(request: Request) -> JSONResponse:
        """The grid of a pair, and how its model runs."""
        names = request.path_params["scene"], request.path_params["model"]
        reader = await state.service.engine.open(state.open, *names)
        layer, grid = reader.layer, reader.layer.grid
        described = {
            name: getattr(grid, name) for name in "left top res_x res_y height width cell align halo gsd native".split()
        }
        runner = layer.loaded.runner
        return JSONResponse(
            {
                "grid": {**described, "crs": grid.crs.to_wkt()},
                "revision": layer.revision,
                "runtime": runner.runtime,
                "precision": runner.precision,
                "device": runner.device,
                "exactness": layer.model.exactness,
                "max_tile_pixels": state.settings.max_tile_pixels,
            }
        )

    own = {
        "forwards": forwards,
        "forget": forget,
        "forget-pictures": forget_pictures,
        "counters": counters,
        "threads": threads,
        "pair/{scene}/{model}": pair,
    }
    # Before the app's own, whose paths are mostly parameters.
    app.router.routes[:0] = [Route(f"/benchmark/{path}", endpoint) for path, endpoint in own.items()]
    serve(app)


def serve(app: Any) -> None:
    """Run an application on a free port, and tell the parent which."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(1024)
    tell({"ready": listening.getsockname()[1]})
    # As `tiler serve` does.
    gc.collect()
    gc.freeze()
    uvicorn.Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)).run(sockets=[listening])


if __name__ == "__main__":
    main()
