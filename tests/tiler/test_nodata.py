"""Nodata and edges: what has no data gets no class, whatever says so; class 0 is a class; edges are reflected."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.windows import Window

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import (
    MERCATOR,
    RES,
    ZOOM,
    Host,
    best_and_lead,
    classifier,
    host,
    landscape,
    rgba,
    whole_scores,
    write_scene,
)
from tiler.grid import Grid
from tiler.pixels import Source, read_window
from tiler.scene import SceneRef, open_scene
from tiler.values import Rect

# Scenes of one tile at zoom 18, pixel on pixel: rows and columns of the tile are those of the scene.
TILE = MERCATOR.tile(0.02, 0.02, ZOOM)
LEFT, _, _, TOP = MERCATOR.xy_bounds(TILE)
ALIGNED = Affine(RES, 0, LEFT, 0, -RES, TOP)
PATH = f"tiles/WebMercatorQuad/{ZOOM}/{TILE.x}/{TILE.y}"
CLASSES = [
    {"value": 0, "name": "low", "color_hint": "10A020"},
    {"value": 1, "name": "middle", "color_hint": "2030F0"},
    {"value": 2, "name": "high", "color_hint": "F05060"},
]
VALUES = [10, 100, 200]


def gray() -> NDArray[np.uint8]:
    """256 x 256 of the three values, in blocks."""
    blocks = np.random.default_rng(4).integers(0, 3, (32, 32))
    return np.asarray(VALUES, np.uint8)[blocks.repeat(8, axis=0).repeat(8, axis=1)]


def truth() -> NDArray[np.int64]:
    """The right class of each pixel of `gray`."""
    return np.searchsorted(VALUES, gray())


def hole() -> NDArray[np.bool_]:
    """True where there is no data: a ragged corner, a slit and single pixels."""
    random = np.random.default_rng(9)
    rows, cols = np.indices((256, 256))
    missing = rows + cols < 90 + random.integers(-9, 9, (256, 256))
    missing[140:143, 30:220] = True
    missing[random.integers(0, 256, 60), random.integers(0, 256, 60)] = True
    return missing


def by_value(path: Path) -> Path:
    return write_scene(path, np.where(hole(), 0, gray())[None], transform=ALIGNED, nodata=0)


def by_a_value_between_others(path: Path) -> Path:
    return write_scene(path, np.where(hole(), 150, gray())[None], transform=ALIGNED, nodata=150)


def by_mask_band(path: Path) -> Path:
    return write_scene(path, gray()[None], transform=ALIGNED, mask=~hole())


def by_alpha(path: Path) -> Path:
    pixels = np.stack([gray(), np.where(hole(), 0, 255).astype(np.uint8)])
    write_scene(path, pixels, transform=ALIGNED)
    with rasterio.open(path, "r+") as dataset:
        dataset.colorinterp = (ColorInterp.gray, ColorInterp.alpha)
    return path


def by_declared_nan(path: Path) -> Path:
    return write_scene(path, np.where(hole(), np.float32(np.nan), gray())[None], transform=ALIGNED, nodata=np.nan)


def by_undeclared_nan(path: Path) -> Path:
    return write_scene(path, np.where(hole(), np.float32(np.nan), gray())[None], transform=ALIGNED)


def by_float_value(path: Path) -> Path:
    return write_scene(path, np.where(hole(), np.float32(-9999), gray())[None], transform=ALIGNED, nodata=-9999)


def by_query(path: Path) -> Path:
    return write_scene(path, np.where(hole(), 0, gray())[None], transform=ALIGNED)


def by_query_against_the_file(path: Path) -> Path:
    """The file says 100, which is a value like any other."""
    return write_scene(path, np.where(hole(), 0, gray())[None], transform=ALIGNED, nodata=100)


KINDS: dict[str, tuple[Callable[[Path], Path], dict[str, Any]]] = {
    "value": (by_value, {}),
    "value between others": (by_a_value_between_others, {}),
    "mask band": (by_mask_band, {}),
    "alpha": (by_alpha, {}),
    "declared NaN": (by_declared_nan, {}),
    "undeclared NaN": (by_undeclared_nan, {}),
    "float value": (by_float_value, {}),
    "query": (by_query, {"nodata": 0}),
    "query against the file": (by_query_against_the_file, {"nodata": 0}),
    "query over a mask band": (by_mask_band, {"nodata": 77}),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    kind: dict[str, Any] = {"classes": CLASSES, "dtypes": ["uint8", "float32"]}
    random = {"classes": ["a", "b", "c", "d"], "bands": ["gray"], "dtypes": ["uint8", "float32"]}
    chain = conv_chain(layers=3, bands=1, classes=4)
    return {
        "classes": classifier(folder / "classes", VALUES, gsd=RES, **kind),
        "coarse": classifier(folder / "coarse", VALUES, gsd=2 * RES, **kind),
        "fine": classifier(folder / "fine", VALUES, gsd=RES / 2, **kind),
        "fill0": write_model(folder / "fill0", chain, gsd=RES, **random),
        "fill90": write_model(folder / "fill90", chain, gsd=RES, nodata={"fill": 90}, **random),
        "fill_mean": write_model(
            folder / "fill_mean", chain, gsd=RES, nodata={"fill": "mean"}, scaling=None,
            preprocess=[{"type": "z-score", "mean": 120, "stddev": 80}], **random,
        ),
        "coarse_fill90": write_model(folder / "coarse_fill90", chain, gsd=2 * RES, nodata={"fill": 90}, **random),
    }  # fmt: skip


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> Host:
    return host(models)


@pytest.fixture(params=KINDS)
def missing(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A scene with holes, and the query that belongs to it."""
    write, query = KINDS[request.param]
    return write(tmp_path / "scene.tif"), query


