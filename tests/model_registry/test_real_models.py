"""Trained networks of others, with imagery and masks that were made without this package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from model_registry import live, moat, testing
from model_registry.candidates import installed
from model_registry.choice import choose
from model_registry.live import LoadedModel
from model_registry.runtimes import load_runner
from model_registry.runtimes._cpu import has_bf16

rasterio = pytest.importorskip("rasterio")
pytestmark = [pytest.mark.real, pytest.mark.slow]

DYNAMIC_WORLD = ["water", "trees", "grass", "flooded", "crops", "shrub", "built", "bare", "snow"]
S2_BANDS = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"]


def load_dynamic_world(folder: Path, real: Path, which: str, **kwargs) -> LoadedModel:
    net = onnx.load(real / "dynamicworld" / f"dynamicworld_forward_{which}.onnx")
    return live.load(
        testing.write_model(folder, net, classes=DYNAMIC_WORLD, bands=S2_BANDS, gsd=10, scaling=None, **kwargs)
    )


@pytest.fixture
def scene(real: Path) -> tuple[np.ndarray, np.ndarray]:
    """(uint16[9, 1068, 1068], uint8[1068, 1068] of one pass over it)."""
    folder = real / "majortom_thailand"
    with rasterio.open(folder / "majortom_thailand_12band_10m_cog.tif") as source:
        names = [str(d).upper() for d in source.descriptions]
        pixels = source.read([names.index(band) + 1 for band in S2_BANDS])
    with rasterio.open(folder / "reference_dynamicworld_mask.tif") as source:
        return pixels, source.read(1)


def test_dynamic_world(tmp_path: Path, real: Path, scene):
    loaded = load_dynamic_world(tmp_path / "m", real, "dn", dtypes=["uint16", "int16"])
    window = loaded.model.window
    assert (loaded.model.exactness, window.period, window.multiple) == ("exact", 2, 2), loaded.probe.notes
    assert 16 < window.halo <= 48

    pixels, reference = scene
    top, left, edge, halo = 400, 300, 96, window.halo

    def differing(halo: int, shift: int = 0) -> float:
        rows, columns = (np.s_[o - halo + shift : o + edge + halo + shift] for o in (top, left))
        got = loaded.runner(np.ascontiguousarray(pixels[None, :, rows, columns])).classes[0]
        inside = np.s_[halo : halo + edge]
        core = got[inside, inside]
        return float(np.mean(core != reference[top + shift :, left + shift :][:edge, :edge]))

    assert differing(halo) == 0
    assert differing(0) > 0.01, "without a halo seams must show, or this test proves nothing"
    assert differing(halo, shift=1) > 0.01, "windows off the period must differ, or the period is wrong"


def test_dynamic_world_in_openvino(tmp_path: Path, real: Path, scene):
    """The same map in fp32 and no seams in either; in bf16 it moves far more pixels than "auto" allows."""
    if not installed("openvino"):
        pytest.skip("openvino is not installed")
    loaded = load_dynamic_world(tmp_path / "m", real, "dn", dtypes=["uint16", "int16"])
    window = np.ascontiguousarray(scene[0][None, :, 300:556, 300:556])
    reference = load_runner(loaded.model)(window, probabilities=True)
    two = np.sort(reference.probabilities, axis=1)
    fp32 = load_runner(loaded.model, runtime="openvino")
    moved = fp32(window).classes != reference.classes
    assert not (moved & (two[:, -1] - two[:, -2] > 1e-4)).any() and moved.mean() < 1e-4
    assert moat.fault(fp32, loaded.model) == ""
    if has_bf16():
        bf16 = load_runner(loaded.model, runtime="openvino", precision="bf16")
        assert moat.fault(bf16, loaded.model) == ""
        assert 0.005 < np.mean(bf16(window).classes != reference.classes) < 0.05
        choice = choose(loaded.model, "auto", samples=[window[0]])
        assert choice.precision == "fp32" and any("% of the pixels, 0.5 % are allowed" in r for r in choice.reasons)


@pytest.mark.slow
def test_dynamic_world_normalised(tmp_path: Path, real: Path):
    loaded = load_dynamic_world(tmp_path / "m", real, "norm", values="physical", dtypes=["float32"])
    assert (loaded.model.exactness, loaded.model.window.period) == ("exact", 2)
    assert 16 < loaded.model.window.halo <= 48


@pytest.mark.parametrize("which", ["250epochs", pytest.param("1epoch", marks=pytest.mark.slow)])
def test_naip_land_cover_subtracts_the_chips_mean(tmp_path: Path, real: Path, which: str):
    net = onnx.load(real / "azure_naip_landcover_model" / f"naip4_landcover5_{which}.onnx")
    listed = ["none", "water", "tree", "herbaceous", "barren"]
    folder = testing.write_model(
        tmp_path / "m", net, classes=listed, bands=["red", "green", "blue", "nir"], gsd=1, scaling=None
    )
    loaded = live.load(folder)
    assert loaded.model.exactness != "exact"
    assert (loaded.model.window.multiple, loaded.model.window.period) == (8, 8)
    assert loaded.model.window.halo >= 64
    with rasterio.open(real / "naip_nd_wetlands_5m" / "m_4709963_se_14_1_20200831.tif") as source:
        pixels = source.read(window=((0, 256), (0, 256)))
    got = loaded.runner(pixels[None])
    assert got.classes.shape == (1, 256, 256) and len(np.unique(got.classes)) > 1
