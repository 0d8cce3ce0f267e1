"""output=class_confidence: what the page's shader reads, equal to the class and confidence that others are told."""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_registry.testing import conv_chain, passthrough, write_model
from tests.tiler.helpers import RES, Host, host, landscape, tiles_over, write_scene

PIXELS = landscape(200, 300)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mask = np.ones((200, 300), bool)
    mask[40:90, 60:120] = False
    return write_scene(tmp_path_factory.mktemp("two") / "scene.tif", PIXELS, mask=mask)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder, window = tmp_path_factory.mktemp("models"), {"multiple": 1, "period": 1, "halo": 1}
    options = {"gsd": round(RES, 4), "window": window, "exactness": "exact"}
    made = host(
        {
            "cover": write_model(folder / "cover", conv_chain(layers=1, classes=5), classes=list("abcde"), **options),
            "mask": write_model(
                folder / "mask",
                conv_chain(layers=1, classes=1),
                classes=["no", "yes"],
                output={"activation": "sigmoid"},
                **options,
            ),
        }
    )
    yield made
    made.extension.engine.close()


def bands(content: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(content))
    assert image.mode == "RGB", "an alpha channel would be multiplied into the numbers by browsers"
    return np.moveaxis(np.asarray(image), -1, 0)


@pytest.mark.parametrize("model", ["cover", "mask"])
@pytest.mark.parametrize("ending", [".png", "@2x.png", ".webp"])
def test_red_is_the_class_green_the_confidence_blue_whether_there_is_any(
    served: Host, scene: Path, model: str, ending: str
) -> None:
    tile = tiles_over(scene)[0]
    where = f"{model}/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}"
    answer = served.get(where + ending, scene, output="class_confidence")
    assert answer.status_code == 200, answer.text
    red, green, blue = bands(answer.content)
    scale = ending.replace(".png", "").replace(".webp", "") + ".npy"
    classes, valid = served.npy(where + scale, scene, output="class")
    confidence, _ = served.npy(where + scale, scene, output="confidence")
    np.testing.assert_array_equal(blue > 0, valid > 0)
    assert set(np.unique(blue)) == {0, 255}
    np.testing.assert_array_equal(red, classes * (valid > 0))
    np.testing.assert_array_equal(green, np.round(confidence * 254) * (valid > 0))
    assert len(np.unique(green)) > 10 and green.max() < 255


def test_no_chunk_lets_a_browser_manage_colours(served: Host, scene: Path) -> None:
    tile = tiles_over(scene)[0]
    where = f"cover/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.png"
    content = served.get(where, scene, output="class_confidence").content
    kinds, place = [], 8
    while place < len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        kinds.append(content[place + 4 : place + 8])
        assert zlib.crc32(content[place + 4 : place + 8 + length]) == int.from_bytes(
            content[place + 8 + length : place + 12 + length], "big"
        )
        place += 12 + length
    assert set(kinds) == {b"IHDR", b"IDAT", b"IEND"}


def test_numbers_at_a_point_and_what_has_no_meaning(served: Host, scene: Path) -> None:
    told = served.get("cover/point/0.00907,0.0448", scene, output="class_confidence").json()
    whole = served.get("cover/point/0.00907,0.0448", scene, output="probability").json()
    assert told["values"][1] < 1
    assert told["values"][0] == int(np.argmax(whole["values"])) and told["values"][1] == pytest.approx(
        max(whole["values"]), abs=1e-3
    )
    tile = tiles_over(scene)[0]
    where = f"cover/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.png"
    for params in ({"rescale": "0,1"}, {"colormap": '{"0": "#ff0000"}'}):
        refused = served.get(where, scene, output="class_confidence", **params)
        assert refused.status_code == 400 and "output" in refused.json()["detail"]


@pytest.mark.slow
def test_a_model_that_answers_numbers_only_says_that_its_confidence_is_not_known(tmp_path: Path) -> None:
    pixels = np.arange(200 * 300).reshape(1, 200, 300).astype(np.uint8) % 4
    scene, listed = write_scene(tmp_path / "scene.tif", pixels), [str(number) for number in range(256)]
    options = {"bands": ["x"], "scaling": None, "output": {"emits": "labels"}, "gsd": round(RES, 4)}
    options |= {"window": {"multiple": 1, "period": 1, "halo": 0}, "exactness": "exact"}
    served = host({"labels": write_model(tmp_path / "labels", passthrough(), classes=listed, **options)})
    tile = tiles_over(scene)[0]
    where = f"labels/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}"
    answer = served.get(where + ".png", scene, output="class_confidence")
    assert answer.status_code == 200, answer.text
    red, green, blue = bands(answer.content)
    classes, sure, valid = served.npy(where + ".npy", scene, output="class_confidence")
    np.testing.assert_array_equal(red, classes * (valid > 0))
    assert (sure[valid > 0] == -1).all() and set(np.unique(red[blue > 0])) == {0, 1, 2, 3}
    assert (green[blue > 0] == 255).all() and (blue > 0).any()
    served.extension.engine.close()
