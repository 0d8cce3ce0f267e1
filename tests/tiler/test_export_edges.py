"""`tiler export` where somebody errs, interferes, or has an unusual scene or model."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from filelock import FileLock
from typer.testing import CliRunner, Result

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import RES, landscape, write_scene
from tiler.cli import GDAL_DEFAULTS, app

pytestmark = pytest.mark.usefixtures("no_settings")

CLASSES = ["water", "forest", "soil", "road", "roof"]
HEIGHT, WIDTH = 300, 410


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("edges")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    return write_scene(folder / "field.tif", landscape(HEIGHT, WIDTH), transform=Affine(RES, 0, 1000, 0, -RES, 5000))


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return write_model(folder / "cover", conv_chain(layers=2), classes=CLASSES, gsd=round(RES, 4))


def tiler(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["export", *(str(item) for item in arguments)], env=dict(GDAL_DEFAULTS))


def exported(scene: Path, model: Path, out: Path, *options: Any) -> np.ndarray:
    done = tiler(scene, "-m", model, "-o", out, "--runtime", "onnxruntime", *options)
    assert done.exit_code == 0, done.output
    with rasterio.open(out) as dataset:
        return dataset.read()


def refused(done: Result, words: str) -> None:
    assert done.exit_code == 2 and words in done.stderr, done.output
    assert done.stderr.count("Error:") == 1 and words in done.stderr.strip().splitlines()[-1]


# Whose files these are


@pytest.mark.parametrize("name", ["field.tif", "link.tif", "hard.tif"])
def test_the_scene_is_never_replaced(scene: Path, model: Path, tmp_path: Path, name: str) -> None:
    own = tmp_path / "field.tif"
    own.write_bytes(scene.read_bytes())
    (tmp_path / "link.tif").symlink_to(own)
    os.link(own, tmp_path / "hard.tif")
    refused(tiler(own, "-m", model, "-o", tmp_path / name, "--overwrite"), f"output '{name}' is the scene itself")
    assert own.read_bytes() == scene.read_bytes() and not list(tmp_path.glob("*.parts"))


def test_a_folder_of_scenes_is_no_place_for_results(scene: Path, model: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.tif").write_bytes(scene.read_bytes())
    done = tiler(tmp_path / "*.tif", "-m", model, "-o", tmp_path, "--overwrite")
    assert done.exit_code == 2 and done.stderr.count("is the scene itself") == 2
    assert (tmp_path / "a.tif").read_bytes() == scene.read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_polygons_do_not_replace_the_area(scene: Path, model: Path, tmp_path: Path) -> None:
    area = tmp_path / "field.geojson"
    area.write_text("{}")
    given = ["-o", tmp_path / "out.tif", "--aoi", area, "--vector", area, "--overwrite"]
    refused(tiler(scene, "-m", model, *given), "is the polygon of --aoi itself")
    assert area.read_text() == "{}"


def test_a_finished_export_leaves_the_parts_of_one_that_runs(scene: Path, model: Path, tmp_path: Path) -> None:
    """Somebody makes another export of that name (--overwrite), and the old command is given again."""
    out, parts = tmp_path / "out.tif", tmp_path / "out.tif.parts"
    exported(scene, model, out)
    parts.mkdir()
    (parts / "job.json").write_text(json.dumps({"job": "0" * 12}))
    (parts / "00000.json").write_text("{}")
    with FileLock(parts / "lock"):
        exported(scene, model, out)
        assert (parts / "00000.json").exists()
    exported(scene, model, out)
    assert (parts / "00000.json").exists()


def test_parts_of_a_finished_export_are_kept_or_go(scene: Path, model: Path, tmp_path: Path) -> None:
    out, parts = tmp_path / "out.tif", tmp_path / "out.tif.parts"
    exported(scene, model, out, "--keep-parts")
    exported(scene, model, out, "--keep-parts")
    assert (parts / "00000.json").exists()
    exported(scene, model, out)
    assert not parts.exists()


def test_one_file_finished_and_the_other_not(scene: Path, model: Path, tmp_path: Path) -> None:
    """Killed between two COGs: no block is made again, and the first file is left alone."""
    out, options = tmp_path / "out.tif", ["--output", "confidence", "--keep-parts", "--json"]
    exported(scene, model, out, *options)
    second, moment = tmp_path / "out_confidence.tif", out.stat().st_mtime_ns
    whole = second.read_bytes()
    second.unlink()
    done = tiler(scene, "-m", model, "-o", out, "--runtime", "onnxruntime", *options)
    end = json.loads(done.stdout.splitlines()[-1])
    assert (end["made"], end["kept"]) == (0, 1) and second.read_bytes() == whole
    assert out.stat().st_mtime_ns == moment


def test_a_file_to_be_replaced_stays_until_the_new_one_is_whole(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiler.export import cog

    out = tmp_path / "out.tif"
    exported(scene, model, out)
    before = out.read_bytes()

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cog, "copy", broken)
        options = ["--attribution", "me", "--overwrite"]
        refused(tiler(scene, "-m", model, "-o", out, *options), "could not be put together")
    assert out.read_bytes() == before
    exported(scene, model, out, *options)
    assert out.read_bytes() != before


def test_a_disk_that_fills_up_before_the_last_step(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_text

    def full(self: Path, *args: Any, **options: Any) -> int:
        if self.suffix == ".vrt":
            raise OSError(28, "No space left on device")
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "write_text", full)
    refused(tiler(scene, "-m", model, "-o", tmp_path / "out.tif"), "could not be put together")
    assert not (tmp_path / "out.tif").exists() and (tmp_path / "out.tif.parts" / "00000.json").exists()


@pytest.mark.parametrize(
    "error, words", [(PermissionError(13, "no"), "may not be written"), (NotImplementedError("flock"), "no locks")]
)
def test_a_folder_that_cannot_be_locked(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def no(self: Any, *_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", no)
    refused(tiler(scene, "-m", model, "-o", tmp_path / "out.tif"), words)


# Words


def test_names_that_no_xml_may_hold(model: Path, scene: Path, tmp_path: Path) -> None:
    odd = tmp_path / "fie\x0bld & <b>.tif"
    odd.write_bytes(scene.read_bytes())
    exported(odd, model, tmp_path / "out.tif", "--attribution", "(c) \x0c & <i>")
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.tags()["TITILER_INFERENCE_SCENE"] == "fie?ld & <b>.tif"
        assert dataset.tags()["TIFFTAG_COPYRIGHT"] == "(c) ? & <i>"


def test_messages_are_no_markup(model: Path, tmp_path: Path) -> None:
    parts, out = tmp_path / "parts", tmp_path / "out"
    parts.mkdir()
    out.mkdir()
    write_scene(parts / "[red]a.tif", landscape(60, 60, bands=2), descriptions=["[/red]", "[bold]"])
    write_scene(parts / "b.tif", landscape(60, 60))
    done = tiler(parts / "[[]red]a.tif", parts / "b.tif", "-m", model, "-o", out)
    assert done.exit_code == 2 and "[/red]" in done.stderr and "1 of 2 scenes failed" in done.stderr, done.output


# What is asked for


@pytest.mark.parametrize("place", ["http", "file"])
def test_a_crs_is_never_a_file_or_an_address(scene: Path, model: Path, tmp_path: Path, place: str) -> None:
    """GDAL would fetch it: from inside of the server's network."""
    import socket

    (tmp_path / "own.wkt").write_text(rasterio.CRS.from_epsg(3857).to_wkt())
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0.3)
        text = f"http://127.0.0.1:{listening.getsockname()[1]}/x" if place == "http" else str(tmp_path / "own.wkt")
        for options in (["--dst-crs", text], ["--bbox", "0,0,1,1", "--bbox-crs", text]):
            refused(tiler(scene, "-m", model, "-o", tmp_path / "out.tif", *options), "not a CRS")
        area = tmp_path / "area.geojson"
        ring = [[0, 0], [1, 0], [1, 1], [0, 0]]
        crs = {"type": "name", "properties": {"name": text}}
        area.write_text(json.dumps({"type": "Polygon", "coordinates": [ring], "crs": crs}))
        refused(tiler(scene, "-m", model, "-o", tmp_path / "out.tif", "--aoi", area), "not a CRS")
        with pytest.raises(TimeoutError):
            listening.accept()


