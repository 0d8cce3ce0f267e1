"""The essentials inside TiTiler. Runs on the lowest supported host stack, too, where there is no torch."""

from __future__ import annotations

import io
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from fastapi import FastAPI
from starlette.testclient import TestClient
from titiler.core.factory import TilerFactory

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import MERCATOR, RES, ZOOM, Host, host, landscape, tiles_over, write_scene
from tiler.extension import inferenceExtension

CLASSES = ["water", "forest", "field", "road"]
COLORS = [(10, 20, 200), (0, 120, 10), (220, 200, 80), (90, 90, 90)]
OTHER_COLORS = '{"0": "#ff0000", "1": "#00ff00", "2": "#0000ff", "3": "#ffff00"}'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("extension")


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    classes = [
        {"value": value, "name": name, "color_hint": "{:02x}{:02x}{:02x}".format(*color)}
        for value, (name, color) in enumerate(zip(CLASSES, COLORS, strict=True))
    ]
    window = {"multiple": 1, "period": 1, "halo": 2}
    network = conv_chain(layers=2, classes=len(CLASSES))
    return write_model(folder / "net", network, classes=classes, gsd=round(RES, 4), window=window, exactness="exact")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    """A scene with a hole."""
    pixels = landscape(600, 700)
    mask = np.ones(pixels.shape[1:], bool)
    mask[100:160, 200:300] = False
    return write_scene(folder / "scene.tif", pixels, mask=mask)


@pytest.fixture(scope="module")
def served(model: Path) -> Host:
    return host({"net": model})


@pytest.fixture
def fresh(model: Path) -> Iterator[Host]:
    """A host of its own, with an engine that has done nothing yet."""
    own = host({"net": model})
    yield own
    own.extension.engine.close()


@pytest.fixture(scope="module")
def tile() -> str:
    """z/x/y of the tile over the scene's hole, at whose centre is pixel (130, 250)."""
    found = MERCATOR._tile(1000 + 250 * RES, 5000 - 130 * RES, ZOOM)
    return f"{found.z}/{found.x}/{found.y}"


@pytest.fixture(scope="module")
def area(scene: Path) -> tuple[float, float, float, float]:
    """west, south, east, north of a part of the scene."""
    with rasterio.open(scene) as dataset:
        west, south, east, north = rasterio.warp.transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    width, height = east - west, north - south
    return west + width * 0.3, south + height * 0.3, west + width * 0.5, south + height * 0.5


def polygon(area: tuple[float, float, float, float]) -> dict[str, Any]:
    west, south, east, north = area
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}


def path(tile: str, end: str = ".png") -> str:
    return f"net/tiles/WebMercatorQuad/{tile}{end}"


def png(content: bytes) -> tuple[int, int, int]:
    """Width, height and colour type of a PNG."""
    assert content[:8] == b"\x89PNG\r\n\x1a\n"
    width, height, _, kind = struct.unpack(">IIBB", content[16:26])
    return width, height, kind


def tiff(content: bytes) -> Any:
    with rasterio.MemoryFile(content) as memory, memory.open() as dataset:
        return dataset.read(), dataset.nodata, dataset.crs, dataset.bounds


def test_this_file_needs_no_torch() -> None:
    """Everything here, the models included, runs on the light core."""
    assert "torch" not in {name.partition(".")[0] for name in vars(sys.modules[__name__])}


# Every endpoint of TiTiler answers for the prediction


def test_a_tile_is_an_indexed_png_unless_told_otherwise(served: Host, scene: Path, tile: str) -> None:
    plain, named = served.get(path(tile, ""), scene), served.get(path(tile), scene)
    assert plain.headers["content-type"] == named.headers["content-type"] == "image/png"
    assert plain.content == named.content
    assert png(named.content) == (256, 256, 3)


