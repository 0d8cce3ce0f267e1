"""Right place and one truth: a known pixel is found where it lies, and every door says the same of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.warp import transform_geom

from model_registry.testing import strided_unet, write_model
from tests.tiler.helpers import Host, classifier, host, landscape, square_tiles, whole_scene, write_scene

UTM = "EPSG:32632"
RES = 0.5
# Somewhere off any round number, 1.7 degrees from the zone's meridian: north is not up in EPSG:3857 there.
LEFT, TOP = 621_003.37, 5_361_700.81
SIDE = 72
# Tiles of the scene's own zone, whose pixels are no simple fraction of the scene's.
TMS = morecantile.tms.register({"Square": square_tiles(UTM, LEFT - 1003.1, TOP + 871.7, 5000.0)})
# Tile matrix set, and a zoom at which a tile of 1024 px shows a scene pixel as 15 to 30 of its own.
PLACES = {
    "WebMercatorQuad": 20,
    "WGS1984Quad": 20,
    "WorldCRS84Quad": 20,
    "Square": 7,
    "UTM31WGS84Quad": 20,
}
TILESIZE = 1024


def target_scene() -> NDArray[np.uint8]:
    """Background 10, and single pixels of 200 that do not touch each other."""
    random = np.random.default_rng(3)
    pixels = np.full((SIDE, SIDE), 10, np.uint8)
    for row in range(2, SIDE - 3, 5):
        for col in range(2, SIDE - 3, 5):
            pixels[row + random.integers(0, 3), col + random.integers(0, 3)] = 200
    return pixels


@pytest.fixture(scope="module")
def north_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "north_up.tif"
    return write_scene(path, target_scene()[None], crs=UTM, transform=Affine(RES, 0, LEFT, 0, -RES, TOP))


@pytest.fixture(scope="module")
def south_up(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "south_up.tif"
    bottom = TOP - SIDE * RES
    return write_scene(path, target_scene()[None, ::-1], crs=UTM, transform=Affine(RES, 0, LEFT, 0, RES, bottom))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Host:
    model = classifier(tmp_path_factory.mktemp("models") / "targets", [10, 200], gsd=RES)
    return host({"targets": model}, factory={"supported_tms": TMS})


def central_tile(name: str) -> morecantile.Tile:
    lon, lat = to_lonlat(LEFT + SIDE * RES / 2, TOP - SIDE * RES / 2)
    return TMS.get(name).tile(lon, lat, PLACES[name])


def to_lonlat(x: float, y: float) -> tuple[float, float]:
    return pyproj.Transformer.from_crs(UTM, "EPSG:4326", always_xy=True).transform(x, y)


def tile_classes(served: Host, scene: Path, name: str) -> NDArray[np.uint8]:
    """The classes of the tile at the scene's centre; 255 where there is no data."""
    tile = central_tile(name)
    values, mask = served.npy(f"targets/tiles/{name}/{tile.z}/{tile.x}/{tile.y}.npy", scene, tilesize=TILESIZE)
    return np.where(mask == 255, values, 255)


