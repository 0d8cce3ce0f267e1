"""Accuracy and areas over HTTP: the numbers are scikit-learn's on pixels that this file samples on its own."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from fastapi import FastAPI, Header, HTTPException
from numpy.typing import NDArray
from pydantic import ValidationError
from pyproj import Geod, Transformer
from sklearn import metrics
from starlette.testclient import TestClient
from titiler.core.factory import TilerFactory

from tests.tiler.controlled import CLASSES, World, at_rest, until, world
from tests.tiler.helpers import RES, tiles_over, write_scene
from tests.tiler.servers import answer_of, call, foreign, serving, standalone
from tiler.app import create_app
from tiler.areas import area_of
from tiler.errors import RequestError
from tiler.extension import inferenceExtension
from tiler.grid import centres, footprint
from tiler.scene import open_scene
from tiler.settings import Settings
from tiler.values import View

HEIGHT, WIDTH = 300, 330
PLACE = Affine(RES, 0, 1000.0, 0, -RES, 5000.0)
# What label numbers mean: 10 * (class + 1); "e" has none. 7 is unknown, 99 ignored, 255 nodata.
MEANS = {10: "a", 20: "B", 30: 2, 40: "d"}
MEASURES = ("precision", "recall", "f1", "iou")


@dataclass
class Drawn:
    """A label raster of this file's own."""

    path: Path
    values: NDArray[Any]
    crs: str
    transform: Affine

    def under(self, expected: NDArray[np.int64]) -> NDArray[np.int64]:
        """Class under the centre of every label pixel, by pyproj and a floor; -1 outside of the scene."""
        rows, cols = np.indices(self.values.shape)
        xs, ys = self.transform * (cols + 0.5, rows + 0.5)
        if self.crs != "EPSG:3857":
            xs, ys = Transformer.from_crs(self.crs, "EPSG:3857", always_xy=True).transform(xs, ys)
        across, down = ~PLACE * (xs, ys)
        # On a border: the pixel to the right, or below.
        across, down = np.floor(across + 1e-6).astype(int), np.floor(down + 1e-6).astype(int)
        inside = (across >= 0) & (across < WIDTH) & (down >= 0) & (down < HEIGHT)
        return np.where(inside, expected[np.where(inside, down, 0), np.where(inside, across, 0)], -1)


