"""Exports over HTTP when somebody errs, changes his mind, or restarts the server."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine
from starlette.testclient import TestClient

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import RES, landscape, tiles_over, write_scene
from tiler.app import create_app
from tiler.export.session import Session
from tiler.settings import SceneSettings, Settings

# A server for each.
pytestmark = pytest.mark.slow

CLASSES = ["water", "forest", "soil", "road", "roof"]
DEADLINE = 60.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    return write_scene(folder / "field.tif", landscape(400, 500), transform=Affine(RES, 0, 1000, 0, -RES, 5000))


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return cover(folder / "cover")


def cover(folder: Path, seed: int = 0) -> Path:
    """Its halo need not be measured."""
    window = {"multiple": 1, "period": 1, "halo": 2}
    net = conv_chain(layers=2, seed=seed)
    return write_model(folder, net, classes=CLASSES, gsd=round(RES, 4), window=window, exactness="exact")


def serve(scene: Path, model: Path, home: Path, **options: Any) -> TestClient:
    given: dict[str, Any] = {"exports": home / "exports", "materialised": str(home / "live"), **options}
    models = given.pop("models", {"m": str(model)})
    settings = Settings(scenes={"field": SceneSettings(path=str(scene))}, models=models, runtime="onnxruntime", **given)
    return TestClient(create_app(settings), raise_server_exceptions=False)


@pytest.fixture
def client(scene: Path, model: Path, tmp_path: Path) -> Iterator[TestClient]:
    with serve(scene, model, tmp_path) as made:
        yield made


@pytest.fixture(scope="module")
def shared(scene: Path, model: Path, folder: Path) -> Iterator[TestClient]:
    """For tests that make no export."""
    with serve(scene, model, folder / "shared") as made:
        yield made


class Hold:
    """Blocks wait until let go; what is stopped ends."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.begun, self.go = threading.Event(), threading.Event()
        real = Session.block

        def slowly(session: Session, rect: Any) -> Any:
            self.begun.set()
            end = time.monotonic() + DEADLINE
            while not self.go.is_set() and not session.stop.is_set():
                assert time.monotonic() < end
                time.sleep(0.002)
            return real(session, rect)

        patch.setattr(Session, "block", slowly)


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Hold:
    return Hold(monkeypatch)


def ask(client: TestClient, **wanted: Any) -> Any:
    return client.post("/exports", json={"scene": "field", "model": "m", **wanted})


def ended(client: TestClient, number: str) -> dict[str, Any]:
    until = time.monotonic() + DEADLINE
    while (body := client.get(f"/exports/{number}").json())["status"] in ("queued", "running"):
        assert time.monotonic() < until, body
        time.sleep(0.01)
    return body


def raw(client: TestClient, **wanted: Any) -> Any:
    """As JSON that Python writes and a browser would not: NaN, Infinity."""
    body = json.dumps({"scene": "field", "model": "m", **wanted})
    return client.post("/exports", content=body, headers={"content-type": "application/json"})


NAN, INF = float("nan"), float("inf")
RING = [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 0.0]]


