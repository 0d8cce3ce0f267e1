"""Networks whose answer depends on the window: fixed windows, blended. Every door against a blend of the test's own."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import onnxruntime
import pytest
import rasterio
from numpy.typing import NDArray
from rasterio.crs import CRS

from model_registry.testing import conv_chain, global_mean, instance_norm, passthrough, write_model
from tests.tiler.helpers import (
    MERCATOR,
    RES,
    ZOOM,
    Host,
    host,
    landscape,
    scene_pixels_of_tile,
    tiles_over,
    write_scene,
)
from tiler import layer as room
from tiler.blend import blended, weights
from tiler.engine import Engine
from tiler.grid import Footprint, Grid, cells_covering
from tiler.values import Cell, Rect, Scores

HEIGHT, WIDTH = 300, 410
SIDE, HALO = 128, 32  # of a window, and of what it shares with each neighbour
CELL = SIDE - 2 * HALO
HOLE = (slice(90, 140), slice(180, 260))
NEAR = 2e-3  # two probabilities closer than this may change places in float16
WINDOW = {"multiple": 1, "period": 1, "halo": HALO, "preferred": SIDE}
Numbers = NDArray[np.float64]


def imagery() -> NDArray[np.uint8]:
    """Tones that change across the scene, so that a window's mean says where it lies."""
    tone = np.linspace(0, 110, WIDTH)[None, :] + np.linspace(0, 60, HEIGHT)[:, None]
    return np.clip(landscape(HEIGHT, WIDTH) * 0.35 + tone, 1, 255).astype(np.uint8)


PIXELS = imagery()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("blend")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[HOLE] = False
    return write_scene(folder / "scene.tif", PIXELS, mask=mask)


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, Path]:
    stated: dict[str, Any] = {"window": WINDOW, "exactness": "unsafe", "gsd": round(RES, 4)}
    value = {"name": "height", "unit": "m", "range": [-2, 2], "scale": 3, "offset": 1}
    return {
        "norm": write_model(folder / "norm", instance_norm(), classes=list("abcd"), **stated),
        "mean": write_model(folder / "mean", global_mean(), classes=list("abcd"), **stated),
        "value": write_model(
            folder / "value", global_mean(classes=1), tasks=["regression"], output={"value": value}, **stated
        ),
        "vector": write_model(
            folder / "vector", instance_norm(classes=6), tasks=["feature-extraction"], channels=6, **stated
        ),
        "labels": write_model(
            folder / "labels",
            passthrough(),
            classes=[str(number) for number in range(256)],
            bands=["gray"],
            scaling=None,
            output={"emits": "labels"},
            **stated,
        ),
    }


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> Host:
    return host(models)


def softmax(scores: Numbers) -> Numbers:
    shares = np.exp(scores - scores.max(axis=0))
    return np.asarray(shares / shares.sum(axis=0))


def expected(onnx: Path, finish: Callable[[Numbers], Numbers], side: int = SIDE, halo: int = HALO) -> Numbers:
    """[planes, rows, cols] in float64: every window of the scene by itself, then their sum with Hann's weights.

    Written without the product: numpy's own padding, ONNX Runtime, one formula of two cosines, and a division.
    """
    scaled = PIXELS.astype(np.float32) / 255
    scaled[:, HOLE[0], HOLE[1]] = 0  # what stands in for missing pixels
    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    cell = side - 2 * halo
    padded = np.pad(scaled, ((0, 0), (halo, 2 * side), (halo, 2 * side)), mode="reflect")
    total: Any = 0.0
    sums = np.zeros((HEIGHT + 3 * side, WIDTH + 3 * side))

    def ramp(first: bool, last: bool) -> Numbers:
        x = np.arange(side) + 0.5
        down = np.where(x < 2 * halo, (1 - np.cos(np.pi * x / (2 * halo))) / 2, 1.0)
        up = down[::-1]
        return (np.ones(side) if first else down) * (np.ones(side) if last else up)

    for top in range(0, HEIGHT, cell):
        for left in range(0, WIDTH, cell):
            window = padded[None, :, top : top + side, left : left + side].astype(np.float32)
            (scores,) = session.run(None, {"x": np.ascontiguousarray(window)})
            answer = finish(np.asarray(scores[0], np.float64))
            weight = ramp(top == 0, top + cell >= HEIGHT)[:, None] * ramp(left == 0, left + cell >= WIDTH)
            if np.ndim(total) == 0:
                total = np.zeros((len(answer), *sums.shape))
            total[:, top : top + side, left : left + side] += answer * weight
            sums[top : top + side, left : left + side] += weight
    inner = (slice(halo, halo + HEIGHT), slice(halo, halo + WIDTH))
    return np.asarray(total[:, *inner] / sums[inner])


@pytest.fixture(scope="module")
def shares(models: dict[str, Path]) -> dict[str, Numbers]:
    """Probabilities of the two classifiers."""
    return {name: expected(models[name] / "model.onnx", softmax) for name in ("norm", "mean")}


def lead(probabilities: Numbers) -> Numbers:
    ordered = np.sort(probabilities, axis=0)
    return np.asarray(ordered[-1] - ordered[-2])


def shown(served: Host, model: str, scene: Path, **params: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Every pixel of the scene through HTTP tiles of 256 px: values [bands, rows, cols] and validity."""
    values: Any = None
    seen = np.zeros((HEIGHT, WIDTH), bool)
    for tile in tiles_over(scene):
        got = served.npy(f"{model}/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.npy", scene, **params)
        rows, cols, inside = scene_pixels_of_tile(scene, tile, 256)
        if values is None:
            values = np.zeros((len(got) - 1, HEIGHT, WIDTH), got.dtype)
        values[:, rows[inside], cols[inside]] = got[:-1, inside]
        seen[rows[inside], cols[inside]] = got[-1][inside] > 0
    return values, seen


def data() -> NDArray[np.bool_]:
    there = np.ones((HEIGHT, WIDTH), bool)
    there[HOLE] = False
    return there


@pytest.mark.parametrize("name", ["norm", "mean"])
def test_tiles_equal_a_blend_of_our_own(served: Host, scene: Path, shares: dict[str, Numbers], name: str) -> None:
    classes, seen = shown(served, name, scene)
    assert (seen == data()).all()
    wrong = (classes[0] != shares[name].argmax(axis=0)) & seen & (lead(shares[name]) >= NEAR)
    assert wrong.sum() == 0
    assert len(np.unique(classes)) >= 3
    probabilities, _ = shown(served, name, scene, output="probability")
    assert np.abs(probabilities - shares[name])[:, seen].max() < NEAR / 2
