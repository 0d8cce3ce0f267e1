"""Real imagery and real trained networks: every pair of ../shared/data is served, and its numbers are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import rasterio
from numpy.typing import NDArray

from model_registry.testing import write_model
from tests.tiler.helpers import Host, blended_scene, host, rgba, scene_pixels_of_tile, softmax, tiles_over

pytestmark = [pytest.mark.real, pytest.mark.slow]

WORLD_COVER = [
    ("water", "419BDF"),
    ("trees", "397D49"),
    ("grass", "88B053"),
    ("flooded_vegetation", "7A87C6"),
    ("crops", "E49635"),
    ("shrub_and_scrub", "DFC35A"),
    ("built", "C4281B"),
    ("bare", "A59B8F"),
    ("snow_and_ice", "B39FE1"),
]
SENTINEL_2 = ["B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12"]
NAIP_CLASSES = ["none", "water", "tree", "herbaceous", "impervious"]
NAIP_BANDS = ["red", "green", "blue", "nir"]
NAIP_WINDOW = {"multiple": 8, "period": 8, "halo": 64, "preferred": 512}


@pytest.fixture(scope="module")
def served(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Host:
    folder = tmp_path_factory.mktemp("models")
    world = onnx.load(shared / "dynamicworld" / "dynamicworld_forward_dn.onnx")
    naip = onnx.load(shared / "azure_naip_landcover_model" / "naip4_landcover5_250epochs.onnx")
    models = {
        "world": write_model(
            folder / "world",
            world,
            classes=[{"value": i, "name": n, "color_hint": c} for i, (n, c) in enumerate(WORLD_COVER)],
            bands=SENTINEL_2,
            gsd=None,
            dtypes=("uint16", "int16"),
            scaling=None,
            # The scene of sen1floods11_spain has pixels of 7.9 x 10 m on the ground.
            resolution={"value": 10, "unit": "m", "tolerance": 0.3},
        )
    }
    for name, gsd in (("naip1", 1.0), ("naip5", 5.0)):
        models[name] = write_model(
            folder / name,
            naip,
            classes=NAIP_CLASSES,
            bands=NAIP_BANDS,
            gsd=gsd,
            scaling=None,
            window=NAIP_WINDOW,
            exactness="bounded",
        )
    return host(models)


def mosaic(served: Host, model: str, scene: Path, zoom: int, **params: Any) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Class and validity of every scene pixel that some tile pixel shows (others stay invalid), through HTTP tiles."""
    with rasterio.open(scene) as dataset:
        classes, seen = np.zeros(dataset.shape, np.uint8), np.zeros(dataset.shape, bool)
    for tile in tiles_over(scene, zoom):
        path = f"{model}/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.npy"
        values, mask = served.npy(path, scene, **params)
        rows, cols, inside = scene_pixels_of_tile(scene, tile, values.shape[0])
        shown = inside & (mask == 255)
        classes[rows[shown], cols[shown]] = values[shown]
        seen[rows[shown], cols[shown]] = True
    return classes, seen


def one_pass(network: Path, pixels: NDArray[Any]) -> NDArray[np.int64]:
    """Class of every pixel, in one pass over [bands, rows, cols]."""
    session = onnxruntime.InferenceSession(str(network), providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {session.get_inputs()[0].name: pixels[None].astype(np.float32)})
    return np.asarray(scores)[0].argmax(axis=0)


def padded(pixels: NDArray[Any], before: int, height: int, width: int) -> NDArray[Any]:
    """[bands, height, width] with the pixels at (before, before) and reflection around them."""
    _, rows, cols = pixels.shape
    return np.pad(pixels, ((0, 0), (before, height - rows - before), (before, width - cols - before)), mode="reflect")


