"""Binary models: one channel with a threshold, through HTTP. The threshold of the address takes the model's place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import (
    RES,
    ZOOM,
    Host,
    host,
    landscape,
    rgba,
    scene_pixels_of_tile,
    tiles_over,
    whole_scores,
    write_scene,
)

PIXELS = landscape(200, 260)
OWN = 0.7
BUILDING = [{"value": 1, "name": "building", "color_hint": "d02020"}]
# Only the interesting class is named, one channel, with and without a threshold of its own; and two channels with one.
MODELS: dict[str, dict[str, Any]] = {
    "mask": {"classes": BUILDING},
    "strict": {"classes": BUILDING, "output": {"threshold": OWN}},
    "two": {"classes": ["land", "water"], "output": {"threshold": OWN}},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("masks")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    """On the tiles' own pixels, so that bilinear warping mixes none of them."""
    return write_scene(folder / "scene.tif", PIXELS, transform=Affine(RES, 0, 256 * RES * 4, 0, -RES, 256 * RES * 8))


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, Path]:
    window = {"multiple": 1, "period": 1, "halo": 2}
    return {
        name: write_model(
            folder / name,
            conv_chain(layers=2, classes=2 if name == "two" else 1),
            gsd=round(RES, 4), window=window, exactness="exact", **options,
        )
        for name, options in MODELS.items()
    }  # fmt: skip


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> Iterator[Host]:
    made = host(models)
    yield made
    made.extension.engine.close()


@pytest.fixture(scope="module")
def share(models: dict[str, Path]) -> dict[str, NDArray[np.float32]]:
    """Probability of the second class, of a pass over everything."""
    scores = {
        name: whole_scores(path / "model.onnx", PIXELS.astype(np.float32) / 255, pad=8) for name, path in models.items()
    }
    logit = {name: one[0] if len(one) == 1 else one[1] - one[0] for name, one in scores.items()}
    return {name: 1 / (1 + np.exp(-value)) for name, value in logit.items()}


def first(scene: Path, zoom: int = ZOOM) -> tuple[Any, NDArray[Any], NDArray[Any], NDArray[np.bool_]]:
    item = tiles_over(scene, zoom)[0]
    return item, *scene_pixels_of_tile(scene, item, 256)


def path(name: str, item: Any, end: str = ".npy") -> str:
    return f"{name}/tiles/WebMercatorQuad/{item.z}/{item.x}/{item.y}{end}"


@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
@pytest.mark.parametrize(
    ("name", "asked", "limit"),
    [
        ("mask", None, 0.5),
        ("mask", 0.3, 0.3),
        ("mask", 0.8, 0.8),
        ("strict", None, OWN),
        ("strict", 0.3, 0.3),
        ("strict", 0.8, 0.8),
        ("two", None, OWN),
        ("two", 0.4, 0.4),
    ],
)
def test_the_mask_is_set_where_the_probability_reaches_the_threshold(
    served: Host,
    scene: Path,
    share: dict[str, NDArray[np.float32]],
    name: str,
    asked: float,
    limit: float,
    resampling: Any,
) -> None:
    item, rows, cols, inside = first(scene)
    query = {} if asked is None else {"threshold": asked}
    classes, mask = served.npy(path(name, item), scene, resampling=resampling, **query)
    np.testing.assert_array_equal(mask == 255, inside)
    p = share[name][rows, cols]
    sure = inside & (np.abs(p - limit) > 1e-3)
    np.testing.assert_array_equal(classes[sure], p[sure] >= limit)
    assert 0.02 < classes[sure].mean() < 0.98


@pytest.mark.slow
def test_another_threshold_costs_no_inference(models: dict[str, Path], scene: Path) -> None:
    fresh = host(models)
    item, *_ = first(scene)
    fresh.npy(path("mask", item), scene, threshold=0.4)
    forwards = fresh.extension.engine.forwards
    pictures = {fresh.get(path("mask", item, ".png"), scene, threshold=t).content for t in (0.3, 0.5, 0.9)}
    assert len(pictures) == 3 and fresh.extension.engine.forwards == forwards
    fresh.extension.engine.close()


def test_probability_and_confidence_belong_to_the_class_that_is_shown(
    served: Host, scene: Path, share: dict[str, NDArray[np.float32]]
) -> None:
    item, rows, cols, inside = first(scene)
    p = share["strict"][rows, cols][inside]
    both, _ = np.split(served.npy(path("strict", item), scene, output="probability"), [2])
    np.testing.assert_allclose(both[:, inside], [1 - p, p], atol=1e-3)
    confidence, _ = served.npy(path("strict", item), scene, output="confidence")
    sure = np.abs(p - OWN) > 1e-3
    np.testing.assert_allclose(confidence[inside][sure], np.where(p >= OWN, p, 1 - p)[sure], atol=1e-3)
    one, mask = served.npy(path("strict", item), scene, output="probability", threshold=0.2, **{"class": "building"})
    clear = np.abs(p - 0.2) > 1e-3
    np.testing.assert_array_equal((mask[inside] == 255)[clear], (p >= 0.2)[clear])


def test_the_background_is_clear_and_the_legend_says_so(served: Host, scene: Path) -> None:
    item, _, _, inside = first(scene)
    classes, _ = served.npy(path("mask", item), scene)
    picture = rgba(served.get(path("mask", item, ".png"), scene).content)
    np.testing.assert_array_equal(picture[..., 3] > 0, inside & (classes == 1))
    assert picture[inside & (classes == 1)][0].tolist() == [0xD0, 0x20, 0x20, 255]
    background, building = served.get("mask/legend.json").json()
    assert (background["value"], building["name"], building["color"]) == (0, "building", "#d02020")


def test_zoomed_out_the_threshold_decides_before_the_majority(
    served: Host, scene: Path, share: dict[str, NDArray[np.float32]]
) -> None:
    item = tiles_over(scene, ZOOM - 1)[0]
    rows, cols, inside = scene_pixels_of_tile(scene, item, 512)
    classes, mask = served.npy(path("mask", item), scene, threshold=0.6)
    p = share["mask"][np.where(inside, rows, 0), np.where(inside, cols, 0)]
    votes = ((p >= 0.6) & inside).reshape(256, 2, 256, 2).sum(axis=(1, 3))
    near = (np.abs(p - 0.6) < 1e-3).reshape(256, 2, 256, 2).any(axis=(1, 3))
    count = inside.reshape(256, 2, 256, 2).sum(axis=(1, 3))
    sure = (mask == 255) & ~near & (count == 4)
    assert sure.sum() > 5000
    np.testing.assert_array_equal(classes[sure] == 1, votes[sure] > 2)
