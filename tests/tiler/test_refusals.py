"""What cannot be answered rightly is refused: 4xx with reason and remedy, nothing half-done, no path told."""

from __future__ import annotations

import io
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from starlette.testclient import TestClient
from typer.testing import CliRunner

from model_registry import ModelError, load
from model_registry.testing import conv_chain, value_classes, write_model
from tests.tiler.helpers import RES, host, landscape, tiles_over, write_scene
from tiler import predict
from tiler.app import create_app
from tiler.cli import GDAL_DEFAULTS
from tiler.cli import app as cli
from tiler.engine import Engine
from tiler.predict import Limits
from tiler.settings import Settings

CLASSES = ["water", "forest", "field"]
EXACT: dict[str, Any] = {"window": {"multiple": 1, "period": 1, "halo": 1}, "exactness": "exact"}


@dataclass
class Door:
    """One way in: a TiTiler application with the extension, or the standalone application."""

    client: TestClient
    engine: Engine
    scenes: Mapping[str, Path]
    folder: Path
    standalone: bool

    def get(self, path: str, scene: str = "good", model: str = "net", **params: Any) -> Any:
        if self.standalone:
            return self.client.get(f"/{scene}/{model}/{path}", params=params)
        return self.client.get(f"/cog/inference/{model}/{path}", params={"url": str(self.scenes[scene]), **params})

    def post(self, path: str, body: Any, scene: str = "good", model: str = "net", **params: Any) -> Any:
        if self.standalone:
            return self.client.post(f"/{scene}/{model}/{path}", json=body, params=params)
        params = {"url": str(self.scenes[scene]), **params}
        return self.client.post(f"/cog/inference/{model}/{path}", json=body, params=params)

    def tile(self, end: str, **params: Any) -> Any:
        return self.get(end if self.standalone else f"tiles/WebMercatorQuad/{end}", **params)

    def refused(self, answer: Any, *words: str, status: int | None = None) -> str:
        """Assert that an answer is a refusal of the best kind, and return its text."""
        assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:300])
        assert status is None or answer.status_code == status, answer.text[:300]
        detail = answer.json()["detail"]
        for word in words:
            assert word in answer.text.replace('\\"', '"'), answer.text
        assert str(self.folder) not in answer.text and "Traceback" not in answer.text
        if isinstance(detail, str):
            # Ours: a reason, then a remedy, and no cache may keep it.
            assert re.fullmatch(r"\S.*\. [A-Z].*\.", detail, re.DOTALL), detail
            assert answer.headers["cache-control"] == "no-store"
        else:
            # FastAPI's own: which parameter, and what it should be.
            assert all(item["loc"] and "should" in item["msg"] for item in detail), detail
            assert not self.standalone or answer.headers["cache-control"] == "no-store"
        return str(detail)


