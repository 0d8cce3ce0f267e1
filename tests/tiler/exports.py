"""Exported files as the contract has them, written with rasterio alone, and an application that shows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.io import MemoryFile
from rasterio.shutil import copy

NODATA = 255


def write_export(
    path: Path,
    pixels: NDArray[Any],
    scene: Path,
    revision: str,
    *,
    region: tuple[int, int] = (0, 0),
    output: str = "class",
    area: Mapping[str, Any] | None = None,
    job: str = "0a",
    scale: float | None = None,
    tags: Mapping[str, str | None] | None = None,
) -> Path:
    """A COG of an answer over a native scene.

    Args:
        path: where to.
        pixels: [bands, rows, cols] or [rows, cols].
        scene: the raster whose grid it lies on.
        revision, output, job, area: for the tags.
        region: row and column of the scene at the first pixel.
        scale: of what the numbers stand for.
        tags: to be written otherwise; None leaves one out.
    """
    pixels = pixels if pixels.ndim == 3 else pixels[None]
    count, height, width = pixels.shape
    with rasterio.open(scene) as dataset:
        crs, place = dataset.crs, dataset.transform * rasterio.Affine.translation(region[1], region[0])
    written: dict[str, str | None] = {
        "TITILER_INFERENCE_REVISION": revision,
        "TITILER_INFERENCE_MODEL": "cover",
        "TITILER_INFERENCE_MODEL_DIGEST": "0" * 64,
        "TITILER_INFERENCE_SCENE": scene.name,
        "TITILER_INFERENCE_OUTPUT": output,
        "TITILER_INFERENCE_JOB": job,
        "TITILER_INFERENCE_REGION": json.dumps([*region, height, width]),
        "TITILER_INFERENCE_AREA": None if area is None else json.dumps(area),
        **(tags or {}),
    }
    nodata = np.nan if np.issubdtype(pixels.dtype, np.floating) else NODATA
    with MemoryFile() as memory:
        with memory.open(
            driver="GTiff", dtype=pixels.dtype, count=count, height=height, width=width, crs=crs, transform=place,
            nodata=nodata,
        ) as dataset:  # fmt: skip
            dataset.write(pixels)
            dataset.update_tags(**{name: value for name, value in written.items() if value is not None})
            if scale is not None:
                dataset.scales = (scale,) * count
        resampling = "MODE" if output == "class" else "AVERAGE"
        with memory.open() as dataset:
            copy(dataset, path, driver="COG", overview_resampling=resampling, blocksize=128, compress="DEFLATE")
    return path
