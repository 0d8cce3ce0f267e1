"""No seams: every tile equals one pass over the whole scene, whatever the tile's size and place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from model_registry.testing import conv_chain, strided_unet, write_model
from tests.tiler.helpers import (
    RES,
    Host,
    best_and_lead,
    host,
    landscape,
    scene_pixels_of_tile,
    softmax,
    tiles_over,
    whole_scene,
    whole_scores,
    write_scene,
)

CLASSES = ["a", "b", "c", "d", "e"]
# Network, the halo that its layers need, its period. The second needs 3 * 24 = 72 px.
NETWORKS = {
    "shallow": (lambda: conv_chain(kernel=3, layers=4), 4, 1),
    "wide": (lambda: conv_chain(kernel=3, dilation=24, layers=3), 72, 1),
    "unet": (lambda: strided_unet(depth=3), 24, 8),
}
# Upper left corners in EPSG:3857: on a tile's corner, and anywhere (0.3 of a pixel off, too).
ORIGINS = {"aligned": (256 * RES * 4, 256 * RES * 8), "offset": (1234.3 * RES, 3210.7 * RES)}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: write_model(folder / name, make(), classes=CLASSES, gsd=round(RES, 4))
        for name, (make, _, _) in NETWORKS.items()
    }


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("scenes")
    pixels = landscape(571, 709)
    return {
        name: write_scene(folder / f"{name}.tif", pixels, transform=Affine(RES, 0, left, 0, -RES, top))
        for name, (left, top) in ORIGINS.items()
    }


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> Host:
    return host(models)


def differing(served: Host, model: str, scene: Path, tilesize: int, expected: np.ndarray, lead: np.ndarray) -> float:
    """Share of the scene's pixels that a tile shows otherwise than the whole pass; asserts that all are shown."""
    zoom = 18 if tilesize == 256 else 17
    wrong, seen = 0, np.zeros(expected.shape, bool)
    for tile in tiles_over(scene, zoom):
        values, mask = served.npy(
            f"{model}/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.npy", scene, tilesize=tilesize
        )
        rows, cols, inside = scene_pixels_of_tile(scene, tile, tilesize)
        assert (mask[~inside] == 0).all() and (mask[inside] == 255).all()
        sure = lead[rows, cols] > 1e-5
        wrong += int(((values != expected[rows, cols]) & inside & sure).sum())
        seen[rows[inside], cols[inside]] = True
    assert seen.all()
    return wrong / expected.size


@pytest.mark.parametrize("origin", ORIGINS)
@pytest.mark.parametrize("tilesize", [256, 512])
@pytest.mark.parametrize("network", NETWORKS)
def test_tiles_equal_one_pass_over_the_whole_scene(
    served: Host, models: dict[str, Path], scenes: dict[str, Path], network: str, tilesize: int, origin: str
) -> None:
    _, halo, period = NETWORKS[network]
    pad = -(-halo // period) * period
    scaled = landscape(571, 709).astype(np.float32) / 255
    expected, lead = whole_scene(models[network] / "model.onnx", scaled, pad=pad, multiple=period)
    assert len(np.unique(expected)) == len(CLASSES)
    assert differing(served, network, scenes[origin], tilesize, expected, lead) == 0


@pytest.mark.parametrize("network", NETWORKS)
def test_the_measured_halo_and_period_are_the_networks_own(served: Host, scenes: dict[str, Path], network: str) -> None:
    _, halo, period = NETWORKS[network]
    model = served.extension.catalog.model(network).model
    assert model.exactness == "exact"
    assert model.window.period == period
    assert model.window.halo == -(-halo // period) * period


@pytest.mark.parametrize("network", ["wide", "unet"])
def test_without_halo_the_seams_show(
    models: dict[str, Path], scenes: dict[str, Path], network: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check above can fail: with the halo taken away, more than 0.2 % of the pixels differ."""
    from tiler import layer as room

    real = room._grid_over

    def without_halo(scene, model):
        grid, shape = real(scene, model)
        return replace(grid, halo=0), shape

    monkeypatch.setattr(room, "_grid_over", without_halo)
    expected, lead = whole_scene(
        models[network] / "model.onnx", landscape(571, 709).astype(np.float32) / 255, pad=72, multiple=8
    )
    assert differing(host(models), network, scenes["offset"], 256, expected, lead) > 0.002


def test_windows_off_the_period_would_show(
    models: dict[str, Path], scenes: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One pixel off the period is wrong however wide the halo: windows must start at its multiples."""
    from tiler import layer as room

    real = room._grid_over

    def misaligned(scene, model):
        grid, shape = real(scene, model)
        return replace(grid, align=1, cell=97, halo=grid.halo + 1), shape

    monkeypatch.setattr(room, "_grid_over", misaligned)
    monkeypatch.setattr("tiler.values.Rect.grown", lambda self, margin: _even(self, margin))
    expected, lead = whole_scene(
        models["unet"] / "model.onnx", landscape(571, 709).astype(np.float32) / 255, pad=24, multiple=8
    )
    assert differing(host(models), "unet", scenes["aligned"], 256, expected, lead) > 0.002


def _even(rect, margin):
    """The grown window with its size, but not its place, rounded up to what the network takes."""
    from tiler.values import Rect

    height, width = (-(-(side + 2 * margin) // 8) * 8 for side in (rect.height, rect.width))
    return Rect(rect.row_off - margin, rect.col_off - margin, height, width)


@pytest.mark.slow
def test_tiles_of_an_augmented_model_equal_one_augmented_pass(
    scenes: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A turned window is counted from another corner: both its ends lie on the period."""
    folder = write_model(
        tmp_path_factory.mktemp("augmented") / "m",
        strided_unet(depth=3),
        classes=CLASSES,
        gsd=round(RES, 4),
        augment="d4",
    )
    # Reflected to a square of whole periods, so that every view of it lies on the period as those of windows do.
    scaled = np.pad(landscape(571, 709).astype(np.float32) / 255, ((0, 0), (24, 165), (24, 27)), mode="reflect")
    assert scaled.shape == (3, 760, 760)
    total = np.zeros((5, 571, 709))
    for flip in (False, True):
        for quarters in range(4):
            view = np.rot90(scaled[..., ::-1] if flip else scaled, quarters, axes=(1, 2))
            scores = whole_scores(folder / "model.onnx", np.ascontiguousarray(view), pad=0)
            back = np.rot90(softmax(scores.astype(np.float64)), -quarters, axes=(1, 2))
            total += (back[..., ::-1] if flip else back)[:, 24 : 24 + 571, 24 : 24 + 709]
    expected, lead = best_and_lead((total / 8).astype(np.float32))
    assert len(np.unique(expected)) == len(CLASSES)
    assert differing(host({"m": folder}), "m", scenes["offset"], 256, expected, lead) == 0
