"""The remaining seam, measured on a scene: known cases, and the words of `tiler info`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from model_registry import load
from model_registry.testing import conv_chain, global_mean, instance_norm, write_model
from tests.tiler.helpers import RES, write_scene
from tiler.info import report
from tiler.layer import Layer, fit
from tiler.scene import SceneRef, open_scene
from tiler.seams import measure

WINDOW = {"multiple": 1, "period": 1, "halo": 32, "preferred": 128}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows, cols = np.mgrid[0:300, 0:410]
    smooth = np.stack([90 + 70 * np.sin(rows / 60 + band) * np.cos(cols / 75 - band) for band in range(3)])
    return write_scene(tmp_path_factory.mktemp("scene") / "smooth.tif", smooth.astype(np.uint8))


def layer_of(folder: Path, net, scene: Path, **options) -> Layer:
    given = {"classes": list("abcd"), "gsd": round(RES, 4), "window": WINDOW, "exactness": "bounded", **options}
    return fit(open_scene(SceneRef(str(scene))), load(write_model(folder, net, **given)))


def test_statistics_of_the_window_show_at_borders_and_blending_hides_them(tmp_path: Path, scene: Path) -> None:
    seam = measure(layer_of(tmp_path / "m", instance_norm(), scene))
    assert seam is not None and seam.step is not None and seam.unblended is not None
    assert seam.crossings == 2
    assert seam.moved > 0.01 and seam.largest is not None and seam.largest > 0.05
    assert seam.unblended > 3 > 1.5 > seam.step


def test_a_network_that_needs_no_more_than_its_halo_has_no_seam(tmp_path: Path, scene: Path) -> None:
    """Said to be bounded, but exact: every window gives the same, wherever it lies."""
    layer = layer_of(tmp_path / "m", conv_chain(classes=4), scene)
    assert layer.grid.overlap == 32
    # What a window gives near its own edge, where the overlap is thin, is all that differs.
    seam = measure(layer)
    assert seam is not None and seam.moved < 1e-3 and seam.largest is not None and seam.largest < 0.05
    assert seam.unblended == pytest.approx(1, abs=1e-3)


def test_values_too(tmp_path: Path, scene: Path) -> None:
    value = {"range": [-2, 2]}
    net = global_mean(classes=1)
    seam = measure(layer_of(tmp_path / "m", net, scene, classes=(), tasks=["regression"], output={"value": value}))
    assert seam is not None and seam.moved > 0.01 and seam.step is not None and seam.unblended is not None
    assert seam.step < seam.unblended


def test_exact_models_and_small_scenes_have_none(tmp_path: Path, scene: Path) -> None:
    exact = layer_of(tmp_path / "exact", conv_chain(classes=4), scene, exactness="exact")
    assert measure(exact) is None
    small = write_scene(tmp_path / "small.tif", np.full((3, 50, 60), 90, np.uint8))
    assert measure(layer_of(tmp_path / "one", instance_norm(), small)) is None


def test_a_single_row_of_cells_has_borders_in_one_direction(tmp_path: Path) -> None:
    rows, cols = np.mgrid[0:40, 0:300]
    tones = np.stack([100 + 60 * np.sin(cols / 40 + band) + rows * 0 for band in range(3)]).astype(np.uint8)
    seam = measure(layer_of(tmp_path / "m", instance_norm(), write_scene(tmp_path / "strip.tif", tones)))
    assert seam is not None and seam.moved > 0


def test_info_says_it(tmp_path: Path, scene: Path) -> None:
    folder = write_model(
        tmp_path / "m",
        instance_norm(),
        classes=list("abcd"),
        gsd=round(RES, 4),
        window=WINDOW,
        exactness="unsafe",
        augment="flips",
    )
    facts = report(str(scene), str(folder))["facts"]
    assert (
        "128 x 128 px around cells of 64 px, blended over 64 px; 4 pixels inferred per pixel shown" in facts["windows"]
    )
    assert "get another class" in facts["seams"] and "unblended" in facts["seams"]
    assert facts["augmentation"] == "flips: 4 forward passes per window, 1/4 of the speed"
