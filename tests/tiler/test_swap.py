"""A model that is replaced on disk takes over without one failed or mixed tile."""

from __future__ import annotations

import io
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from model_registry.candidates import installed
from model_registry.runtimes._cpu import has_bf16
from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import RES, landscape, scene_pixels_of_tile, tiles_over, whole_scene, write_scene
from tiler import catalog as catalog_room
from tiler.app import create_app
from tiler.errors import MisfitError
from tiler.settings import SceneSettings, Settings

CLASSES = list("abcde")


@pytest.fixture
def versions(tmp_path: Path) -> list[Path]:
    return [
        write_model(tmp_path / f"v{seed}", conv_chain(seed=seed), classes=CLASSES, gsd=round(RES, 4), title="m")
        for seed in (0, 1)
    ]


@pytest.fixture
def served(tmp_path: Path, versions: list[Path]) -> tuple[TestClient, Path, Path]:
    folder = tmp_path / "m"
    shutil.copytree(versions[0], folder)
    scene = write_scene(tmp_path / "scene.tif", landscape(300, 420))
    app = create_app(Settings(scenes={"s": SceneSettings(path=str(scene))}, models={"m": str(folder)}))
    return TestClient(app), folder, scene


def replace_files(folder: Path, version: Path) -> None:
    for file in version.iterdir():
        temporary = folder / f".{file.name}"
        shutil.copy(file, temporary)
        temporary.replace(folder / file.name)


def expected(version: Path) -> np.ndarray:
    classes, _ = whole_scene(version / "model.onnx", landscape(300, 420).astype(np.float32) / 255, pad=4, multiple=1)
    return classes


@pytest.mark.slow
def test_under_load_every_tile_is_wholly_one_version(
    served: tuple[TestClient, Path, Path], versions: list[Path]
) -> None:
    client, folder, scene = served
    tiles = tiles_over(scene)
    before = client.get("/s/m/tilejson.json").json()["revision"]
    answers: list[tuple[int, str, tuple[int, int], bytes]] = []
    stop = threading.Event()

    def ask() -> None:
        while not stop.is_set():
            for tile in tiles:
                answer = client.get(f"/s/m/{tile.z}/{tile.x}/{tile.y}.npy")
                answers.append(
                    (answer.status_code, answer.headers.get("x-revision", ""), (tile.x, tile.y), answer.content)
                )

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    replace_files(folder, versions[1])
    assert client.app.state.inference.reload() == ["m"]
    after = client.get("/s/m/tilejson.json").json()["revision"]
    for tile in tiles:
        assert client.get(f"/s/m/{tile.z}/{tile.x}/{tile.y}.npy").headers["x-revision"] == after
    stop.set()
    for thread in threads:
        thread.join()
    assert before != after
    assert {status for status, *_ in answers} == {200}
    one_truth: dict[tuple[str, tuple[int, int]], bytes] = {}
    for _, revision, place, content in answers:
        assert revision in (before, after)
        assert one_truth.setdefault((revision, place), content) == content
    by_revision = {before: expected(versions[0]), after: expected(versions[1])}
    for (revision, place), content in one_truth.items():
        values, mask = np.load(io.BytesIO(content))
        tile = next(tile for tile in tiles if (tile.x, tile.y) == place)
        rows, cols, inside = scene_pixels_of_tile(scene, tile, 256)
        assert (mask[inside] == 255).all()
        assert (values == by_revision[revision][rows, cols])[inside].mean() > 0.9999


@pytest.mark.slow
def test_a_map_that_is_open_keeps_its_revision(served: tuple[TestClient, Path, Path], versions: list[Path]) -> None:
    client, folder, scene = served
    before = client.get("/s/m/tilejson.json").json()["revision"]
    tile = tiles_over(scene)[0]
    old = client.get(f"/s/m@{before}/{tile.z}/{tile.x}/{tile.y}.npy").content
    replace_files(folder, versions[1])
    client.app.state.inference.reload()
    again = client.get(f"/s/m@{before}/{tile.z}/{tile.x}/{tile.y}.npy")
    assert again.status_code == 200 and again.content == old
    fresh = client.get(f"/s/m/{tile.z}/{tile.x}/{tile.y}.npy").content
    assert fresh != old
    assert client.get(f"/s/m@0123456789ab/{tile.z}/{tile.x}/{tile.y}.png").status_code == 404


def test_a_broken_new_version_changes_nothing(served: tuple[TestClient, Path, Path]) -> None:
    client, folder, scene = served
    tile = tiles_over(scene)[0]
    path = f"/s/m/{tile.z}/{tile.x}/{tile.y}.npy"
    before = client.get(path)
    text = (folder / "model.yaml").read_text().replace("1220", "1220ff", 1)
    (folder / "model.yaml").write_text(text)
    with pytest.raises(MisfitError):
        client.app.state.inference.reload()
    after = client.get(path)
    assert after.content == before.content and after.headers["x-revision"] == before.headers["x-revision"]


def test_unchanged_files_reload_nothing(served: tuple[TestClient, Path, Path]) -> None:
    client, _, _ = served
    assert client.app.state.inference.reload() == []


@pytest.mark.slow
def test_a_scene_that_is_replaced_gets_its_new_revision_at_once(
    served: tuple[TestClient, Path, Path], versions: list[Path], tmp_path: Path
) -> None:
    client, _, scene = served
    tile = tiles_over(scene)[0]
    path = f"/s/m/{tile.z}/{tile.x}/{tile.y}.npy"
    before = client.get(path)
    pixels = landscape(300, 420, seed=9)
    write_scene(tmp_path / "new.tif", pixels).replace(scene)
    after = client.get(path)
    assert after.status_code == 200
    assert after.headers["x-revision"] != before.headers["x-revision"]
    classes, lead = whole_scene(versions[0] / "model.onnx", pixels.astype(np.float32) / 255, pad=4, multiple=1)
    rows, cols, inside = scene_pixels_of_tile(scene, tile, 256)
    values, _ = np.load(io.BytesIO(after.content))
    assert ((values == classes[rows, cols]) | (lead[rows, cols] <= 1e-5))[inside].all()


@pytest.mark.skipif(not (installed("openvino") and has_bf16()), reason="no runtime here computes in bf16")
def test_the_same_weights_under_another_precision_are_another_map(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = catalog_room.load

    def load(model: Any, *args: Any, **options: Any) -> Any:
        """As the author wishes, and not as the clock says."""
        wish = "bf16" if model.precision.default == "auto" else "fp32"
        return real(model, *args, **{**options, "policy": options["policy"] or wish, "runtime": "openvino"})

    monkeypatch.setattr(catalog_room, "load", load)
    folders = {
        name: write_model(
            tmp_path / name, conv_chain(), classes=CLASSES, gsd=round(RES, 4), title="m", precision={"default": wish}
        )
        for name, wish in (("exact", "fp32"), ("fast", "auto"))
    }
    scene = write_scene(tmp_path / "scene.tif", landscape(300, 420))
    settings = Settings(
        scenes={"s": SceneSettings(path=str(scene))}, models={name: str(folder) for name, folder in folders.items()}
    )
    client = TestClient(create_app(settings))
    precision = lambda name: client.get(f"/s/{name}/tilejson.json").json()["precision"]  # noqa: E731
    assert [precision(name) for name in folders] == ["fp32", "bf16"]
    replace_files(folders["exact"], folders["fast"])
    assert client.app.state.inference.reload() == ["exact"]
    assert precision("exact") == "bf16"