def draw(folder: Path, name: str, expected: NDArray[np.int64], crs: str, transform: Affine, shape: Any, **more: Any):
    """Labels that are right for four of five pixels, with some unknown, ignored and empty ones."""
    random = np.random.default_rng(len(name))
    drawn = Drawn(folder / f"{name}.tif", np.zeros(shape, np.uint8), crs, transform)
    under = drawn.under(expected)
    truth = np.where(random.random(shape) < 0.2, random.integers(0, 4, shape), under)
    values = np.choose(np.clip(truth, 0, 4), [10, 20, 30, 40, 10]).astype(np.uint8)
    for share, number in ((0.05, 7), (0.05, 99), (0.05, 255)):
        values[random.random(shape) < share] = number
    write_scene(drawn.path, values[None], crs=crs, transform=transform, nodata=255, **more)
    drawn.values = values
    return drawn


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> World:
    return world(tmp_path_factory.mktemp("world"), HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def drawn(place: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Drawn]:
    folder = tmp_path_factory.mktemp("labels")
    west, north = Transformer.from_crs(3857, 4326, always_xy=True).transform(1000.0, 5000.0)
    left, top = _offset("EPSG:32631", 1000.0, 5000.0)
    step = RES * 360 / (2 * math.pi * 6378137)
    return {
        "same": draw(folder, "same", place.expected, "EPSG:3857", PLACE, (HEIGHT, WIDTH)),
        # Three label pixels per grid pixel, beginning elsewhere and ending before the scene does.
        "finer": draw(
            folder, "finer", place.expected, "EPSG:3857",
            PLACE * Affine.translation(20.1, 31.2) * Affine.scale(0.3), (500, 450),
        ),
        "coarser": draw(
            folder, "coarser", place.expected, "EPSG:3857",
            PLACE * Affine.translation(-12.3, 7.1) * Affine.scale(4.23), (90, 60),
        ),
        # Every centre is a corner of four grid pixels.
        "double": draw(folder, "double", place.expected, "EPSG:3857", PLACE * Affine.scale(2), (150, 165)),
        # Another CRS, rows from the south.
        "degrees": draw(
            folder, "degrees", place.expected, "EPSG:4326",
            Affine(step, 0, west + 5.3 * step, 0, step, north - 280.4 * step), (270, 340),
        ),
        "utm": draw(
            folder, "utm", place.expected, "EPSG:32631",
            Affine(0.7, 0, left, 0, -0.7, top),
            (250, 280),
        ),
    }  # fmt: skip


def _offset(crs: str, x: float, y: float) -> tuple[float, float]:
    return Transformer.from_crs(3857, crs, always_xy=True).transform(x, y)


@pytest.fixture(scope="module")
def client(place: World, drawn: dict[str, Drawn]) -> Iterator[TestClient]:
    scenes = {
        name: {
            "path": str(place.scene),
            "labels": {"path": str(item.path), "title": f"Drawn {name}", "classes": MEANS, "ignore": [99]},
        }
        for name, item in drawn.items()
    }
    scenes["bare"] = {"path": str(place.scene)}
    with TestClient(create_app(Settings(scenes=scenes, models={"cover": str(place.folder)}))) as made:
        yield made


def expected_of(item: Drawn, place: World, inside: NDArray[np.bool_] | None = None) -> tuple[Any, Any]:
    """(truth, prediction) of the pixels that are judged."""
    under, sure = item.under(place.expected), item.under((place.lead > 1e-4).astype(np.int64)) == 1
    assert (sure | (under < 0)).mean() > 0.99
    judged = np.isin(item.values, [10, 20, 30, 40]) & (under >= 0)
    if inside is not None:
        judged &= inside
    return item.values[judged] // 10 - 1, under[judged]


def same(found: float | None, wanted: float) -> bool:
    return math.isnan(wanted) if found is None else found == pytest.approx(float(wanted), abs=1e-12)


def check(found: dict[str, Any], truth: Any, predicted: Any) -> None:
    """Every number against scikit-learn."""
    numbers = list(range(len(CLASSES)))
    assert found["confusion_matrix"] == metrics.confusion_matrix(truth, predicted, labels=numbers).tolist()
    assert same(found["overall_accuracy"], metrics.accuracy_score(truth, predicted))
    assert same(found["kappa"], metrics.cohen_kappa_score(truth, predicted))
    present = sorted(set(truth) | set(predicted))
    for average in (None, "macro", "weighted"):
        options: Any = {"average": average, "labels": numbers if average is None else present}
        precision, recall, f1, _ = metrics.precision_recall_fscore_support(
            truth, predicted, zero_division=np.nan, **options
        )
        iou = metrics.jaccard_score(truth, predicted, **options, zero_division=0)
        wanted = dict(zip(MEASURES, (precision, recall, f1, iou), strict=True))
        if average is None:
            for entry in found["classes"]:
                for name in MEASURES:
                    if name == "iou" and entry["value"] not in present:
                        assert entry["iou"] is None
                    else:
                        assert same(entry[name], wanted[name][entry["value"]]), (name, entry)
        else:
            assert all(same(found[average][name], wanted[name]) for name in MEASURES), (average, found[average], wanted)
    assert same(found["mean_iou"], metrics.jaccard_score(truth, predicted, average="macro", labels=present))
    assert [entry["support"] for entry in found["classes"]] == np.bincount(truth, minlength=5).tolist()
    assert [entry["predicted"] for entry in found["classes"]] == np.bincount(predicted, minlength=5).tolist()


@pytest.mark.parametrize("name", ["same", "finer", "coarser", "double", "degrees", "utm"])
def test_numbers_are_scikit_learns(client: TestClient, place: World, drawn: dict[str, Drawn], name: str) -> None:
    answer = client.post(f"/{name}/cover/accuracy")
    assert answer.status_code == 200, answer.text
    found, item = answer.json(), drawn[name]
    truth, predicted = expected_of(item, place)
    check(found, truth, predicted)
    assert 0.5 < found["overall_accuracy"] < 0.6
    assert [entry["name"] for entry in found["classes"]] == CLASSES
    assert [entry["labels"] for entry in found["classes"]] == [[10], [20], [30], [40], []]
    assert answer.headers["cache-control"] == "no-store" and answer.headers["x-revision"] in found["model"]
    # What is not judged is counted, in the part of the labels that may overlap the scene.
    pixels = found["pixels"]
    assert pixels["judged"] == len(truth)
    assert sum(pixels.values()) == 2 * pixels["total"]
    if name in ("same", "finer"):
        for kind, number in (("unknown", 7), ("ignored", 99), ("unlabelled", 255)):
            assert pixels[kind] == (item.values == number).sum()
        assert found["unknown_labels"] == [{"value": 7, "pixels": pixels["unknown"]}]
        assert pixels["no_prediction"] == 0
    if name == "same":
        assert found["labels"]["title"] == "Drawn same" and len(found["labels"]["version"]) == 12


def test_hectares_are_those_of_the_ellipsoid(client: TestClient, drawn: dict[str, Drawn]) -> None:
    for name in ("same", "utm"):
        found, item = client.post(f"/{name}/cover/accuracy").json(), drawn[name]
        height, width = item.values.shape
        corners = [item.transform * corner for corner in ((0, 0), (width, 0), (width, height), (0, height))]
        lons, lats = Transformer.from_crs(item.crs, 4326, always_xy=True).transform(*zip(*corners, strict=True))
        area = abs(Geod(ellps="WGS84").polygon_area_perimeter(lons, lats)[0]) / 1e4 / (height * width)
        assert found["hectares"]["judged"] == pytest.approx(found["pixels"]["judged"] * area, rel=1e-5)
        assert sum(entry["support_ha"] for entry in found["classes"]) == pytest.approx(found["hectares"]["judged"])
        assert sum(entry["predicted_ha"] for entry in found["classes"]) == pytest.approx(found["hectares"]["judged"])


def triangle(transform: Affine, *pixels: tuple[float, float]) -> list[tuple[float, float]]:
    """Corners in degrees, by columns and rows of a raster in EPSG:3857."""
    xs, ys = zip(*(transform * pixel for pixel in (*pixels, pixels[0])), strict=True)
    return list(zip(*Transformer.from_crs(3857, 4326, always_xy=True).transform(xs, ys), strict=True))


def centre_in(shape: tuple[int, int], corners: list[tuple[float, float]]) -> NDArray[np.bool_]:
    """Pixels whose centre lies in a convex polygon of columns and rows."""
    rows, cols = np.indices(shape) + 0.5
    sides = [
        (x1 - x0) * (rows - y0) - (y1 - y0) * (cols - x0)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True)
    ]
    return np.logical_or(np.all([side > 0 for side in sides], axis=0), np.all([side < 0 for side in sides], axis=0))