@pytest.mark.parametrize(
    "wanted",
    [
        {"bbox": [-INF, 0, INF, 1]},
        {"bbox": [NAN, NAN, NAN, NAN]},
        {"gsd": NAN},
        {"gsd": INF},
        {"gsd": 1e-9},
        {"crs": "http://127.0.0.1:9/x"},
        {"crs": "x" * 10000},
        {"aoi": {"type": "Polygon", "coordinates": [[[10**400, 0], *RING[1:]]]}},
        {"aoi": {"type": "Polygon", "coordinates": [[[NAN, 0], *RING[1:]]]}},
        {"aoi": {"type": "Polygon", "coordinates": {"a": 1}}},
        {"aoi": {"type": "Polygon", "coordinates": [[1, 2, 3]]}},
        {
            "aoi": {
                "type": "Polygon",
                "coordinates": [RING],
                "crs": {"type": "name", "properties": {"name": "/etc/passwd"}},
            }
        },
        {"aoi": {"type": "FeatureCollection", "features": "abc"}},
        {"aoi": {"type": "Feature"}},
        {"aoi": {}},
        {"scene": "../../etc"},
        {"model": "../m"},
        {"model": "m@nothing"},
    ],
    ids=lambda wanted: json.dumps(wanted)[:40],
)
def test_a_clients_mistake_is_told_and_is_no_500(
    shared: TestClient, wanted: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    client, tmp_path = shared, tmp_path_factory.getbasetemp()
    answer = raw(client, **wanted)
    assert answer.status_code in (400, 403, 404, 422), (answer.status_code, answer.text)
    assert str(tmp_path) not in answer.text and len(answer.text) < 4000 and client.get("/healthz").status_code == 200
    assert client.get("/exports").json()["exports"] == []


def test_infinity_in_degrees(model: Path, tmp_path: Path) -> None:
    place = Affine(5.4e-6, 0, 4, 0, -5.4e-6, 50)
    scene = write_scene(tmp_path / "deg.tif", landscape(200, 200), crs="EPSG:4326", transform=place)
    with serve(scene, model, tmp_path) as client:
        assert raw(client, bbox=[-INF, 49, INF, 51]).status_code == 400
        body = ended(client, raw(client, bbox=[4.0001, 49.9995, 4.0005, 49.9999]).json()["id"])
        assert body["status"] == "finished", body


def test_asked_again_while_it_is_being_cleared_away(client: TestClient, hold: Hold, tmp_path: Path) -> None:
    number = ask(client).json()["id"]
    assert hold.begun.wait(DEADLINE)
    jobs = client.app.state.inference.service  # the server lives
    assert jobs is not None
    client.delete(f"/exports/{number}")
    again = ask(client).json()
    assert again["id"] == number
    hold.go.set()
    body = ended(client, number)
    assert body["status"] == "finished" and client.get(body["files"][0]["href"]).status_code == 200


def test_deleted_while_it_waits_and_asked_for_again(client: TestClient, hold: Hold) -> None:
    first = ask(client).json()["id"]
    assert hold.begun.wait(DEADLINE)
    waiting = ask(client, output="confidence").json()["id"]
    assert client.delete(f"/exports/{waiting}").json()["status"] == "cancelled"
    assert ask(client, output="confidence").json()["status"] == "queued"
    hold.go.set()
    assert ended(client, first)["status"] == "finished" == ended(client, waiting)["status"]


def test_too_many(client: TestClient, hold: Hold) -> None:
    answers = [ask(client, gsd=1 + number / 10) for number in range(20)]
    codes = [answer.status_code for answer in answers]
    assert codes[:17] == [202] * 17 and codes[17:] == [503] * 3
    assert answers[-1].headers["retry-after"] == "30" and answers[-1].headers["cache-control"] == "no-store"
    for item in client.get("/exports").json()["exports"]:
        client.delete(f"/exports/{item['id']}")
    assert all(ended(client, answer.json()["id"])["status"] == "cancelled" for answer in answers[:17])
    hold.go.set()
    assert ended(client, ask(client).json()["id"])["status"] == "finished"


def test_shut_down_in_the_middle_and_taken_up_again(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        hold = Hold(patch)
        with serve(scene, model, tmp_path) as client:
            number = ask(client).json()["id"]
            assert hold.begun.wait(DEADLINE)
            begun = time.monotonic()
        assert time.monotonic() - begun < 10
    place = tmp_path / "exports" / number
    assert (place / "job.json").exists()
    with serve(scene, model, tmp_path) as client:
        left = client.get(f"/exports/{number}").json()
        assert left["status"] == "failed" and "goes on" in left["error"]
        assert ended(client, ask(client).json()["id"])["status"] == "finished"
    # Deleted instead, its disk is free again.
    (place / "job.json").write_text('{"files": null, "title": "x", "created": 1}')
    with serve(scene, model, tmp_path) as client:
        client.delete(f"/exports/{number}")
        assert not place.exists()


def test_what_is_spoilt_on_disk_does_not_keep_the_server_from_starting(
    scene: Path, model: Path, tmp_path: Path
) -> None:
    spoilt = [
        "",
        "{",
        "[]",
        '{"files": [["a", 1]]}',
        '{"files": [1], "title": "", "created": 1}',
        '{"files": [["../x", 1]], "title": 1, "created": "no"}',
    ]
    for number, text in enumerate(spoilt):
        place = tmp_path / "exports" / f"{number:012x}"
        place.mkdir(parents=True)
        (place / "job.json").write_text(text)
    (tmp_path / "exports" / "lost+found").mkdir()
    with serve(scene, model, tmp_path) as client:
        assert [item["status"] for item in client.get("/exports").json()["exports"]] == ["failed"] * len(spoilt)


def test_leftovers_count_among_those_that_are_kept(scene: Path, model: Path, tmp_path: Path) -> None:
    for number in range(5):
        place = tmp_path / "exports" / f"{number:012x}"
        place.mkdir(parents=True)
        (place / "job.json").write_text(json.dumps({"files": None, "title": "t", "created": number}))
    with serve(scene, model, tmp_path, keep_exports=2) as client:
        assert [item["id"] for item in client.get("/exports").json()["exports"]] == ["000000000004", "000000000003"]
    assert len(list((tmp_path / "exports").iterdir())) == 2


def test_a_result_that_cannot_go_live_is_a_result(scene: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "live").write_text("a file, no folder")
    with serve(scene, model, tmp_path) as client:
        body = ended(client, ask(client).json()["id"])
        assert body["status"] == "finished" and client.get(body["files"][0]["href"]).status_code == 200


def test_head_and_names(client: TestClient, tmp_path: Path) -> None:
    body = ended(client, ask(client).json()["id"])
    href = body["files"][0]["href"]
    head = client.head(href)
    assert (
        head.status_code == 200 and not head.content and int(head.headers["content-length"]) == body["files"][0]["size"]
    )
    assert head.headers["accept-ranges"] == "bytes"
    for name in ("job.json", "%2e%2e%2fjob.json", "..%2f..%2fetc%2fpasswd", "field-m.tif.parts"):
        answer = client.get(f"/exports/{body['id']}/files/{name}")
        assert answer.status_code in (404, 405, 422) and str(tmp_path) not in answer.text
    assert client.get("/exports/000000000000").status_code == 404
    assert client.get("/exports/..%2f..").status_code in (404, 422)


def test_another_model_meanwhile_with_room_for_one(
    scene: Path, model: Path, folder: Path, tmp_path: Path, hold: Hold
) -> None:
    # The first one is the default's, and stays.
    models = {name: str(cover(folder / name, seed)) for seed, name in enumerate("mno")}
    with serve(scene, model, tmp_path, models=models, max_models=2) as client:
        number = ask(client, model="n").json()["id"]
        assert hold.begun.wait(DEADLINE)
        tile = tiles_over(scene)[0]
        answer = client.get(f"/field/o/{tile.z}/{tile.x}/{tile.y}.png")
        assert answer.status_code == 503 and "room" in answer.text
        hold.go.set()
        assert ended(client, number)["status"] == "finished"
        answer = client.get(f"/field/o/{tile.z}/{tile.x}/{tile.y}.png")
        assert answer.status_code == 200, answer.text


def test_a_model_that_is_replaced_meanwhile(scene: Path, tmp_path: Path, hold: Hold) -> None:
    import rasterio

    model = cover(tmp_path / "cover")
    with serve(scene, model, tmp_path) as client:
        state = client.app.state.inference
        number = ask(client).json()["id"]
        assert hold.begun.wait(DEADLINE)
        revision = state.open("field", "m").layer.revision
        cover(tmp_path / "cover", seed=5)
        assert state.reload() == ["m"]
        tile = tiles_over(scene)[0]
        assert client.get(f"/field/m/{tile.z}/{tile.x}/{tile.y}.png").status_code == 200
        hold.go.set()
        body = ended(client, number)
        assert body["status"] == "finished", body
        with rasterio.open(tmp_path / "exports" / number / "field-m.tif") as dataset:
            assert dataset.tags()["TITILER_INFERENCE_REVISION"] == revision
        # The new one is another export.
        assert ask(client).json()["id"] != number


def test_a_scene_that_is_replaced_meanwhile(model: Path, tmp_path: Path, hold: Hold) -> None:
    scene = write_scene(tmp_path / "field.tif", landscape(400, 500))
    with serve(scene, model, tmp_path) as client:
        number = ask(client).json()["id"]
        assert hold.begun.wait(DEADLINE)
        write_scene(scene, landscape(400, 500, seed=4))
        hold.go.set()
        body = ended(client, number)
        assert body["status"] == "failed" and "has changed" in body["error"] and str(tmp_path) not in body["error"]
        assert ended(client, ask(client).json()["id"])["status"] == "finished"


def test_bands_and_holes_of_a_served_scene(model: Path, tmp_path: Path) -> None:
    import rasterio

    pixels = landscape(300, 300, bands=5)
    valid = np.ones((300, 300), bool)
    valid[100:200, 50:250] = False
    scene = write_scene(tmp_path / "five.tif", pixels, mask=valid)
    plain = write_scene(tmp_path / "three.tif", pixels[[4, 1, 2]], mask=valid)
    found = []
    for path, bands in ((scene, [5, 2, 3]), (plain, None)):
        home = tmp_path / path.stem
        settings = Settings(
            scenes={"field": SceneSettings(path=str(path), bands=bands)}, models={"m": str(model)},
            runtime="onnxruntime", exports=home / "exports", materialised="",
        )  # fmt: skip
        with TestClient(create_app(settings)) as client:
            body = ended(client, ask(client).json()["id"])
            assert body["status"] == "finished", body
            with rasterio.open(home / "exports" / body["id"] / "field-m.tif") as dataset:
                found.append(dataset.read(1))
    assert (found[0] == found[1]).all() and ((found[0] != 255) == valid).all()


def test_who_stops_listening_leaves_nothing_behind(client: TestClient, hold: Hold) -> None:
    """A browser closes its stream while the export runs."""
    number = ask(client).json()["id"]
    assert hold.begun.wait(DEADLINE)
    sent: list[dict[str, Any]] = []

    async def listen() -> set[asyncio.Task[Any]]:
        heard = asyncio.Event()
        asked = False

        async def receive() -> dict[str, Any]:
            nonlocal asked
            if not asked:
                asked = True
                return {"type": "http.request", "body": b"", "more_body": False}
            await heard.wait()
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)
            if message.get("body"):
                heard.set()

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "scheme": "http",
            "path": f"/exports/{number}/events", "raw_path": f"/exports/{number}/events".encode(), "root_path": "",
            "query_string": b"", "headers": [(b"host", b"testserver")], "server": ("testserver", 80),
            "client": ("t", 1),
        }  # fmt: skip
        await asyncio.wait_for(client.app(scope, receive, send), 10)
        return asyncio.all_tasks() - {asyncio.current_task()}

    left = asyncio.run(listen())
    assert not left and b'"running"' in b"".join(message.get("body", b"") for message in sent)
    hold.go.set()
    assert ended(client, number)["status"] == "finished"


