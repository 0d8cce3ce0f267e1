"""`tiler export`: the file equals one pass over the whole scene, and the live map; and what the file says of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.features import geometry_mask
from rio_cogeo.cogeo import cog_validate
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from model_registry.runtimes.onnx import OnnxRunner
from model_registry.runtimes.openvino import OpenVinoRunner
from model_registry.testing import conv_chain, global_mean, learned_positions, strided_unet, write_model
from tests.tiler.helpers import (
    RES,
    blended_scene,
    host,
    landscape,
    scene_pixels_of_tile,
    softmax,
    tiles_over,
    whole_scene,
    whole_scores,
    write_scene,
)
from tiler.app import create_app
from tiler.cli import GDAL_DEFAULTS, app
from tiler.settings import SceneSettings, Settings

pytestmark = pytest.mark.usefixtures("no_settings")

CLASSES = ["water", "forest", "soil", "road", "roof"]
HEIGHT, WIDTH = 571, 1109
# Network, the halo that its layers need, its period.
NETWORKS = {
    "shallow": (lambda: conv_chain(kernel=3, layers=4), 4, 1),
    "wide": (lambda: conv_chain(kernel=3, dilation=24, layers=3), 72, 1),
    "unet": (lambda: strided_unet(depth=3), 24, 8),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("export")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return landscape(HEIGHT, WIDTH)


@pytest.fixture(scope="module")
def scene(folder: Path, pixels: np.ndarray) -> Path:
    return write_scene(folder / "field.tif", pixels, transform=Affine(RES, 0, 1234.3 * RES, 0, -RES, 3210.7 * RES))


@pytest.fixture(scope="module")
def models(folder: Path) -> dict[str, Path]:
    return {
        name: write_model(folder / name, make(), classes=CLASSES, gsd=round(RES, 4))
        for name, (make, _, _) in NETWORKS.items()
    }


@pytest.fixture(scope="module")
def model(models: dict[str, Path]) -> Path:
    return models["shallow"]


def tiler(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["export", *(str(item) for item in arguments)], env=dict(GDAL_DEFAULTS))


def exported(scene: Path, model: Path, out: Path, *options: Any) -> np.ndarray:
    """What an export of a scene holds, [bands, rows, cols]."""
    done = tiler(scene, "-m", model, "-o", out, "--runtime", "onnxruntime", *options)
    assert done.exit_code == 0, done.output
    assert not out.with_name(f"{out.name}.parts").exists()
    return read(out)


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read()


def expected(model: Path, name: str, pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Class number of a whole-scene pass, and the pixels whose class is sure."""
    _, halo, period = NETWORKS[name]
    best, lead = whole_scene(
        model / "model.onnx", pixels / np.float32(255), pad=-(-halo // period) * period, multiple=period
    )
    return best, lead > 1e-5


# Pixels


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("block", [256, 2048])
def test_an_export_equals_one_pass(
    models: dict[str, Path], scene: Path, pixels: np.ndarray, tmp_path: Path, name: str, block: int
) -> None:
    (found,) = exported(scene, models[name], tmp_path / "out.tif", "--block", block, "--max-window-pixels", 300 * 300)
    best, sure = expected(models[name], name, pixels)
    assert found.shape == best.shape and sure.mean() > 0.99
    assert ((found != best) & sure).sum() == 0


def shapes_given(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """(height, width) of the windows that ONNX files are given from now on, whatever runs them."""
    shapes: list[tuple[int, ...]] = []
    for kind in (OnnxRunner, OpenVinoRunner):

        def call(runner: Any, x: np.ndarray, *options: Any, real: Any = kind.__call__, **more: Any) -> Any:
            shapes.append(x.shape[-2:])
            return real(runner, x, *options, **more)

        monkeypatch.setattr(kind, "__call__", call)
    return shapes


@pytest.mark.parametrize(
    ("window", "cell", "longest"),
    [
        ({"max": 100}, 32, 100),  # 2 x 2 cells and the halo are 72, 3 x 3 would be 104
        ({"max": 30}, 22, 30),  # a cell of 32 does not fit
        ({"cell": 96}, 96, None),
        ({"cell": 96, "max": 300}, 96, 300),
    ],
)
def test_sizes_that_a_model_states_hold_on_the_map_and_in_the_export(
    scene: Path,
    pixels: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    window: dict[str, int],
    cell: int,
    longest: int | None,
) -> None:
    net, halo = conv_chain(kernel=3, layers=4), 4
    stated = {"multiple": 1, "period": 1, "halo": halo, **window}
    model = write_model(tmp_path / "m", net, classes=CLASSES, gsd=round(RES, 4), window=stated, exactness="exact")
    best, lead = whole_scene(model / "model.onnx", pixels / np.float32(255), pad=halo, multiple=1)
    sure = lead > 1e-5
    shapes = shapes_given(monkeypatch)
    served = host({"m": model})
    assert served.get("m/info", scene).json()["cell"] == cell
    for tile in tiles_over(scene)[:4]:
        values, _ = served.npy(f"m/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.npy", scene)
        rows, cols, inside = scene_pixels_of_tile(scene, tile, 256)
        rows, cols = rows[inside], cols[inside]
        assert (values[inside] == best[rows, cols])[sure[rows, cols]].all()
    of_map = len(shapes)
    (found,) = exported(scene, model, tmp_path / "out.tif")
    assert ((found != best) & sure).sum() == 0
    for given in (shapes[:of_map], shapes[of_map:]):
        sides = {side for shape in given for side in shape}
        # Beside those at the scene's lower and right edge, where a cell ends with it.
        assert any((side - 2 * halo) % cell == 0 for side in sides)
        assert max(sides) <= (longest or max(sides))


def test_a_model_whose_halo_fills_its_largest_window_is_refused(scene: Path, tmp_path: Path) -> None:
    stated = {"multiple": 1, "period": 1, "halo": 16, "max": 32}
    model = write_model(
        tmp_path / "m", conv_chain(), classes=CLASSES, gsd=round(RES, 4), window=stated, exactness="exact"
    )
    done = tiler(scene, "-m", model, "-o", tmp_path / "out.tif")
    assert done.exit_code != 0 and "windows of at most 32 px leave nothing inside a halo of 16 px" in done.output
    assert "serving.window.max" in done.output and not (tmp_path / "out.tif").exists()


def test_an_export_equals_the_tiles(models: dict[str, Path], scene: Path, tmp_path: Path) -> None:
    served, seen = host(models), np.zeros((HEIGHT, WIDTH), bool)
    (found,) = exported(scene, models["unet"], tmp_path / "out.tif")
    for tile in tiles_over(scene):
        values, _ = served.npy(f"unet/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.npy", scene)
        rows, cols, inside = scene_pixels_of_tile(scene, tile, 256)
        assert (values[inside] == found[rows[inside], cols[inside]]).all()
        seen[rows[inside], cols[inside]] = True
    assert seen.all()


@pytest.mark.parametrize(
    ("net", "window", "side"),
    [
        (global_mean(classes=5), {"multiple": 1, "period": 1, "halo": 32, "preferred": 256}, 256),
        # It fails in any larger window; the rest is measured.
        (learned_positions(128, classes=5), {"max": 128, "halo": 32}, 128),
    ],
    ids=["mean", "learned positions"],
)
def test_a_model_that_is_not_exact_is_blended_as_on_the_map(
    pixels: np.ndarray, scene: Path, tmp_path: Path, net: Any, window: dict[str, int], side: int
) -> None:
    model = write_model(tmp_path / "m", net, classes=CLASSES, gsd=round(RES, 4), exactness="bounded", window=window)
    (found,) = exported(scene, model, tmp_path / "out.tif", "--block", 300)
    shares = blended_scene(model / "model.onnx", pixels / np.float32(255), softmax, side=side, halo=32)
    ordered = np.sort(shares, axis=0)
    # Probabilities are kept as float16.
    sure = ordered[-1] - ordered[-2] > 2e-3
    assert sure.mean() > 0.9 and ((found != shares.argmax(axis=0)) & sure).sum() == 0


def test_nodata_is_no_class(models: dict[str, Path], folder: Path, pixels: np.ndarray, tmp_path: Path) -> None:
    holes = pixels.copy()
    holes[:, 100:180, 200:500] = 0
    scene = write_scene(folder / "holes.tif", holes, nodata=0)
    (found,) = exported(scene, models["shallow"], tmp_path / "out.tif")
    inside = np.zeros(found.shape, bool)
    inside[100:180, 200:500] = True
    assert (found[inside] == 255).all() and (found[~inside] != 255).all()
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.nodata == 255 and (dataset.read_masks(1)[inside] == 0).all()


def test_a_scene_without_any_data_becomes_an_empty_file(model: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "empty.tif", np.zeros((3, 300, 300), np.uint8), nodata=0)
    (found,) = exported(scene, model, tmp_path / "out.tif")
    assert (found == 255).all() and found.shape == (300, 300)


def test_probabilities_stand_in_a_file_of_their_own(model: Path, tmp_path: Path) -> None:
    pixels = landscape(600, 800, seed=3)
    scene = write_scene(tmp_path / "even.tif", pixels)
    exported(scene, model, tmp_path / "out.tif", "--output", "probability,confidence")
    shares = softmax(whole_scores(model / "model.onnx", pixels / np.float32(255), pad=4).astype(np.float64))
    with rasterio.open(tmp_path / "out_probability.tif") as dataset:
        assert dataset.descriptions == tuple(CLASSES) and dataset.dtypes[0] == "uint8" and dataset.nodata == 255
        assert dataset.scales == (1 / 254,) * 5 and dataset.offsets == (0.0,) * 5
        full = dataset.read()
    assert np.abs(full / 254 - shares).max() < 0.5 / 254 + 1e-3
    with rasterio.open(tmp_path / "out_probability.tif", overview_level=0) as dataset:
        means = full.reshape(5, 300, 2, 400, 2).mean((2, 4))
        assert np.abs(dataset.read() - means).max() <= 0.5
    best = read(tmp_path / "out_confidence.tif")[0] / 254
    assert np.abs(best - shares.max(axis=0)).max() < 0.5 / 254 + 1e-3


def test_another_resolution_and_crs_show_what_the_map_shows(model: Path, scene: Path, tmp_path: Path) -> None:
    (native,) = exported(scene, model, tmp_path / "native.tif")
    (coarse,) = exported(scene, model, tmp_path / "coarse.tif", "--gsd", 2 * 0.5971642834779395)
    assert coarse.shape == (-(-HEIGHT // 2), -(-WIDTH // 2))
    quads = (
        native[: HEIGHT // 2 * 2, : WIDTH // 2 * 2].reshape(HEIGHT // 2, 2, WIDTH // 2, 2).swapaxes(1, 2).reshape(-1, 4)
    )
    votes = np.stack([(quads == value).sum(axis=1) for value in range(5)])
    majority = votes.argmax(axis=0).reshape(HEIGHT // 2, WIDTH // 2)
    assert (coarse[: HEIGHT // 2, : WIDTH // 2] == majority).all()

    (warped,) = exported(scene, model, tmp_path / "warped.tif", "--dst-crs", "EPSG:32631")
    with rasterio.open(tmp_path / "warped.tif") as dataset:
        assert dataset.crs.to_epsg() == 32631
        rows, cols = np.nonzero(warped != 255)
        choice = np.random.default_rng(0).choice(len(rows), 500, replace=False)
        xs, ys = dataset.transform * (cols[choice] + 0.5, rows[choice] + 0.5)
    from rasterio.warp import transform as moved

    with rasterio.open(scene) as dataset:
        x, y = moved("EPSG:32631", dataset.crs, xs.tolist(), ys.tolist())[:2]
        at_col, at_row = ~dataset.transform * (np.array(x), np.array(y))
    there = native[at_row.astype(int), at_col.astype(int)]
    near_edge = (np.abs(at_row % 1 - 0.5) > 0.48) | (np.abs(at_col % 1 - 0.5) > 0.48)
    assert (there == warped[rows[choice], cols[choice]])[~near_edge].all() and (~near_edge).sum() > 400


# Which part, which scenes, polygons


def test_a_polygon_cuts_the_result(models: dict[str, Path], scene: Path, tmp_path: Path) -> None:
    (whole,) = exported(scene, models["unet"], tmp_path / "whole.tif")
    with rasterio.open(scene) as dataset:
        place = dataset.transform
        ring = [place * corner for corner in [(101.2, 77.7), (930.4, 150.1), (500.3, 540.6), (101.2, 77.7)]]
        shape = {"type": "Polygon", "coordinates": [ring]}
        inside = geometry_mask([shape], dataset.shape, place, invert=True)
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::3857"}}
    area = tmp_path / "field.geojson"
    area.write_text(json.dumps({"type": "Feature", "properties": {}, "geometry": shape, "crs": crs}))
    out = tmp_path / "out.tif"
    (found,) = exported(scene, models["unet"], out, "--aoi", area, "--block", 256, "--max-window-pixels", 65536)
    with rasterio.open(out) as dataset:
        col, row = ~place * (dataset.transform.c, dataset.transform.f)
        tags = dataset.tags()
    top, left = round(row), round(col)
    assert json.loads(tags["TITILER_INFERENCE_REGION"]) == [top, left, *found.shape]
    assert json.loads(tags["TITILER_INFERENCE_AREA"])["type"] == "MultiPolygon"
    full = np.full(whole.shape, 255, np.uint8)
    full[top : top + found.shape[0], left : left + found.shape[1]] = found
    assert (full == np.where(inside, whole, 255)).all() and 0.2 < inside.mean() < 0.6


def test_a_box_is_a_part_of_the_whole(models: dict[str, Path], scene: Path, tmp_path: Path) -> None:
    (whole,) = exported(scene, models["unet"], tmp_path / "whole.tif")
    with rasterio.open(scene) as dataset:
        left, top = dataset.transform * (103, 51)
        right, bottom = dataset.transform * (808, 449)
    box = ",".join(map(repr, (left, bottom, right, top)))
    (found,) = exported(scene, models["unet"], tmp_path / "out.tif", "--bbox", box, "--bbox-crs", "EPSG:3857")
    assert (found == whole[51:449, 103:808]).all()
    done = tiler(scene, "-m", models["unet"], "-o", tmp_path / "no.tif", "--bbox", "100,50,101,51")
    assert done.exit_code == 2 and "no pixel of the scene" in done.stderr


def test_several_scenes_become_several_files_or_one(models: dict[str, Path], tmp_path: Path) -> None:
    """Neighbours in one grid, with an overlap where the first wins."""
    pixels = landscape(300, 800, seed=5)
    place = Affine(RES, 0, 4000.0, 0, -RES, 9000.0)
    whole = write_scene(tmp_path / "whole.tif", pixels, transform=place)
    parts = tmp_path / "parts"
    parts.mkdir()
    write_scene(parts / "east.tif", pixels[:, :, 350:], transform=Affine(RES, 0, 4000.0 + 350 * RES, 0, -RES, 9000.0))
    write_scene(parts / "west.tif", pixels[:, :, :450], transform=place)
    (expected,) = exported(whole, models["shallow"], tmp_path / "expected.tif")
    out = tmp_path / "out"
    out.mkdir()
    done = tiler(parts / "*.tif", "-m", models["shallow"], "-o", out, "--runtime", "onnxruntime")
    assert done.exit_code == 0, done.output
    east, west = read(out / "east.tif")[0], read(out / "west.tif")[0]
    # Near the scenes' inner borders the network sees other context.
    assert (east[:, 8:] == expected[:, 358:]).all() and (west[:, :442] == expected[:, :442]).all()
    (mosaic,) = exported(parts / "*.tif", models["shallow"], tmp_path / "mosaic.tif", "--mosaic")
    assert mosaic.shape == expected.shape
    assert (mosaic[:, 350:] == east).all() and (mosaic[:, :350] == west[:, :350]).all()
    refused = tiler(parts / "*.tif", "-m", models["shallow"], "-o", tmp_path / "one.tif")
    assert refused.exit_code == 2 and "2 scenes become 2 files" in refused.stderr and "--mosaic" in refused.stderr


def test_one_scene_that_does_not_fit_does_not_keep_the_others(models: dict[str, Path], tmp_path: Path) -> None:
    parts, out = tmp_path / "parts", tmp_path / "out"
    parts.mkdir()
    out.mkdir()
    write_scene(parts / "a.tif", landscape(100, 100, bands=2))
    write_scene(parts / "b.tif", landscape(100, 100))
    done = tiler(parts / "*.tif", "-m", models["shallow"], "-o", out)
    assert done.exit_code == 2 and "a.tif: " in done.stderr and "1 of 2 scenes failed" in done.stderr
    assert [path.name for path in out.glob("*.tif")] == ["b.tif"]


def test_classes_as_polygons(models: dict[str, Path], scene: Path, tmp_path: Path) -> None:
    pyogrio = pytest.importorskip("pyogrio")
    out = tmp_path / "out.gpkg"
    (found,) = exported(scene, models["unet"], tmp_path / "out.tif", "--vector", out, "--min-area", 50)
    meta, _, _, columns = pyogrio.raw.read(out)
    told = dict(zip(meta["fields"], columns, strict=True))
    assert set(told["name"]) <= set(CLASSES) and told["area_m2"].min() >= 49
    # On the ground, where a Mercator pixel is almost as large as on the map: this is near the equator.
    assert told["area_m2"].sum() == pytest.approx(found.size * RES**2, rel=0.01)
    before = out.read_bytes()
    again = tiler(scene, "-m", models["unet"], "-o", tmp_path / "out.tif", "--vector", out, "--runtime", "onnxruntime")
    assert again.exit_code == 0 and "is there already" in again.stdout and out.read_bytes() == before
    refused = tiler(scene, "-m", models["unet"], "-o", tmp_path / "again.tif", "--vector", out)
    assert refused.exit_code == 2 and "already there" in refused.stderr and not (tmp_path / "again.tif").exists()


# What the file is


def test_the_file_is_a_valid_cog_that_tells_what_it_is(model: Path, scene: Path, tmp_path: Path) -> None:
    exported(scene, model, tmp_path / "out.tif", "--attribution", "(c) Field Survey")
    valid, problems, warnings = cog_validate(tmp_path / "out.tif", strict=True, quiet=True)
    assert valid, (problems, warnings)
    with rasterio.open(tmp_path / "out.tif") as dataset, rasterio.open(scene) as original:
        tags = dataset.tags()
        assert (dataset.crs, dataset.transform, dataset.shape) == (original.crs, original.transform, original.shape)
        assert dataset.block_shapes == [(512, 512)] and dataset.overviews(1)
        assert dataset.colormap(1)[1][:3] != dataset.colormap(1)[2][:3]
        assert [dataset.tags(1)[f"CLASS_{value}"] for value in range(5)] == CLASSES
        assert tags["TITILER_INFERENCE_MODEL"] == "shallow" and tags["TITILER_INFERENCE_SCENE"] == "field.tif"
        assert len(tags["TITILER_INFERENCE_REVISION"]) == 12 and len(tags["TITILER_INFERENCE_MODEL_DIGEST"]) == 64
        assert json.loads(tags["TITILER_INFERENCE_REGION"]) == [0, 0, HEIGHT, WIDTH]
        assert tags["TIFFTAG_COPYRIGHT"] == "(c) Field Survey"
        assert str(tmp_path) not in json.dumps(tags)
        # Overviews hold the majority, never a mean of numbers.
        half = dataset.read(1, out_shape=(HEIGHT // 2, WIDTH // 2))
        assert set(np.unique(half)) <= set(range(5))
    assert [word for word in CLASSES if f"<Category>{word}</Category>" in (tmp_path / "out.tif.aux.xml").read_text()]


@pytest.mark.slow
def test_one_revision_from_server_and_file(
    model: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(scene, model, tmp_path / "out.tif")
    # The server's operator has named the scene by another path to the same file.
    monkeypatch.chdir(scene.parent)
    settings = Settings(
        scenes={"field": SceneSettings(path=scene.name)}, models={"m": str(model)}, runtime="onnxruntime"
    )
    with TestClient(create_app(settings)) as client:
        revision = client.get("/field/m/0/0/0.png").headers["x-revision"]
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.tags()["TITILER_INFERENCE_REVISION"] == revision


# Going on


def test_a_finished_export_is_not_done_again(model: Path, scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tif"
    exported(scene, model, out)
    before = out.read_bytes(), out.stat().st_mtime_ns
    done = tiler(scene, "-m", model, "-o", out, "--runtime", "onnxruntime", "--json")
    assert json.loads(done.stdout.splitlines()[-1])["already"] is True
    assert (out.read_bytes(), out.stat().st_mtime_ns) == before


def test_valid_parts_are_kept_and_changed_ones_made_again(model: Path, scene: Path, tmp_path: Path) -> None:
    out, options = tmp_path / "out.tif", ["--block", 256, "--max-window-pixels", 256 * 256, "--json"]
    first = tiler(scene, "-m", model, "-o", out, "--keep-parts", "--runtime", "onnxruntime", *options)
    assert first.exit_code == 0, first.output
    whole, parts = out.read_bytes(), out.with_name("out.tif.parts")
    blocks = len(list(parts.glob("*.class.tif")))
    assert blocks >= 12
    out.unlink()
    changed, cut, lost, told = sorted(parts.glob("*.class.tif"))[:4]
    flipped = bytearray(changed.read_bytes())
    flipped[-100] ^= 1
    changed.write_bytes(flipped)
    cut.write_bytes(cut.read_bytes()[:50])
    lost.unlink()
    told.with_name(told.name.replace(".class.tif", ".json")).write_text("{")
    (parts / ".00003.class.tif.1.2.3.tmp").write_bytes(b"half")
    again = tiler(scene, "-m", model, "-o", out, "--runtime", "onnxruntime", *options)
    end = json.loads(again.stdout.splitlines()[-1])
    assert (end["made"], end["kept"]) == (4, blocks - 4)
    assert out.read_bytes() == whole and not parts.exists()


@pytest.mark.slow
def test_parts_of_another_export_are_not_mixed_in(models: dict[str, Path], scene: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.tif"
    tiler(scene, "-m", models["shallow"], "-o", out, "--keep-parts")
    out.unlink()
    refused = tiler(scene, "-m", models["unet"], "-o", out)
    assert refused.exit_code == 2 and "parts of another export" in refused.stderr and "--overwrite" in refused.stderr
    assert not out.exists()
    assert tiler(scene, "-m", models["unet"], "-o", out, "--overwrite").exit_code == 0
    refused = tiler(scene, "-m", models["shallow"], "-o", out)
    assert refused.exit_code == 2 and "is there already" in refused.stderr
    with rasterio.open(out) as dataset:
        assert dataset.tags()["TITILER_INFERENCE_MODEL"] == "unet"


def test_the_second_of_two_on_one_output_says_so(model: Path, scene: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    parts = tmp_path / "out.tif.parts"
    parts.mkdir()
    with FileLock(parts / "lock"):
        refused = tiler(scene, "-m", model, "-o", tmp_path / "out.tif")
    assert refused.exit_code == 2 and "another process is exporting to 'out.tif'" in refused.stderr
    assert not (tmp_path / "out.tif").exists()


# Refusals


@pytest.mark.parametrize(
    "options, words",
    [
        (["-o", "nowhere/out.tif"], "is not there"),
        (["-o", "out.png"], "not a GeoTIFF"),
        (["--output", "value"], "output 'value'"),
        (["--gsd", "-1"], "not a resolution"),
        (["--dst-crs", "EPSG:99999999"], "not a CRS"),
        (["--bidx", "1,2"], "wants 3"),
        (["--bbox-crs", "EPSG:4326"], "without --bbox"),
    ],
)
def test_bad_input_is_refused_before_the_first_block(
    model: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = options if "-o" in options else ["-o", "out.tif", *options]
    done = tiler(scene, "-m", model, *given)
    assert done.exit_code == 2 and words in done.stderr, done.output
    assert len(done.stderr.strip().splitlines()) == 1 and str(tmp_path) not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] in ([], ["state"])


def test_a_disk_that_is_too_small_is_told_of_beforehand(
    model: Path, scene: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiler.export.parts import Parts

    monkeypatch.setattr(Parts, "free", lambda self: 1000)
    done = tiler(scene, "-m", model, "-o", tmp_path / "out.tif")
    assert done.exit_code == 2 and "GB of disk" in done.stderr and not (tmp_path / "out.tif.parts").exists()
    assert tiler(scene, "-m", model, "-o", tmp_path / "out.tif", "--no-disk-check").exit_code == 0


def test_a_dry_run_writes_nothing(model: Path, scene: Path, tmp_path: Path) -> None:
    done = tiler(scene, "-m", model, "-o", tmp_path / "out.tif", "--dry-run", "--json")
    told = json.loads(done.stdout)
    assert told["event"] == "begin" and told["pixels"] == HEIGHT * WIDTH and told["inferred_pixels"] > told["pixels"]
    assert told["blocks"] == 1 and told["seconds"] > 0 and told["memory_mb"] > 0 and told["disk_mb"] > 0
    assert not (tmp_path / "out.tif").exists() and not (tmp_path / "out.tif.parts").exists()


def test_progress_for_programs(model: Path, scene: Path, tmp_path: Path) -> None:
    done = tiler(scene, "-m", model, "-o", tmp_path / "out.tif", "--json", "--block", 256, "--max-window-pixels", 65536)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [lines[0]["event"], lines[-1]["event"]] == ["begin", "finished"]
    steps = [line for line in lines if line["event"] == "progress" and line["stage"] == "inferring"]
    assert [step["done"] for step in steps] == sorted(step["done"] for step in steps)
    assert steps[-1]["done"] == steps[-1]["blocks"] == lines[0]["blocks"] and steps[-1]["mpx_per_second"] > 0
    assert sum(lines[-1]["counts"].values()) == HEIGHT * WIDTH
