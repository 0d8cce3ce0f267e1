"""Tiles of labels and of errors: every pixel is that of the place at its centre, in the model's colours."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from numpy.typing import NDArray
from pyproj import Transformer
from starlette.testclient import TestClient

from tests.tiler.controlled import CLASSES, World, world
from tests.tiler.helpers import MERCATOR, RES, rgba, tiles_over, write_scene
from tiler.app import create_app
from tiler.settings import Settings

HEIGHT, WIDTH = 300, 330
PLACE = Affine(RES, 0, 1000.0, 0, -RES, 5000.0)
# Labels of 2.3 grid pixels, which begin inside of the scene and end outside of it.
LABELS = PLACE * Affine.translation(30.3, 41.2) * Affine.scale(2.3)
MEANS = {1: "a", 2: "b", 3: ["c", "d"], 4: "e"}
MEANING = np.array([-1, 0, 1, 2, 3, -1, -1], np.int64)  # of 0 (nodata), 1 .. 4, 5 (unknown), 6 (ignored)
OF_CLASS = np.array([0, 1, 2, 2, 3])
MISSED, FALSE = (0, 114, 178, 255), (213, 94, 0, 255)
IMMUTABLE = "public, max-age=31536000, immutable"
SHORT = "public, max-age=60"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"), HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def values() -> NDArray[np.uint8]:
    random = np.random.default_rng(3)
    return random.integers(0, 7, (25, 33)).repeat(6, axis=0).repeat(6, axis=1).astype(np.uint8)


@pytest.fixture(scope="module")
def labels(values: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("labels") / "labels.tif"
    return write_scene(path, values[None], transform=LABELS, nodata=0)


@pytest.fixture(scope="module")
def client(place: World, labels: Path) -> Iterator[TestClient]:
    scene = {"path": str(place.scene), "labels": {"path": str(labels), "classes": MEANS, "ignore": [6]}}
    settings = Settings(scenes={"field": scene}, models={"cover": str(place.folder)}, max_tile_pixels=1024 * 1024)
    with TestClient(create_app(settings)) as made:
        yield made


@pytest.fixture(scope="module")
def colours(client: TestClient) -> NDArray[np.int64]:
    """[judged class, 4]; the third is the group of c and d, which has the colour of c."""
    legend = client.get("/field/cover/legend.json").json()
    every = [[*bytes.fromhex(entry["color"][1:]), 255] for entry in legend]
    return np.array([every[0], every[1], every[2], every[4]])


def looked_up(raster: NDArray[Any], transform: Affine, tile: Any, size: int, outside: int) -> NDArray[np.int64]:
    """The raster's value under every pixel centre of a tile."""
    left, bottom, right, top = MERCATOR.xy_bounds(tile)
    across = (np.arange(size) + 0.5) / size
    xs, ys = np.meshgrid(left + across * (right - left), top - across * (top - bottom))
    cols, rows = ~transform * (xs, ys)
    cols, rows = np.floor(cols + 1e-6).astype(int), np.floor(rows + 1e-6).astype(int)
    height, width = raster.shape
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
    return np.where(inside, raster[np.where(inside, rows, 0), np.where(inside, cols, 0)], outside)


@pytest.fixture(scope="module", params=[(17, ""), (18, ""), (19, ""), (18, "@2x")], ids=str)
def tile(request: pytest.FixtureRequest, place: World, values: NDArray[np.uint8]) -> tuple[str, Any, Any]:
    """Path of a tile, and judged truth and prediction under its pixels, -1 where there is none."""
    zoom, scale = request.param
    item = tiles_over(place.scene, zoom)[-1 if zoom < 18 else 0]
    size = 512 if scale else 256
    truth = MEANING[looked_up(values, LABELS, item, size, 0)]
    predicted = looked_up(OF_CLASS[place.expected], PLACE, item, size, -1)
    return f"{item.z}/{item.x}/{item.y}{scale}.png", truth, predicted


