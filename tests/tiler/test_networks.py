"""Kinds of networks through tiles: with the halo that the probe finds there is no seam, with less there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from affine import Affine

from model_registry.testing import write_model
from tests.model_registry.networks import CLASSES, NETWORKS
from tests.tiler.helpers import RES, Host, host, landscape, tiles_over, whole_scene, write_scene
from tests.tiler.test_seams import differing

# Each test starts whole models or children; the fast suite has their parts.
pytestmark = pytest.mark.slow

EXACT = ["plain", "strided", "dilated", "unet transposed", "unet bilinear", "max-pool"]
SIZE = (389, 451)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("networks")
    return {
        name.replace(" ", "-"): write_model(folder / name, known.make(), classes=CLASSES, gsd=round(RES, 4))
        for name, known in NETWORKS.items()
        if name in [*EXACT, "squeeze-excite", "group norm"]
    }


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("scene") / "scene.tif"
    return write_scene(path, landscape(*SIZE), transform=Affine(RES, 0, 1234.3 * RES, 0, -RES, 3210.7 * RES))


@pytest.fixture(scope="module")
def served(models: dict[str, Path]) -> Host:
    return host(models)


def expected(models: dict[str, Path], name: str) -> tuple[np.ndarray, np.ndarray]:
    known = NETWORKS[name]
    assert known.halo is not None and known.period is not None
    pad = -(-known.halo // known.period) * known.period
    scaled = landscape(*SIZE).astype(np.float32) / 255
    return whole_scene(models[name.replace(" ", "-")] / "model.onnx", scaled, pad=pad, multiple=known.period)


@pytest.mark.parametrize("name", EXACT)
def test_tiles_with_the_measured_halo_equal_one_pass(
    served: Host, models: dict[str, Path], scene: Path, name: str
) -> None:
    wanted, lead = expected(models, name)
    assert len(np.unique(wanted)) == len(CLASSES)
    assert differing(served, name.replace(" ", "-"), scene, 256, wanted, lead) == 0


@pytest.mark.parametrize("name", EXACT)
def test_tiles_with_three_quarters_of_it_do_not(
    models: dict[str, Path], scene: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiler import layer as room

    real = room._grid_over

    def narrower(scene, model):
        grid, shape = real(scene, model)
        return replace(grid, halo=int(0.75 * grid.halo) // grid.align * grid.align), shape

    monkeypatch.setattr(room, "_grid_over", narrower)
    wanted, lead = expected(models, name)
    slug = name.replace(" ", "-")
    assert differing(host({slug: models[slug]}), slug, scene, 256, wanted, lead) > 0


@pytest.mark.parametrize("name", ["squeeze-excite", "group-norm"])
def test_networks_that_are_not_exact_say_so(served: Host, scene: Path, name: str) -> None:
    tile = tiles_over(scene)[0]
    answer = served.get(f"{name}/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}.png", scene)
    assert answer.status_code == 200, answer.text
    model = served.extension.catalog.model(name).model
    assert model.exactness in ("bounded", "unsafe") and model.window.halo == 128
    assert answer.headers["X-Exactness"] == f"{model.exactness}; blended"
    # What is said of it wherever models are listed.
    told = {item["id"]: item for item in served.client.get(served.prefix).json()}
    slug = model.name
    assert told[slug]["exactness"] == model.exactness and 0 < told[slug]["seam_error"] < 0.1
    assert told["plain"]["exactness"] == "exact" and told["plain"]["seam_error"] == 0