def projected(name: str, shift: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Row and column in the scene of each pixel centre of the tile, by pyproj, and the tile's pixels per scene pixel.

    `shift` moves the tile by that many of its pixels along both axes.
    """
    tms, tile = TMS.get(name), central_tile(name)
    left, bottom, right, top = tms.xy_bounds(tile)
    steps = (np.arange(TILESIZE) + 0.5 + shift) / TILESIZE
    xs, ys = np.meshgrid(left + steps * (right - left), top - steps * (top - bottom))
    x, y = pyproj.Transformer.from_crs(tms.rasterio_crs.to_wkt(), UTM, always_xy=True).transform(xs, ys)
    rows, cols = (TOP - y) / RES, (x - LEFT) / RES
    largest = max(np.abs(np.diff(axis, axis=along)).max() for axis in (rows, cols) for along in (0, 1))
    return rows, cols, 1 / float(largest)


def misplaced(classes: NDArray[np.uint8], name: str, shift: float = 0.0) -> int:
    """Tile pixels that show something else than what lies within 0.1 tile pixel of their centre."""
    rows, cols, scale = projected(name, shift)
    margin = 0.1 / scale
    expected = scene_at(rows, cols)
    to_edge = np.minimum(np.abs(rows - np.round(rows)), np.abs(cols - np.round(cols)))
    return int(((classes != expected) & (to_edge > margin)).sum())


def scene_at(rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.uint8]:
    row, col = np.floor(rows).astype(int), np.floor(cols).astype(int)
    inside = (row >= 0) & (row < SIDE) & (col >= 0) & (col < SIDE)
    classes = (target_scene() == 200).astype(np.uint8)
    return np.where(inside, classes[np.where(inside, row, 0), np.where(inside, col, 0)], 255)


@pytest.mark.parametrize("name", PLACES)
def test_every_tile_pixel_lies_within_a_tenth_of_its_place(served: Host, north_up: Path, name: str) -> None:
    classes = tile_classes(served, north_up, name)
    assert {0, 1} <= set(np.unique(classes))
    assert misplaced(classes, name) == 0


@pytest.mark.parametrize("name", PLACES)
def test_a_shift_of_a_quarter_of_a_tile_pixel_would_show(served: Host, north_up: Path, name: str) -> None:
    """The check above can fail."""
    assert misplaced(tile_classes(served, north_up, name), name, shift=0.25) > 0


@pytest.mark.parametrize("name", PLACES)
def test_target_pixels_are_found_where_pyproj_puts_them(served: Host, north_up: Path, name: str) -> None:
    classes = tile_classes(served, north_up, name)
    tms, tile = TMS.get(name), central_tile(name)
    left, bottom, right, top = tms.xy_bounds(tile)
    to_tile = pyproj.Transformer.from_crs(UTM, tms.rasterio_crs.to_wkt(), always_xy=True)
    _, _, scale = projected(name)
    offsets = []
    for row, col in np.argwhere(target_scene() == 200):
        x, y = to_tile.transform(LEFT + (col + 0.5) * RES, TOP - (row + 0.5) * RES)
        true = np.array([(top - y) / (top - bottom), (x - left) / (right - left)]) * TILESIZE
        reach = 1.9 * scale
        if (true < reach).any() or (true > TILESIZE - reach).any():
            continue
        first = (true - reach).astype(int)
        around = classes[first[0] : first[0] + int(2 * reach), first[1] : first[1] + int(2 * reach)]
        offsets.append(np.argwhere(around == 1).mean(axis=0) + 0.5 + first - true)
    assert len(offsets) >= 20
    # One blob's centroid is as exact as its edges, which whole pixels cannot show better than half a pixel each.
    assert np.abs(offsets).max() <= 0.5
    assert np.abs(np.mean(offsets, axis=0)).max() < 0.1


@pytest.mark.parametrize("name", PLACES)
def test_a_south_up_raster_gives_the_same_tiles(served: Host, north_up: Path, south_up: Path, name: str) -> None:
    with rasterio.open(south_up) as dataset:
        assert dataset.transform.e > 0
    assert np.array_equal(tile_classes(served, south_up, name), tile_classes(served, north_up, name))


@pytest.mark.parametrize("raster", ["north_up", "south_up"])
def test_points_change_their_class_at_the_targets_edges(
    served: Host, raster: str, request: pytest.FixtureRequest
) -> None:
    scene = request.getfixturevalue(raster)
    row, col = np.argwhere(target_scene() == 200)[17]
    for down, right, inside in ((0.5, 0.5, 1), (0.02, 0.5, 1), (0.98, 0.98, 1), (-0.02, 0.5, 0), (0.5, 1.02, 0)):
        x, y = LEFT + (col + right) * RES, TOP - (row + down) * RES
        for place, crs in (((x, y), UTM), (to_lonlat(x, y), "EPSG:4326")):
            answer = served.get(f"targets/point/{float(place[0])!r},{float(place[1])!r}", scene, coord_crs=crs)
            assert answer.json()["values"] == [inside]


@pytest.mark.parametrize("raster", ["north_up", "south_up"])
def test_a_bbox_in_the_scenes_crs_gives_its_own_pixels(
    served: Host, raster: str, request: pytest.FixtureRequest
) -> None:
    bbox = ",".join(repr(v) for v in (LEFT + 10 * RES, TOP - 60 * RES, LEFT + 50 * RES, TOP - 20 * RES))
    values, mask = served.npy(f"targets/bbox/{bbox}.npy", request.getfixturevalue(raster), coord_crs=UTM, dst_crs=UTM)
    assert np.array_equal(values, target_scene()[20:60, 10:50] == 200)
    assert (mask == 255).all()


# One truth ------------------------------------------------------------------------------------------------------------

HEIGHT, WIDTH = 331, 383
CLASSES = ["a", "b", "c", "d", "e"]


@pytest.fixture(scope="module")
def busy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("busy") / "busy.tif"
    return write_scene(path, landscape(HEIGHT, WIDTH), crs=UTM, transform=Affine(RES, 0, LEFT, 0, -RES, TOP))


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "unet", strided_unet(depth=2), classes=CLASSES, gsd=RES)


@pytest.fixture(scope="module")
def truth(network: Path) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Class of every scene pixel by one independent pass, and whether it is sure."""
    scaled = landscape(HEIGHT, WIDTH).astype(np.float32) / 255
    expected, lead = whole_scene(network / "model.onnx", scaled, pad=12, multiple=4)
    return expected, lead > 1e-5


@pytest.fixture(scope="module")
def asked(network: Path) -> Host:
    return host({"unet": network}, factory={"supported_tms": TMS})


def point_class(asked: Host, scene: Path, x: float, y: float, crs: str) -> int:
    answer = asked.get(f"unet/point/{float(x)!r},{float(y)!r}", scene, coord_crs=crs)
    assert answer.status_code == 200, answer.text
    (value,) = answer.json()["values"]
    return int(value)


@pytest.mark.slow
def test_500_points_say_what_the_tiles_show(asked: Host, busy: Path) -> None:
    tms, random = TMS.get("WebMercatorQuad"), np.random.default_rng(1)
    west, north = to_lonlat(LEFT, TOP)
    east, south = to_lonlat(LEFT + WIDTH * RES, TOP - HEIGHT * RES)
    shown = []
    for tile in tms.tiles(west, south, east, north, zooms=[19]):
        values, mask = asked.npy(f"unet/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.npy", busy)
        shown += [(tile, row, col, values[row, col]) for row, col in np.argwhere(mask == 255)]
    cell, disagreeing = tms.matrix(19).cellSize, []
    for index in random.choice(len(shown), 500, replace=False):
        tile, row, col, value = shown[index]
        left, _, _, top = tms.xy_bounds(tile)
        found = point_class(asked, busy, left + (col + 0.5) * cell, top - (row + 0.5) * cell, "EPSG:3857")
        if found != value:
            disagreeing.append((tile, row, col))
    assert disagreeing == []


@pytest.mark.slow
def test_500_points_anywhere_say_what_one_pass_over_the_scene_says(
    asked: Host, busy: Path, truth: tuple[NDArray[np.int64], NDArray[np.bool_]]
) -> None:
    expected, sure = truth
    random = np.random.default_rng(2)
    places = random.random((500, 2)) * (HEIGHT, WIDTH)
    wrong = []
    for row, col in places:
        lon, lat = to_lonlat(LEFT + col * RES, TOP - row * RES)
        found = point_class(asked, busy, lon, lat, "EPSG:4326")
        if sure[int(row), int(col)] and found != expected[int(row), int(col)]:
            wrong.append((row, col))
    assert wrong == []


def polygons(crs: str) -> list[dict[str, Any]]:
    """Small triangles to hexagons all over the scene, some of them over its edge."""
    random = np.random.default_rng(5)
    shapes = []
    for _ in range(40):
        row, col = random.random(2) * (HEIGHT, WIDTH)
        angles = np.sort(random.random(random.integers(3, 7)) * 2 * np.pi)
        radius = random.uniform(2, 25) * RES
        x, y = LEFT + col * RES + radius * np.cos(angles), TOP - row * RES + radius * np.sin(angles)
        ring = [[float(a), float(b)] for a, b in zip(x, y, strict=True)]
        shapes.append({"type": "Polygon", "coordinates": [[*ring, ring[0]]]})
    return shapes if crs == UTM else [transform_geom(UTM, crs, shape) for shape in shapes]


@pytest.mark.parametrize("crs", [UTM, "EPSG:4326", "EPSG:3857"])
def test_statistics_count_what_one_pass_over_the_scene_says(
    asked: Host, busy: Path, truth: tuple[NDArray[np.int64], NDArray[np.bool_]], crs: str
) -> None:
    expected, sure = truth
    shapes = polygons(crs)
    body = {
        "type": "FeatureCollection",
        "features": [{"type": "Feature", "properties": {}, "geometry": shape} for shape in shapes],
    }
    answer = asked.client.post(
        "/cog/inference/unet/statistics",
        params={"url": str(busy), "categorical": True, "coord_crs": crs},
        json=body,
    )
    assert answer.status_code == 200, answer.text
    compared = 0
    for shape, feature in zip(shapes, answer.json()["features"], strict=True):
        geometry = shape if crs == UTM else transform_geom(crs, UTM, shape)
        touched = rasterize(
            [geometry], (HEIGHT, WIDTH), transform=Affine(RES, 0, LEFT, 0, -RES, TOP), all_touched=True
        ).astype(bool)
        if not sure[touched].all():
            continue
        compared += 1
        (band,) = feature["properties"]["statistics"].values()
        counts, values = band["histogram"]
        ours = dict(zip(*np.unique(expected[touched], return_counts=True), strict=True))
        assert dict(zip(values, counts, strict=True)) == ours
        assert band["valid_pixels"] == touched.sum()
    assert compared >= 30
