"""Right scale: the network sees its own resolution and no other, and what is shown is real predictions."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import pyproj
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray

from model_registry.testing import conv_chain, strided_unet, write_model
from tests.tiler.helpers import (
    Host,
    best_and_lead,
    classifier,
    host,
    landscape,
    rgba,
    square_tiles,
    whole_scores,
    write_scene,
)
from tiler.predict import Limits

UTM = "EPSG:32632"
LEFT, TOP = 500_000.0, 5_400_000.0
HEIGHT, WIDTH = 480, 600
RES = 0.5
CLASSES = ["a", "b", "c", "d", "e"]
# Zoom 6 has pixels of 0.5 m that are the scene's own; 7 and 8 are finer, 5 and 4 coarser.
ALIGNED = square_tiles(UTM, LEFT, TOP, 256 * RES * 2**6)
# Pixels of 0.27 m, anywhere.
OBLIQUE = square_tiles(UTM, LEFT - 1234.567, TOP + 871.313, 256 * 0.27 * 2**6)
TMS = morecantile.tms.register({"Aligned": ALIGNED, "Oblique": OBLIQUE})
MODELS = {"half": 0.5, "one": 1.0, "third": 0.3, "three_quarters": 0.75}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scenes") / "utm.tif"
    return write_scene(path, landscape(HEIGHT, WIDTH), crs=UTM, transform=Affine(RES, 0, LEFT, 0, -RES, TOP))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One network (halo 12, period 4) said to be of several resolutions."""
    folder = tmp_path_factory.mktemp("models")
    network = strided_unet(depth=2)
    return {name: write_model(folder / name, network, classes=CLASSES, gsd=gsd) for name, gsd in MODELS.items()}


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> Host:
    return host(models, factory={"supported_tms": TMS})


def averaged(pixels: NDArray[Any], ratio_y: float, ratio_x: float) -> NDArray[np.float32]:
    """Area means of an image on pixels `ratio` times as large, from the upper left corner."""

    def shares(size: int, ratio: float) -> NDArray[np.float64]:
        low = np.arange(round(size / ratio))[:, None] * ratio
        cell = np.arange(size)[None, :]
        overlap = np.clip(np.minimum(low + ratio, cell + 1) - np.maximum(low, cell), 0, None)
        return overlap / overlap.sum(axis=1, keepdims=True)

    rows, cols = shares(pixels.shape[1], ratio_y), shares(pixels.shape[2], ratio_x)
    return (rows @ pixels.astype(np.float64) @ cols.T).astype(np.float32)


def interpolated(pixels: NDArray[Any], ratio: float) -> NDArray[np.float32]:
    """Bilinear interpolation of an image on pixels `ratio` times as large, which is less than 1."""

    def weights(size: int) -> NDArray[np.float64]:
        place = (np.arange(round(size / ratio)) + 0.5) * ratio - 0.5
        return np.clip(1 - np.abs(np.clip(place, 0, size - 1)[:, None] - np.arange(size)[None, :]), 0, None)

    rows, cols = weights(pixels.shape[1]), weights(pixels.shape[2])
    return (rows @ pixels.astype(np.float64) @ cols.T).astype(np.float32)


def resampled(name: str) -> NDArray[np.float32]:
    """The scene as the network of that name must see it, by numpy alone."""
    pixels, ratio = landscape(HEIGHT, WIDTH), MODELS[name] / RES
    return averaged(pixels, ratio, ratio) if ratio >= 1 else interpolated(pixels, ratio)


def scores_at(models: dict[str, Path], name: str) -> NDArray[np.float32]:
    return whole_scores(models[name] / "model.onnx", resampled(name) / np.float32(255), pad=12, multiple=4)