def test_pixels_without_data_are_never_classified_and_all_others_are(
    served: Host, missing: tuple[Path, dict[str, Any]]
) -> None:
    scene, query = missing
    values, mask = served.npy(f"classes/{PATH}.npy", scene, **query)
    assert np.array_equal(mask == 0, hole())
    assert np.array_equal(values[~hole()], truth()[~hole()])
    assert set(np.unique(values[~hole()])) == {0, 1, 2}


def test_a_png_is_transparent_there_and_class_0_has_its_colour(
    served: Host, missing: tuple[Path, dict[str, Any]]
) -> None:
    scene, query = missing
    for suffix in ("png", "webp"):
        shown = rgba(served.get(f"classes/{PATH}.{suffix}", scene, **query).content)
        assert (shown[hole()][:, 3] == 0).all()
        colors = np.array([[0x10, 0xA0, 0x20, 255], [0x20, 0x30, 0xF0, 255], [0xF0, 0x50, 0x60, 255]])
        assert np.array_equal(shown[~hole()], colors[truth()[~hole()]])


def test_a_tif_has_its_own_nodata_there_and_class_0_is_a_0(served: Host, missing: tuple[Path, dict[str, Any]]) -> None:
    scene, query = missing
    content = served.get(f"classes/{PATH}.tif", scene, **query).content
    with rasterio.open(io.BytesIO(content)) as dataset:
        values, valid = dataset.read(1), dataset.read_masks(1) > 0
        assert dataset.nodata is not None and dataset.nodata not in (0, 1, 2)
        assert (values[hole()] == dataset.nodata).all()
        assert dataset.colormap(1)[0] == (0x10, 0xA0, 0x20, 255)
    assert np.array_equal(valid, ~hole())
    assert np.array_equal(values[~hole()], truth()[~hole()])


def test_a_tif_of_probabilities_is_nan_there(served: Host, missing: tuple[Path, dict[str, Any]]) -> None:
    scene, query = missing
    content = served.get(f"classes/{PATH}.tif", scene, output="probability", **query).content
    with rasterio.open(io.BytesIO(content)) as dataset:
        values = dataset.read()
        assert dataset.count == 3 and np.isnan(dataset.nodata)
    assert np.array_equal(np.isnan(values), np.broadcast_to(hole(), values.shape))