@pytest.mark.parametrize(
    "text",
    [
        "EPSG:32632",
        "epsg:32632",
        "urn:ogc:def:crs:EPSG::32632",
        "urn:ogc:def:crs:EPSG:9.9:32632",
        "http://www.opengis.net/def/crs/EPSG/0/32632",
        "+proj=utm +zone=32 +datum=WGS84 +units=m +no_defs",
        rasterio.CRS.from_epsg(32632).to_wkt(),
        rasterio.CRS.from_epsg(32632).to_wkt(version="WKT2_2019"),
        json.dumps(rasterio.CRS.from_epsg(32632).to_dict(projjson=True)),
        "ESRI:54009",
        "OGC:CRS84",
        "urn:ogc:def:crs:OGC:1.3:CRS84",
        "WGS84",
    ],
)
def test_how_a_crs_may_be_spelt(text: str) -> None:
    from tiler.crs import crs_of

    found = crs_of(text)
    if "32632" in text or "utm" in text:
        assert found.to_epsg() == 32632
    else:
        assert found.to_epsg() == 4326 or "54009" in text


@pytest.mark.parametrize(
    "options, words",
    [
        (["--gsd", "1e-6"], "times finer than the model's grid"),
        (["--gsd", "nan"], "not a resolution"),
        (["--bbox", "-inf,0,inf,1", "--bbox-crs", "EPSG:3857"], "not four numbers"),
    ],
)
def test_numbers_that_would_never_end(scene: Path, model: Path, tmp_path: Path, options: list[str], words: str) -> None:
    refused(tiler(scene, "-m", model, "-o", tmp_path / "out.tif", *options), words)