def test_a_polygon_counts_the_pixels_whose_centre_is_inside(
    client: TestClient, place: World, drawn: dict[str, Drawn]
) -> None:
    item = drawn["finer"]
    corners = [(10.3, 20.2), (400.7, 55.1), (90.2, 470.9)]
    ring = triangle(item.transform, *corners)
    geometry = {"type": "Polygon", "coordinates": [ring]}
    truth, predicted = expected_of(item, place, centre_in(item.values.shape, corners))
    bodies: list[Any] = [
        geometry,
        {"type": "Feature", "properties": {}, "geometry": geometry},
        {"type": "FeatureCollection", "features": [{"type": "Feature", "properties": {}, "geometry": geometry}]},
        {"type": "MultiPolygon", "coordinates": [[ring]]},
    ]
    for body in bodies:
        answer = client.post("/finer/cover/accuracy", json=body)
        assert answer.status_code == 200, answer.text
        check(answer.json(), truth, predicted)


def test_a_bbox_is_a_polygon_too(client: TestClient, place: World, drawn: dict[str, Drawn]) -> None:
    item = drawn["same"]
    (west, north), (east, south) = item.transform * (40.4, 30.4), item.transform * (200.6, 170.6)
    corners = [(40.4, 30.4), (200.6, 30.4), (200.6, 170.6), (40.4, 170.6)]
    truth, predicted = expected_of(item, place, centre_in((HEIGHT, WIDTH), corners))
    answer = client.post(
        f"/same/cover/accuracy?bbox={west},{south},{east},{north}&coord_crs=http://www.opengis.net/def/crs/EPSG/0/3857"
    )
    assert answer.status_code == 200, answer.text
    check(answer.json(), truth, predicted)
    west, north = _offset("EPSG:4326", west, north)
    east, south = _offset("EPSG:4326", east, south)
    assert (
        client.post(f"/same/cover/accuracy?bbox={west},{south},{east},{north}").json()["confusion_matrix"]
        == (answer.json()["confusion_matrix"])
    )