def clear(shares: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Where the two best probabilities lie so far apart that float16 keeps their order."""
    ordered = np.sort(shares, axis=0)
    return np.asarray(ordered[-1] - ordered[-2] >= 2e-3)


def test_dynamic_world_over_thailand_equals_the_reference_mask(served: Host, shared: Path) -> None:
    """The reference is one pass without padding: away from the edge by the halo every pixel must be the same."""
    scene = shared / "majortom_thailand" / "majortom_thailand_12band_10m_cog.tif"
    classes, seen = mosaic(served, "world", scene, 14)
    with rasterio.open(scene.with_name("reference_dynamicworld_mask.tif")) as dataset:
        reference = dataset.read(1)
    inner = (slice(48, -48), slice(48, -48))
    assert seen[inner].mean() > 0.99
    assert (classes[inner] == reference[inner])[seen[inner]].all()


def test_dynamic_world_is_exact_with_its_measured_halo(served: Host) -> None:
    model = served.extension.catalog.model("world").model
    assert model.exactness == "exact"
    assert model.window.period == 2
    assert model.window.halo is not None and 16 < model.window.halo <= 64


def test_water_accuracy_over_spain_through_tiles_equals_an_offline_pass(served: Host, shared: Path) -> None:
    folder = shared / "sen1floods11_spain"
    scene = folder / "Spain_7370579_S2Hand.tif"
    with rasterio.open(scene) as dataset:
        names = [f"B{name.removeprefix('B').lstrip('0')}" for name in dataset.descriptions]
        pixels = dataset.read([names.index(band) + 1 for band in SENTINEL_2])
    with rasterio.open(folder / "Spain_7370579_LabelHand.tif") as dataset:
        labels = dataset.read(1)
    offline = one_pass(
        shared / "dynamicworld" / "dynamicworld_forward_dn.onnx", padded(pixels, 64, 512 + 128, 512 + 128)
    )[64:-64, 64:-64]
    classes, seen = mosaic(served, "world", scene, 14)
    known = (labels >= 0) & seen
    assert known.sum() > 0.9 * (labels >= 0).sum()

    def accuracy(predicted: NDArray[Any]) -> float:
        return float(((predicted == 0) == (labels == 1))[known].mean())

    assert accuracy(classes) == accuracy(offline)
    assert 0.85 < accuracy(classes) < 0.9


def test_land_cover_of_naip_patches_through_tiles_equals_an_offline_pass(served: Host, shared: Path) -> None:
    """The network subtracts its window's mean: one 512 px window, reflected around the patch, decides the pixels."""
    folder = shared / "chesapeake_naip_patches"
    network = shared / "azure_naip_landcover_model" / "naip4_landcover5_250epochs.onnx"
    # Labels: 1 water, 2 tree, 3 low vegetation, 4 barren, 5 impervious, 6 road.
    same = {1: 1, 2: 2, 3: 3, 4: 4, 5: 4, 6: 4}
    right = wrong = 0
    for scene in sorted(folder.glob("*_naip.tif")):
        with rasterio.open(scene) as dataset:
            pixels = dataset.read()
        with rasterio.open(scene.with_name(scene.name.replace("_naip", "_lc"))) as dataset:
            labels = np.vectorize(lambda value: same.get(value, 0))(dataset.read(1))
        # One window holds the patch, so nothing is blended; but probabilities are kept in float16.
        shares = blended_scene(network, pixels.astype(np.float32), softmax, side=512, halo=64)
        offline, sure = shares.argmax(axis=0), clear(shares)
        classes, seen = mosaic(served, "naip1", scene, 18, bidx=[1, 2, 3, 4])
        assert seen.all() and sure.mean() > 0.99
        assert (classes == offline)[sure].all()
        centre = (slice(64, 192), slice(64, 192))
        right += int((classes == labels)[centre][labels[centre] > 0].sum())
        wrong += int((classes != labels)[centre][labels[centre] > 0].sum())
    assert right / (right + wrong) > 0.9


def test_four_bands_whose_fourth_is_marked_alpha_are_refused_until_named(served: Host, shared: Path) -> None:
    """GDAL takes the infrared of 8-bit NAIP for alpha: guessing either way would be wrong for somebody."""
    scene = shared / "chesapeake_naip_patches" / "train_m_3708020_sw_17_1-0_naip.tif"
    answer = served.get("naip1/info", scene)
    assert answer.status_code == 422
    assert "alpha" in answer.json()["detail"] and "bidx" in answer.json()["detail"]


def test_naip_over_wetlands_agrees_with_the_one_pass_reference(served: Host, shared: Path) -> None:
    """Bounded, not exact: the chip mean differs between one pass and blended windows. The server says so."""
    scene = shared / "naip_nd_wetlands_5m" / "m_4709963_se_14_1_20200831.tif"
    with rasterio.open(scene.with_name("reference_naip_model_20200831.tif")) as dataset:
        reference = dataset.read(1)
    classes, seen = mosaic(served, "naip5", scene, 15)
    # A blend of our own, window by window: what the server shows, to the pixel.
    network = shared / "azure_naip_landcover_model" / "naip4_landcover5_250epochs.onnx"
    with rasterio.open(scene) as dataset:
        shares = blended_scene(network, dataset.read().astype(np.float32), softmax, side=512, halo=64)
    expected, sure = shares.argmax(axis=0), clear(shares)
    assert sure.mean() > 0.99
    values, mask = served.npy("naip5/preview.npy", scene, max_size=1000)
    assert values.shape == expected.shape and (mask == 255).all()
    assert (values == expected)[sure].all()
    # Some tile pixels lie within the 0.01 px of a scene pixel's edge to which places are known.
    assert (classes != expected)[sure & seen].sum() <= 10
    inner = (slice(64, 656), slice(64, 856))
    assert (classes[: reference.shape[0], : reference.shape[1]] == reference)[inner][
        seen[:720, :928][inner]
    ].mean() > 0.97
    tile = next(iter(tiles_over(scene, 15)))
    answer = served.get(f"naip5/tiles/WebMercatorQuad/15/{tile.x}/{tile.y}.png", scene)
    assert answer.headers["x-exactness"] == "bounded; blended"


def test_a_5_m_scene_is_refused_for_a_1_m_model(served: Host, shared: Path) -> None:
    scene = shared / "naip_nd_wetlands_5m" / "m_4709963_se_14_1_20200831.tif"
    answer = served.get("naip1/info", scene)
    assert answer.status_code == 422
    assert "factor of 5" in answer.json()["detail"]


def test_colours_are_the_models_own(served: Host, shared: Path) -> None:
    scene = shared / "majortom_thailand" / "majortom_thailand_12band_10m_cog.tif"
    tile = tiles_over(scene, 13)[0]
    answer = served.get(f"world/tiles/WebMercatorQuad/13/{tile.x}/{tile.y}.png", scene)
    colours = {tuple(colour) for colour in rgba(answer.content)[..., :3][rgba(answer.content)[..., 3] > 0]}
    assert colours <= {tuple(bytes.fromhex(colour)) for _, colour in WORLD_COVER}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("cog_gcps.tif", "coordinate reference system"),
        ("terratorch_hls_label.tif", "coordinate reference system"),
        ("pix4d_alpha_nodata.tif", "bands"),
        ("cog_cmap.tif", "bands"),
        ("umbra_mount_yasur.tiff", "rotated"),
        ("vestfold.tif", "bands"),
        ("ftw_s2_8band_austria.tif", "bands"),
        ("cog_scale_epsg4326.tif", "bands"),
    ],
)
def test_odd_rasters_are_refused_with_a_reason(served: Host, shared: Path, name: str, reason: str) -> None:
    answer = served.get("world/info", shared / "edge_cases" / name)
    assert answer.status_code == 422
    assert reason in answer.json()["detail"]
    assert str(shared) not in answer.json()["detail"]
