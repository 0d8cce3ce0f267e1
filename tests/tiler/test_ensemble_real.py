"""A published network at three resolutions over its imagery: its ensemble equals one whole-scene computation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.windows import Window

from benchmarks.real_models import NETWORKS, add, command
from model_registry import at_gsds, load, open_model
from tests.tiler.helpers import softmax
from tests.tiler.whole_ensemble import whole_ensemble
from tiler.engine import Engine
from tiler.layer import fit
from tiler.predict import Limits, predict_view
from tiler.scene import open_scene
from tiler.values import Style, View

pytestmark = [pytest.mark.real, pytest.mark.slow]

THAILAND = Path("majortom_thailand/majortom_thailand_12band_10m_cog.tif")
PART = Window(300, 400, 384, 320)
GSDS = (10.0, 14.0, 20.0)
WEIGHTS = (2.0, 1.0, 1.0)


@pytest.fixture(scope="module")
def part(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of the scene, the network's nine bands in its order."""
    with rasterio.open(shared / THAILAND) as source:
        bands = NETWORKS["world"].answers["bands"].split(",")
        places = [[str(name).replace("B0", "B") for name in source.descriptions].index(band) + 1 for band in bands]
        pixels = source.read(places, window=PART)
        profile = {
            "driver": "GTiff", "dtype": pixels.dtype, "count": len(bands), "height": PART.height, "width": PART.width,
            "crs": source.crs, "transform": source.window_transform(PART), "tiled": True, "blockxsize": 128,
            "blockysize": 128,
        }  # fmt: skip
    path = tmp_path_factory.mktemp("scene") / "part.tif"
    with rasterio.open(path, "w", **profile) as target:
        target.write(pixels)
        target.descriptions = tuple(bands)
    return path


def test_a_published_network_at_three_resolutions(
    shared: Path, part: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = add("world", tmp_path_factory.mktemp("registry"), shared)
    loaded = load(at_gsds(open_model(folder), GSDS, WEIGHTS), runtime="onnxruntime")
    assert loaded.model.exactness == "exact"
    layer, engine = fit(open_scene(part), loaded), Engine()
    try:
        grid = layer.grid
        view = View(grid.bounds, grid.crs, grid.height, grid.width)
        shown = predict_view(layer, view, Style(), engine, Limits())
        spread = predict_view(layer, view, Style(output="spread"), engine, Limits())
    finally:
        engine.close()
        loaded.close()
    with rasterio.open(part) as dataset:
        pixels = dataset.read()
    right = whole_ensemble(
        [shared / NETWORKS["world"].file] * 3, pixels, 10.0, GSDS, [0.5, 0.25, 0.25], divisor=1, pad=64, multiple=2,
        finish=softmax,
    )  # fmt: skip
    assert shown.valid.all() and right.valid.all()
    assert len(np.unique(right.classes)) > 3
    wrong = (shown.values[0] != right.classes) & right.sure
    assert wrong.sum() == 0, f"{wrong.sum()} of {wrong.size} pixels differ"
    np.testing.assert_allclose(spread.values[0], right.spread, atol=1e-3)


def test_the_export_of_an_ensemble_is_the_same(
    shared: Path, part: Path, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    folder = add("world", tmp_path_factory.mktemp("registry"), shared)
    out, gsds = tmp_path / "out.tif", ",".join(map(str, GSDS))
    command(
        "export", str(part), "--model", str(folder), "--gsds", gsds, "-o", str(out), "--output", "spread", "--runtime",
        "onnxruntime", "--no-register",
    )  # fmt: skip
    with rasterio.open(part) as dataset:
        pixels = dataset.read()
    right = whole_ensemble(
        [shared / NETWORKS["world"].file] * 3, pixels, 10.0, GSDS, [1 / 3] * 3, divisor=1, pad=64, multiple=2,
        finish=softmax,
    )  # fmt: skip
    with rasterio.open(out) as dataset:
        assert ((dataset.read(1) != right.classes) & right.sure).sum() == 0
    with rasterio.open(tmp_path / "out_spread.tif") as dataset:
        np.testing.assert_allclose(dataset.read(1) / 254, right.spread, atol=1e-3 + 0.5 / 254)