@pytest.mark.parametrize(
    ("end", "media_type"),
    [
        (".png", "image/png"),
        (".webp", "image/webp"),
        (".tif", "image/tiff; application=geotiff"),
        (".npy", "application/x-binary"),
        ("@2x", "image/png"),
        ("@2x.webp", "image/webp"),
    ],
)
def test_a_format_has_its_media_type(served: Host, scene: Path, tile: str, end: str, media_type: str) -> None:
    answer = served.get(path(tile, end), scene)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == media_type


def test_the_scale_and_the_tile_size_multiply(served: Host, scene: Path, tile: str) -> None:
    sizes = {
        ("", None): 256,
        ("@2x", None): 512,
        ("", 512): 512,
        ("@2x", 128): 256,
        ("@3x", 64): 192,
    }
    for (scale, tilesize), expected in sizes.items():
        options = {"tilesize": tilesize} if tilesize else {}
        assert png(served.get(path(tile, f"{scale}.png"), scene, **options).content)[:2] == (expected, expected)


def test_all_formats_show_the_same_classes(served: Host, scene: Path, tile: str) -> None:
    values, mask = served.npy(path(tile, ".npy"), scene)
    assert set(np.unique(values[mask > 0])) == set(range(len(CLASSES)))
    assert 0 < np.count_nonzero(mask == 0) < mask.size
    numbers, nodata, crs, bounds = tiff(served.get(path(tile, ".tif"), scene).content)
    assert nodata not in range(len(CLASSES))
    np.testing.assert_array_equal(numbers[0], np.where(mask, values, nodata))
    assert crs.to_epsg() == 3857 and bounds.right - bounds.left == pytest.approx(256 * RES)
    wanted = np.where(mask[..., None] > 0, np.array([(*color, 255) for color in COLORS])[values], 0)
    for end in (".png", ".webp"):
        with rasterio.MemoryFile(served.get(path(tile, end), scene).content) as memory, memory.open() as picture:
            shown = picture_rgba(picture)
        np.testing.assert_array_equal(np.where(mask[..., None] > 0, shown, 0), wanted)
        np.testing.assert_array_equal(shown[..., 3] == 0, mask == 0)


def picture_rgba(picture: Any) -> np.ndarray:
    """[rows, cols, 4] of an image as GDAL reads it: a palette is looked up, a missing alpha is opaque."""
    data = picture.read()
    if len(data) == 1:
        table = np.zeros((256, 4), int)
        for index, color in picture.colormap(1).items():
            table[index] = color
        return table[data[0]]
    return np.moveaxis(data, 0, -1).astype(int)


def test_tilejson_describes_the_prediction(served: Host, scene: Path, tile: str) -> None:
    answer = served.get("net/WebMercatorQuad/tilejson.json", scene, threshold=0.3).json()
    assert answer["minzoom"] < answer["maxzoom"] == 18
    with rasterio.open(scene) as dataset:
        expected = rasterio.warp.transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    assert answer["bounds"] == pytest.approx(expected, abs=1e-6)
    (link,) = answer["tiles"]
    assert "/cog/inference/net/tiles/WebMercatorQuad/{z}/{x}/{y}" in link and "threshold=0.3" in link
    z, x, y = tile.split("/")
    shown = served.client.get(link.replace("{z}", z).replace("{x}", x).replace("{y}", y))
    assert shown.headers["content-type"] == "image/png"


def test_info_is_of_the_prediction_and_not_of_the_imagery(served: Host, scene: Path) -> None:
    info = served.get("net/info", scene).json()
    assert (info["count"], info["dtype"], info["nodata_type"]) == (1, "uint8", "Nodata")
    assert info["band_descriptions"] == [["b1", "class"]]
    assert [item["name"] for item in info["classes"]] == CLASSES
    assert info["colormap"]["0"] == [10, 20, 200, 255]
    assert (info["width"], info["height"], info["exactness"], info["halo"]) == (700, 600, "exact", 2)
    shape = served.get("net/info.geojson", scene).json()
    assert shape["properties"]["count"] == 1


def test_the_map_asks_for_the_predictions_tiles(served: Host, scene: Path) -> None:
    page = served.get("net/WebMercatorQuad/map.html", scene)
    assert page.headers["content-type"].startswith("text/html")
    assert "/cog/inference/net/WebMercatorQuad/tilejson.json" in page.text


