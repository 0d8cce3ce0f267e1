"""A child: what one would have without this project, on TiTiler's own synchronous endpoints.

/tiles/WebMercatorQuad/{z}/{x}/{y}.png?url=...                              imagery
... &algorithm=NAME                                                         the model per tile, with seams
... &algorithm=NAME&buffer=64                                               the same with context, cropped
/empty                                                                      Starlette alone
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from fastapi import FastAPI
from rio_tiler.models import ImageData
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from titiler.core.algorithm import Algorithms
from titiler.core.algorithm.base import BaseAlgorithm
from titiler.core.factory import TilerFactory

from benchmarks.ours import serve
from benchmarks.processes import end_with_parent
from model_registry import load

MODELS = "BENCHMARK_MODELS"
DEVICE = "BENCHMARK_DEVICE"


def algorithm_of(run: Callable[[Any], Any]) -> type[BaseAlgorithm]:
    """A TiTiler algorithm that runs a model on each tile, and crops what `buffer=` added."""

    class PerTile(BaseAlgorithm):
        """Class numbers of one tile, as a plain integration would make them."""

        title: str = "Network per tile"
        description: str = "Runs a network on the tile's pixels."
        input_nbands: int = 3
        output_nbands: int = 1
        output_dtype: str = "uint8"

        def __call__(self, img: ImageData) -> ImageData:
            """Run the network on [bands, rows, cols]."""
            classes = run(img.array.data)
            margin = (classes.shape[0] - 256) // 2
            if margin > 0:
                classes = classes[margin:-margin, margin:-margin]
            return ImageData(np.ma.MaskedArray(classes[None]), bounds=img.bounds, crs=img.crs)

    return PerTile


def main() -> None:
    """Serve the models that the environment names: {"name": folder}."""
    end_with_parent()
    algorithms = {}
    for name, folder in json.loads(os.environ[MODELS]).items():
        runner = load(folder, os.environ.get(DEVICE, "cpu")).runner
        # A runner takes one call at a time; TiTiler has forty threads.
        lock = threading.Lock()

        def run(pixels: Any, runner: Any = runner, lock: Any = lock) -> Any:
            with lock:
                return runner(np.ascontiguousarray(pixels[None, :3])).classes[0]

        algorithms[name] = algorithm_of(run)
    factory = TilerFactory(process_dependency=Algorithms(algorithms).dependency, add_viewer=False)
    app = FastAPI()
    app.include_router(factory.router)

    async def empty(_: Request) -> Response:
        return Response(b"", media_type="image/png")

    app.router.routes.insert(0, Route("/empty", empty))
    serve(app)


if __name__ == "__main__":
    main()