def test_points_and_statistics_leave_them_out(served: Host, missing: tuple[Path, dict[str, Any]]) -> None:
    scene, query = missing
    for row, col in ((3, 3), (141, 100)):
        assert hole()[row, col]
        x, y = LEFT + (col + 0.5) * RES, TOP - (row + 0.5) * RES
        answer = served.get(f"classes/point/{x!r},{y!r}", scene, coord_crs="EPSG:3857", **query)
        assert answer.json()["values"] == [None]
    (band,) = served.get("classes/statistics", scene, categorical=True, max_size=256, **query).json().values()
    assert band["valid_pixels"] == (~hole()).sum()
    assert band["histogram"] == [np.bincount(truth()[~hole()]).tolist(), [0, 1, 2]]


def blocks(array: NDArray[Any]) -> NDArray[Any]:
    """[128, 2, 128, 2]: the pixels under each pixel of the grid of twice the scene's size."""
    return array.reshape(128, 2, 128, 2)


def test_a_coarser_grid_has_data_where_half_of_a_pixel_has(served: Host, missing: tuple[Path, dict[str, Any]]) -> None:
    """Means over what is there: nodata values never count as brightness."""
    scene, query = missing
    values, mask = served.npy(f"coarse/{PATH}.npy", scene, **query)
    values, mask = values[::2, ::2], mask[::2, ::2]
    there = blocks(~hole()).sum(axis=(1, 3))
    assert all((there == count).sum() > 20 for count in range(5))
    assert np.array_equal(mask == 255, there >= 2)
    # The blocks of `gray` are even, so a mean of what is there is one of its values.
    expected = blocks(np.where(hole(), -1, truth())).max(axis=(1, 3))
    assert np.array_equal(values[there >= 2], expected[there >= 2])


def test_a_finer_grid_has_no_class_inside_holes(served: Host, missing: tuple[Path, dict[str, Any]]) -> None:
    scene, query = missing
    values, mask = served.npy(f"fine/{PATH}.npy", scene, tilesize=512, **query)
    centre = hole().repeat(2, axis=0).repeat(2, axis=1)
    padded = np.pad(hole(), 1, mode="edge")
    near = np.any([padded[r : r + 256, c : c + 256] for r in range(3) for c in range(3)], axis=0)
    far = ~near.repeat(2, axis=0).repeat(2, axis=1)
    assert (mask[centre] == 0).all()
    assert (mask[far] == 255).all()
    # Inside of uniform blocks, interpolation changes nothing.
    flat = np.pad(truth(), 1, mode="edge")
    same = np.all([flat[r : r + 256, c : c + 256] == truth() for r in range(3) for c in range(3)], axis=0)
    same, big = same.repeat(2, axis=0).repeat(2, axis=1), truth().repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(values[same & (mask == 255)], big[same & (mask == 255)])


def test_a_mean_that_happens_to_be_the_nodata_value_is_data(served: Host, tmp_path: Path) -> None:
    """Columns of 50 and 150 average to the declared nodata value of 100."""
    pixels = np.full((1, 256, 256), 50, np.uint8)
    pixels[:, :, 1::2] = 150
    scene = write_scene(tmp_path / "mean.tif", pixels, transform=ALIGNED, nodata=100)
    values, mask = served.npy(f"coarse/{PATH}.npy", scene)
    assert (mask == 255).all()
    assert (values == 1).all()


def test_a_hole_as_large_as_a_tile_runs_no_network(models: dict[str, Path], tmp_path: Path) -> None:
    pixels = np.concatenate([np.zeros((1, 256, 256), np.uint8), gray()[None]], axis=2)
    scene = write_scene(tmp_path / "half.tif", pixels, transform=ALIGNED, nodata=0)
    fresh = host(models)
    answer = fresh.get(f"classes/{PATH}.png", scene)
    assert answer.status_code == 200
    assert rgba(answer.content).shape == (256, 256, 4) and (rgba(answer.content)[..., 3] == 0).all()
    assert fresh.extension.engine is not None and fresh.extension.engine.forwards == 0
    fresh.get(f"classes/tiles/WebMercatorQuad/{ZOOM}/{TILE.x + 1}/{TILE.y}.png", scene)
    assert fresh.extension.engine.forwards > 0