def bad_scenes(folder: Path) -> dict[str, Path]:
    """Every scene that cannot be used, by what is wrong with it."""
    pixels = landscape(64, 64)
    (folder / "text.tif").write_text("this is no raster, whatever its name says\n")
    gcps = [
        GroundControlPoint(row, col, 1000 + col * RES, 5000 - row * RES)
        for row, col in ((0, 0), (0, 64), (64, 0), (64, 64))
    ]
    with rasterio.open(
        folder / "gcps.tif", "w", driver="GTiff", height=64, width=64, count=3, dtype="uint8", gcps=gcps,
        crs="EPSG:3857",
    ) as dataset:  # fmt: skip
        dataset.write(pixels)
    rotated = Affine.translation(1000, 5000) @ Affine.rotation(12) @ Affine.scale(RES, -RES)
    return {
        "text": folder / "text.tif",
        "missing": folder / "missing.tif",
        "no-crs": write_scene(folder / "no-crs.tif", pixels, crs=None),
        "rotated": write_scene(folder / "rotated.tif", pixels, transform=rotated),
        "gcps": folder / "gcps.tif",
        "two-bands": write_scene(folder / "two-bands.tif", pixels[:2]),
        "uint16": write_scene(folder / "uint16.tif", pixels.astype(np.uint16) * 16),
        "float": write_scene(folder / "float.tif", pixels.astype(np.float32)),
        "complex": write_scene(folder / "complex.tif", pixels.astype(np.complex64)),
        "coarse": write_scene(folder / "coarse.tif", pixels, transform=Affine(6 * RES, 0, 1000, 0, -6 * RES, 5000)),
        "fine": write_scene(folder / "fine.tif", pixels, transform=Affine(RES / 6, 0, 1000, 0, -RES / 6, 5000)),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refusals")


@pytest.fixture(scope="module")
def scenes(folder: Path) -> dict[str, Path]:
    return {"good": write_scene(folder / "good.tif", landscape(300, 400)), **bad_scenes(folder)}


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    network = conv_chain(layers=1, classes=len(CLASSES))
    return write_model(folder / "net", network, classes=CLASSES, gsd=round(RES, 4), **EXACT)


@pytest.fixture(scope="module", params=["extension", "standalone"])
def door(request: pytest.FixtureRequest, folder: Path, scenes: dict[str, Path], model: Path) -> Any:
    if request.param == "extension":
        served = host({"net": model})
        client = TestClient(served.client.app, raise_server_exceptions=False)
        assert served.extension.engine is not None
        yield Door(client, served.extension.engine, scenes, folder, False)
        return
    named = {name: {"path": str(path)} for name, path in scenes.items()}
    app = create_app(Settings(scenes=named, models={"net": str(model)}))
    with TestClient(app, raise_server_exceptions=False) as client:
        yield Door(client, app.state.inference.service.engine, scenes, folder, True)


@pytest.fixture(scope="module")
def inside(scenes: dict[str, Path]) -> str:
    """z/x/y of a tile over the scene."""
    tile = tiles_over(scenes["good"])[0]
    return f"{tile.z}/{tile.x}/{tile.y}"


@pytest.fixture(scope="module")
def place(scenes: dict[str, Path]) -> tuple[float, float, float, float]:
    """west, south, east, north of the scene."""
    with rasterio.open(scenes["good"]) as dataset:
        return rasterio.warp.transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)


@pytest.fixture
def may_infer() -> None:
    """Asked for by tests that are about answers as well."""


@pytest.fixture(autouse=True)
def nothing_is_inferred(request: pytest.FixtureRequest) -> Any:
    """No refusal costs a forward pass."""
    if "door" not in request.fixturenames or "may_infer" in request.fixturenames:
        yield
        return
    engine = request.getfixturevalue("door").engine
    before = engine.forwards
    yield
    assert engine.forwards == before


# Scenes