def test_only_cells_under_labels_that_count_are_inferred(place: World, tmp_path: Path) -> None:
    values = np.full((1, HEIGHT, WIDTH), 255, np.uint8)
    values[0, 100:104, 200:204] = 1
    labels = write_scene(tmp_path / "few.tif", values, nodata=255)
    made = standalone(place, scenes={"field": {"path": str(place.scene), "labels": str(labels)}})
    with TestClient(made.app) as client:
        before = made.engine.counters.inferred
        found = client.post("/field/cover/accuracy").json()
        assert found["pixels"]["judged"] == 16 and found["classes"][1]["support"] == 16
        assert 1 <= made.engine.counters.inferred - before <= 4


def test_blocks_give_what_one_block_gives(
    client: TestClient, drawn: dict[str, Drawn], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("same", "double", "coarser", "degrees"):
        whole = client.post(f"/{name}/cover/accuracy").json()
        with monkeypatch.context() as patch:
            patch.setattr("tiler.survey.BLOCK", 37)
            parts = client.post(f"/{name}/cover/accuracy").json()
        hectares = whole.pop("hectares"), parts.pop("hectares")
        assert hectares[0] == pytest.approx(hectares[1], rel=1e-5)
        for entries in zip(whole.pop("classes"), parts.pop("classes"), strict=True):
            assert entries[0]["support_ha"] == pytest.approx(entries[1]["support_ha"], rel=1e-5)
        assert whole == parts


def test_a_threshold_leaves_pixels_without_a_prediction(client: TestClient, drawn: dict[str, Drawn]) -> None:
    whole = client.post("/same/cover/accuracy").json()
    found = client.post("/same/cover/accuracy?threshold=0.4").json()
    lost = found["pixels"]["no_prediction"]
    assert 0 < lost < whole["pixels"]["judged"]
    assert found["pixels"]["judged"] + lost == whole["pixels"]["judged"]
    assert sum(entry["no_prediction"] for entry in found["classes"]) == lost


def test_labels_where_the_scene_has_no_data_have_no_prediction(place: World, tmp_path: Path) -> None:
    pixels = np.full((3, 64, 64), 90, np.uint8)
    pixels[:, :, 40:] = 0
    scene = write_scene(tmp_path / "half.tif", pixels, nodata=0)
    labels = write_scene(tmp_path / "labels.tif", np.zeros((1, 64, 64), np.int16))
    settings = Settings(
        scenes={"half": {"path": str(scene), "labels": str(labels)}}, models={"cover": str(place.folder)}
    )
    with TestClient(create_app(settings)) as client:
        found = client.post("/half/cover/accuracy").json()
    assert found["pixels"] == {
        "judged": 64 * 40, "unlabelled": 0, "ignored": 0, "unknown": 0, "no_prediction": 64 * 24, "total": 64 * 64,
    }  # fmt: skip
    assert found["classes"][0]["no_prediction"] == 64 * 24


@pytest.mark.slow
def test_one_label_for_several_classes(place: World, drawn: dict[str, Drawn], tmp_path: Path) -> None:
    """Labels of water and no water judge a model of five classes: the others are one class, and no confusion."""
    item = drawn["same"]
    binary = np.where(item.values == 255, 255, (item.values == 10).astype(np.uint8)).astype(np.uint8)
    labels = write_scene(tmp_path / "binary.tif", binary[None], nodata=255)
    judged = {"other": {1: "a", 0: "*"}, "b + c + d + e": {1: "a", 0: ["b", "c", 3, "e"]}}
    scenes = {
        f"f{number}": {"path": str(place.scene), "labels": {"path": str(labels), "classes": classes}}
        for number, classes in enumerate(judged.values())
    }
    with TestClient(create_app(Settings(scenes=scenes, models={"cover": str(place.folder)}))) as client:
        for scene, name in zip(scenes, judged, strict=True):
            found = client.post(f"/{scene}/cover/accuracy").json()
            assert [(entry["name"], entry["labels"]) for entry in found["classes"]] == [("a", [1]), (name, [0])]
            known = binary != 255
            truth, predicted = binary[known] == 1, place.expected[known] == 0
            assert (
                found["confusion_matrix"] == metrics.confusion_matrix(truth, predicted, labels=[True, False]).tolist()
            )
            assert same(found["classes"][0]["iou"], metrics.jaccard_score(truth, predicted))
            assert same(found["kappa"], metrics.cohen_kappa_score(truth, predicted))


NINE = (1, 9, 9)
UNUSABLE: list[tuple[Any, dict[str, Any], str]] = [
    ({"pixels": np.ones((2, 9, 9), np.uint8)}, {}, "2 bands"),
    ({"pixels": np.ones(NINE, np.float32)}, {}, "float32"),
    ({"pixels": np.ones(NINE, np.uint8), "crs": None}, {}, "no coordinate reference system"),
    ({"pixels": np.ones(NINE, np.uint8), "transform": Affine(1, 0, 9e5, 0, -1, 9e5)}, {}, "do not overlap"),
    ({"pixels": np.ones(NINE, np.uint8), "transform": Affine(1, 0.2, 1e3, 0, -1, 5e3)}, {}, "rotated"),
    ({"pixels": np.ones(NINE, np.uint8)}, {"classes": {1: "wather"}}, "'wather' is not a class"),
    ({"pixels": np.ones(NINE, np.uint8)}, {"classes": {1: ["a", "b"], 2: "b"}}, "shares the class 'b'"),
    ({"pixels": np.ones(NINE, np.uint8)}, {"classes": {1: ["a", "b", "c", "d", "e"], 2: "*"}}, "stands for nothing"),
    (None, {}, "cannot be opened"),
]


def test_labels_that_cannot_be_used_are_refused_with_a_reason(place: World, tmp_path: Path) -> None:
    """At their first use, and /api/pairs says so before; the server starts, and the pair's tiles are served."""
    scenes = {}
    for number, (raster, settings, _) in enumerate(UNUSABLE):
        path = tmp_path / f"labels{number}.tif"
        if raster is not None:
            write_scene(path, raster["pixels"], **{key: value for key, value in raster.items() if key != "pixels"})
        scenes[f"scene{number}"] = {"path": str(place.scene), "labels": {"path": str(path), **settings}}
    with TestClient(create_app(Settings(scenes=scenes, models={"cover": str(place.folder)}))) as client:
        pairs = {pair["scene"]: pair for pair in client.get("/api/pairs").json()}
        assert len(pairs) == len(UNUSABLE)
        tile = next(iter(tiles_over(place.scene)))
        end = f"{tile.z}/{tile.x}/{tile.y}.png"
        for number, (_, _, reason) in enumerate(UNUSABLE):
            scene = f"scene{number}"
            assert pairs[scene]["labels"] is False and reason in pairs[scene]["labels_problem"]
            for answer in (
                client.post(f"/{scene}/cover/accuracy"),
                client.get(f"/{scene}/labels/{end}"),
                client.get(f"/{scene}/labels/legend.json"),
                client.get(f"/{scene}/cover/errors/{end}"),
            ):
                assert answer.status_code == 422, answer.text
                assert reason in answer.json()["detail"]
                assert str(tmp_path) not in answer.text and answer.headers["cache-control"] == "no-store"
        assert client.get(f"/scene0/cover/{end}").status_code == 200


@pytest.mark.parametrize(
    ("query", "body", "status", "reason"),
    [
        ("bbox=1,2,3", None, 400, "bbox='1,2,3'"),
        ("bbox=3,2,1,4", None, 400, "empty"),
        ("bbox=1e300,0,1e301,1", None, 400, "endless"),
        ("bbox=100,10,101,11", None, 404, "outside of the labels"),
        ("bbox=0,0,1,1", {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}, 400, "Give one"),
        ("", {"type": "Point", "coordinates": [0, 0]}, 400, "no polygon"),
        ("", {"type": "Feature", "geometry": None}, 400, "no polygon"),
        ("", {"type": "FeatureCollection", "features": []}, 400, "no polygon"),
        ("", {"type": "FeatureCollection", "features": 5}, 400, "no polygon"),
        ("", {"type": "Polygon", "coordinates": [[["a", 0], [1, 0], [1, 1], ["a", 0]]]}, 400, "no polygon"),
        ("", {"type": "Polygon", "coordinates": []}, 400, "no polygon"),
        ("", {"type": "Polygon", "coordinates": [[]]}, 400, "no polygon"),
        ("", {"type": "Polygon", "coordinates": [[[0, 0], [1, 0]]]}, 400, "no polygon"),
        ("", {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1e13], [0, 0]]]}, 400, "no polygon"),
        ("", {"type": "MultiPolygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}, 400, "no polygon"),
        ("output=probability", None, 400, "output="),
        ("class=a", None, 400, "class="),
    ],
)
def test_requests_that_mean_nothing_are_refused(
    client: TestClient, query: str, body: Any, status: int, reason: str
) -> None:
    answer = client.post(f"/same/cover/accuracy?{query}", json=body)
    assert answer.status_code == status, answer.text
    assert reason in answer.json()["detail"]
    assert answer.headers["cache-control"] == "no-store"


