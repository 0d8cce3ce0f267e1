"""Any number of input bands: by name, by index, repeated, and in another order than the scene's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import (
    RES,
    Host,
    best_and_lead,
    host,
    scene_pixels_of_tile,
    tiles_over,
    whole_scores,
    write_scene,
)

HEIGHT, WIDTH = 120, 150
COUNTS = (1, 4, 9, 13, 70)


def spectrum(bands: int) -> NDArray[np.uint8]:
    return np.random.default_rng(bands).integers(1, 256, (bands, HEIGHT, WIDTH), dtype=np.uint8)


def network(folder: Path, bands: list[str]) -> Path:
    window = {"multiple": 1, "period": 1, "halo": 1}
    net = conv_chain(layers=1, classes=4, bands=len(bands))
    return write_model(
        folder, net, classes=list("abcd"), bands=bands, gsd=round(RES, 4), window=window, exactness="exact"
    )


def check(served: Host, model: Path, scene: Path, fed: NDArray[np.uint8], **query: Any) -> None:
    """The tile shows what the network says of `fed`, its bands in the model's order."""
    item = tiles_over(scene)[0]
    classes, mask = served.npy(f"m/tiles/WebMercatorQuad/{item.z}/{item.x}/{item.y}.npy", scene, **query)
    scores = whole_scores(model / "model.onnx", fed.astype(np.float32) / 255, pad=4)
    best, lead = best_and_lead(scores)
    rows, cols, inside = scene_pixels_of_tile(scene, item, 256)
    np.testing.assert_array_equal(mask == 255, inside)
    sure = inside & (lead[rows, cols] > 1e-4)
    assert sure.sum() > 3000 and len(np.unique(best)) == 4
    np.testing.assert_array_equal(classes[sure], best[rows, cols][sure])
    served.extension.engine.close()


@pytest.mark.parametrize("count", [*COUNTS[:-1], pytest.param(COUNTS[-1], marks=pytest.mark.slow)])
def test_bands_are_found_by_name_whatever_their_order(tmp_path: Path, count: int) -> None:
    names = [f"E{number:02d}" for number in range(count)]
    order = np.random.default_rng(3).permutation(count)
    pixels = spectrum(count)
    scene = write_scene(tmp_path / "s.tif", pixels[order], descriptions=[names[index] for index in order])
    model = network(tmp_path / "m", names)
    check(host({"m": model}), model, scene, pixels)


@pytest.mark.slow
@pytest.mark.parametrize("count", COUNTS)
def test_bands_without_names_are_taken_in_order(tmp_path: Path, count: int) -> None:
    pixels = spectrum(count)
    scene = write_scene(tmp_path / "s.tif", pixels, photometric="minisblack", interleave="pixel")
    model = network(tmp_path / "m", [f"B{number + 1}" for number in range(count)])
    check(host({"m": model}), model, scene, pixels)


def test_some_bands_of_many_are_found_by_name(tmp_path: Path) -> None:
    names = [f"A{number:02d}" for number in range(64)]
    pixels = spectrum(64)
    scene = write_scene(tmp_path / "s.tif", pixels, descriptions=names)
    chosen = [40, 3, 17, 63, 3]
    model = network(tmp_path / "m", [names[index] for index in chosen])
    check(host({"m": model}), model, scene, pixels[chosen])


@pytest.mark.parametrize(("given", "query"), [(["1", "1", "1"], {}), (["red", "green", "blue"], {"bidx": [1, 1, 1]})])
def test_one_band_may_be_fed_three_times(tmp_path: Path, given: list[str], query: dict[str, Any]) -> None:
    pixels = spectrum(1)
    scene = write_scene(tmp_path / "s.tif", pixels)
    model = network(tmp_path / "m", given)
    check(host({"m": model}), model, scene, pixels[[0, 0, 0]], **query)


def test_numbers_that_are_not_just_counted_are_places_in_the_scene(tmp_path: Path) -> None:
    pixels = spectrum(9)
    scene = write_scene(tmp_path / "s.tif", pixels, photometric="minisblack")
    model = network(tmp_path / "m", ["4", "3", "2", "8"])
    check(host({"m": model}), model, scene, pixels[[3, 2, 1, 7]])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "query", "word"),
    [
        (["1", "2", "3"], {}, "wants 3 bands"),  # they only count, and the scene has four
        (["9", "3", "2"], {}, "bands 9, 3, 2 were given"),
        (["4", "3", "2"], {"bidx": [1, 1]}, "bands 1, 1 were given"),
        (["1", "1", "1"], {"bidx": [1, 1, 5]}, "bands 1, 1, 5 were given"),
    ],
)
def test_bands_that_nobody_should_guess_are_refused(
    tmp_path: Path, names: list[str], query: dict[str, Any], word: str
) -> None:
    scene = write_scene(tmp_path / "s.tif", spectrum(4), photometric="minisblack")
    made = host({"m": network(tmp_path / "m", names)})
    item = tiles_over(scene)[0]
    answer = made.get(f"m/tiles/WebMercatorQuad/{item.z}/{item.x}/{item.y}.png", scene, **query)
    assert answer.status_code == 422 and word in answer.json()["detail"], answer.text
    made.extension.engine.close()