def test_the_point_the_tile_and_the_statistics_agree(
    served: Host, scene: Path, area: tuple[float, float, float, float]
) -> None:
    west, south, east, north = area
    box = ",".join(map(str, area))
    values, mask = served.npy(f"net/bbox/{box}/1x1.npy", scene)
    point = served.get(f"net/point/{(west + east) / 2},{(south + north) / 2}", scene).json()
    assert point["band_descriptions"] == ["class"]
    assert mask.all() and point["values"][0] in range(len(CLASSES))
    categories = range(len(CLASSES))
    answer = served.client.post(
        "/cog/inference/net/statistics",
        params={"url": str(scene), "categorical": True, "c": list(categories)},
        json=polygon(area),
    )
    counted = answer.json()["properties"]["statistics"]["b1"]
    grid, inside = served.npy(f"net/bbox/{box}.npy", scene, dst_crs="EPSG:3857")
    shares = np.bincount(grid[inside > 0].ravel(), minlength=4) / np.count_nonzero(inside)
    assert np.array(counted["histogram"][0]) / sum(counted["histogram"][0]) == pytest.approx(shares, abs=0.02)


def test_the_statistics_of_the_whole_scene_are_those_of_its_preview(served: Host, scene: Path) -> None:
    values, mask = served.npy("net/preview.npy", scene)
    assert values.shape == (600, 700)
    statistics = served.get("net/statistics", scene).json()["b1"]
    assert statistics["valid_pixels"] == np.count_nonzero(mask) == 600 * 700 - 60 * 100
    assert statistics["max"] == 3 and statistics["mean"] == pytest.approx(values[mask > 0].mean())


def test_parts_of_the_scene_are_shown(served: Host, scene: Path, area: tuple[float, float, float, float]) -> None:
    box = ",".join(map(str, area))
    sized = served.get(f"net/bbox/{box}/120x80.png", scene)
    assert png(sized.content)[:2] == (120, 80)
    assert max(png(served.get(f"net/bbox/{box}.png", scene, max_size=64).content)[:2]) == 64
    assert png(served.get("net/preview.png", scene, max_size=70).content)[:2] == (70, 60)
    assert png(served.get("net/preview/90x30.png", scene).content)[:2] == (90, 30)
    west, south, east, north = area
    ring = [[west, south], [east, south], [west, north], [west, south]]
    triangle = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    answer = served.client.post("/cog/inference/net/feature.npy", params={"url": str(scene)}, json=triangle)
    values, mask = np.load(io.BytesIO(answer.content))
    assert 0.4 < np.count_nonzero(mask) / mask.size < 0.6
    assert mask[-1, 0] == 255 and mask[0, -1] == 0


def test_models_and_legend_are_listed(served: Host) -> None:
    (listed,) = served.client.get("/cog/inference").json()
    assert (listed["id"], listed["bands"], listed["gsd"]) == ("net", ["red", "green", "blue"], round(RES, 4))
    legend = served.client.get("/cog/inference/net/legend.json").json()
    assert listed["classes"] == legend
    assert [(item["value"], item["name"]) for item in legend] == list(enumerate(CLASSES))
    assert legend[0]["color"] == "#0a14c8"


@pytest.mark.slow
def test_wmts_of_titilers_own_extension_describes_the_prediction(model: Path, scene: Path) -> None:
    wmts = pytest.importorskip("titiler.extensions.wmts")
    own = host({"net": model}, extensions=[wmts.wmtsExtension()])
    answer = own.get("net/WMTSCapabilities.xml", scene)
    assert answer.status_code == 200
    assert "/cog/inference/net/tiles/" in answer.text