def test_collections_inside_of_collections_are_refused_however_deep() -> None:
    body: dict[str, Any] = {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1], [0, 0]]]}
    for _ in range(5000):
        body = {"type": "FeatureCollection", "features": [body]}
    with pytest.raises(RequestError, match="no polygon"):
        area_of(body, None, None)


def test_a_scene_without_labels_says_how_to_register_some(client: TestClient) -> None:
    for answer in (client.post("/bare/cover/accuracy"), client.get("/bare/labels/3/4/3.png")):
        assert answer.status_code == 404 and "scenes.NAME.labels" in answer.json()["detail"]
    assert client.post("/nowhere/cover/accuracy").status_code == 404
    assert client.post("/same/nobody/accuracy").status_code == 404
    assert client.post("/same/cover@123456789abc/accuracy").status_code == 404


def test_more_pixels_than_allowed_are_refused_before_any_work(place: World, drawn: dict[str, Drawn]) -> None:
    scenes = {
        name: {"path": str(place.scene), "labels": {"path": str(drawn[name].path), "classes": MEANS}}
        for name in ("finer", "coarser")
    }
    made = standalone(place, scenes=scenes, max_request_pixels=4096 * 10)
    with TestClient(made.app) as client:
        for path in ("/finer/cover/accuracy", "/coarser/cover/accuracy", "/finer/cover/areas"):
            answer = client.post(path)
            assert answer.status_code == 400 and "smaller polygon" in answer.json()["detail"], answer.text
        assert made.engine.counters.inferred == 0
        west, north = _offset("EPSG:4326", 1000.0, 5000.0)
        box = f"{west},{north - 0.0002},{west + 0.0002},{north}"
        assert client.post(f"/coarser/cover/accuracy?bbox={box}").status_code == 200


