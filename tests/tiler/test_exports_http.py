"""/exports: whole scenes over HTTP, behind the maps; and what they make goes live."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.io import MemoryFile
from rasterio.warp import transform_geom
from starlette.testclient import TestClient

from model_registry.testing import strided_unet, write_model
from tests.tiler.helpers import RES, landscape, tiles_over, whole_scene, write_scene
from tiler.app import create_app
from tiler.settings import SceneSettings, Settings

# A server for each.
pytestmark = pytest.mark.slow

CLASSES = ["water", "forest", "soil", "road", "roof"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("http")


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return landscape(700, 900)


@pytest.fixture(scope="module")
def scene(folder: Path, pixels: np.ndarray) -> Path:
    return write_scene(folder / "field.tif", pixels, transform=Affine(RES, 0, 1000, 0, -RES, 5000))


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return write_model(folder / "unet", strided_unet(depth=3), classes=CLASSES, gsd=round(RES, 4))


def serve(scene: Path, model: Path, home: Path, **options: Any) -> TestClient:
    given: dict[str, Any] = {"exports": home / "exports", "materialised": str(home / "live"), **options}
    scenes = {"field": SceneSettings(path=str(scene), attribution="(c) Survey")}
    return TestClient(create_app(Settings(scenes=scenes, models={"m": str(model)}, runtime="onnxruntime", **given)))


@pytest.fixture
def client(scene: Path, model: Path, tmp_path: Path) -> Iterator[TestClient]:
    with serve(scene, model, tmp_path) as made:
        yield made


def ask(client: TestClient, **wanted: Any) -> Any:
    return client.post("/exports", json={"scene": "field", "model": "m", **wanted})


def ended(client: TestClient, number: str) -> dict[str, Any]:
    until = time.monotonic() + 120
    while (body := client.get(f"/exports/{number}").json())["status"] in ("queued", "running"):
        assert time.monotonic() < until, body
        time.sleep(0.02)
    return body


def test_a_whole_scene_and_its_polygons(
    client: TestClient, model: Path, scene: Path, pixels: np.ndarray, tmp_path: Path
) -> None:
    answer = ask(client, output="confidence", vector="geojson")
    assert answer.status_code == 202 and answer.headers["location"].endswith(answer.json()["id"])
    body = ended(client, answer.json()["id"])
    assert body["status"] == "finished" and body["done"] == body["blocks"] >= 1, body
    files = {item["name"]: item for item in body["files"]}
    assert set(files) == {"field-m.tif", "field-m_confidence.tif", "field-m.geojson"}
    content = client.get(files["field-m.tif"]["href"]).content
    assert len(content) == files["field-m.tif"]["size"]
    with MemoryFile(content) as memory, memory.open() as dataset:
        found = dataset.read(1)
        assert dataset.tags()["TIFFTAG_COPYRIGHT"] == "(c) Survey" and str(tmp_path) not in json.dumps(dataset.tags())
    best, lead = whole_scene(model / "model.onnx", pixels / np.float32(255), pad=24, multiple=8)
    assert ((found != best) & (lead > 1e-5)).sum() == 0
    assert client.get(files["field-m.geojson"]["href"]).json()["type"] == "FeatureCollection"
    part = client.get(files["field-m.tif"]["href"], headers={"Range": "bytes=0-99"})
    assert part.status_code == 206 and part.content == content[:100]
    assert [item["id"] for item in client.get("/exports").json()["exports"]] == [body["id"]]
    assert str(tmp_path) not in client.get("/exports").text


def test_the_same_again_is_the_same_export(client: TestClient) -> None:
    first = ask(client).json()["id"]
    assert ended(client, first)["status"] == "finished"
    again = ask(client)
    assert (again.status_code, again.json()["id"], again.json()["status"]) == (200, first, "finished")
    assert ask(client, output="probability").json()["id"] != first


def test_progress_as_events(client: TestClient) -> None:
    number = ask(client).json()["id"]
    with client.stream("GET", f"/exports/{number}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in stream.iter_lines() if line]
    assert all(line.startswith("data: ") for line in lines)
    steps = [json.loads(line[6:]) for line in lines]
    assert steps[-1]["status"] == "finished" and {step["id"] for step in steps} == {number}


def test_a_polygon_is_cut_out(client: TestClient, scene: Path) -> None:
    with rasterio.open(scene) as dataset:
        ring = [dataset.transform @ corner for corner in [(100, 100), (500, 120), (300, 500), (100, 100)]]
    shape = transform_geom("EPSG:3857", "EPSG:4326", {"type": "Polygon", "coordinates": [ring]})
    body = ended(client, ask(client, aoi=shape).json()["id"])
    with MemoryFile(client.get(body["files"][0]["href"]).content) as memory, memory.open() as dataset:
        found = dataset.read(1)
    assert found.shape == (400, 400) and 0.4 < (found != 255).mean() < 0.6


def test_a_finished_export_is_what_maps_show(client: TestClient, scene: Path) -> None:
    tile = tiles_over(scene)[4]
    far = tiles_over(scene, 8)[0]
    before = client.get(f"/field/m/{tile.z}/{tile.x}/{tile.y}.png")
    assert before.headers["x-inference"] == "predicted"
    assert client.get(f"/field/m/{far.z}/{far.x}/{far.y}.png").headers["x-inference"] == "zoom-in"
    number = ask(client).json()["id"]
    assert ended(client, number)["status"] == "finished"
    state = client.app.state.inference
    state.service.engine.cache.clear()
    state.service.engine.pictures.clear()
    forwards = state.service.engine.forwards
    after = client.get(f"/field/m/{tile.z}/{tile.x}/{tile.y}.png")
    assert after.headers["x-inference"] == "materialised" and after.content == before.content
    assert client.get(f"/field/m/{far.z}/{far.x}/{far.y}.png").headers["x-inference"] == "materialised"
    assert state.service.engine.forwards == forwards


def test_a_deleted_export_is_gone(client: TestClient, tmp_path: Path) -> None:
    number = ask(client).json()["id"]
    files = ended(client, number)["files"]
    assert client.delete(f"/exports/{number}").json()["status"] == "cancelled"
    assert client.get(files[0]["href"]).status_code == 404
    assert not (tmp_path / "exports" / number).exists()


def test_stopped_while_it_runs(scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiler.export import session

    begun, go = [], []
    whole = session.Session.block

    def slowly(self: Any, rect: Any) -> Any:
        begun.append(rect)
        while not go and not self.stop.is_set():
            time.sleep(0.005)
        return whole(self, rect)

    monkeypatch.setattr(session.Session, "block", slowly)
    with serve(scene, model, tmp_path) as client:
        number, waiting = ask(client).json()["id"], ask(client, output="confidence").json()["id"]
        while not begun:
            time.sleep(0.005)
        assert client.get(f"/exports/{waiting}").json()["status"] == "queued"
        # The map does not wait for it.
        tile = tiles_over(scene)[4]
        assert client.get(f"/field/m/{tile.z}/{tile.x}/{tile.y}.png").status_code == 200
        client.delete(f"/exports/{waiting}")
        client.delete(f"/exports/{number}")
        assert ended(client, number)["status"] == "cancelled" == ended(client, waiting)["status"]
        go.append(True)
        assert ended(client, ask(client).json()["id"])["status"] == "finished"


def test_a_restarted_server_knows_what_is_finished(scene: Path, model: Path, tmp_path: Path) -> None:
    with serve(scene, model, tmp_path) as client:
        number = ask(client).json()["id"]
        first = ended(client, number)
    with serve(scene, model, tmp_path) as client:
        again = client.get(f"/exports/{number}").json()
        assert (again["status"], again["files"], again["title"]) == ("finished", first["files"], first["title"])
        assert ask(client).json()["status"] == "finished"


@pytest.mark.parametrize(
    "wanted, status, words",
    [
        ({"scene": "nowhere"}, 404, "no scene 'nowhere'"),
        ({"model": "nothing"}, 404, "nothing"),
        ({"bbox": [100, 50, 101, 51]}, 404, "no pixel of the scene"),
        ({"bbox": [0, 0, 1, 1], "aoi": {"type": "Point", "coordinates": [0, 0]}}, 400, "both given"),
        ({"aoi": {"type": "Point", "coordinates": [0, 0]}}, 400, "olygon"),
        ({"output": "spread"}, 400, "spread"),
        ({"crs": "EPSG:99999999"}, 400, "not a CRS"),
        ({"gsd": -1}, 422, "greater than 0"),
        ({"vector": "shp"}, 422, "gpkg"),
        ({"nonsense": 1}, 422, "nonsense"),
    ],
)
def test_what_cannot_be_is_refused_at_once(client: TestClient, wanted: Any, status: int, words: str) -> None:
    answer = ask(client, **wanted)
    assert answer.status_code == status and words in answer.text, answer.text
    assert answer.headers["cache-control"] == "no-store"
    assert client.get("/exports").json()["exports"] == []


def test_limits_token_and_absence(scene: Path, model: Path, tmp_path: Path) -> None:
    with serve(scene, model, tmp_path / "a", max_export_pixels=5000) as client:
        answer = ask(client)
        assert answer.status_code == 400 and "the limit is" in answer.text
    with serve(scene, model, tmp_path / "b", export_token="secret") as client:
        assert ask(client).status_code == 401
        assert client.delete(f"/exports/{'0' * 12}").status_code == 401
        client.headers["authorization"] = "Bearer secret"
        assert ask(client).status_code == 202
    with serve(scene, model, tmp_path / "c", exports=None) as client:
        assert ask(client).status_code in (404, 405) and client.get("/exports").status_code == 404


def test_only_so_many_are_kept(scene: Path, model: Path, tmp_path: Path) -> None:
    with serve(scene, model, tmp_path, keep_exports=1) as client:
        first = ask(client).json()["id"]
        ended(client, first)
        second = ask(client, output="confidence").json()["id"]
        ended(client, second)
        until = time.monotonic() + 30
        while client.get(f"/exports/{first}").status_code != 404:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert not (tmp_path / "exports" / first).exists() and (tmp_path / "exports" / second).exists()
