"""Tiles from exported files: the same pixels, without the network; and live inference for whatever they do not tell."""

from __future__ import annotations

import io
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import geometry_mask
from rasterio.warp import transform as transform_points
from starlette.testclient import TestClient
from typer.testing import CliRunner

from model_registry.testing import conv_chain, instance_norm, write_model
from tests.tiler.exports import NODATA, write_export
from tests.tiler.helpers import (
    MERCATOR,
    RES,
    ZOOM,
    host,
    landscape,
    rgba,
    scene_pixels_of_tile,
    tiles_over,
    whole_scene,
    write_scene,
)
from tiler.app import create_app
from tiler.cli import GDAL_DEFAULTS
from tiler.cli import app as cli
from tiler.errors import InferenceError
from tiler.materialised import Export, Exports, Materialised, register
from tiler.predict import Limits
from tiler.settings import SceneSettings, Settings
from tiler.values import Rect

HEIGHT, WIDTH = 600, 840
CLASSES = ["a", "b", "c", "d", "e"]
LIVE = ZOOM - 1  # the lowest zoom that is inferred, with at most 512 x 512 px of the grid under a tile
SHORT = "public, max-age=60"
IMMUTABLE = "public, max-age=31536000, immutable"
LIMITS = {"max_tile_pixels": 512 * 512, "max_request_pixels": 4096 * 4096}
# On a corner of tiles of zoom 14, so that pixels of the map are whole pixels of overviews down to there.
CORNER = MERCATOR.xy_bounds(*MERCATOR.tile(0.5, 0.3, 14))
PLACE = Affine(RES, 0, CORNER.left, 0, -RES, CORNER.top)
HOLE = (slice(100, 200), slice(300, 420))
PIXELS = landscape(HEIGHT, WIDTH)
Numbers = NDArray[np.uint8]


@dataclass
class Place:
    """A scene with two models, what one pass over the whole of it says, and where its exports are registered."""

    folder: Path
    scene: Path
    settings: dict[str, Any]
    classes: Numbers
    sure: NDArray[np.bool_]

    @property
    def other(self) -> Numbers:
        """Numbers that the network does not say, so that they can only come from a file."""
        return np.asarray(np.where(self.classes == NODATA, NODATA, (self.classes + 1) % len(CLASSES)), np.uint8)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("materialised")
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[HOLE] = False
    scene = write_scene(folder / "field.tif", PIXELS, transform=PLACE, mask=mask)
    window = {"multiple": 1, "period": 1, "halo": 2}
    stated: dict[str, Any] = {"classes": CLASSES, "gsd": round(RES, 4)}
    cover = write_model(
        folder / "cover", conv_chain(layers=2, classes=len(CLASSES)), window=window, exactness="exact", **stated
    )
    scaled = PIXELS.astype(np.float32) / 255
    scaled[:, HOLE[0], HOLE[1]] = 0  # what stands in for missing pixels
    best, lead = whole_scene(cover / "model.onnx", scaled, pad=2, multiple=1)
    classes = np.where(mask, best, NODATA).astype(np.uint8)
    settings = {"scenes": {"field": {"path": str(scene)}}, "models": {"cover": str(cover)}, **LIMITS}
    return Place(folder, scene, settings, classes, lead > 1e-5)


@dataclass
class Server:
    """The application, and the folder that it looks into."""

    client: TestClient
    folder: Path
    start: int = 0
    inferred_before: int = 0

    @property
    def service(self) -> Any:
        return self.client.app.state.inference.service  # type: ignore[attr-defined]

    @property
    def forwards(self) -> int:
        return int(self.service.engine.forwards)

    @property
    def inferred(self) -> int:
        """Cells inferred for this test."""
        return int(self.service.engine.counters.inferred) - self.inferred_before

    @property
    def revision(self) -> str:
        return str(self.client.get("/tilejson.json").json()["revision"])

    def tile(self, z: int, x: int, y: int, end: str = ".npy", **query: Any) -> Any:
        answer = self.client.get(f"/{z}/{x}/{y}{end}", params=query)
        assert answer.status_code == 200, answer.text
        return answer

    def kind(self, z: int, x: int, y: int, **query: Any) -> str:
        return str(self.tile(z, x, y, **query).headers["x-inference"])


@pytest.fixture(scope="module")
def client(place: Place) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(**place.settings, materialised="/nowhere"))) as made:
        yield made


@pytest.fixture
def server(client: TestClient, tmp_path: Path) -> Server:
    """The application as if it had just been started with a folder of its own."""
    made = Server(client, tmp_path / "registered")
    made.service.materialised.__init__(made.folder, ttl=0.0)  # what other processes do is seen at once
    made.service.engine.cache.clear()
    made.service.engine.pictures.clear()
    made.start, made.inferred_before = made.forwards, made.service.engine.counters.inferred
    return made