def test_areas_are_those_of_the_whole_scene_pass(client: TestClient, place: World) -> None:
    found = client.post("/bare/cover/areas").json()
    counts = np.bincount(place.expected.ravel(), minlength=5)
    assert [entry["pixels"] for entry in found["classes"]] == counts.tolist()
    assert [entry["name"] for entry in found["classes"]] == CLASSES
    assert found["pixels"] == HEIGHT * WIDTH and found["no_prediction"] == {"pixels": 0, "hectares": 0}
    assert sum(entry["percent"] for entry in found["classes"]) == pytest.approx(100, abs=1e-3)
    # TiTiler's own count of the same prediction, pixel by pixel.
    corners = [(20.3, 30.2), (300.7, 55.1), (90.2, 270.9)]
    inside = centre_in((HEIGHT, WIDTH), corners)
    geometry = {"type": "Polygon", "coordinates": [triangle(PLACE, *corners)]}
    body = {"type": "Feature", "properties": {}, "geometry": geometry}
    part = client.post("/bare/cover/areas", json=body).json()
    assert [entry["pixels"] for entry in part["classes"]] == np.bincount(place.expected[inside], minlength=5).tolist()
    feature = client.post("/bare/cover/statistics?categorical=true", json=body).json()
    band = next(iter(feature["properties"]["statistics"].values()))
    # Its pixels at the border count by the share that is inside, and are whole elsewhere.
    weighed = dict(zip(band["histogram"][1], band["histogram"][0], strict=True))
    for entry in part["classes"]:
        assert weighed[entry["value"]] == pytest.approx(entry["pixels"], rel=0.05)