@pytest.mark.slow
def test_labels_are_drawn_in_the_models_colours(client: TestClient, tile: Any, colours: NDArray[np.int64]) -> None:
    path, truth, _ = tile
    answer = client.get(f"/field/labels/{path}?model=cover")
    assert answer.status_code == 200 and answer.headers["content-type"] == "image/png", answer.text
    expected = np.where((truth >= 0)[..., None], colours[truth], 0)
    assert (truth >= 0).any() and (truth < 0).any()
    np.testing.assert_array_equal(rgba(answer.content), expected)
    assert client.get(f"/field/labels/{path}").content == answer.content


def test_errors_are_the_truths_colour_or_the_predictions(
    client: TestClient, tile: Any, colours: NDArray[np.int64]
) -> None:
    path, truth, predicted = tile
    wrong = (truth >= 0) & (predicted >= 0) & (truth != predicted)
    assert wrong.any() and ((truth == predicted) & (truth >= 0)).any()
    for by, shown in (("truth", truth), ("prediction", predicted)):
        answer = client.get(f"/field/cover/errors/{path}?by={by}")
        assert answer.status_code == 200, answer.text
        np.testing.assert_array_equal(rgba(answer.content), np.where(wrong[..., None], colours[shown], 0))
    # The default pair, in the short form.
    assert client.get(f"/errors/{path}").content == client.get(f"/field/cover/errors/{path}").content


@pytest.mark.parametrize(("name", "places"), [("a", [0]), ("d", [2]), ("a,e", [0, 3])])
def test_of_a_class_missed_and_false_are_told_apart(client: TestClient, tile: Any, name: str, places: Any) -> None:
    path, truth, predicted = tile
    both, drawn, seen = (truth >= 0) & (predicted >= 0), np.isin(truth, places), np.isin(predicted, places)
    expected = np.zeros((*truth.shape, 4))
    expected[both & drawn & ~seen] = MISSED
    expected[both & ~drawn & seen] = FALSE
    answer = client.get(f"/field/cover/errors/{path}?class={name}")
    np.testing.assert_array_equal(rgba(answer.content), expected)


@pytest.mark.slow
def test_what_an_error_tile_shows_is_what_an_accuracy_counts(client: TestClient, place: World) -> None:
    """At the labels' own pixels: wrong ones by the tiles are the matrix's off the diagonal."""
    found = client.post("/field/cover/accuracy").json()
    counts = np.array(found["confusion_matrix"])
    rows, cols = np.indices((150, 198))
    xs, ys = LABELS * (cols + 0.5, rows + 0.5)
    wrong = 0
    # A zoom at which no tile pixel is wider than a label pixel; the one over a label pixel's centre is what counts.
    for item in tiles_over(place.scene, 20):
        left, bottom, right, top = MERCATOR.xy_bounds(item)
        inside = (xs >= left) & (xs < right) & (ys <= top) & (ys > bottom)
        if not inside.any():
            continue
        picture = rgba(client.get(f"/field/cover/errors/{item.z}/{item.x}/{item.y}@4x.png").content)
        size = picture.shape[0]
        across = ((xs[inside] - left) / (right - left) * size).astype(int)
        down = ((top - ys[inside]) / (top - bottom) * size).astype(int)
        wrong += int((picture[down, across, 3] > 0).sum())
    assert wrong == pytest.approx(counts.sum() - np.trace(counts), rel=0.01) and wrong > 1000


def test_legends(client: TestClient) -> None:
    cover = {entry["name"]: entry["color"] for entry in client.get("/field/cover/legend.json").json()}
    assert client.get("/field/labels/legend.json?model=cover").json() == [
        {"value": 0, "name": "a", "color": cover["a"], "labels": [1]},
        {"value": 1, "name": "b", "color": cover["b"], "labels": [2]},
        {"value": 2, "name": "c + d", "color": cover["c"], "labels": [3]},
        {"value": 4, "name": "e", "color": cover["e"], "labels": [4]},
    ]
    wrong = client.get("/field/cover/errors/legend.json").json()
    assert [entry["name"] for entry in wrong] == ["a", "b", "c + d", "e"] and wrong[0]["color"] == cover["a"]
    assert [
        (entry["name"], entry["color"], entry["meaning"])
        for entry in client.get("/field/cover/errors/legend.json?class=a").json()
    ] == [("missed", "#0072b2", "a, but predicted otherwise"), ("false", "#d55e00", "predicted a, but is not")]