# What the network sees ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "fill", "scaling"),
    [
        ("fill0", 0, lambda x: x / np.float32(255)),
        ("fill90", 90, lambda x: x / np.float32(255)),
        ("fill_mean", 120, lambda x: (x - np.float32(120)) / np.float32(80)),
    ],
)
def test_beside_a_hole_the_network_sees_the_manifests_fill(
    served: Host, models: dict[str, Path], missing: tuple[Path, dict[str, Any]], name: str, fill: int, scaling: Any
) -> None:
    scene, query = missing
    onnx = models[name] / "model.onnx"

    def seen(value: float) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        filled = np.where(hole(), np.float32(value), gray().astype(np.float32))
        return best_and_lead(whole_scores(onnx, scaling(filled)[None], pad=4))

    expected, lead = seen(fill)
    values, mask = served.npy(f"{name}/{PATH}.npy", scene, **query)
    assert np.array_equal(mask == 0, hole())
    assert (values == expected)[~hole() & (lead > 1e-5)].all()
    # Another fill would show.
    assert (seen(fill + 60)[0] != expected)[~hole()].mean() > 0.005


def test_on_a_resampled_grid_the_fill_is_put_in_after_resampling(
    served: Host, models: dict[str, Path], tmp_path: Path
) -> None:
    pixels = landscape(256, 256, bands=1)
    scene = write_scene(tmp_path / "s.tif", np.where(hole(), 0, pixels), transform=ALIGNED, nodata=0)
    weight = blocks(~hole()).sum(axis=(1, 3))
    sums = np.where(hole(), 0, pixels[0].astype(np.float64)).reshape(128, 2, 128, 2).sum(axis=(1, 3))
    seen = np.where(weight >= 2, sums / np.maximum(weight, 1), 90).astype(np.float32)
    onnx = models["coarse_fill90"] / "model.onnx"
    expected, lead = best_and_lead(whole_scores(onnx, seen[None] / np.float32(255), pad=4))
    values, mask = served.npy(f"coarse_fill90/{PATH}.npy", scene)
    assert np.array_equal(mask[::2, ::2] == 255, weight >= 2)
    assert (values[::2, ::2] == expected)[(weight >= 2) & (lead > 1e-5)].all()


def test_scene_edges_are_reflected_and_not_black(served: Host, models: dict[str, Path], tmp_path: Path) -> None:
    pixels = landscape(256, 256, bands=1)
    scene = write_scene(tmp_path / "edge.tif", pixels, transform=ALIGNED)
    scaled, onnx = pixels.astype(np.float32) / 255, models["fill0"] / "model.onnx"
    values, mask = served.npy(f"fill0/{PATH}.npy", scene)
    assert (mask == 255).all()
    expected, lead = best_and_lead(whole_scores(onnx, scaled, pad=4))
    assert (values == expected)[lead > 1e-5].all()
    edge = np.ones((256, 256), bool)
    edge[3:-3, 3:-3] = False
    black, _ = best_and_lead(whole_scores(onnx, scaled, pad=4, mode="constant"))
    repeated, _ = best_and_lead(whole_scores(onnx, scaled, pad=4, mode="symmetric"))
    assert (black != values)[edge].mean() > 0.05
    assert (repeated != values)[edge].mean() > 0.01


# Several bands --------------------------------------------------------------------------------------------------------


def colours(missing_in: tuple[int, ...], empty: float, dtype: Any = np.uint8) -> NDArray[Any]:
    """Three bands, of which some have the hole."""
    pixels = landscape(256, 256).astype(dtype)
    for band in missing_in:
        pixels[band][hole()] = empty
    return pixels


@pytest.fixture(scope="module")
def colour_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("colour_models")
    network = conv_chain(layers=2, classes=4)
    return {
        f"{mask}{grid}": write_model(
            folder / f"{mask}{grid}", network, classes=["a", "b", "c", "d"], gsd=gsd, dtypes=["uint8", "float32"],
            nodata={"fill": 90, "mask": mask},
        )
        for mask in ("any", "all") for grid, gsd in (("", RES), ("_coarse", 2 * RES))
    }  # fmt: skip