def test_the_nearest_grid_pixel_is_exact_where_a_mesh_would_be_off(place: World) -> None:
    """Label pixels whose centres lie a hair beside the borders of grid pixels, in another CRS."""
    layer, _ = place.layer()
    to_degrees = Transformer.from_crs(3857, 4326, always_xy=True)
    off = 0.003
    west, north = to_degrees.transform(*(PLACE * (10 + off, 10 + off)))
    east, south = to_degrees.transform(*(PLACE * (250 + off, 250 + off)))
    res_x, res_y = (east - west) / 240, (north - south) / 240
    # Centres of its pixels are at those points.
    view = View(
        (west - res_x / 2, south - res_y / 2, east + res_x / 2, north + res_y / 2), open_crs("EPSG:4326"), 241, 241
    )
    where = centres(view, layer.grid)
    rows, cols = np.indices((241, 241))
    xs, ys = Transformer.from_crs(4326, 3857, always_xy=True).transform(west + cols * res_x, north - rows * res_y)
    across, down = ~PLACE * (xs, ys)
    assert (np.floor(where.cols) == np.floor(across)).all() and (np.floor(where.rows) == np.floor(down)).all()
    assert np.abs(footprint(view, layer.grid).rows - where.rows).max() < 0.02


def open_crs(name: str) -> Any:
    from rasterio.crs import CRS

    return CRS.from_string(name)