def test_an_ensemble_and_a_warped_result_by_the_server(scene: Path, model: Path, tmp_path: Path) -> None:
    """The server's own queue, cells and pool: the file is what the map shows there."""
    import io

    import rasterio

    gsds = {"m": [round(RES, 4), round(2 * RES, 4)]}
    with serve(scene, model, tmp_path, gsds=gsds, materialised="") as client:
        body = ended(client, ask(client, output="spread").json()["id"])
        assert body["status"] == "finished" and len(body["files"]) == 2, body
        warped = ended(client, ask(client, crs="EPSG:4326", bbox=[0.0092, 0.0437, 0.0108, 0.0448]).json()["id"])
        assert warped["status"] == "finished", warped
        for job, code in ((body, "EPSG:3857"), (warped, "EPSG:4326")):
            with rasterio.open(tmp_path / "exports" / job["id"] / "field-m.tif") as dataset:
                found, box, nodata = dataset.read(1), dataset.bounds, dataset.nodata
            answer = client.get(
                f"/field/m/bbox/{','.join(map(repr, box))}/{found.shape[1]}x{found.shape[0]}.npy",
                params={"coord_crs": code, "dst_crs": code},
            )
            assert answer.status_code == 200, answer.text
            classes, mask = np.load(io.BytesIO(answer.content))
            assert ((mask != 0) == (found != nodata)).mean() > 0.999
            both = (mask != 0) & (found != nodata)
            assert both.mean() > 0.5 and (classes == found)[both].mean() > 0.999, code