def test_tile_matrix_sets_besides_web_mercator_are_served(served: Host, scene: Path) -> None:
    from morecantile import tms

    quad = tms.get("WorldCRS84Quad")
    item = tiles_over(scene, 17, quad)[0]
    values, mask = served.npy(f"net/tiles/WorldCRS84Quad/{item.z}/{item.x}/{item.y}.npy", scene)
    assert mask.any() and set(np.unique(values[mask > 0])) <= set(range(4))
    assert served.get("net/WorldCRS84Quad/tilejson.json", scene).json()["maxzoom"] >= 16
    # A tile on the other side of the Earth has no place in the scene's CRS: it is empty and not an error.
    polar = tms.get("UPSAntarcticWGS84Quad")
    last = polar.matrix(5).matrixWidth - 1
    answer = served.get(f"net/tiles/UPSAntarcticWGS84Quad/5/{last}/{last}.png", scene)
    assert answer.status_code == 200 and answer.headers["x-inference"] in ("outside", "zoom-in")


def test_openapi_is_built_without_a_warning(served: Host) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = served.client.app.openapi()["paths"]
    ids = [operation["operationId"] for item in paths.values() for operation in item.values()]
    assert len(ids) == len(set(ids)) > 30


def test_titilers_own_routes_stay_as_they_were(served: Host, scene: Path, tile: str) -> None:
    plain = TilerFactory(router_prefix="/cog")
    app = FastAPI()
    app.include_router(plain.router, prefix="/cog")
    for question in ("info", f"tiles/WebMercatorQuad/{tile}.png"):
        theirs = TestClient(app).get(f"/cog/{question}", params={"url": str(scene)})
        assert served.client.get(f"/cog/{question}", params={"url": str(scene)}).content == theirs.content


# Work is done once


def test_a_second_request_runs_no_inference(fresh: Host, scene: Path, tile: str) -> None:
    engine = fresh.extension.engine
    first = fresh.get(path(tile), scene)
    done = engine.forwards
    assert done > 0 and first.headers["x-inference"] == "predicted"
    assert fresh.get(path(tile), scene).content == first.content
    assert engine.forwards == done


def test_recolouring_runs_no_inference(fresh: Host, scene: Path, tile: str) -> None:
    engine = fresh.extension.engine
    first = fresh.get(path(tile), scene).content
    done = engine.forwards
    answers = [
        fresh.get(path(tile), scene, colormap=OTHER_COLORS).content,
        fresh.get(path(tile), scene, colormap_name="viridis").content,
        fresh.get(path(tile, ".webp"), scene).content,
        fresh.get(path(tile), scene, **{"class": "forest"}).content,
    ]
    assert len({first, *answers}) == 5
    assert engine.forwards == done


def test_the_users_colours_win(served: Host, scene: Path, tile: str) -> None:
    values, mask = served.npy(path(tile, ".npy"), scene)
    with rasterio.MemoryFile(served.get(path(tile), scene, colormap=OTHER_COLORS).content) as memory:
        with memory.open() as picture:
            shown = picture_rgba(picture)
    wanted = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)])[values]
    np.testing.assert_array_equal(shown[mask > 0][:, :3], wanted[mask > 0])


def test_identical_concurrent_requests_are_one_forward_pass(fresh: Host, scene: Path, tile: str) -> None:
    """Eight clients wait at the same time: the network's thread is held until all of them have asked."""
    engine, catalog = fresh.extension.engine, fresh.extension.catalog
    runner = catalog.model("net").runner
    passes, all_asked = [], threading.Event()
    real = type(runner).__call__

    def held(self: Any, pixels: Any, *args: Any, **options: Any) -> Any:
        passes.append(pixels.shape)
        assert all_asked.wait(30)
        return real(self, pixels, *args, **options)

    patch = pytest.MonkeyPatch()
    patch.setattr(type(runner), "__call__", held)
    asked = threading.Semaphore(0)
    layers = type(catalog).layer

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        found = layers(self, *args, **options)
        asked.release()
        return found

    patch.setattr(type(catalog), "layer", counted)
    try:
        with ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(fresh.get, path(tile), scene, tilesize=64) for _ in range(8)]
            for _ in range(8):
                assert asked.acquire(timeout=30)
            all_asked.set()
            contents = {answer.result(30).content for answer in answers}
    finally:
        all_asked.set()
        patch.undo()
    assert len(contents) == 1 and png(contents.pop())[:2] == (64, 64)
    alone = host({"net": served_model(fresh)})
    alone.get(path(tile), scene, tilesize=64)
    # As many windows as one client alone needs, not eight times as many.
    assert engine.forwards == len(passes) == alone.extension.engine.forwards