def test_clients_keep_tiles_as_long_as_their_address_says(client: TestClient, labels: Path, tile: Any) -> None:
    path = tile[0]
    (pair,) = client.get("/api/pairs").json()
    version, revision = pair["labels_version"], client.post("/accuracy").headers["x-revision"]
    for base, pinned in (("field/labels", "field/labels"), ("field/cover/errors", f"field/cover@{revision}/errors")):
        plain = client.get(f"/{base}/{path}")
        assert plain.headers["cache-control"] == SHORT
        kept = client.get(f"/{pinned}/{path}?v={version}")
        assert kept.headers["cache-control"] == IMMUTABLE and kept.headers["etag"] == plain.headers["etag"]
        assert client.get(f"/{pinned}/{path}?v=000000000000").headers["cache-control"] == SHORT
        again = client.get(f"/{base}/{path}", headers={"If-None-Match": plain.headers["etag"]})
        assert again.status_code == 304 and not again.content
    other = client.get(f"/field/cover/errors/{path}?class=a").headers["etag"]
    assert other != client.get(f"/field/cover/errors/{path}").headers["etag"]


@pytest.mark.slow
def test_a_changed_file_is_another_version_at_once(place: World, values: NDArray[np.uint8], tmp_path: Path) -> None:
    path = write_scene(tmp_path / "labels.tif", values[None], transform=LABELS, nodata=0)
    scene = {"path": str(place.scene), "labels": {"path": str(path), "classes": MEANS, "ignore": [6]}}
    item = tiles_over(place.scene)[0]
    with TestClient(create_app(Settings(scenes={"f": scene}, models={"cover": str(place.folder)}))) as client:
        address = f"/f/labels/{item.z}/{item.x}/{item.y}.png"
        before, old = client.get(address), client.get("/api/pairs").json()[0]["labels_version"]
        write_scene(path, np.roll(values, 7, axis=1)[None], transform=LABELS, nodata=0)
        after, new = client.get(address), client.get("/api/pairs").json()[0]["labels_version"]
        assert before.content != after.content and old != new
        assert before.headers["etag"] != after.headers["etag"]


def test_below_the_lowest_zoom_and_beside_the_labels_tiles_are_transparent(client: TestClient, place: World) -> None:
    x, y = Transformer.from_crs(3857, 4326, always_xy=True).transform(1100.0, 4950.0)
    far = MERCATOR.tile(x, y, 12)
    for base in ("field/labels", "field/cover/errors"):
        answer = client.get(f"/{base}/{far.z}/{far.x}/{far.y}.png")
        assert answer.headers["x-inference"] == "zoom-in" and answer.headers["cache-control"] == SHORT
        assert rgba(answer.content).shape == (256, 256, 4) and not rgba(answer.content).any()
        beside = client.get(f"/{base}/18/5/5.png")
        assert beside.status_code == 200 and not rgba(beside.content).any()
        assert client.get(f"/{base}/3/99/0.png").status_code == 400
    assert client.get("/field/labels/18/5/5.png?model=nobody").status_code == 404
    assert client.get("/field/cover/errors/18/5/5.png?class=nothing").status_code == 400
    assert client.get("/field/cover/errors/18/5/5.png?output=confidence").status_code == 400
    assert len(CLASSES) == 5


def test_openapi_describes_them(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    for path, method in (
        ("/{scene}/labels/{z}/{x}/{y}.png", "get"),
        ("/{scene}/labels/legend.json", "get"),
        ("/{scene}/{model}/errors/{z}/{x}/{y}.png", "get"),
        ("/{scene}/{model}/errors/legend.json", "get"),
        ("/{scene}/{model}/accuracy", "post"),
        ("/{scene}/{model}/areas", "post"),
        ("/accuracy", "post"),
    ):
        assert paths[path][method]["description"], path
    ids = [spec["operationId"] for methods in paths.values() for spec in methods.values()]
    assert len(ids) == len(set(ids))
