"""Tiles from exported files: the same pixels, without the network; and live inference for whatever they do not tell."""

from __future__ import annotations

import io
import json
import logging
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
from tiler.errors import InferenceError
from tiler.materialised import Export, Exports, Materialised, register
from tiler.settings import Settings
from tiler.values import Rect

HEIGHT, WIDTH = 600, 840
CLASSES = ["a", "b", "c", "d", "e"]
LIVE = ZOOM - 1  # the lowest zoom that is inferred, with at most 512 x 512 px of the grid under a tile
SHORT = "public, max-age=60"
LIMITS = {"max_tile_pixels": 512 * 512, "max_request_pixels": 4096 * 4096}
# On a corner of tiles of zoom 14, so that pixels of the map are whole pixels of overviews down to there.
CORNER = MERCATOR.xy_bounds(*MERCATOR.tile(0.5, 0.3, 14))
PLACE = Affine(RES, 0, CORNER.left, 0, -RES, CORNER.top)
HOLE = (slice(100, 180), slice(300, 420))
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

    @property
    def service(self) -> Any:
        return self.client.app.state.inference.service  # type: ignore[attr-defined]

    @property
    def forwards(self) -> int:
        return int(self.service.engine.forwards)

    @property
    def revision(self) -> str:
        return str(self.client.get("/tilejson.json").json()["revision"])

    def tile(self, z: int, x: int, y: int, end: str = ".npy", **query: Any) -> Any:
        answer = self.client.get(f"/{z}/{x}/{y}{end}", params=query)
        assert answer.status_code == 200, answer.text
        return answer

    def kind(self, z: int, x: int, y: int, **query: Any) -> str:
        return str(self.tile(z, x, y, **query).headers["x-inference"])


@pytest.fixture
def server(place: Place, tmp_path: Path) -> Iterator[Server]:
    with TestClient(create_app(Settings(**place.settings, materialised=str(tmp_path / "registered")))) as client:
        made = Server(client, tmp_path / "registered")
        made.service.materialised._ttl = 0.0  # what other processes do is seen at once
        made.start = made.forwards  # type: ignore[attr-defined]
        yield made


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
    assert server.forwards == forwards > server.start  # type: ignore[attr-defined]


def _zxy(tile: Any) -> tuple[int, int, int]:
    return tile.z, tile.x, tile.y


def test_what_a_file_says_is_shown_and_the_network_is_not_run(place: Place, server: Server, tmp_path: Path) -> None:
    register(server.folder, write_export(tmp_path / "out.tif", place.other, place.scene, server.revision))
    seen, kinds = shown(server, place.scene)
    assert (seen == place.other).all() and kinds == {"materialised"}
    # Points, statistics and boxes read the same place.
    for row, col in ((3, 5), (140, 350), (599, 839), (300, 128)):
        (lon,), (lat,) = transform_points("EPSG:3857", "EPSG:4326", *([v] for v in PLACE * (col + 0.5, row + 0.5)))[:2]
        values = server.client.get(f"/point/{lon},{lat}").json()["values"]
        assert values == [None if place.other[row, col] == NODATA else place.other[row, col]]
    corners = [PLACE * corner for corner in ((0, 0), (0, HEIGHT), (WIDTH, HEIGHT), (WIDTH, 0), (0, 0))]
    ring = list(zip(*transform_points("EPSG:3857", "EPSG:4326", *zip(*corners, strict=True))[:2], strict=True))
    area = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    found = server.client.post("/statistics?categorical=true", json=area).json()["properties"]["statistics"]["class"]
    counted = dict(zip(found["histogram"][1], found["histogram"][0], strict=True))
    assert counted == {number: int((place.other == number).sum()) for number in range(len(CLASSES))}
    whole = server.client.get(f"/preview.npy?width={WIDTH}&height={HEIGHT}")
    values, valid = numbers(whole)
    assert (np.where(valid, values[0], NODATA) == place.other).all()
    assert server.forwards == server.start  # type: ignore[attr-defined]
    assert server.service.engine.counters.inferred == 0


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
    assert 0 < server.service.engine.counters.inferred
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
    area = {"type": "Polygon", "coordinates": [[PLACE * corner for corner in ring]]}
    cut = geometry_mask([area], (HEIGHT, WIDTH), PLACE, invert=True, all_touched=all_touched)
    pixels = np.where(cut, place.other, NODATA).astype(np.uint8)
    register(server.folder, write_export(tmp_path / "o.tif", pixels, place.scene, server.revision, area=area))
    seen, _ = shown(server, place.scene)
    # No pixel is lost at the edge, and the hole in the scene is one in the file, too.
    assert alike(seen, np.where(cut, place.other, place.classes), place)
    assert (seen[cut] == place.other[cut]).all()
    inferred = server.service.engine.counters.inferred
    assert 0 < inferred < (HEIGHT // 32) * (WIDTH // 32)
    # The hole lies inside of the polygon, and nobody has to be asked again: it has no data.
    hole = [tile for tile in tiles_over(place.scene, ZOOM + 2) if _within(place, tile, HOLE)]
    assert hole and {server.kind(*_zxy(tile)) for tile in hole} == {"materialised"}
    assert server.service.engine.counters.inferred == inferred


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
        known = inside & (cols < 301)
        after = served.npy(path, scene)
        assert (after[0][known] == other[rows[known], cols[known]]).all()
        assert (after[0][~known] == before[0][~known]).all() and (after[1] == before[1]).all()
        if (known == inside).all():
            assert engine.forwards == forwards
    assert forwards < engine.forwards


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
    assert server.forwards == server.start  # type: ignore[attr-defined]


def _lonlat(row: float, col: float) -> tuple[float, float]:
    (lon,), (lat,) = transform_points("EPSG:3857", "EPSG:4326", *([v] for v in PLACE * (col, row)))[:2]
    return lon, lat