def test_scenes_on_two_continents_make_no_mosaic(model: Path, tmp_path: Path) -> None:
    for number, (left, top) in enumerate([(0, 5000), (1.9e7, 105000)]):
        place = Affine(RES, 0, left, 0, -RES, top)
        write_scene(tmp_path / f"{number}.tif", landscape(60, 60), transform=place)
    refused(tiler(tmp_path / "?.tif", "-m", model, "-o", tmp_path / "out.tif", "--mosaic", "--block", 256), "blocks of")


def test_a_single_pixel_of_a_whole_scene(
    folder: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However coarse the result, only so much is looked at together."""
    from tiler.engine import Engine

    scene = write_scene(tmp_path / "wide.tif", landscape(1700, 3100))
    most: list[int] = []
    real = Engine.scores

    def counted(self: Engine, layer: Any, cells: Any, **given: Any) -> Any:
        most.append(len(cells) * layer.grid.cell**2)
        return real(self, layer, cells, **given)

    monkeypatch.setattr(Engine, "scores", counted)
    found = exported(scene, model, tmp_path / "out.tif", "--gsd", 30 * RES)
    assert found.shape == (1, -(-1700 // 30), -(-3100 // 30)) and (found != 255).mean() > 0.9
    assert max(most) < 2**21 * 1.3 and len(most) > 1


@pytest.mark.slow
def test_many_polygons_cost_what_they_cover(scene: Path, model: Path, tmp_path: Path) -> None:
    import time

    from model_registry import load
    from tiler.export.area import area_of_polygon
    from tiler.layer import fit
    from tiler.scene import open_scene
    from tiler.values import Rect

    grid = fit(open_scene(scene), load(model)).grid
    with rasterio.open(scene) as dataset:
        place = dataset.transform
    fields = []
    for row in range(1, 290, 5):
        for col in range(1, 400, 5):
            ring = [place @ corner for corner in [(col, row), (col + 3, row), (col + 3, row + 2), (col, row + 2)]]
            fields.append([[*ring, ring[0]]])
    crs = {"type": "name", "properties": {"name": "EPSG:3857"}}
    area = area_of_polygon(grid, {"type": "MultiPolygon", "coordinates": fields, "crs": crs})
    begun = time.process_time()
    mask = area.mask(Rect(0, 0, 2048, 2048))
    assert mask is not None and mask.sum() == 6 * len(fields) and len(fields) > 4000
    assert time.process_time() - begun < 5  # 4,640 times the whole rectangle would take two minutes
    assert not area.touches(Rect(0, 400, 300, 10)) and area.touches(Rect(0, 0, 10, 10))
    assert not area.touches(Rect(4, 0, 2, 2))
    (found,) = exported(scene, model, tmp_path / "whole.tif")
    document = tmp_path / "fields.geojson"
    document.write_text(json.dumps({"type": "MultiPolygon", "coordinates": fields, "crs": crs}))
    (cut,) = exported(scene, model, tmp_path / "cut.tif", "--aoi", document, "--max-window-pixels", 10000)
    inside = mask[area.region.row_off :, area.region.col_off :][: area.region.height, : area.region.width]
    there = found[area.region.row_off :, area.region.col_off :][: area.region.height, : area.region.width]
    assert (cut == np.where(inside, there, 255)).all()


# Unusual models and scenes


def test_a_dry_run_of_an_area_with_a_hole_in_the_middle(scene: Path, model: Path, tmp_path: Path) -> None:
    with rasterio.open(scene) as dataset:
        place = dataset.transform
    outer = [place @ corner for corner in [(0, 0), (WIDTH, 0), (WIDTH, HEIGHT), (0, HEIGHT), (0, 0)]]
    inner = [place @ corner for corner in [(20, 20), (390, 20), (390, 280), (20, 280), (20, 20)]]
    area = tmp_path / "ring.geojson"
    crs = {"type": "name", "properties": {"name": "EPSG:3857"}}
    area.write_text(json.dumps({"type": "Polygon", "coordinates": [outer, inner], "crs": crs}))
    given = ["--aoi", area, "--max-window-pixels", 6000, "--block", 256, "--json"]
    done = tiler(scene, "-m", model, "-o", tmp_path / "out.tif", *given, "--dry-run")
    assert json.loads(done.stdout)["seconds"] > 0
    (whole,) = exported(scene, model, tmp_path / "whole.tif")
    (found,) = exported(scene, model, tmp_path / "out.tif", *given)
    inside = np.ones((HEIGHT, WIDTH), bool)
    inside[20:280, 20:390] = False
    assert (found == np.where(inside, whole, 255)).all()


def test_between_two_parts_far_apart_nothing_is_inferred(model: Path, tmp_path: Path) -> None:
    scene = write_scene(tmp_path / "wide.tif", landscape(1500, 1500))
    with rasterio.open(scene) as dataset:
        place = dataset.transform
    boxes = [(10, 10, 50, 60), (1400, 1420, 1440, 1490)]
    rings = [[[place @ corner for corner in [(a, b), (c, b), (c, d), (a, d), (a, b)]]] for a, b, c, d in boxes]
    area = tmp_path / "two.geojson"
    crs = {"type": "name", "properties": {"name": "EPSG:3857"}}
    area.write_text(json.dumps({"type": "MultiPolygon", "coordinates": rings, "crs": crs}))
    given = ["--aoi", area, "--block", 256, "--max-window-pixels", 65536, "--json", "--runtime", "onnxruntime"]
    done = tiler(scene, "-m", model, "-o", tmp_path / "out.tif", *given)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert lines[0]["blocks"] == 2 and lines[0]["inferred_pixels"] < 0.1 * 1500**2
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert (dataset.read(1) != 255).sum() == 40 * 50 + 40 * 70


@pytest.mark.slow
def test_an_embedding_of_many_channels(folder: Path, scene: Path, tmp_path: Path) -> None:
    """Its blocks are smaller: 2048 x 2048 of them would take a gigabyte each."""
    channels = 64
    model = write_model(
        folder / "embed",
        conv_chain(layers=2, classes=channels),
        tasks=["embedding"],
        channels=channels,
        gsd=round(RES, 4),
    )
    wide = write_scene(tmp_path / "wide.tif", landscape(900, 1500))
    done = tiler(wide, "-m", model, "-o", tmp_path / "dry.tif", "--dry-run", "--json", "--max-window-pixels", 90000)
    plan = json.loads(done.stdout)
    assert plan["blocks"] > 3 and plan["memory_mb"] < 1500, plan
    found = exported(scene, model, tmp_path / "out.tif", "--max-window-pixels", 40000)
    assert found.shape == (channels, HEIGHT, WIDTH) and found.dtype == np.float32 and np.isfinite(found).all()
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert np.isnan(dataset.nodata) and dataset.descriptions[0] and dataset.descriptions[63]


def test_a_regression_keeps_its_holes_in_overviews(folder: Path, tmp_path: Path) -> None:
    value = {"name": "height", "unit": "m", "scale": 10, "range": [-100, 100]}
    net = conv_chain(layers=2, classes=1)
    model = write_model(folder / "height", net, tasks=["regression"], gsd=round(RES, 4), output={"value": value})
    valid = np.ones((1100, 1300), bool)
    valid[200:500, 300:900] = False
    scene = write_scene(tmp_path / "holes.tif", landscape(1100, 1300), mask=valid)
    (found,) = exported(scene, model, tmp_path / "out.tif")
    assert (np.isfinite(found) == valid).all()
    with rasterio.open(tmp_path / "out.tif", overview_level=0) as dataset:
        half = dataset.read(1)
    quads = found.reshape(550, 2, 650, 2).swapaxes(1, 2).reshape(550, 650, 4)
    kept = np.isfinite(quads).any(axis=2)
    assert (np.isfinite(half) == kept).all()
    assert np.allclose(half[kept], np.nanmean(quads[kept], axis=1), atol=1e-4)


@pytest.mark.slow
def test_classes_of_any_number_and_256_of_them(folder: Path, scene: Path, tmp_path: Path) -> None:
    odd = [{"value": value, "name": f"c{value}", "color_hint": "102030"} for value in (7, 255, 3, 0, 40)]
    model = write_model(folder / "odd", conv_chain(layers=2), classes=odd, gsd=round(RES, 4))
    (found,) = exported(scene, model, tmp_path / "out.tif")
    assert set(np.unique(found)) <= {7, 255, 3, 0, 40} and len(np.unique(found)) > 1
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.nodata == 254 and dataset.tags(1)["CLASS_255"] == "c255"
        assert dataset.colormap(1)[255] == (16, 32, 48, 255) and dataset.colormap(1)[254][3] == 0
    names = [f"n{number}" for number in range(256)]
    full = write_model(folder / "full", conv_chain(layers=1, classes=256), classes=names, gsd=round(RES, 4))
    refused(tiler(scene, "-m", full, "-o", tmp_path / "no.tif"), "256 classes")


@pytest.mark.slow
@pytest.mark.parametrize("crs, size", [("EPSG:4326", 5.4e-6), ("EPSG:32631", 0.7)])
@pytest.mark.parametrize("up", [False, True])
def test_another_grid_and_rows_that_run_up(model: Path, tmp_path: Path, crs: str, size: float, up: bool) -> None:
    """Resampled to the model's resolution: the export still is what the map shows at native resolution."""
    from starlette.testclient import TestClient

    from tiler.app import create_app
    from tiler.settings import SceneSettings, Settings

    left, top = (4.0, 50.0) if crs == "EPSG:4326" else (500000.0, 5600000.0)
    place = Affine(size, 0, left, 0, -size, top) if not up else Affine(size, 0, left, 0, size, top - 280 * size)
    scene = write_scene(tmp_path / "scene.tif", landscape(280, 310), crs=crs, transform=place)
    (found,) = exported(scene, model, tmp_path / "out.tif", "--block", 256, "--max-window-pixels", 20000)
    assert (found != 255).all()
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.transform.e < 0 and dataset.bounds.top == pytest.approx(top)
        bounds, code, shape = dataset.bounds, crs, dataset.shape
    settings = Settings(
        scenes={"s": SceneSettings(path=str(scene))}, models={"m": str(model)}, runtime="onnxruntime", materialised=""
    )
    with TestClient(create_app(settings)) as client:
        box = ",".join(map(repr, bounds))
        answer = client.get(f"/s/m/bbox/{box}/{shape[1]}x{shape[0]}.npy", params={"coord_crs": code, "dst_crs": code})
        assert answer.status_code == 200, answer.text
    import io

    live = np.load(io.BytesIO(answer.content))
    assert (live[0] == found).mean() == 1.0


def test_a_mask_is_cut_at_the_models_own_threshold(folder: Path, scene: Path, tmp_path: Path) -> None:
    from tests.tiler.helpers import whole_scores

    window = {"multiple": 1, "period": 1, "halo": 2}
    net = conv_chain(layers=2, classes=1)
    found, shares = {}, {}
    for own in (0.4, 0.5):
        model = write_model(
            folder / f"mask{own}", net, classes=[{"value": 1, "name": "field"}], gsd=round(RES, 4), window=window,
            exactness="exact", output={"threshold": own},
        )  # fmt: skip
        (found[own],) = exported(scene, model, tmp_path / f"{own}.tif", "--output", "probability")
        with rasterio.open(tmp_path / f"{own}_probability.tif") as dataset:
            shares[own] = dataset.read()[-1] / 254
    with rasterio.open(scene) as dataset:
        scaled = dataset.read() / np.float32(255)
    (logit,) = whole_scores(folder / "mask0.4" / "model.onnx", scaled, pad=2)
    share = 1 / (1 + np.exp(-logit.astype(float)))
    for own, classes in found.items():
        sure = np.abs(share - own) > 1e-3
        assert ((classes == 1) == (share >= own))[sure].all()
        assert np.abs(shares[own] - share).max() < 0.5 / 254 + 1e-3
    assert (found[0.4] != found[0.5]).any()


def test_a_queue_shorter_than_a_piece(scene: Path, model: Path, tmp_path: Path) -> None:
    """Asked for all at once it would be refused for ever."""
    from tiler.catalog import Catalog
    from tiler.engine import Engine
    from tiler.export.order import Order, SceneOrder
    from tiler.export.session import Session
    from tiler.scene import open_scene

    (expected,) = exported(scene, model, tmp_path / "out.tif", "--gsd", 2 * RES)
    engine, catalog = Engine(max_pending_cells=9), Catalog({"m": str(model)}, runtime="onnxruntime")
    order = Order((SceneOrder(str(scene)),), str(model), gsd=2 * RES)
    session = Session(order, (catalog.layer("s", "m", lambda: open_scene(scene)),), engine)
    try:
        (rect,) = session.facts.blocks
        assert (session.block(rect)["class"][0] == expected).all()
    finally:
        engine.close()
        catalog.close()


@pytest.mark.slow
def test_room_that_parts_take_already_is_not_asked_for_again(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiler.export.parts import Parts

    out = tmp_path / "out.tif"
    exported(scene, model, out, "--keep-parts")
    out.unlink()
    assert Parts(tmp_path / "out.tif.parts").size() > 1000
    plan = json.loads(tiler(scene, "-m", model, "-o", tmp_path / "no.tif", "--dry-run", "--json").stdout)
    need = HEIGHT * WIDTH * 7 // 3
    assert plan["blocks"] == 1
    monkeypatch.setattr(Parts, "free", lambda self: need - 1000)
    refused(tiler(scene, "-m", model, "-o", tmp_path / "no.tif"), "GB of disk")
    exported(scene, model, out)