def tiles(tms: morecantile.TileMatrixSet, zoom: int) -> list[morecantile.Tile]:
    """All tiles of a zoom that touch the scene."""
    matrix = tms.matrix(zoom)
    left, top = matrix.pointOfOrigin
    side = matrix.cellSize * 256
    cols = range(int((LEFT - left) // side), math.ceil((LEFT + WIDTH * RES - left) / side))
    rows = range(int((top - TOP) // side), math.ceil((top - TOP + HEIGHT * RES) / side))
    return [morecantile.Tile(x=col, y=row, z=zoom) for row in rows for col in cols]


def under_tile(
    tms: morecantile.TileMatrixSet, tile: morecantile.Tile, gsd: float, shape: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """Row and column on a grid of `gsd` under each pixel centre of a tile in the scene's CRS; and whether inside."""
    left, bottom, right, top = tms.xy_bounds(tile)
    steps = (np.arange(256) + 0.5) / 256
    rows = np.floor((TOP - (top - steps * (top - bottom))) / gsd).astype(int)
    cols = np.floor((left + steps * (right - left) - LEFT) / gsd).astype(int)
    row, col = np.meshgrid(rows, cols, indexing="ij")
    inside = (row >= 0) & (row < shape[0]) & (col >= 0) & (col < shape[1])
    return np.where(inside, row, 0), np.where(inside, col, 0), inside


@pytest.mark.slow
def test_the_grid_has_exactly_the_models_gsd(served: Host, scene: Path) -> None:
    for name, gsd in MODELS.items():
        info = served.get(f"{name}/info", scene).json()
        left, bottom, right, top = info["bounds"]
        assert info["gsd"] == gsd
        assert (info["width"], info["height"]) == (round(WIDTH * RES / gsd), round(HEIGHT * RES / gsd))
        assert (right - left) / info["width"] == pytest.approx(gsd, rel=1e-12)
        assert (top - bottom) / info["height"] == pytest.approx(gsd, rel=1e-12)
        assert (left, top) == (LEFT, TOP)


@pytest.mark.parametrize("name", MODELS)
def test_tiles_equal_one_pass_over_the_scene_at_the_models_gsd(
    served: Host, models: dict[str, Path], scene: Path, name: str
) -> None:
    expected, lead = best_and_lead(scores_at(models, name))
    # GDAL and numpy round differently where they interpolate; means of two by two are exact in both.
    sure = lead > (1e-5 if MODELS[name] in (0.5, 1.0) else 1e-3)
    assert sure.mean() > 0.99
    seen = np.zeros(expected.shape, bool)
    for tile in tiles(OBLIQUE, 6):
        values, mask = served.npy(f"{name}/tiles/Oblique/{tile.z}/{tile.x}/{tile.y}.npy", scene)
        row, col, inside = under_tile(OBLIQUE, tile, MODELS[name], expected.shape)
        assert np.array_equal(mask == 255, inside)
        assert (values == expected[row, col])[inside & sure[row, col]].all()
        seen[row[inside], col[inside]] = True
    assert seen.all()


@pytest.mark.parametrize("name", ["one", "third", "three_quarters"])
def test_the_same_network_at_the_scenes_own_scale_would_differ(models: dict[str, Path], name: str) -> None:
    """The check above can fail: a silent run at 0.5 m is another map."""
    expected, _ = best_and_lead(scores_at(models, name))
    native, _ = best_and_lead(scores_at(models, "half"))
    rows = (np.arange(expected.shape[0]) * MODELS[name] / RES).astype(int)
    cols = (np.arange(expected.shape[1]) * MODELS[name] / RES).astype(int)
    assert (native[rows[:, None], cols] != expected).mean() > 0.05


@pytest.mark.slow
def test_reading_in_small_strips_changes_nothing(
    served: Host, models: dict[str, Path], scene: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Resampling holds little of the scene at once; its answer does not depend on how little, to the last bit."""
    path, style = "tiles/Aligned/5/0/0.npy", {"output": "confidence"}
    names = ["one", "third", "three_quarters"]
    whole = [served.npy(f"{name}/{path}", scene, **style) for name in names]
    monkeypatch.setattr("tiler.pixels.MAX_SCENE_PIXELS", 2000)
    fresh = host(models, factory={"supported_tms": TMS})
    for name, answer in zip(names, whole, strict=True):
        assert np.array_equal(fresh.npy(f"{name}/{path}", scene, **style), answer)


@pytest.mark.parametrize("zoom", [7, 8])
def test_zoomed_in_each_pixel_becomes_a_block(served: Host, models: dict[str, Path], scene: Path, zoom: int) -> None:
    expected, lead = best_and_lead(scores_at(models, "half"))
    times = 2 ** (zoom - 6)
    x, y, side = 1, 1, 256 // times
    values, mask = served.npy(f"half/tiles/Aligned/{zoom}/{x}/{y}.npy", scene)
    native = (slice(y * side, (y + 1) * side), slice(x * side, (x + 1) * side))
    blocks = values.reshape(side, times, side, times)
    assert (mask == 255).all()
    assert (blocks == blocks[:, :1, :, :1]).all()
    assert (blocks[:, 0, :, 0] == expected[native])[lead[native] > 1e-5].all()


def blocks_of_four(array: NDArray[Any]) -> NDArray[Any]:
    """[..., rows, 4, cols, 4] of the part of an array under the first tile two zooms out that lies in the scene."""
    *rest, height, width = array.shape
    return array.reshape(*rest, height // 4, 4, width // 4, 4)


def test_zoomed_out_shows_the_majority_of_real_predictions(served: Host, models: dict[str, Path], scene: Path) -> None:
    expected, lead = best_and_lead(scores_at(models, "half"))
    values, mask = served.npy("half/tiles/Aligned/4/0/0.npy", scene)
    height, width = HEIGHT // 4, WIDTH // 4
    votes = np.stack([blocks_of_four(expected == value).sum(axis=(1, 3)) for value in range(len(CLASSES))])
    ordered = np.sort(votes, axis=0)
    # A class that leads by more votes than there are unsure pixels has won.
    clear = ordered[-1] - ordered[-2] > blocks_of_four(lead <= 1e-5).sum(axis=(1, 3))
    assert clear.mean() > 0.8
    assert (mask[:height, :width] == 255).all() and (mask[height:] == 0).all() and (mask[:, width:] == 0).all()
    assert (values[:height, :width] == votes.argmax(axis=0))[clear].all()


def test_zoomed_out_probabilities_are_means_of_real_ones(served: Host, models: dict[str, Path], scene: Path) -> None:
    scores = scores_at(models, "half")
    shares = np.exp(scores) / np.exp(scores).sum(axis=0)
    answer = served.npy("half/tiles/Aligned/4/0/0.npy", scene, output="probability")
    assert answer.shape == (len(CLASSES) + 1, 256, 256)
    means = blocks_of_four(shares).mean(axis=(2, 4))
    assert np.abs(answer[:-1, : HEIGHT // 4, : WIDTH // 4] - means).max() < 1e-3


def test_bilinear_warps_probabilities_and_takes_the_best_after(
    served: Host, models: dict[str, Path], scene: Path
) -> None:
    """A tile with pixels of 0.125 m: between four pixel centres, the answer is theirs, weighted by nearness."""
    scores = scores_at(models, "half")
    shares = np.exp(scores) / np.exp(scores).sum(axis=0)
    # The tile's 64 x 64 scene pixels at row 64 and column 128, and one more on every side.
    around = shares[:, 63 : 63 + 66, 127 : 127 + 66]
    mixed = interpolated(around, 0.25)[:, 4:-4, 4:-4]
    best, lead = best_and_lead(mixed)
    options = {"resampling": "bilinear"}
    values, mask = served.npy("half/tiles/Aligned/8/2/1.npy", scene, **options)
    warped = served.npy("half/tiles/Aligned/8/2/1.npy", scene, output="probability", **options)[:-1]
    plain, _ = served.npy("half/tiles/Aligned/8/2/1.npy", scene)
    assert (mask == 255).all()
    assert np.abs(warped - mixed).max() < 1e-3
    assert (values == best)[lead > 2e-3].all()
    assert (values != plain).mean() > 0.01


# Zoom policy ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def limited(models: dict[str, Path]) -> Host:
    """A tile may cover 1024 x 1024 pixels of the grid: two zooms below the native one."""
    return host({"half": models["half"]}, factory={"supported_tms": TMS}, limits=Limits(max_tile_pixels=1024 * 1024))


def test_below_minzoom_the_answer_is_empty_and_no_network_runs(limited: Host, scene: Path) -> None:
    tilejson = limited.get("half/Aligned/tilejson.json", scene).json()
    assert (tilejson["minzoom"], tilejson["maxzoom"]) == (4, 6)
    for size in (256, 512):
        answer = limited.get("half/tiles/Aligned/3/0/0.png", scene, tilesize=size)
        assert (answer.status_code, answer.headers["X-Inference"]) == (200, "zoom-in")
        assert rgba(answer.content).shape == (size, size, 4)
        assert (rgba(answer.content)[..., 3] == 0).all()
    engine = limited.extension.engine
    assert engine is not None and engine.forwards == 0
    answer = limited.get("half/tiles/Aligned/4/0/0.png", scene)
    assert answer.headers["X-Inference"] == "predicted"
    assert (rgba(answer.content)[: HEIGHT // 4, : WIDTH // 4, 3] == 255).all()
    assert engine.forwards > 0


def test_outside_of_the_scene_the_answer_is_empty_and_no_network_runs(models: dict[str, Path], scene: Path) -> None:
    fresh = host({"half": models["half"]}, factory={"supported_tms": TMS})
    for size in (256, 512):
        answer = fresh.get("half/tiles/Aligned/6/40/40.png", scene, tilesize=size)
        assert (answer.status_code, answer.headers["X-Inference"]) == (200, "outside")
        assert rgba(answer.content).shape == (size, size, 4)
        assert (rgba(answer.content)[..., 3] == 0).all()
    # Half the world away, where the scene's CRS has no coordinates to give.
    answer = fresh.get("half/tiles/WebMercatorQuad/18/3/131000.png", scene)
    assert (answer.status_code, answer.headers["X-Inference"]) == (200, "outside")
    assert fresh.extension.engine is not None and fresh.extension.engine.forwards == 0


# Permission -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("gsd", [0.1, 2.5])
def test_a_scale_far_from_the_models_is_refused_without_permission(tmp_path: Path, scene: Path, gsd: float) -> None:
    model = write_model(tmp_path / "far", conv_chain(layers=1), classes=CLASSES, gsd=gsd)
    refused = host({"far": model}).get("far/info", scene)
    assert refused.status_code == 422
    detail = refused.json()["detail"]
    for part in ("0.5 m", f"{gsd} m", "factor of 5", "limit of 4", "max_gsd_factor"):
        assert part in detail
    permitted = host({"far": model}, max_gsd_factor=6).get("far/info", scene)
    assert permitted.status_code == 200
    assert permitted.json()["gsd"] == gsd


def test_a_model_that_forbids_resampling_is_refused(tmp_path: Path, scene: Path) -> None:
    model = write_model(
        tmp_path / "strict", conv_chain(layers=1), classes=CLASSES,
        resolution={"value": 1.0, "unit": "m", "policy": "refuse"},
    )  # fmt: skip
    refused = host({"strict": model}).get("strict/tiles/WebMercatorQuad/18/1/1.png", scene)
    assert refused.status_code == 422
    assert "forbids resampling" in refused.json()["detail"]


def test_a_model_without_resolution_says_so_in_a_header(tmp_path: Path, scene: Path) -> None:
    model = write_model(tmp_path / "any", conv_chain(layers=1), classes=CLASSES, gsd=None)
    answer = host({"any": model}).get("any/tiles/WebMercatorQuad/18/1/1.png", scene)
    assert answer.headers["X-GSD"] == "0.5; model=unknown"


def test_a_model_at_its_own_resolution_has_no_such_header(served: Host, scene: Path) -> None:
    for name in MODELS:
        assert "X-GSD" not in served.get(f"{name}/tiles/Aligned/6/40/40.png", scene).headers


# Scenes in other CRS --------------------------------------------------------------------------------------------------


def geodesic(crs: str, transform: Affine, height: int, width: int) -> tuple[float, float]:
    """Ground metres along the middle row and column of a raster, by pyproj."""
    middle_x, middle_y = transform.c + transform.a * width / 2, transform.f + transform.e * height / 2
    ends = [transform.c, transform.c + transform.a * width, middle_x, middle_x], [
        middle_y, middle_y, transform.f, transform.f + transform.e * height
    ]  # fmt: skip
    lons, lats = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(*ends)
    _, _, (along_x, along_y) = pyproj.Geod(ellps="WGS84").inv(lons[::2], lats[::2], lons[1::2], lats[1::2])
    return along_x, along_y


@pytest.mark.slow
@pytest.mark.parametrize("gsd", [0.5, 0.9])
def test_the_grid_of_a_scene_in_degrees_is_in_metres(tmp_path: Path, gsd: float) -> None:
    height, width = 200, 300
    transform = Affine(5e-6, 0, 11.6, 0, -5e-6, 48.2)
    scene = write_scene(tmp_path / "degrees.tif", landscape(height, width), crs="EPSG:4326", transform=transform)
    model = classifier(tmp_path / "m", [10, 200], gsd=gsd)
    info = host({"m": model}).get("m/info", scene, bidx=1).json()
    along_x, along_y = geodesic("EPSG:4326", transform, height, width)
    assert info["gsd"] == gsd
    assert (info["width"], info["height"]) == (round(along_x / gsd), round(along_y / gsd))
    left, bottom, right, top = info["bounds"]
    # The grid's own pixels, measured on the ground.
    step = Affine((right - left) / info["width"], 0, left, 0, -(top - bottom) / info["height"], top)
    ground_x, ground_y = geodesic("EPSG:4326", step, info["height"], info["width"])
    assert ground_x / info["width"] == pytest.approx(gsd, rel=1e-4)
    assert ground_y / info["height"] == pytest.approx(gsd, rel=1e-4)


def test_a_scene_in_degrees_is_resampled_by_each_axis_own_factor(tmp_path: Path) -> None:
    """Pixels of 0.37 x 0.56 m become 0.5 x 0.5 m: wider along x, lower along y."""
    height, width = 210, 330
    transform = Affine(5e-6, 0, 11.6, 0, -5e-6, 48.2)
    scene = write_scene(tmp_path / "degrees.tif", landscape(height, width), crs="EPSG:4326", transform=transform)
    model = write_model(tmp_path / "m", conv_chain(layers=2), classes=CLASSES, gsd=0.5)
    served = host({"m": model})
    info = served.get("m/info", scene).json()
    left, bottom, right, top = info["bounds"]
    ratio_x, ratio_y = (right - left) / info["width"] / 5e-6, (top - bottom) / info["height"] / 5e-6
    assert ratio_x > 1.2 and ratio_y < 0.95
    seen = averaged(landscape(height, width), ratio_y, ratio_x) / np.float32(255)
    assert seen.shape[1:] == (info["height"], info["width"])
    expected, lead = best_and_lead(whole_scores(model / "model.onnx", seen, pad=2))
    bbox = ",".join(map(repr, info["bounds"]))
    values, mask = served.npy(f"m/bbox/{bbox}/{info['width']}x{info['height']}.npy", scene)
    assert (mask == 255).all()
    assert (values == expected)[lead > 1e-3].all()


def test_web_mercator_at_60_degrees_north_has_half_the_scale_on_the_ground(tmp_path: Path) -> None:
    height, width = 200, 300
    x, y = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:3857", always_xy=True).transform(25.0, 60.0)
    transform = Affine(1.0, 0, x, 0, -1.0, y)
    scene = write_scene(tmp_path / "north.tif", landscape(height, width), crs="EPSG:3857", transform=transform)
    along_x, along_y = geodesic("EPSG:3857", transform, height, width)
    assert along_x / width == pytest.approx(0.5, rel=0.01)
    names = {"half": 0.5, "one": 1.0}
    served = host({name: classifier(tmp_path / name, [10, 200], gsd=gsd) for name, gsd in names.items()})
    own = served.get("half/info", scene, bidx=1).json()
    assert (own["width"], own["height"]) == (width, height)
    assert own["gsd"] == pytest.approx(math.sqrt(along_x * along_y / (width * height)), rel=1e-4)
    twice = served.get("one/info", scene, bidx=1).json()
    assert twice["gsd"] == 1.0
    assert (twice["width"], twice["height"]) == (round(along_x), round(along_y))


def test_a_resampled_south_up_scene_is_the_same_grid(
    served: Host, models: dict[str, Path], scene: Path, tmp_path: Path
) -> None:
    bottom = TOP - HEIGHT * RES
    flipped = write_scene(
        tmp_path / "flipped.tif", landscape(HEIGHT, WIDTH)[:, ::-1], crs=UTM,
        transform=Affine(RES, 0, LEFT, 0, RES, bottom),
    )  # fmt: skip
    with rasterio.open(flipped) as dataset:
        assert dataset.transform.e > 0
    for name in ("one", "third"):
        path = f"{name}/tiles/Aligned/6/0/0.npy"
        assert np.array_equal(served.npy(path, flipped), served.npy(path, scene))