SCENES = {
    "text": (422, ["'text.tif' cannot be opened as a raster", "Check that it exists"]),
    "missing": (422, ["'missing.tif' cannot be opened as a raster", "Check that it exists"]),
    "no-crs": (422, ["'no-crs.tif' has no coordinate reference system", "Assign one"]),
    "rotated": (422, ["'rotated.tif' is rotated", "gdalwarp"]),
    "gcps": (422, ["'gcps.tif' has", "gdalwarp"]),
    "two-bands": (422, ["wants 3 bands (red, green, blue)", "scene has 2", "bidx"]),
    "uint16": (422, ["the scene is uint16", "uint8", "serving.input.dtypes"]),
    "float": (422, ["the scene is float32", "uint8"]),
    "complex": (422, ["complex64", "Convert it"]),
    "coarse": (422, ["a factor of 6", "limit of 4", "max_gsd_factor"]),
    "fine": (422, ["a factor of 6", "limit of 4", "max_gsd_factor"]),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_scene_that_does_not_fit_is_refused_before_any_pixel_is_read(door: Door, inside: str, name: str) -> None:
    status, words = SCENES[name]
    for path in ("info", "preview.png", "point/0.01,0.04"):
        door.refused(door.get(path, name), *words, status=status)
    door.refused(door.tile(f"{inside}.png", scene=name), *words, status=status)


def test_a_factor_is_served_once_it_is_permitted(scenes: dict[str, Path], model: Path) -> None:
    assert host({"net": model}, max_gsd_factor=6.5).get("net/info", scenes["coarse"]).status_code == 200


def test_credentials_of_a_url_are_never_told(model: Path) -> None:
    answer = host({"net": model}).get("net/info", "http://user:secret@127.0.0.1:9/a/b.tif?token=hidden")
    assert answer.status_code == 422
    assert "'b.tif' cannot be opened" in answer.json()["detail"]
    assert not re.search("secret|hidden|user|127", answer.text)


# Names


def test_an_unknown_model_lists_the_known(door: Door) -> None:
    door.refused(door.get("info", model="nope"), "net")


def test_an_unknown_scene_lists_the_known(door: Door) -> None:
    if door.standalone:
        door.refused(door.get("info", scene="nope"), "no scene 'nope'", "good, text", status=404)


def test_a_revision_that_is_gone_names_the_present_one(door: Door, inside: str) -> None:
    if door.standalone:
        present = door.get("tilejson.json").json()["revision"]
        door.refused(door.get("info", model="net@0123456789ab"), "'0123456789ab'", present, status=404)
        door.refused(door.tile(f"{inside}.png", model="net@0123456789ab"), present, status=404)


# Tiles


@pytest.mark.parametrize("end", ["a/b/c.png", "18/1.5/2.png", "18/131078/y.png", "1e1/0/0.png", "18/0x10/3.png"])
def test_a_tile_needs_whole_numbers(door: Door, end: str) -> None:
    door.refused(door.tile(end), "valid integer", status=422)


@pytest.mark.parametrize(
    ("end", "words"),
    [
        ("18/-1/0.png", "x is 0 to 262143"),
        ("18/0/-7.png", "y is 0 to 262143"),
        ("18/262144/0.png", "x is 0 to 262143"),
        ("3/0/99999999999999999999.png", "y is 0 to 7"),
        ("25/0/0.png", "zooms 0 to 24"),
        ("-1/0/0.png", "zooms 0 to 24"),
    ],
)
def test_a_tile_outside_of_the_matrix_is_refused_with_its_limits(door: Door, end: str, words: str) -> None:
    door.refused(door.tile(end), words, status=400)


@pytest.mark.parametrize("size", ["0", "-256", "many", "1.5"])
def test_a_tile_size_is_a_positive_whole_number(door: Door, inside: str, size: str) -> None:
    door.refused(door.tile(f"{inside}.png", tilesize=size), "tilesize", status=422)


def test_a_tile_size_has_a_limit(door: Door, inside: str) -> None:
    door.refused(door.tile(f"{inside}.png", tilesize=4097), "4097 x 4097", "limit is 4096", status=400)
    # The scale counts: it is the answer that must be bounded.
    door.refused(door.tile(f"{inside}@2x.png", tilesize=4096), "8192 x 8192", "limit is 4096", status=400)
    door.refused(door.tile(f"{inside}@9x.png"), "less than or equal to 4", status=422)


@pytest.mark.parametrize("end", ["gif", "bmp", "PNG", "tif.exe"])
def test_an_unknown_format_lists_the_known(door: Door, inside: str, end: str) -> None:
    door.refused(door.tile(f"{inside}.{end}"), "'png'", "'webp'", status=422)


@pytest.mark.parametrize("end", ["jpg", "jpeg", "jp2"])
def test_a_lossy_format_is_refused_before_inference(
    door: Door, inside: str, end: str, place: tuple[float, float, float, float]
) -> None:
    box = ",".join(map(str, place))
    for answer in (
        door.tile(f"{inside}.{end}"),
        door.get(f"preview.{end}"),
        door.get(f"bbox/{box}.{end}"),
        door.get(f"bbox/{box}/64x64.{end}"),
        door.post(f"feature.{end}", feature(place)),
    ):
        door.refused(answer, f"'{end}' is not offered", "png, webp, tif or npy", status=400)


BROKEN_COLORMAPS = [
    "nope", '{"0": "#fff"', "[1, 2]", "[[0, [1, 2, 3, 4]]]", "[[[0, 1, 2], [1, 2, 3, 4]]]", '[[["a", 1], "#ffffff"]]',
    "[[[0, 1], [1, 2, 3, 444]]]", '{"a": "#fff"}', '{"0": "nocolour"}', '{"0": null}', '{"0": {"1": [1, 2, 3, 4]}}',
    '{"0": [300, 0, 0, 255]}', '{"0": [-3, 0, 0, 255]}', '{"0": [1, 2]}', '{"0": [1e400, 2, 3, 4]}', "3", "true",
    '"x"', "1e999", "[" * 5000,
]  # fmt: skip


@pytest.mark.parametrize("colormap", BROKEN_COLORMAPS, ids=lambda text: text[:30])
def test_a_broken_colormap_is_refused_with_an_example(door: Door, inside: str, colormap: str) -> None:
    for end in ("png", "webp", "tif"):
        answer = door.tile(f"{inside}.{end}", colormap=colormap)
        door.refused(answer, "colormap cannot be parsed", '{"0": "#ff0000"', status=400)


def test_an_unknown_colormap_name_lists_the_known(door: Door, inside: str) -> None:
    door.refused(door.tile(f"{inside}.png", colormap_name="nope"), "viridis", status=422)


@pytest.mark.parametrize("names", ["ice", "", ",", "water,ice", "3"])
def test_an_unknown_class_lists_the_known(door: Door, inside: str, names: str) -> None:
    answer = door.tile(f"{inside}.png", **{"class": names})
    door.refused(answer, "is not a class", "water (0), forest (1), field (2)", status=400)


@pytest.mark.parametrize("value", ["1.01", "-0.1", "nan", "inf", "half"])
def test_a_threshold_is_a_probability(door: Door, inside: str, value: str) -> None:
    door.refused(door.tile(f"{inside}.png", threshold=value), "threshold", status=422)


def test_unknown_values_list_the_known(door: Door, inside: str) -> None:
    door.refused(
        door.tile(f"{inside}.png", output="logits"),
        "'class', 'probability', 'confidence', 'class_confidence', 'spread', 'value' or 'rgb'",
        status=422,
    )
    door.refused(door.tile(f"{inside}.png", resampling="cubic"), "'nearest' or 'bilinear'", status=422)
    door.refused(door.tile(f"{inside}.png", nodata="none"), "nodata", status=422)
    door.refused(door.get("NoSuchQuad/tilejson.json"), "WebMercatorQuad", status=422)


def test_bands_that_the_scene_does_not_have_are_refused(door: Door, inside: str) -> None:
    for bidx in ([1], [1, 2, 9], [0, 1, 2], [-1, 1, 2], [1, 2, 3, 1]):
        words = ("the model wants 3 (red, green, blue)", "the scene has 1, 2, 3")
        door.refused(door.tile(f"{inside}.png", bidx=bidx), *words, status=422)


def test_an_image_of_several_probabilities_is_refused_before_inference(door: Door, inside: str) -> None:
    for end in ("png", "webp"):
        answer = door.tile(f"{inside}.{end}", output="probability")
        door.refused(answer, "3 classes' probabilities", "class=", status=400)


# Areas and points


def test_an_area_beyond_the_limit_is_refused(door: Door) -> None:
    door.refused(door.get("bbox/-20,-20,20,20.png"), "limit is 4096 px a side", status=400)
    door.refused(door.get("bbox/0,0,0.01,0.01/5000x20.png"), "5000 x 20 px", "limit is 4096", status=400)
    door.refused(door.get("preview.png", width=20, height=5000), "20 x 5000 px", status=400)


def test_more_pixels_than_one_request_may_have_are_refused(scenes: dict[str, Path], model: Path) -> None:
    served = host({"net": model}, limits=Limits(max_request_pixels=10_000))
    answer = served.get("net/preview.png", scenes["good"], max_size=64)
    assert answer.status_code == 400
    assert "Mpx" in answer.json()["detail"] and "smaller area" in answer.json()["detail"]
    assert served.extension.engine.forwards == 0


BOXES = [
    "0,0,0,0", "1,1,0,0", "0,1,1,1", "nan,0,1,1", "0,0,nan,1", "0,0,inf,1", "-inf,-inf,inf,inf",
    "-1e300,-1e300,1e300,1e300",
]  # fmt: skip


@pytest.mark.parametrize("box", BOXES)
def test_an_area_without_extent_is_refused(door: Door, box: str) -> None:
    for query in ({}, {"max_size": 64}, {"dst_crs": "EPSG:3857"}, {"coord_crs": "EPSG:3857"}):
        door.refused(door.get(f"bbox/{box}.png", **query), "is empty or endless", "minx < maxx", status=400)
    door.refused(door.get(f"bbox/{box}/64x64.png"), "is empty or endless", status=400)


def test_an_area_of_words_is_refused(door: Door) -> None:
    door.refused(door.get("bbox/a,b,c,d.png"), "valid number", status=422)


@pytest.mark.parametrize("size", ["0x0", "-5x64", "64x-5", "0x10"])
def test_a_picture_has_at_least_one_pixel(door: Door, size: str) -> None:
    for path in (f"bbox/0,0,0.01,0.01/{size}.png", f"preview/{size}.png"):
        door.refused(door.get(path), "is not a number of pixels", status=400)


def test_a_size_that_is_negative_is_refused(door: Door) -> None:
    for query in ({"width": -5}, {"height": 0}, {"max_size": -4}):
        door.refused(door.get("preview.png", **query), "is not a number of pixels", status=400)


def test_an_unknown_crs_is_refused(door: Door) -> None:
    for name in ("dst_crs", "coord_crs"):
        for value, status in (("nope", 400), ("EPSG:99999999", 422)):
            assert door.get("bbox/0,0,0.01,0.01.png", **{name: value}).status_code == status


@pytest.mark.parametrize("point", ["100,10", "inf,0", "0,-inf", "nan,nan", "1e300,1", "200,100"])
def test_a_point_outside_of_the_scene_is_not_found(door: Door, point: str) -> None:
    for query in ({}, {"coord_crs": "EPSG:3857"}):
        door.refused(door.get(f"point/{point}", **query), "is outside of 'good.tif'", status=404)


@pytest.mark.parametrize("point", ["a,b", "1,2,3"])
def test_a_point_is_two_numbers(door: Door, point: str) -> None:
    door.refused(door.get(f"point/{point}"), "valid number", status=422)


def feature(place: tuple[float, float, float, float]) -> dict[str, Any]:
    west, south, east, north = place
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def ring(*coordinates: Any, kind: str = "Polygon") -> dict[str, Any]:
    return {"type": "Feature", "properties": {}, "geometry": {"type": kind, "coordinates": list(coordinates)}}


BROKEN_FEATURES = {
    "a word": "nope",
    "no geometry": {"type": "Feature", "properties": {}},
    "null geometry": {"type": "Feature", "properties": {}, "geometry": None},
    "unknown type": ring([[0, 0], [1, 0], [1, 1], [0, 0]], kind="Blob"),
    "no coordinates": ring(),
    "an open ring": ring([[0, 0], [1, 0], [1, 1], [0, 1]]),
    "a short ring": ring([[0, 0], [1, 1], [0, 0]]),
    "words": ring([["a", 0], [1, 0], [1, 1], ["a", 0]]),
    "endless": ring([[0, 0], [1e300, 0], [1e300, 1e300], [0, 0]]),
    "without extent": ring([[0, 0], [0, 0], [0, 0], [0, 0]]),
    "a point": ring(0.01, 0.04, kind="Point"),
    "an empty collection": {
        "type": "Feature", "properties": {}, "geometry": {"type": "GeometryCollection", "geometries": []},
    },
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN_FEATURES)
def test_broken_geojson_is_refused(door: Door, name: str) -> None:
    for path in ("feature.png", "statistics"):
        answer = door.post(path, BROKEN_FEATURES[name])
        assert 400 <= answer.status_code < 500, answer.text[:300]
        assert answer.json()["detail"]


def test_a_feature_outside_of_the_scene_has_no_pixel(door: Door) -> None:
    """As tiles outside are transparent: there is no class there, and the counts say so."""
    answer = door.post("statistics", feature((10, 10, 10.001, 10.001)))
    assert answer.status_code == 200, answer.text
    statistics = answer.json()["properties"]["statistics"]["b1"]
    assert (statistics["valid_pixels"], statistics["valid_percent"]) == (0, 0)
    picture = door.post("feature.npy", feature((10, 10, 10.001, 10.001)))
    assert np.load(io.BytesIO(picture.content)).any() is np.False_


# Models


def test_a_network_of_another_shape_is_refused_when_it_is_loaded(folder: Path, scenes: dict[str, Path]) -> None:
    five = write_model(folder / "five", conv_chain(layers=1, classes=5), classes=CLASSES, gsd=round(RES, 4), **EXACT)
    with pytest.raises(ModelError, match=r"answers 5 channels .* declares 3 classes"):
        load(five)
    done = CliRunner().invoke(cli, ["serve", str(scenes["good"]), "--model", str(five)], env=dict(GDAL_DEFAULTS))
    assert done.exit_code == 2
    assert "5 channels" in done.stderr and "classification:classes" in done.stderr
    answer = host({"five": five}).get("five/info", scenes["good"])
    assert answer.status_code == 422
    assert "5 channels" in answer.json()["detail"] and str(folder) not in answer.text


def test_a_network_of_other_bands_is_refused_when_it_is_loaded(folder: Path) -> None:
    one = write_model(folder / "one", value_classes([0, 9]), classes=["a", "b"], **EXACT)
    with pytest.raises(ModelError, match="band|channel|input"):
        load(one)


# Anything


ODD = st.one_of(
    st.sampled_from(["", "0", "-1", "nan", "inf", "1e400", "null", "[]", "{}", "true", "\x00", "a,b", "💥", "%00",
                     "/../"]),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(str),
    st.text(max_size=12),
)  # fmt: skip
# Sizes that are asked for in earnest are kept small: this is about nonsense, not about load.
SMALL = st.one_of(
    ODD.filter(lambda text: not re.fullmatch(r"\s*\+?\d{3,4}(\.0+)?\s*", text)), st.integers(0, 64).map(str)
)
COLORMAP = st.one_of(
    ODD,
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=4),
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["0", "1", "-1", "999", "a"]), inner)
        ),
        max_leaves=6,
    ).map(json.dumps),
)  # fmt: skip
NUMBER = st.one_of(
    st.floats().map(str),
    st.floats(-0.1, 0.1).map(str),
    st.integers(-400, 400).map(str),
    st.sampled_from(["a", "1e-300"]),
)
QUERY = st.fixed_dictionaries(
    {},
    optional={
        "tilesize": SMALL, "width": SMALL, "height": SMALL, "max_size": SMALL, "output": ODD, "class": ODD,
        "threshold": ODD, "bidx": ODD, "nodata": ODD, "resampling": st.sampled_from(["nearest", "bilinear"]) | ODD,
        "colormap": COLORMAP, "colormap_name": ODD, "return_mask": ODD, "dst_crs": st.sampled_from(
            ["EPSG:3857", "EPSG:4326", "EPSG:32631", "EPSG:3413", "EPSG:2193"]) | ODD,
        "coord_crs": st.sampled_from(["EPSG:3857", "EPSG:4326", "EPSG:32661"]) | ODD,
        "rescale": st.tuples(NUMBER, NUMBER).map(",".join) | ODD,
    },
)  # fmt: skip
PART = st.one_of(
    st.integers(-2, 30).map(str), st.integers(-(2**65), 2**65).map(str), st.sampled_from(["a", "1.5", "1e3"])
)
END = st.sampled_from(["png", "webp", "tif", "npy", "jpg", "gif", "pngraw"])
PATH = st.one_of(
    st.tuples(PART, PART, PART, END).map(lambda p: "tile:{}/{}/{}.{}".format(*p)),
    st.tuples(END).map(lambda p: "tile:INSIDE.{}".format(*p)),
    st.tuples(NUMBER, NUMBER, NUMBER, NUMBER, END).map(lambda p: "bbox/{},{},{},{}.{}".format(*p)),
    st.tuples(NUMBER, NUMBER, NUMBER, NUMBER, SMALL, SMALL, END).map(
        lambda p: "bbox/{},{},{},{}/{}x{}.{}".format(*p[:4], *(quote(size, safe="") for size in p[4:6]), p[6])
    ),
    st.tuples(END).map(lambda p: "preview.{}".format(*p)),
    st.tuples(NUMBER, NUMBER).map(lambda p: "point/{},{}".format(*p)),
)