def numbers(answer: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Values [bands, rows, cols] and mask of an npy answer."""
    array = np.load(io.BytesIO(answer.content))
    return array[:-1], array[-1] > 0


def shown(server: Server, scene: Path, zoom: int = ZOOM) -> tuple[Numbers, set[str]]:
    """Every pixel of the scene through tiles of its own resolution, NODATA where they show none; what they said."""
    seen, kinds = np.full((HEIGHT, WIDTH), 254, np.uint8), set()
    for tile in tiles_over(scene, zoom):
        answer = server.tile(tile.z, tile.x, tile.y)
        values, valid = numbers(answer)
        rows, cols, inside = scene_pixels_of_tile(scene, tile, 256)
        seen[rows[inside], cols[inside]] = np.where(valid, values[0], NODATA)[inside]
        if inside.any():
            kinds.add(answer.headers["x-inference"])
    assert (seen != 254).all()
    return seen, kinds


def alike(found: Numbers, expected: Numbers, place: Place) -> bool:
    return not ((found != expected) & place.sure).any()


# At the zooms that are inferred


@pytest.mark.slow
def test_tiles_are_the_same_bytes_with_a_file_as_without(place: Place, server: Server, tmp_path: Path) -> None:
    tiles = [tile for zoom in (LIVE, ZOOM, ZOOM + 1, ZOOM + 2) for tile in tiles_over(place.scene, zoom)]
    tiles = tiles[:: max(1, len(tiles) // 25)]
    query = {"class": "b,c"}
    before = [(server.tile(*_zxy(t), ".png").content, server.tile(*_zxy(t), ".png", **query).content) for t in tiles]
    seen, kinds = shown(server, place.scene)
    assert kinds == {"predicted"} and alike(seen, place.classes, place)
    forwards = server.forwards
    # The pixels of the pass, but for those that may fall either way.
    file = write_export(tmp_path / "out.tif", np.where(place.sure, place.classes, seen), place.scene, server.revision)
    register(server.folder, file)
    server.service.engine.cache.clear()
    for tile, (plain, chosen) in zip(tiles, before, strict=True):
        answer = server.tile(*_zxy(tile), ".png")
        assert answer.content == plain and answer.headers["x-cache"] == "export"
        assert answer.headers["x-inference"] == "materialised"
        assert server.tile(*_zxy(tile), ".png", **query).content == chosen
    assert shown(server, place.scene) == (pytest.approx(seen), {"materialised"})
    assert server.forwards == forwards > server.start


def _zxy(tile: Any) -> tuple[int, int, int]:
    return tile.z, tile.x, tile.y


def test_what_a_file_says_is_shown_and_the_network_is_not_run(place: Place, server: Server, tmp_path: Path) -> None:
    register(server.folder, write_export(tmp_path / "out.tif", place.other, place.scene, server.revision))
    seen, kinds = shown(server, place.scene)
    assert (seen == place.other).all() and kinds == {"materialised"}
    # Points, statistics and boxes read the same place.
    for row, col in ((3, 5), (140, 350), (599, 839), (300, 128)):
        (lon,), (lat,) = transform_points("EPSG:3857", "EPSG:4326", *([v] for v in PLACE @ (col + 0.5, row + 0.5)))[:2]
        values = server.client.get(f"/point/{lon},{lat}").json()["values"]
        assert values == [None if place.other[row, col] == NODATA else place.other[row, col]]
    corners = [PLACE @ corner for corner in ((0, 0), (0, HEIGHT), (WIDTH, HEIGHT), (WIDTH, 0), (0, 0))]
    ring = list(zip(*transform_points("EPSG:3857", "EPSG:4326", *zip(*corners, strict=True))[:2], strict=True))
    area = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    found = server.client.post("/statistics?categorical=true", json=area).json()["properties"]["statistics"]["b1"]
    counted = dict(zip(found["histogram"][1], found["histogram"][0], strict=True))
    assert counted == {number: int((place.other == number).sum()) for number in range(len(CLASSES))}
    whole = server.client.get(f"/preview.npy?width={WIDTH}&height={HEIGHT}")
    values, valid = numbers(whole)
    assert (np.where(valid, values[0], NODATA) == place.other).all()
    assert server.forwards == server.start
    assert server.inferred == 0


def test_beyond_the_region_it_is_inferred(place: Place, server: Server, tmp_path: Path) -> None:
    top, left, height, width = 70, 133, 401, 300
    region = (slice(top, top + height), slice(left, left + width))
    file = write_export(
        tmp_path / "out.tif", place.other[region], place.scene, server.revision, region=(top, left)
    )  # fmt: skip
    register(server.folder, file)
    expected = place.classes.copy()
    expected[region] = place.other[region]
    for zoom in (ZOOM, ZOOM + 1):
        seen, kinds = shown(server, place.scene, zoom)
        assert alike(seen, expected, place) and (seen[region] == place.other[region]).all()
        assert {"predicted"} <= kinds <= {"predicted", "materialised"}
    assert server.inferred > 0
    # A tile inside of the region is all from the file.
    inside = [tile for tile in tiles_over(place.scene, ZOOM + 2) if _within(place, tile, region)]
    assert inside and {server.kind(*_zxy(tile)) for tile in inside} == {"materialised"}


def _within(place: Place, tile: Any, region: tuple[slice, slice]) -> bool:
    rows, cols, inside = scene_pixels_of_tile(place.scene, tile, 256)
    (down, across) = region
    in_rows = (rows >= down.start) & (rows < down.stop)
    return bool((inside & in_rows & (cols >= across.start) & (cols < across.stop)).all())


@pytest.mark.parametrize("all_touched", [False, True])
def test_beyond_a_polygon_it_is_inferred_whatever_rule_cut_it(
    place: Place, server: Server, tmp_path: Path, all_touched: bool
) -> None:
    ring = [(150.5, 40.2), (700.9, 90.7), (600.3, 560.1), (90.4, 400.8), (150.5, 40.2)]
    area = {"type": "Polygon", "coordinates": [[PLACE @ corner for corner in ring]]}
    cut = geometry_mask([area], (HEIGHT, WIDTH), PLACE, invert=True, all_touched=all_touched)
    pixels = np.where(cut, place.other, NODATA).astype(np.uint8)
    register(server.folder, write_export(tmp_path / "o.tif", pixels, place.scene, server.revision, area=area))
    seen, _ = shown(server, place.scene)
    # No pixel is lost at the edge, and the hole in the scene is one in the file, too.
    assert alike(seen, np.where(cut, place.other, place.classes), place)
    assert (seen[cut] == place.other[cut]).all()
    inferred = server.inferred
    assert 0 < inferred < (HEIGHT // 32) * (WIDTH // 32)
    # The hole lies inside of the polygon, and nobody has to be asked again: it has no data.
    hole = [tile for tile in tiles_over(place.scene, ZOOM + 2) if _within(place, tile, HOLE)]
    assert hole and {server.kind(*_zxy(tile)) for tile in hole} == {"materialised"}
    assert server.inferred == inferred


@pytest.mark.parametrize(
    "query", [{"output": "probability"}, {"output": "confidence"}, {"threshold": 0.3}, {"resampling": "bilinear"}]
)
def test_what_class_numbers_cannot_tell_is_inferred(
    place: Place, server: Server, tmp_path: Path, query: dict[str, Any]
) -> None:
    tile = _zxy(tiles_over(place.scene)[5])
    before = server.tile(*tile, **query)
    register(server.folder, write_export(tmp_path / "out.tif", place.other, place.scene, server.revision))
    after = server.tile(*tile, **query)
    assert after.content == before.content and after.headers["x-inference"] == "predicted"


def test_overlapping_windows_are_left_out_too(tmp_path: Path) -> None:
    """A model whose cells overlap and are blended: the file answers by pixel, so its cells are not asked."""
    scene = write_scene(tmp_path / "s.tif", PIXELS[:, :300, :410])
    window = {"multiple": 1, "period": 1, "halo": 32, "preferred": 128}
    model = write_model(
        tmp_path / "norm", instance_norm(), classes=list("abcd"), window=window, exactness="unsafe", gsd=round(RES, 4)
    )
    served = host({"norm": model}, materialised=tmp_path / "registered")
    tiles = [f"norm/tiles/WebMercatorQuad/{t.z}/{t.x}/{t.y}.npy" for t in tiles_over(scene)]
    live = [served.npy(path, scene) for path in tiles]
    engine, store = served.extension.engine, served.extension.materialised
    assert engine is not None and isinstance(store, Materialised)
    revision = served.get(tiles[0], scene).headers["x-revision"]
    # All of the scene but its right side, with numbers of its own.
    seen = np.zeros((300, 410), np.uint8)
    for tile, array in zip(tiles_over(scene), live, strict=True):
        rows, cols, inside = scene_pixels_of_tile(scene, tile, 256)
        seen[rows[inside], cols[inside]] = array[0][inside]
    other = (seen + 1) % 4
    store.register(write_export(tmp_path / "o.tif", other[:, :301], scene, revision))
    engine.cache.clear()
    forwards = engine.forwards
    for tile, path, before in zip(tiles_over(scene), tiles, live, strict=True):
        rows, cols, inside = scene_pixels_of_tile(scene, tile, 256)
        known, earlier = inside & (cols < 301), engine.forwards
        after = served.npy(path, scene)
        assert (after[0][known] == other[rows[known], cols[known]]).all()
        assert (after[0][~known] == before[0][~known]).all() and (after[1] == before[1]).all()
        if (known == inside).all():
            assert engine.forwards == earlier
    assert forwards < engine.forwards < 2 * forwards


def test_values_of_a_regression_come_from_their_file(tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "s.tif", PIXELS[:, :300, :408], transform=PLACE)
    window = {"multiple": 1, "period": 1, "halo": 2}
    value = {"name": "height", "unit": "m", "range": [-2, 2]}
    model = write_model(
        tmp_path / "m", conv_chain(layers=2, classes=1), tasks=["regression"], output={"value": value}, window=window,
        exactness="exact", gsd=round(RES, 4),
    )  # fmt: skip
    served = host({"m": model}, materialised=tmp_path / "registered", limits=Limits(max_tile_pixels=512 * 512))
    engine, store = served.extension.engine, served.extension.materialised
    assert engine is not None and isinstance(store, Materialised)
    tiles = [t for zoom in (LIVE, ZOOM) for t in tiles_over(scene, zoom)]
    paths = [f"m/tiles/WebMercatorQuad/{t.z}/{t.x}/{t.y}.npy" for t in tiles]
    live = [served.npy(path, scene) for path in paths]
    seen = np.zeros((300, 408), np.float32)
    for tile, array in zip(tiles, live, strict=True):
        if tile.z == ZOOM:
            rows, cols, inside = scene_pixels_of_tile(scene, tile, 256)
            seen[rows[inside], cols[inside]] = array[0][inside]
    revision = served.get(paths[0], scene).headers["x-revision"]
    store.register(write_export(tmp_path / "o.tif", seen[:, :301], scene, revision, output="value"))
    for pixels, more in ((seen, 0), (seen + 7, 7)):
        store.register(write_export(tmp_path / "o.tif", pixels[:, :301], scene, revision, output="value"))
        for tile, path, before in zip(tiles, paths, live, strict=True):
            rows, cols, inside = scene_pixels_of_tile(scene, tile, 256)
            after = served.npy(path, scene)
            assert (after[1] == before[1]).all()
            if tile.z == ZOOM:
                np.testing.assert_array_equal(
                    after[0], before[0] + np.where(inside & (cols < 301), more, 0).astype(np.float32)
                )
            elif not more:
                np.testing.assert_array_equal(after, before)
    forwards = engine.forwards
    store.register(write_export(tmp_path / "all.tif", seen, scene, revision, output="value"))
    wide = tiles_over(scene, LIVE - 1)[0]
    far = served.npy(f"m/tiles/WebMercatorQuad/{wide.z}/{wide.x}/{wide.y}.npy", scene)
    means = seen.reshape(75, 4, 102, 4).mean(axis=(1, 3))
    np.testing.assert_allclose(far[0, :75, :102], means, atol=1e-4)
    assert engine.forwards == forwards


# Below


def test_a_wide_tile_is_the_overview(place: Place, server: Server, tmp_path: Path) -> None:
    tile = MERCATOR.tile(*_lonlat(2, 2), LIVE - 1)
    assert server.kind(*_zxy(tile)) == "zoom-in"
    file = write_export(tmp_path / "out.tif", place.other, place.scene, server.revision)
    register(server.folder, file)
    for zoom, factor in ((LIVE - 1, 4), (LIVE - 2, 8)):
        with rasterio.open(file) as dataset:
            level = dataset.overviews(1).index(factor)
        with rasterio.open(file, overview_level=level) as dataset:
            overview = dataset.read(1)
        answer = server.tile(*_zxy(MERCATOR.tile(*_lonlat(2, 2), zoom)))
        values, valid = numbers(answer)
        assert answer.headers["x-inference"] == "materialised" and answer.headers["cache-control"] == SHORT
        # One pixel of the tile is one of the overview.
        expected = np.full((256, 256), NODATA)
        expected[: overview.shape[0], : overview.shape[1]] = overview[:256, :256]
        assert (np.where(valid, values[0], NODATA) == expected).all()
    assert server.forwards == server.start


def test_a_file_is_seen_from_every_zoom_and_in_its_place(place: Place, server: Server, tmp_path: Path) -> None:
    register(server.folder, write_export(tmp_path / "out.tif", place.other, place.scene, server.revision))
    left, top = PLACE @ (0, 0)
    right, bottom = PLACE @ (WIDTH, HEIGHT)
    document = server.client.get("/tilejson.json").json()
    for zoom in range(ZOOM + 3):
        tile = MERCATOR.tile(*_lonlat(300, 420), zoom)
        answer = server.tile(*_zxy(tile))
        assert answer.headers["x-inference"] == "materialised"
        values, valid = numbers(answer)
        assert (values[0][valid] < len(CLASSES)).all()
        # What is opaque is the scene, to a pixel of the tile.
        box, cell = MERCATOR.xy_bounds(tile), MERCATOR.matrix(zoom).cellSize
        xs, ys = box.left + (np.arange(256) + 0.5) * cell, box.top - (np.arange(256) + 0.5) * cell

        def inside(more: float, xs: Any = xs, ys: Any = ys) -> NDArray[np.bool_]:
            across = (xs > left - more) & (xs < right + more)
            return np.asarray(across & ((ys < top + more) & (ys > bottom - more))[:, None])

        assert not valid[~inside(cell)].any(), zoom
        if zoom < ZOOM - 6:
            assert valid[inside(-cell)].all(), zoom  # the hole is less than half of such pixels, or between them
        if zoom != document["minzoom"] - 1:  # there it may be half a pixel, or not
            assert valid.any() == (zoom >= document["minzoom"])
    assert document["live_minzoom"] == LIVE and 4 < document["minzoom"] < LIVE - 4
    assert document["materialised"] == [{"output": "class", "bounds": pytest.approx(document["bounds"]), "whole": True}]
    xml = ElementTree.fromstring(server.client.get("/1.0.0/WMTSCapabilities.xml").content)
    matrices = [int(item.text or "") for item in xml.iterfind(".//{*}TileMatrixLimits/{*}TileMatrix")]
    assert min(matrices) == document["minzoom"]
    assert server.forwards == server.start


@pytest.mark.slow
@pytest.mark.parametrize(
    ("crs", "corner"),
    [("EPSG:32632", (399_000.0, 5_300_000.0)), ("EPSG:32660", (833_800.0, 10_000.0)), ("EPSG:3413", (0.0, -2.2e6))],
)
def test_scenes_of_any_crs_are_in_their_place_from_far_away(
    tmp_path: Path, crs: str, corner: tuple[float, float]
) -> None:
    """In UTM, across the antimeridian, and near the pole."""
    transform = Affine(0.5, 0, corner[0], 0, -0.5, corner[1])
    scene = write_scene(tmp_path / "s.tif", PIXELS, crs=crs, transform=transform)
    window = {"multiple": 1, "period": 1, "halo": 1}
    model = write_model(
        tmp_path / "m", conv_chain(layers=1, classes=3), classes=list("abc"), gsd=0.5, window=window, exactness="exact"
    )
    served = host({"m": model}, materialised=tmp_path / "r", limits=Limits(max_tile_pixels=256 * 256))
    revision = served.get("m/info", scene).json()["revision"]
    # Two numbers in eight squares, large enough to be seen from far away.
    rows, cols = np.mgrid[:HEIGHT, :WIDTH]
    pixels = ((rows // 150 + cols // 210) % 2 + 1).astype(np.uint8)
    assert isinstance(served.extension.materialised, Materialised)
    served.extension.materialised.register(write_export(tmp_path / "o.tif", pixels, scene, revision))
    middle = transform @ (WIDTH / 2, HEIGHT / 2)
    (lon,), (lat,) = transform_points(crs, "EPSG:4326", *([v] for v in middle))[:2]
    document = served.get("m/WebMercatorQuad/tilejson.json", scene).json()
    assert document["minzoom"] < 11
    for zoom in range(document["maxzoom"] + 1):
        tile = MERCATOR.tile(lon, lat, zoom)
        answer = served.get(f"m/tiles/WebMercatorQuad/{zoom}/{tile.x}/{tile.y}.npy", scene)
        values, valid = numbers(answer)
        assert answer.headers["x-inference"] == "materialised", zoom
        if zoom < 7:  # most of such a tile has no place in the scene's CRS
            assert valid.sum() <= 1
            continue
        row, col, inside = scene_pixels_of_tile(scene, tile, 256)
        factor = 2 ** (document["maxzoom"] - zoom)
        near_edge = 1.5 * max(factor, 1)  # grid pixels in which a pixel of the map may see two squares, or the outside
        deep = inside & (row > near_edge) & (row < HEIGHT - near_edge) & (col > near_edge) & (col < WIDTH - near_edge)
        assert valid[deep].all(), zoom
        away = (np.abs((row + 75) % 150 - 75) > near_edge) & (np.abs((col + 105) % 210 - 105) > near_edge) & deep
        assert (values[0][away] == pixels[row[away], col[away]]).all(), zoom
        if zoom == document["minzoom"] + 2:
            assert valid.any() and valid.sum() < 100
    assert served.extension.engine is not None and served.extension.engine.forwards == 0


def test_of_two_files_the_newer_goes_first_and_both_are_the_whole(place: Place, server: Server, tmp_path: Path) -> None:
    above, below = slice(0, 350), slice(300, HEIGHT)
    first = write_export(tmp_path / "1.tif", np.full((350, WIDTH), 1, np.uint8), place.scene, server.revision)
    later = write_export(
        tmp_path / "2.tif", np.full((300, WIDTH), 2, np.uint8), place.scene, server.revision, region=(300, 0)
    )
    now = later.stat().st_mtime_ns
    os.utime(first, ns=(now, now - 10**9))
    register(server.folder, first)
    assert server.client.get("/tilejson.json").json()["minzoom"] == LIVE  # a part of the scene only
    register(server.folder, later)
    document = server.client.get("/tilejson.json").json()
    assert document["minzoom"] < LIVE and [item["whole"] for item in document["materialised"]] == [False, False]
    expected = np.full((HEIGHT, WIDTH), 1)
    expected[below] = 2
    seen, kinds = shown(server, place.scene)
    assert (seen == expected).all() and kinds == {"materialised"}
    for zoom in (LIVE - 1, LIVE - 2, LIVE - 3):
        values, valid = numbers(server.tile(*_zxy(MERCATOR.tile(*_lonlat(2, 2), zoom))))
        factor = 2 ** (ZOOM - zoom)
        edge, end, side = 300 // factor, HEIGHT // factor, min(256, WIDTH // factor)
        assert (values[0, : edge - 1, : side - 1] == 1).all() and (values[0, edge + 1 : end - 1, : side - 1] == 2).all()
        assert valid[: end - 1, : side - 1].all()
    os.utime(first, ns=(now, now + 10**9))
    register(server.folder, first)
    expected[above] = 1
    assert (shown(server, place.scene)[0] == expected).all()
    assert len(list(server.folder.glob("*/*.json"))) == 2


def test_beside_a_part_of_the_scene_a_wide_map_says_zoom_in(place: Place, server: Server, tmp_path: Path) -> None:
    file = write_export(tmp_path / "out.tif", place.other[:64, :64], place.scene, server.revision)
    register(server.folder, file)
    there, beside = MERCATOR.tile(*_lonlat(2, 2), LIVE - 1), MERCATOR.tile(*_lonlat(2, 2), LIVE - 1)
    beside = type(beside)(beside.x + 1, beside.y, beside.z)
    assert server.kind(*_zxy(there)) == "materialised" and server.kind(*_zxy(beside)) == "zoom-in"
    # Of what is exported completely, the place beside it is told, too: there is nothing.
    register(server.folder, write_export(tmp_path / "all.tif", place.other, place.scene, server.revision))
    assert server.kind(LIVE - 1, 0, 0) == "materialised"
    assert not numbers(server.tile(LIVE - 1, 0, 0))[1].any()


def test_probabilities_of_a_wide_map_are_means(place: Place, server: Server, tmp_path: Path) -> None:
    tile = _zxy(MERCATOR.tile(*_lonlat(2, 2), LIVE - 1))
    random = np.random.default_rng(3)
    shares = random.dirichlet(np.ones(len(CLASSES)), (HEIGHT // 40, WIDTH // 40)).transpose(2, 0, 1)
    shares = shares.repeat(40, axis=1).repeat(40, axis=2)
    planes = np.round(shares * 254).astype(np.uint8)
    planes[:, HOLE[0], HOLE[1]] = NODATA
    revision = server.revision
    for output, pixels in (("probability", planes), ("confidence", planes.max(axis=0))):
        register(
            server.folder,
            write_export(tmp_path / f"{output}.tif", pixels, place.scene, revision, output=output, scale=1 / 254),
        )
    assert server.kind(*tile) == "zoom-in"  # of classes there is nothing
    plain = server.tile(*tile, output="probability")
    values, valid = numbers(plain)
    assert plain.headers["x-inference"] == "materialised" and values.dtype == np.float32
    expected = planes.reshape(5, 150, 4, 210, 4).mean(axis=(2, 4))[:, 60:] / 254  # below the hole
    assert valid[60:150, :210].all() and not valid[150:].any()
    np.testing.assert_allclose(values[:, 60:150, :210], expected, atol=1.5 / 254)
    one, _ = numbers(server.tile(*tile, **{"output": "probability", "class": "c"}))
    np.testing.assert_array_equal(one[0], values[2])
    sure, kept = numbers(server.tile(*tile, **{"output": "probability", "class": "c", "threshold": 0.5}))
    np.testing.assert_array_equal(kept, valid & (values[2] >= 0.5))
    best, _ = numbers(server.tile(*tile, output="confidence"))
    np.testing.assert_allclose(best[0, 60:150, :210], values.max(axis=0)[60:150, :210], atol=2 / 254)
    assert server.kind(*tile, output="confidence", threshold=0.5) == "zoom-in"
    answer = server.tile(*tile, ".png", **{"output": "probability", "class": "c"})
    assert rgba(answer.content)[149, 209, 3] == 255


# From an export of our own


@pytest.mark.parametrize("kind", ["exact", "blended"])
@pytest.mark.parametrize("cut", [False, True], ids=["whole", "polygon"])
def test_an_export_is_shown_as_what_is_inferred(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, cut: bool
) -> None:
    """`tiler export` -> register -> the same bytes at every zoom that is inferred, and pictures below."""
    mask = np.ones((300, 410), bool)
    mask[90:140, 180:260] = False
    scene = write_scene(tmp_path / "s.tif", PIXELS[:, :300, :410], transform=PLACE, mask=mask)
    if kind == "exact":
        window: dict[str, Any] = {"multiple": 1, "period": 1, "halo": 2}
        network, exactness = conv_chain(layers=2, classes=4), "exact"
    else:
        window = {"multiple": 1, "period": 1, "halo": 32, "preferred": 128}
        network, exactness = instance_norm(), "unsafe"
    model = write_model(
        tmp_path / "m", network, classes=list("abcd"), window=window, exactness=exactness, gsd=round(RES, 4)
    )
    options = ["--output", "class", "--output", "probability"]
    if cut:
        ring = [
            _lonlat(row, col) for row, col in ((20.3, 30.1), (40.2, 380.7), (280.9, 300.3), (250.5, 60.6), (20.3, 30.1))
        ]
        (tmp_path / "area.json").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
        options += ["--aoi", "area.json"]
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        cli, ["export", "s.tif", "-m", "m", "-o", "out.tif", "--runtime", "onnxruntime", *options],
        env={**GDAL_DEFAULTS, "XDG_STATE_HOME": str(tmp_path / "state")},
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    settings = Settings(
        scenes={"s": SceneSettings(path=str(scene))}, models={"m": str(model)}, runtime="onnxruntime",
        materialised=str(tmp_path / "registered"), max_tile_pixels=512 * 512,
    )  # fmt: skip
    with TestClient(create_app(settings)) as client:
        server = Server(client, tmp_path / "registered")
        tiles = [tile for zoom in (LIVE, ZOOM, ZOOM + 1) for tile in tiles_over(scene, zoom)]
        before = [server.tile(*_zxy(tile), ".png").content for tile in tiles]
        forwards, store = server.forwards, server.service.materialised
        for name in ("out.tif", "out_probability.tif"):
            assert store.register(name) is not None
        server.service.engine.cache.clear()
        kinds = set()
        for tile, content in zip(tiles, before, strict=True):
            answer = server.tile(*_zxy(tile), ".png")
            assert answer.content == content
            kinds.add(answer.headers["x-inference"])
        assert "materialised" in kinds and (kinds == {"materialised"}) == (not cut)
        assert (server.forwards == forwards) == (not cut)
        wide = _zxy(tiles_over(scene, LIVE - 1)[0])
        assert numbers(server.tile(*wide))[1].any()
        share, valid = numbers(server.tile(*wide, output="probability"))
        assert valid.any() and np.abs(share.sum(axis=0)[valid] - 1).max() < 0.02
        assert store.counts()["refused"] == 0
        minzoom = server.client.get("/tilejson.json").json()["minzoom"]
        assert (minzoom < LIVE) == (not cut)


# What changes


def test_below_the_live_zooms_an_etag_follows_the_files(place: Place, server: Server, tmp_path: Path) -> None:
    wide, near = _zxy(MERCATOR.tile(*_lonlat(2, 2), LIVE - 1)), _zxy(tiles_over(place.scene)[0])
    revision = server.revision
    seen: dict[tuple[int, int, int], list[str]] = {wide: [], near: []}

    def look() -> None:
        for tile, etags in seen.items():
            etags.append(server.tile(*tile, ".png").headers["etag"])
            path = f"/field/cover@{revision}/{'/'.join(map(str, tile))}.png"
            again = server.client.get(path, headers={"If-None-Match": etags[-1]})
            assert again.status_code == 304
            assert again.headers["cache-control"] == (SHORT if tile == wide else IMMUTABLE)

    look()
    file = write_export(tmp_path / "out.tif", place.other, place.scene, revision)
    written = register(server.folder, file)
    look()
    register(server.folder, write_export(file, place.classes, place.scene, revision, job="0b"))
    look()
    assert written is not None
    written.unlink()
    look()
    empty, other, classes, gone = seen[wide]
    assert len({empty, other, classes}) == 3 and gone == empty
    assert len(set(seen[near])) == 1


def test_a_file_is_shown_only_while_it_is_what_was_registered(
    place: Place, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tile, wide = _zxy(tiles_over(place.scene)[5]), _zxy(MERCATOR.tile(*_lonlat(2, 2), LIVE - 1))
    live = server.tile(*tile, ".png").content
    file = write_export(tmp_path / "out.tif", place.other, place.scene, server.revision)
    register(server.folder, file)
    kept = tmp_path / "kept.tif"
    shutil.copy2(file, kept)

    def is_used(used: bool) -> None:
        assert (server.tile(*tile, ".png").content != live) == used
        assert server.kind(*wide) == ("materialised" if used else "zoom-in")

    is_used(True)
    os.utime(file)
    is_used(False)
    shutil.copy2(kept, file)
    is_used(True)  # it is what it was
    file.rename(tmp_path / "elsewhere.tif")
    is_used(False)
    told = [record.message for record in caplog.records if record.name == "tiler.materialised"]
    assert len(told) == 1 and "'out.tif'" in told[0] and str(tmp_path) not in told[0]
    # Another file with the same size and time: its tags tell.
    forge(file, kept, place, server.revision)
    server.service.engine.pictures.clear()
    is_used(False)
    assert server.service.materialised.counts()["refused"] == 2
    server.service.materialised.register(file)
    is_used(True)
    # A file that says so and cannot be read.
    data = bytearray(kept.read_bytes())
    data[len(data) // 3 :] = b"\xff" * (len(data) - len(data) // 3)
    file.write_bytes(data)
    entry = json.loads(next(server.folder.glob("*/*.json")).read_text())
    entry |= {"size": len(data), "mtime_ns": file.stat().st_mtime_ns}
    (server.folder / server.revision / "made.json").write_text(json.dumps(entry))
    is_used(False)


def forge(file: Path, kept: Path, place: Place, revision: str) -> None:
    """Write another job's answer under a name, with the size and the time of `kept`."""
    state = kept.stat()
    # One number packs better than any answer, so that the file can be filled up.
    write_export(file, np.zeros_like(place.classes), place.scene, revision, job="0b")
    assert file.stat().st_size <= state.st_size
    with file.open("ab") as end:
        end.write(b"\0" * (state.st_size - file.stat().st_size))
    os.utime(file, ns=(state.st_atime_ns, state.st_mtime_ns))


def test_an_answer_during_which_a_file_was_found_out_is_not_kept(place: Place, server: Server, tmp_path: Path) -> None:
    wide = _zxy(MERCATOR.tile(*_lonlat(2, 2), LIVE - 1))
    file = write_export(tmp_path / "out.tif", place.other, place.scene, server.revision)
    register(server.folder, file)
    etag = server.tile(*wide).headers["etag"]
    kept = shutil.copy2(file, tmp_path / "kept.tif")
    forge(file, kept, place, server.revision)
    server.service.engine.pictures.clear()
    first, again = server.tile(*wide), server.tile(*wide)
    assert first.headers["x-inference"] == again.headers["x-inference"] == "zoom-in"
    assert (first.headers["cache-control"], again.headers["cache-control"]) == ("no-store", SHORT)
    assert again.headers["etag"] != etag and again.headers["x-cache"] != "tile"


def test_a_replaced_scene_has_none_of_the_old_ones_files(place: Place, tmp_path: Path) -> None:
    scene = tmp_path / "field.tif"
    shutil.copy(place.scene, scene)
    settings = {**place.settings, "scenes": {"field": {"path": str(scene)}}, "materialised": str(tmp_path / "r")}
    with TestClient(create_app(Settings(**settings))) as client:
        server = Server(client, tmp_path / "r")
        old = server.revision
        server.service.materialised.register(write_export(tmp_path / "out.tif", place.other, place.scene, old))
        tile, wide = _zxy(tiles_over(scene)[5]), _zxy(MERCATOR.tile(*_lonlat(2, 2), LIVE - 1))
        assert server.kind(*tile) == server.kind(*wide) == "materialised"
        write_scene(tmp_path / "new.tif", PIXELS[:, ::-1], transform=PLACE).replace(scene)
        assert server.revision != old
        assert server.kind(*tile) == "predicted" and server.kind(*wide) == "zoom-in"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"tags": {"TITILER_INFERENCE_REVISION": None}}, "lacks the tags"),
        ({"tags": {"TITILER_INFERENCE_REVISION": "../../../etc"}}, "lacks the tags"),
        ({"tags": {"TITILER_INFERENCE_OUTPUT": None}}, "lacks the tags"),
        ({"tags": {"TITILER_INFERENCE_REGION": "[0, 0, 10]"}}, "lacks the tags"),
        ({"tags": {"TITILER_INFERENCE_REGION": "[0, 0, 10, 10]"}}, "its tags say"),
        ({"tags": {"TITILER_INFERENCE_AREA": "7"}}, "lacks the tags"),
    ],
)
def test_what_is_no_export_is_not_registered(place: Place, tmp_path: Path, options: dict[str, Any], what: str) -> None:
    file = write_export(tmp_path / "out.tif", place.other, place.scene, "0123456789ab", **options)
    with pytest.raises(InferenceError, match=what) as error:
        register(tmp_path / "registered", file)
    assert str(tmp_path) not in str(error.value)
    assert not (tmp_path / "registered").exists()


