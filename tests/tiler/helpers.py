"""What the tests of `tiler` make: scenes, an application around the extension, and whole-scene passes of their own.

`whole_scene` shares no code with the product: it reads the file with rasterio, pads by numpy's own reflection, and puts
the whole scene through ONNX Runtime in one pass.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import onnxruntime
import pyproj
import rasterio
from affine import Affine
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image
from rasterio.warp import transform as transform_points
from starlette.testclient import TestClient
from titiler.core.factory import TilerFactory

from model_registry.testing import value_classes, write_model
from tiler.extension import inferenceExtension

MERCATOR = morecantile.tms.get("WebMercatorQuad")
# A zoom, and the size of its pixels in EPSG:3857: scenes of this resolution have one tile pixel per scene pixel.
ZOOM = 18
RES = MERCATOR.matrix(ZOOM).cellSize


def landscape(height: int, width: int, bands: int = 3, seed: int = 0, block: int = 12) -> NDArray[np.uint8]:
    """Blocks of random colour with noise, never 0: busy enough that a missing halo shows."""
    random = np.random.default_rng(seed)
    coarse = random.integers(20, 236, (bands, -(-height // block), -(-width // block)))
    image = coarse.repeat(block, axis=1).repeat(block, axis=2)[:, :height, :width] + random.normal(
        0, 18, (bands, height, width)
    )
    return np.clip(image, 1, 255).astype(np.uint8)


def write_scene(
    path: Path,
    pixels: NDArray[Any],
    *,
    crs: Any = "EPSG:3857",
    transform: Affine | None = None,
    descriptions: Sequence[str] = (),
    scales: Sequence[float] = (),
    offsets: Sequence[float] = (),
    mask: NDArray[np.bool_] | None = None,
    **profile: Any,
) -> Path:
    """Write a tiled GeoTIFF; `mask` becomes an internal mask band. The default place is near 0, 0 in EPSG:3857."""
    transform = transform or Affine(RES, 0, 1000.0, 0, -RES, 5000.0)
    options = {"tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate", **profile}
    count, height, width = pixels.shape
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=count, dtype=pixels.dtype, crs=crs,
        transform=transform, **options,
    ) as dataset:  # fmt: skip
        dataset.write(pixels)
        if descriptions:
            dataset.descriptions = tuple(descriptions)
        if scales:
            dataset.scales = tuple(scales)
        if offsets:
            dataset.offsets = tuple(offsets)
        if mask is not None:
            dataset.write_mask(mask)
    return path


def whole_scores(
    onnx: Path, scaled: NDArray[np.float32], *, pad: int, multiple: int = 1, mode: Any = "reflect"
) -> NDArray[np.float32]:
    """Scores [classes, rows, cols] of one pass over everything.

    Args:
        onnx: the network.
        scaled: float32 [bands, rows, cols], as the network wants it.
        pad: pixels of reflection on every side, a multiple of the network's period and at least its halo.
        multiple: height and width are padded up to it.
        mode: numpy's own word for how to pad.
    """
    _, height, width = scaled.shape
    below, right = (-(height + 2 * pad)) % multiple, (-(width + 2 * pad)) % multiple
    padded = np.pad(scaled, ((0, 0), (pad, pad + below), (pad, pad + right)), mode=mode)
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: padded[None].astype(np.float32)})
    return np.asarray(scores)[0][:, pad : pad + height, pad : pad + width]


def best_and_lead(scores: NDArray[np.float32]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Class index [rows, cols], and the lead of the best class over the second best."""
    ordered = np.sort(scores, axis=0)
    return scores.argmax(axis=0), ordered[-1] - ordered[-2]