@pytest.mark.usefixtures("may_infer")
@given(path=PATH, query=QUERY)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@example(path="bbox/0,0,1e-300,1e-300.png", query={})
@example(path="bbox/0,0,1e-300,1e-300.png", query={"dst_crs": "EPSG:32631", "max_size": "64"})
@example(path="bbox/-181,80,190,95/64x64.png", query={})
@example(path="tile:INSIDE.tif", query={"colormap": '{"99999999999999999999": [1, 2, 3, 4]}'})
@example(path="tile:INSIDE.npy", query={"nodata": "1e400"})
def test_no_question_is_answered_with_a_server_error(door: Door, inside: str, path: str, query: dict[str, str]) -> None:
    if path.startswith("tile:"):
        answer = door.tile(path.removeprefix("tile:").replace("INSIDE", inside), **query)
    else:
        answer = door.get(path, **query)
    assert answer.status_code < 500, (path, query, answer.text[:300])


def test_a_view_mostly_beside_the_scene_does_not_cost_memory_for_what_it_does_not_show(
    scenes: dict[str, Path], model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its samples have a bound, too: a picture of 3000 px over 40 degrees once took more than 10 GB."""
    samples, real = [], predict.footprint

    def counted(*args: Any, **options: Any) -> Any:
        found = real(*args, **options)
        samples.append(found.rows.size)
        return found

    monkeypatch.setattr(predict, "footprint", counted)
    served = host({"net": model}, limits=Limits(max_request_pixels=100_000))
    assert served.get("net/bbox/-20,-20,20,20.png", scenes["good"], max_size=300).status_code == 200
    assert samples and max(samples) <= 4 * 100_000


@pytest.mark.parametrize("name", ["coord_crs", "dst_crs"])
def test_a_crs_is_never_a_file_or_an_address(door: Door, name: str, tmp_path: Path) -> None:
    """GDAL would open either for whoever asks."""
    asked: list[str] = []

    class Listener(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"EPSG:3857")

        def log_message(self, *_: object) -> None:
            pass

    definition = tmp_path / "crs.prj"
    definition.write_text("EPSG:3857")
    with HTTPServer(("127.0.0.1", 0), Listener) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for text in (f"http://127.0.0.1:{server.server_port}/crs", str(definition)):
            door.refused(door.get("bbox/0,0,0.001,0.001.png", **{name: text}), "is not a CRS")
        server.shutdown()
    assert asked == []