def test_what_cannot_be_served_from_is_not_registered(place: Place, tmp_path: Path) -> None:
    warped = write_export(
        tmp_path / "out.tif", place.other, place.scene, "0123456789ab", tags={"TITILER_INFERENCE_REGION": None}
    )
    assert register(tmp_path, warped) is None
    none: dict[str, str | None] = {"TITILER_INFERENCE_REGION": None, "TITILER_INFERENCE_REVISION": None}
    several = write_export(tmp_path / "mosaic.tif", place.other, place.scene, "", tags=none)
    assert register(tmp_path, several) is None
    assert register(tmp_path, "s3://bucket/out.tif") is None and register(tmp_path, "/vsimem/out.tif") is None
    with pytest.raises(InferenceError, match="not a GeoTIFF"):
        register(tmp_path, tmp_path / "nothing.tif")
    assert Materialised(None).register(warped) is None and not Materialised(None).of("0123456789ab").files


def test_what_lies_elsewhere_than_its_tags_say_is_not_shown(place: Place, server: Server, tmp_path: Path) -> None:
    tags: dict[str, str | None] = {"TITILER_INFERENCE_REGION": json.dumps([7, 0, HEIGHT - 7, WIDTH])}
    register(server.folder, write_export(tmp_path / "o.tif", place.other[7:], place.scene, server.revision, tags=tags))
    assert server.kind(*_zxy(tiles_over(place.scene)[0])) == "predicted"
    assert server.service.materialised.counts()["refused"] == 1