def served_model(of: Host) -> Path:
    return Path(next(iter(of.extension.models.values())))


# ETags


def test_an_etag_is_answered_with_304_and_without_opening_the_scene(
    model: Path, folder: Path, tile: str, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, engine = host({"net": model}), None
    copy = folder / "etag.tif"
    copy.write_bytes(scene.read_bytes())
    first = own.get(path(tile), copy)
    etag, engine = first.headers["etag"], own.extension.engine
    done = engine.forwards
    copy.rename(folder / "elsewhere.tif")

    def refused(*args: Any, **options: Any) -> Any:
        raise AssertionError("the scene was opened")

    monkeypatch.setattr(rasterio, "open", refused)
    ask = {"url": str(copy)}
    for header in (etag, f'"another", {etag}', f"W/{etag}", "*"):
        again = own.client.get(f"{own.prefix}/{path(tile)}", params=ask, headers={"If-None-Match": header})
        assert again.status_code == 304, header
        assert again.content == b"" and again.headers["etag"] == etag
        assert again.headers["cache-control"] == first.headers["cache-control"]
    other = own.client.get(f"{own.prefix}/{path(tile)}", params=ask, headers={"If-None-Match": '"another"'})
    assert other.status_code == 200 and other.content == first.content
    assert engine.forwards == done


def test_an_etag_changes_with_whatever_changes_the_bytes(served: Host, scene: Path, tile: str) -> None:
    questions: list[tuple[str, dict[str, Any]]] = [
        (".png", {}),
        (".webp", {}),
        (".tif", {}),
        ("@2x.png", {}),
        (".png", {"tilesize": 128}),
        (".png", {"colormap": OTHER_COLORS}),
        (".png", {"colormap_name": "viridis"}),
        (".png", {"output": "confidence"}),
        (".npy", {"output": "probability"}),
        (".png", {"class": "water"}),
        (".png", {"threshold": 0.5}),
        (".png", {"threshold": 0.6}),
        (".png", {"resampling": "bilinear"}),
        (".png", {"return_mask": False}),
        (".png", {"bidx": [3, 2, 1]}),
        (".png", {"nodata": 7}),
    ]
    etags = [served.get(path(tile, end), scene, **options).headers["etag"] for end, options in questions]
    assert len(set(etags)) == len(etags)
    assert all(etag.startswith('"') and etag.endswith('"') for etag in etags)
    again = [served.get(path(tile, end), scene, **options).headers["etag"] for end, options in questions]
    assert again == etags
    z, x, y = map(int, tile.split("/"))
    assert served.get(path(f"{z}/{x + 1}/{y}"), scene).headers["etag"] != etags[0]


def test_the_revision_changes_with_the_scene(model: Path, folder: Path, tile: str) -> None:
    from tiler.catalog import Catalog

    copy = write_scene(folder / "changing.tif", landscape(600, 700, seed=1))
    catalog = Catalog({"net": str(model)}, ttl=0.001)
    own = host({"net": model}, catalog=catalog)
    first = own.get(path(tile), copy)
    write_scene(copy, landscape(600, 700, seed=2))
    second = own.get(path(tile), copy)
    assert first.headers["x-revision"] != second.headers["x-revision"]
    assert first.headers["etag"] != second.headers["etag"] and first.content != second.content


# What is shown


def test_probabilities_confidence_and_classes_belong_together(served: Host, scene: Path, tile: str) -> None:
    values, mask = served.npy(path(tile, ".npy"), scene)
    *planes, also = served.npy(path(tile, ".npy"), scene, output="probability")
    planes = np.array(planes)
    valid = mask > 0
    np.testing.assert_array_equal(also > 0, valid)
    assert planes.shape[0] == len(CLASSES)
    np.testing.assert_allclose(planes.sum(axis=0)[valid], 1, atol=5e-3)
    assert (planes[:, ~valid] == 0).all()
    # Probabilities are kept in half precision: where two are equal in it, either may be the class.
    best = np.take_along_axis(planes, values[None].astype(int), axis=0)[0]
    np.testing.assert_array_equal(best[valid], planes.max(axis=0)[valid])
    confidence, _ = served.npy(path(tile, ".npy"), scene, output="confidence")
    np.testing.assert_array_equal(confidence, planes.max(axis=0) * valid)


def test_class_and_threshold_choose_what_is_shown(served: Host, scene: Path, tile: str) -> None:
    values, mask = served.npy(path(tile, ".npy"), scene)
    planes = served.npy(path(tile, ".npy"), scene, output="probability")[:-1]
    best, valid = planes.max(axis=0), mask > 0
    chosen, shown = served.npy(path(tile, ".npy"), scene, **{"class": "Forest,3"})
    np.testing.assert_array_equal(shown > 0, valid & np.isin(values, (1, 3)))
    np.testing.assert_array_equal(chosen[shown > 0], values[shown > 0])
    limit = float(np.median(best[valid]))
    sure, shown = served.npy(path(tile, ".npy"), scene, threshold=limit)
    np.testing.assert_array_equal(shown > 0, valid & (best >= np.float32(limit)))
    np.testing.assert_array_equal(sure[shown > 0], values[shown > 0])
    one, also = served.npy(path(tile, ".npy"), scene, output="probability", **{"class": "road"})
    np.testing.assert_array_equal(one, planes[3])
    np.testing.assert_array_equal(also > 0, valid)
    _, above = served.npy(path(tile, ".npy"), scene, output="probability", threshold=0.25, **{"class": "road"})
    np.testing.assert_array_equal(above > 0, valid & (planes[3] >= 0.25))


def test_a_probability_is_shown_in_256_steps_of_a_palette(served: Host, scene: Path, tile: str) -> None:
    answer = served.get(path(tile), scene, output="probability", **{"class": "water"})
    assert png(answer.content) == (256, 256, 3)
    numbers, nodata, _, _ = tiff(served.get(path(tile, ".tif"), scene, output="probability").content)
    assert numbers.shape[0] == len(CLASSES) and numbers.dtype == np.float32 and np.isnan(nodata)
    _, mask = served.npy(path(tile, ".npy"), scene)
    np.testing.assert_array_equal(np.isnan(numbers[0]), mask == 0)


def test_headers_say_model_and_revision(served: Host, scene: Path, tile: str) -> None:
    answer = served.get(path(tile), scene)
    assert answer.headers["x-model"].startswith("net#")
    assert len(answer.headers["x-revision"]) == 12
    # Exact, and at the model's own resolution: nothing to warn of.
    assert "x-exactness" not in answer.headers and "x-gsd" not in answer.headers


def test_the_legend_of_an_unknown_model_is_not_found(served: Host) -> None:
    answer = served.client.get("/cog/inference/nope/legend.json")
    assert answer.status_code == 404 and "net" in answer.json()["detail"]


def test_one_extension_on_two_factories_loads_its_models_once(
    model: Path, scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiler import catalog as room

    loads, real = [], room.load

    def counted(*args: Any, **options: Any) -> Any:
        loads.append(args)
        return real(*args, **options)

    monkeypatch.setattr(room, "load", counted)
    extension = inferenceExtension(models={"net": str(model)})
    app = FastAPI()
    for prefix in ("/a", "/b"):
        app.include_router(TilerFactory(router_prefix=prefix, extensions=[extension]).router, prefix=prefix)
    client = TestClient(app)
    ask: Callable[[str], Any] = lambda prefix: client.get(f"{prefix}/inference/net/info", params={"url": str(scene)})  # noqa: E731
    assert ask("/a").json() == ask("/b").json()
    assert len(loads) == 1