@pytest.mark.slow
@pytest.mark.parametrize("path", ["accuracy", "areas", "statistics?categorical=true"])
@pytest.mark.parametrize("kind", ["standalone", "foreign"])
def test_hanging_up_ends_the_work(place: World, drawn: dict[str, Drawn], path: str, kind: str) -> None:
    """A POST, too: its windows that wait are dropped. Also behind a host's middleware that hides the connection."""
    item = drawn["same"]
    if kind == "standalone":
        scene = {"path": str(place.scene), "labels": {"path": str(item.path), "classes": MEANS}}
        made = standalone(place, read_ahead=0, scenes={"field": scene})
        address = f"/field/cover/{path}"
    else:
        made = foreign(place, read_ahead=0)
        classes = json.dumps(MEANS).replace(" ", "").replace('"', "%22")
        more = f"url={place.scene}&labels_url={item.path}&labels_classes={classes}"
        address = f"/inference/cover/{path}{'&' if '?' in path else '?'}{more}"
    ring = triangle(PLACE, (5, 5), (320, 10), (40, 290))
    body = json.dumps({"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}})
    engine, gate = made.engine, made.runner.gate
    try:
        with serving(made.app) as port:
            before = gate.entered
            gate.hold()
            first = call(port, made.paths[0])
            gate.wait_for(before + 1)
            waiting, pending = engine.queued, engine.pending
            lost = call(port, address, "POST", body)
            until(lambda: engine.queued > waiting, "the survey's cells")
            lost.close()
            until(lambda: engine.queued == waiting and engine.pending == pending, "the drop")
            gate.open()
            assert answer_of(first).status == 200
            until(lambda: at_rest(engine))
            assert len(made.runner.shapes) == 1
            again = answer_of(call(port, address, "POST", body))
            assert again.status == 200
    finally:
        gate.open()
        made.engine.close()


def test_inside_a_titiler_application(place: World, drawn: dict[str, Drawn]) -> None:
    """Labels by the host's own path dependency, its auth included."""

    def own_path(url: str, token: str = Header("")) -> str:
        if "forbidden" in url:
            raise HTTPException(403, "not below the prefix")
        return url

    extension = inferenceExtension(models={"cover": str(place.folder)})
    factory = TilerFactory(router_prefix="/cog", path_dependency=own_path, extensions=[extension])
    app = FastAPI()
    app.include_router(factory.router, prefix="/cog")
    item = drawn["utm"]
    with TestClient(app) as client:
        given = {
            "url": str(place.scene), "labels_url": str(item.path), "labels_classes": json.dumps(MEANS),
            "labels_ignore": "99",
        }  # fmt: skip
        answer = client.post("/cog/inference/cover/accuracy", params=given)
        assert answer.status_code == 200, answer.text
        check(answer.json(), *expected_of(item, place))
        forbidden = client.post("/cog/inference/cover/accuracy", params={**given, "labels_url": "/forbidden/x.tif"})
        assert forbidden.status_code == 403
        missing = client.post("/cog/inference/cover/accuracy", params={"url": str(place.scene)})
        assert missing.status_code == 422
        for name, text in (
            ("labels_classes", "{"), ("labels_classes", "[1]"), ("labels_classes", '{"1": null}'),
            ("labels_classes", '{"1": []}'), ("labels_ignore", "x"), ("labels_ignore", "10"),
        ):  # fmt: skip
            wrong = client.post("/cog/inference/cover/accuracy", params={**given, name: text})
            assert wrong.status_code == 400 and "labels_" in wrong.json()["detail"], wrong.text
        areas = client.post("/cog/inference/cover/areas", params={"url": str(place.scene)})
        assert areas.status_code == 200 and areas.json()["pixels"] == HEIGHT * WIDTH
        described = client.get("/openapi.json").json()["paths"]["/cog/inference/{model}/accuracy"]["post"]
        names = {parameter["name"] for parameter in described["parameters"]}
        assert {"url", "labels_url", "labels_classes", "labels_ignore", "bbox", "model", "threshold"} <= names
        assert "Confusion matrix" in described["description"]


def test_the_lists_of_allowed_urls_hold_for_labels(place: World) -> None:
    settings = Settings(
        scenes={"f": {"path": str(place.scene)}},
        models={"cover": str(place.folder)},
        allowed_urls=["https://data.example.org/open/"],
    )
    with TestClient(create_app(settings)) as client:
        for url in ("/etc/passwd", "https://data.example.org/secret/x.tif"):
            answer = client.post(f"/cog/inference/cover/accuracy?url={url}&labels_url={url}")
            assert answer.status_code == 403, answer.text


def test_settings(place: World) -> None:
    short = Settings(scenes={"f": {"path": "x.tif", "labels": "labels.tif"}}).scenes["f"].labels
    assert short is not None and (short.path, short.classes, short.ignore) == ("labels.tif", None, [])
    for labels in (
        {"path": "l.tif", "classes": {1: "a"}, "ignore": [1]},
        {"path": "l.tif", "classes": {1: []}},
        {"path": "l.tif", "klasses": {}},
        {"classes": {1: "a"}},
    ):
        with pytest.raises(ValidationError):
            Settings(scenes={"f": {"path": "x.tif", "labels": labels}})
    for name in ("labels", "errors", "accuracy", "areas"):
        with pytest.raises(ValidationError, match="cannot be a name"):
            Settings(models={name: "m"})


def test_pairs_and_cors(client: TestClient, drawn: dict[str, Drawn]) -> None:
    pairs = {pair["scene"]: pair for pair in client.get("/api/pairs").json()}
    assert pairs["same"]["labels"] is True and pairs["same"]["labels_title"] == "Drawn same"
    assert pairs["same"]["labels_version"] == client.post("/same/cover/accuracy").json()["labels"]["version"]
    assert pairs["bare"]["labels"] is False and "labels_problem" not in pairs["bare"]
    origin = {"Origin": "https://elsewhere.example"}
    for answer in (
        client.post("/same/cover/accuracy", headers=origin),
        client.post("/bare/cover/accuracy", headers=origin),
    ):
        assert answer.headers["access-control-allow-origin"] == "*"
    assert open_scene(drawn["same"].path).bands[0].dtype == "uint8"