def test_a_registration_that_is_no_json_harms_nobody(place: Place, server: Server, tmp_path: Path) -> None:
    file = write_export(tmp_path / "out.tif", place.other, place.scene, server.revision)
    written = register(server.folder, file)
    assert written is not None
    entry = json.loads(written.read_text())
    home = server.folder / server.revision
    for number, text in enumerate(
        ("", "[]", "{", "7", json.dumps({**entry, "region": [0, 0, 0, 0]}), json.dumps({**entry, "path": "out.tif"}))
    ):
        (home / f"{number}.json").write_text(text)
    assert len(server.service.materialised.of(server.revision).files) == 1
    assert server.kind(*_zxy(tiles_over(place.scene)[0])) == "materialised"


def test_nothing_that_is_answered_names_the_folder(place: Place, server: Server, tmp_path: Path) -> None:
    file = write_export(tmp_path / "secret-out.tif", place.other, place.scene, server.revision)
    register(server.folder, file)
    lon, lat = _lonlat(2, 2)
    tile = "/".join(map(str, _zxy(MERCATOR.tile(lon, lat, LIVE - 1))))
    for path in ("tilejson.json", "info", "1.0.0/WMTSCapabilities.xml", f"point/{lon},{lat}", f"{tile}.png",
                 f"{tile}.tif", "models", "metrics", "api/pairs", "statistics", "healthz"):  # fmt: skip
        answer = server.client.get(f"/{path}")
        told = answer.content + repr(dict(answer.headers)).encode()
        assert answer.status_code in (200, 405), (path, answer.text)
        assert str(tmp_path).encode() not in told and b"secret-out" not in told, path
    assert 'tiler_materialised_answers_total{result="overview"}' in server.client.get("/metrics").text