@pytest.fixture(scope="module")
def coloured(colour_models: dict[str, Path]) -> Host:
    return host(colour_models)


@pytest.mark.parametrize("rule", ["any", "all"])
@pytest.mark.parametrize("bands", [(1,), (0, 1, 2)])
def test_the_manifest_says_whether_any_or_all_bands_must_miss(
    coloured: Host, colour_models: dict[str, Path], tmp_path: Path, rule: str, bands: tuple[int, ...]
) -> None:
    pixels = colours(bands, 0)
    scene = write_scene(tmp_path / "c.tif", pixels, transform=ALIGNED, nodata=0)
    masked = hole() & (rule == "any" or len(bands) == 3)
    values, mask = coloured.npy(f"{rule}/{PATH}.npy", scene)
    assert np.array_equal(mask == 0, masked)
    scaled = np.where(masked, np.float32(90), pixels.astype(np.float32)) / np.float32(255)
    expected, lead = best_and_lead(whole_scores(colour_models[rule] / "model.onnx", scaled, pad=2))
    assert (values == expected)[~masked & (lead > 1e-5)].all()


def test_one_band_that_is_nan_is_filled_where_the_others_count(
    coloured: Host, colour_models: dict[str, Path], tmp_path: Path
) -> None:
    """With `mask: all` the pixel is classified; a NaN that reached the network would spread over its neighbours."""
    pixels = colours((1,), np.nan, np.float32)
    scene = write_scene(tmp_path / "nan.tif", pixels, transform=ALIGNED)
    values, mask = coloured.npy(f"all/{PATH}.npy", scene)
    assert (mask == 255).all()
    scaled = np.where(np.isnan(pixels), np.float32(90), pixels) / np.float32(255)
    expected, lead = best_and_lead(whole_scores(colour_models["all"] / "model.onnx", scaled, pad=2))
    assert (values == expected)[lead > 1e-5].all()


@pytest.mark.parametrize("rule", ["any", "all"])
@pytest.mark.parametrize("bands", [(1,), (0, 1, 2)])
def test_any_and_all_hold_on_a_resampled_grid_too(
    coloured: Host, tmp_path: Path, rule: str, bands: tuple[int, ...]
) -> None:
    scene = write_scene(tmp_path / "c.tif", colours(bands, 0), transform=ALIGNED, nodata=0)
    _, mask = coloured.npy(f"{rule}_coarse/{PATH}.npy", scene)
    masked = (blocks(hole()).sum(axis=(1, 3)) > 2) & (rule == "any" or len(bands) == 3)
    assert np.array_equal(mask[::2, ::2] == 0, masked)


@pytest.mark.parametrize(
    ("dtype", "nodata"),
    [("uint8", 0), ("uint8", 255), ("uint16", 65535), ("int16", -32768), ("int32", -(2**31)), ("float32", -9999.0)],
)
@pytest.mark.parametrize("mask", ["any", "all"])
def test_a_nodata_value_masks_what_gdal_says_it_masks(tmp_path: Path, dtype: str, nodata: float, mask: str):
    random = np.random.default_rng(2)
    pixels = random.integers(1, 100, (2, 40, 50)).astype(dtype)
    pixels[random.random(pixels.shape) < 0.3] = nodata
    scene = open_scene(SceneRef(str(write_scene(tmp_path / "scene.tif", pixels, transform=ALIGNED, nodata=nodata))))
    grid = Grid(
        crs=scene.crs, left=LEFT, top=TOP, res_x=RES, res_y=RES, height=40, width=50, cell=32, align=1, halo=0, gsd=RES,
        native=True,
    )  # fmt: skip
    found, valid = read_window(Source(scene, grid, (2, 1), None, (7.0, 7.0), mask), Rect(5, 6, 30, 41))
    with rasterio.open(scene.source) as dataset:
        masks = dataset.read_masks([2, 1], window=Window(6, 5, 41, 30)) > 0
    assert np.array_equal(valid, masks.any(axis=0) if mask == "all" else masks.all(axis=0))
    assert 0 < valid.sum() < valid.size
    assert (found[:, ~valid] == 7).all()