def whole_scene(
    onnx: Path, scaled: NDArray[np.float32], *, pad: int, multiple: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Class index [rows, cols] and the lead of the best class over the second best, of one pass over everything.

    See `whole_scores` for the arguments.
    """
    return best_and_lead(whole_scores(onnx, scaled, pad=pad, multiple=multiple))


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities of scores [classes, rows, cols]."""
    shares = np.exp(scores - scores.max(axis=0))
    return np.asarray(shares / shares.sum(axis=0))


def blended_scene(
    onnx: Path,
    scaled: NDArray[np.float32],
    finish: Callable[[NDArray[np.float64]], NDArray[np.float64]],
    *,
    side: int,
    halo: int,
) -> NDArray[np.float64]:
    """[planes, rows, cols] in float64: every window of the scene by itself, then their mean with Hann's weights.

    Args:
        onnx: the network.
        scaled: float32 [bands, rows, cols], as the network wants it.
        finish: what becomes of a window's scores before they are averaged.
        side: of a window; the next one begins `side - 2 * halo` further on.
        halo: half of what two windows share; at the scene's edge nothing is shared.
    """
    _, height, width = scaled.shape
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    name, cell = session.get_inputs()[0].name, side - 2 * halo
    below, right = -(-height // cell) * cell + halo - height, -(-width // cell) * cell + halo - width
    padded = np.pad(scaled, ((0, 0), (halo, below), (halo, right)), mode="reflect").astype(np.float32)
    sums = np.zeros(padded.shape[1:])
    total: Any = None

    def ramp(first: bool, last: bool) -> NDArray[np.float64]:
        x = np.arange(side) + 0.5
        down = np.where(x < 2 * halo, (1 - np.cos(np.pi * x / (2 * halo))) / 2, 1.0)
        return (np.ones(side) if first else down) * (np.ones(side) if last else down[::-1])

    for top in range(0, height, cell):
        for left in range(0, width, cell):
            there = (slice(top, top + side), slice(left, left + side))
            (scores,) = session.run(None, {name: np.ascontiguousarray(padded[None, :, *there])})
            answer = finish(np.asarray(scores[0], np.float64))
            weight = ramp(top == 0, top + cell >= height)[:, None] * ramp(left == 0, left + cell >= width)
            if total is None:
                total = np.zeros((len(answer), *sums.shape))
            total[:, *there] += answer * weight
            sums[there] += weight
    inner = (slice(halo, halo + height), slice(halo, halo + width))
    return np.asarray(total[:, *inner] / sums[inner])


def classifier(folder: Path, values: Sequence[float], **options: Any) -> Path:
    """A model of one band that gives each pixel the class whose value is nearest: it shows every shift.

    The manifest states halo 0 and period 1, which is the network's own; so nothing needs to be measured.
    """
    given: dict[str, Any] = {
        "classes": [f"class {index}" for index in range(len(values))],
        "bands": ["gray"],
        "scaling": None,
        "window": {"multiple": 1, "period": 1, "halo": 0},
        "exactness": "exact",
        **options,
    }
    return write_model(folder, value_classes(values), **given)


def square_tiles(crs: Any, left: float, top: float, size: float, tile_size: int = 256) -> morecantile.TileMatrixSet:
    """A tile matrix set with one square tile of `size` units at zoom 0, its upper left corner at (left, top)."""
    return morecantile.TileMatrixSet.custom(
        [left, top - size, left + size, top], pyproj.CRS(crs), tile_width=tile_size, tile_height=tile_size,
        id="Square", maxzoom=12,
    )  # fmt: skip


@dataclass
class Host:
    """A TiTiler application that knows nothing of us but one line."""

    client: TestClient
    extension: inferenceExtension
    prefix: str = "/cog/inference"

    def get(self, path: str, scene: Path | str | None = None, **params: Any) -> Any:
        """GET below the extension's prefix."""
        query = {"url": str(scene), **params} if scene is not None else params
        return self.client.get(f"{self.prefix}/{path}", params=query)

    def npy(self, path: str, scene: Path | str, **params: Any) -> NDArray[Any]:
        """Values and mask of an npy answer, [bands + 1, rows, cols]."""
        answer = self.get(path, scene, **params)
        assert answer.status_code == 200, answer.text
        return np.load(io.BytesIO(answer.content))


def host(models: Mapping[str, Path], *, factory: Mapping[str, Any] | None = None, **options: Any) -> Host:
    """An application with the extension over `models`."""
    extension = inferenceExtension(models={name: str(path) for name, path in models.items()}, **options)
    tiler = TilerFactory(router_prefix="/cog", extensions=[extension], **(factory or {}))
    app = FastAPI()
    app.include_router(tiler.router, prefix="/cog")
    return Host(TestClient(app), extension)


def tiles_over(scene: Path, zoom: int = ZOOM, tms: morecantile.TileMatrixSet = MERCATOR) -> list[morecantile.Tile]:
    """All tiles of a zoom that touch a scene."""
    with rasterio.open(scene) as dataset:
        west, south, east, north = rasterio.warp.transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    return list(tms.tiles(west, south, east, north, zooms=[zoom]))


def scene_pixels_of_tile(scene: Path, tile: morecantile.Tile, size: int, tms: morecantile.TileMatrixSet = MERCATOR):
    """Row and column of the scene under each pixel centre of a tile, by rasterio alone; -1 outside of the scene."""
    left, bottom, right, top = tms.xy_bounds(tile)
    xs, ys = np.meshgrid(
        left + (np.arange(size) + 0.5) * (right - left) / size, top - (np.arange(size) + 0.5) * (top - bottom) / size
    )
    with rasterio.open(scene) as dataset:
        if dataset.crs != tms.rasterio_crs:
            x, y = transform_points(tms.rasterio_crs, dataset.crs, xs.ravel(), ys.ravel())[:2]
            xs, ys = np.reshape(x, xs.shape), np.reshape(y, ys.shape)
        cols, rows = ~dataset.transform * (xs, ys)
        rows, cols = np.floor(rows).astype(int), np.floor(cols).astype(int)
        inside = (rows >= 0) & (rows < dataset.height) & (cols >= 0) & (cols < dataset.width)
    return np.where(inside, rows, -1), np.where(inside, cols, -1), inside


def rgba(content: bytes) -> NDArray[np.uint8]:
    """[rows, cols, 4] of an encoded image."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))