def test_others_exports_are_seen_soon_and_the_folder_is_not_walked_for_every_tile(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision, folder = "0123456789ab", tmp_path / "registered"
    clock, walks = [100.0], []
    monkeypatch.setattr("tiler.materialised.time.monotonic", lambda: clock[0])
    glob = Path.glob
    monkeypatch.setattr(Path, "glob", lambda self, *args: walks.append(self) or glob(self, *args))
    store = Materialised(folder)
    assert not store.of(revision).files and not walks
    file = write_export(tmp_path / "out.tif", place.other, place.scene, revision)
    register(folder, file)
    assert not store.of(revision).files
    clock[0] += 1.01
    assert store.of(revision).files
    # Once the folder has been still for a while, it is not read again until it changes.
    os.utime(folder / revision, (0, 0))
    for _ in range(5):
        clock[0] += 1.01
        assert len(store.of(revision).files) == 1
    walked = len(walks)
    assert walked <= 2
    store.register(write_export(tmp_path / "two.tif", place.other, place.scene, revision))
    assert len(store.of(revision).files) == 2 and len(walks) == walked + 1


def test_regions_cover_a_grid_together() -> None:
    def export(*region: int, area: Any = None) -> Export:
        return Export("/x", "0" * 12, "class", "", Rect(*region), area, 1, (), 1, 1)

    def cover(*files: Export) -> bool:
        return Exports(files).cover("class", 100, 200)

    assert cover(export(0, 0, 100, 200)) and cover(export(0, 0, 104, 208))
    assert not cover() and not cover(export(0, 0, 99, 200)) and not cover(export(1, 0, 99, 200))
    assert not cover(export(0, 0, 100, 200, area={"type": "Polygon"}))
    quarters = [export(0, 0, 60, 90), export(0, 80, 30, 120), export(50, 0, 50, 200), export(30, 85, 25, 115)]
    assert cover(*quarters)
    assert not any(cover(*quarters[:index], *quarters[index + 1 :]) for index in range(4))
    assert not Exports(tuple(quarters)).cover("probability", 100, 200)


def _lonlat(row: float, col: float) -> tuple[float, float]:
    (lon,), (lat,) = transform_points("EPSG:3857", "EPSG:4326", *([v] for v in PLACE @ (col, row)))[:2]
    return lon, lat
