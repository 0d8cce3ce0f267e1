"""`tiler components`: fitted to a scene, written into the model's folder, shown by the tiles; and a real embedding."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
import yaml
from typer.testing import CliRunner, Result

from model_registry import open_model
from model_registry.components import first_three, fit_components, from_json, project
from model_registry.testing import conv_chain, passthrough, write_model
from tests.tiler.helpers import RES, host, landscape, rgba, scene_pixels_of_tile, tiles_over, whole_scores, write_scene
from tiler.cli import GDAL_DEFAULTS, app

HEIGHT, WIDTH = 640, 700


def tiler(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(item) for item in arguments], env=dict(GDAL_DEFAULTS))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    net = conv_chain(layers=2, classes=8)
    return write_model(tmp_path / "vectors", net, tasks=["embedding"], channels=8, gsd=round(RES, 4))


def test_components_are_fitted_written_and_shown(tmp_path: Path, model: Path) -> None:
    pixels = landscape(HEIGHT, WIDTH)
    mask = np.ones((HEIGHT, WIDTH), bool)
    mask[:, :200] = False
    scene = write_scene(tmp_path / "scene.tif", pixels, mask=mask)
    done = tiler("components", scene, "--model", model)
    assert done.exit_code == 0, done.output
    fitted = from_json((model / "components.json").read_bytes())
    vectors = whole_scores(model / "model.onnx", pixels.astype(np.float32) / 255, pad=8)
    wanted = fit_components([vectors[:, mask].T])
    np.testing.assert_allclose(fitted.explained, wanted.explained, atol=0.03)
    assert [abs(np.dot(a, b)) > 0.95 for a, b in zip(fitted.matrix, wanted.matrix, strict=True)] == [True] * 3
    # The line that it prints is the one to add.
    document = yaml.safe_load((model / "model.yaml").read_text())
    document["serving"]["output"] = yaml.safe_load(done.stdout.splitlines()[-1])
    (model / "model.yaml").write_text(yaml.safe_dump(document))
    values = open_model(model).values
    assert values is not None and values.components == fitted
    served = host({"m": model})
    item = max(tiles_over(scene), key=lambda tile: (scene_pixels_of_tile(scene, tile, 256)[1] >= 203).sum())
    picture = rgba(served.get(f"m/tiles/WebMercatorQuad/{item.z}/{item.x}/{item.y}.png", scene).content)
    rows, cols, inside = scene_pixels_of_tile(scene, item, 256)
    valid = inside & (cols >= 200)
    # Pixels on the hole's edge see what stands in for it.
    deep = valid & (cols >= 203)
    shown = project(vectors[None], fitted)[0]
    low, high = (np.asarray(ends)[:, None, None] for ends in (fitted.low, fitted.high))
    colours = np.round(np.clip((shown - low) / (high - low), 0, 1) * 255)[:, rows[deep], cols[deep]].T
    assert np.abs(picture[deep][:, :3] - colours).max() <= 1 and (picture[..., 3] > 0).sum() == valid.sum() > 0
    served.extension.engine.close()


def test_what_cannot_be_is_told_and_leaves_nothing_behind(tmp_path: Path, model: Path) -> None:
    scene = write_scene(tmp_path / "scene.tif", landscape(200, 200))
    flat = write_scene(tmp_path / "flat.tif", np.full((3, 200, 200), 7, np.uint8))
    classes = write_model(tmp_path / "c", conv_chain(layers=1, classes=3), classes=list("abc"), gsd=round(RES, 4))
    (tmp_path / "kept.json").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    for arguments, word in (
        ((scene, "--model", classes), "Only an embedding"),
        ((flat, "--model", model), "same vector"),
        ((scene, "--model", model, "--out", tmp_path / "kept.json"), "'kept.json' is there already"),
        ((scene, "--model", model, "--out", tmp_path / "no" / "c.json"), "cannot be written"),
        ((tmp_path / "gone.tif", "--model", model), "gone.tif"),
    ):
        done = tiler("components", *arguments)
        assert done.exit_code == 2 and word in done.stderr, done.output
        assert len(done.stderr.strip().splitlines()) == 1 and str(tmp_path) not in done.stderr
    assert sorted(tmp_path.rglob("*")) == before and (tmp_path / "kept.json").read_text() == "mine"


@pytest.mark.real
@pytest.mark.slow
def test_a_real_embedding_of_128_channels_keeps_its_numbers(shared: Path, tmp_path: Path) -> None:
    """Presto's vectors of a piece of Thailand as a model's input and answer: every channel arrives as it was."""
    scene = next((shared / "presto_embedding_thailand").glob("*.tif"))
    bands = [str(number + 1) for number in range(128)]
    model = write_model(
        tmp_path / "presto", passthrough(128), tasks=["feature-extraction"], channels=128, bands=bands, gsd=None,
        dtypes=("int8",), scaling=None, window={"multiple": 1, "period": 1, "halo": 0}, exactness="exact",
    )  # fmt: skip
    assert tiler("components", scene, "--model", model).exit_code == 0
    fitted = from_json((model / "components.json").read_bytes())
    assert fitted.explained[0] > 0.2 and sum(fitted.explained) > 0.4, "land cover, and no noise"
    assert fitted != first_three(128, -1, 1)
    served = host({"m": model})
    with rasterio.open(scene) as dataset:
        left, bottom, right, top = dataset.bounds
        truth, mask, crs = dataset.read(), dataset.dataset_mask() > 0, dataset.crs.to_epsg()
    query = {"coord_crs": f"EPSG:{crs}", "dst_crs": f"EPSG:{crs}"}
    middle = f"{left},{top - 1280},{left + 1280},{top}"
    answer = served.get(f"m/bbox/{middle}/128x128.tif", scene, **query)
    assert answer.status_code == 200, answer.text
    with rasterio.MemoryFile(answer.content) as memory, memory.open() as dataset:
        values = dataset.read()
    seen = mask[:128, :128]
    assert seen.any()
    np.testing.assert_array_equal(values[:, seen], truth[:, :128, :128][:, seen])
    point = served.get(f"m/point/{left + 5},{top - 5}", scene, coord_crs=f"EPSG:{crs}").json()["values"]
    np.testing.assert_array_equal(point, truth[:, 0, 0] if seen[0, 0] else [None] * 128)
    served.extension.engine.close()
