"""A registry's models over HTTP: names, versions and revisions, memory, reloads, shadows, and what is told of them."""

from __future__ import annotations

import gc
import io
import json
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient
from titiler.core.factory import TilerFactory
from typer.testing import CliRunner

from model_registry import Store, Version
from model_registry.index import write_index
from model_registry.testing import conv_chain, write_model
from tests.model_registry import web
from tests.tiler.controlled import until
from tests.tiler.helpers import RES, landscape, scene_pixels_of_tile, tiles_over, whole_scene, write_scene
from tests.tiler.servers import get, serving
from tiler import catalog as catalog_room
from tiler.app import create_app
from tiler.cli import GDAL_DEFAULTS
from tiler.cli import app as cli
from tiler.errors import BusyError, InferenceError, MisfitError
from tiler.extension import inferenceExtension
from tiler.settings import Settings

CLASSES = ["water", "forest", "soil"]
IMMUTABLE = "public, max-age=31536000, immutable"
HEIGHT, WIDTH = 260, 300


def put(store: Store, name: str = "cover", seed: int = 0, **more: Any) -> Version:
    """Publish a network with halo 2, which need not be measured."""
    options: dict[str, Any] = {
        "classes": CLASSES,
        "gsd": round(RES, 4),
        "title": f"Cover {seed}",
        "window": {"multiple": 1, "period": 1, "halo": 2},
        "exactness": "exact",
        **more,
    }
    with store.publish(name) as draft:
        write_model(draft.folder, conv_chain(layers=2, classes=len(options["classes"]), seed=seed), **options)
    assert draft.version is not None
    return draft.version


def put_broken(store: Store, name: str = "cover") -> Version:
    """Publish a network that answers another number of classes than its manifest says: seen only when it is loaded."""
    return put_with(store, conv_chain(layers=1, classes=7), name)


def put_with(store: Store, network: Any, name: str = "cover") -> Version:
    window = {"multiple": 1, "period": 1, "halo": 2}
    with store.publish(name) as draft:
        write_model(draft.folder, network, classes=CLASSES, gsd=round(RES, 4), window=window, exactness="exact")
    assert draft.version is not None
    return draft.version


class Place:
    """A registry and a scene, and applications over them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = Store(folder / "registry")
        self.scene = write_scene(folder / "field.tif", landscape(HEIGHT, WIDTH))
        self.tiles = tiles_over(self.scene)
        self.tile = f"{self.tiles[0].z}/{self.tiles[0].x}/{self.tiles[0].y}"
        self.closing: list[Any] = []

    def client(self, **settings: Any) -> TestClient:
        given = {"scenes": {"field": {"path": str(self.scene)}}, "registry": str(self.store.root), **settings}
        made = TestClient(create_app(Settings(**given)))
        self.closing.append(made)
        made.__enter__()
        return made

    def expected(self, version: Version) -> np.ndarray:
        """Classes of one pass over the whole scene, by ONNX Runtime alone."""
        scaled = landscape(HEIGHT, WIDTH).astype(np.float32) / 255
        return whole_scene(version.folder / "model.onnx", scaled, pad=2, multiple=1)[0]


def state_of(client: TestClient) -> Any:
    return client.app.state.inference  # type: ignore[attr-defined]


def pool_of(client: TestClient) -> Any:
    return state_of(client).service.catalog.models.pool


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    put(made.store, seed=0)
    put(made.store, seed=1)
    made.store.alias("cover", "default", 1)
    made.store.alias("cover", "canary", 2)
    yield made
    for client in made.closing:
        client.__exit__(None, None, None)


def is_version(place: Place, content: bytes, tile: Any, expected: np.ndarray) -> bool:
    """Whether every pixel of an npy tile is that of a whole-scene pass, but for a few that rounding decides."""
    values, mask = np.load(io.BytesIO(content))
    rows, cols, inside = scene_pixels_of_tile(place.scene, tile, 256)
    assert (mask[inside] == 255).all()
    return bool((values == expected[rows, cols])[inside].mean() > 0.9999)


# Names, versions and revisions


def test_every_name_alias_and_version_is_served_side_by_side(place: Place) -> None:
    client = place.client()
    passes = {n: place.expected(place.store.resolve(f"cover:{n}")) for n in (1, 2)}
    assert (passes[1] != passes[2]).mean() > 0.1
    for ask, number in (
        ("cover", 1), ("cover@default", 1), ("cover@canary", 2), ("cover:1", 1), ("cover:2", 2), ("cover%40canary", 2),
        ("cover%3A2", 2),
    ):  # fmt: skip
        answer = client.get(f"/field/{ask}/{place.tile}.npy")
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-model"].startswith(f"cover:{number}#")
        assert answer.headers["cache-control"] == "public, max-age=60"
        assert is_version(place, answer.content, place.tiles[0], passes[number]), ask
        assert not is_version(place, answer.content, place.tiles[0], passes[3 - number]), ask
    # Without a model of its own in the settings, the registry's first is the default.
    assert client.get(f"/{place.tile}.npy").headers["x-model"].startswith("cover:1#")


@pytest.mark.slow
def test_documents_name_version_and_revision_and_those_are_kept_for_ever(place: Place) -> None:
    client = place.client()
    for ask, number in (("cover", 1), ("cover@canary", 2)):
        document = client.get(f"/field/{ask}/tilejson.json").json()
        (template,) = document["tiles"]
        assert f"/field/cover:{number}@{document['revision']}/{{z}}" in template
        z, x, y = place.tile.split("/")
        # As Leaflet and QGIS fill it in, and as a client that encodes everything does.
        for address in (template, template.replace(":" + str(number), f"%3A{number}").replace("@", "%40")):
            pinned = client.get(address.replace("{z}", z).replace("{x}", x).replace("{y}", y))
            assert pinned.status_code == 200 and pinned.headers["cache-control"] == IMMUTABLE
            assert pinned.headers["x-model"].startswith(f"cover:{number}#")
        # The revision behind an alias, or a bare name, is the same one.
        again = client.get(f"/field/{ask}@{document['revision']}/{place.tile}.png")
        assert again.content == pinned.content and again.headers["cache-control"] == IMMUTABLE
    wmts = client.get("/field/cover@canary/1.0.0/WMTSCapabilities.xml").text
    assert "<ows:Identifier>field-cover-canary</ows:Identifier>" in wmts and "/field/cover:2@" in wmts


@pytest.mark.slow
def test_point_and_legend_are_the_versions_own(place: Place) -> None:
    put(place.store, seed=2, classes=["rock", "snow", "ice", "moss"])
    client = place.client()
    lon, lat, _ = client.get("/field/cover/tilejson.json").json()["center"]
    by_version = {n: client.get(f"/field/cover:{n}/point/{lon},{lat}").json()["values"] for n in (1, 2, 3)}
    rows, cols = HEIGHT // 2, WIDTH // 2
    for number, (value,) in by_version.items():
        expected = place.expected(place.store.resolve(f"cover:{number}"))
        assert value in expected[rows - 1 : rows + 1, cols - 1 : cols + 1]
    assert [item["name"] for item in client.get("/field/cover:3/legend.json").json()] == ["rock", "snow", "ice", "moss"]


def test_what_there_is_not_is_a_404_that_lists_what_there_is(place: Place) -> None:
    client = place.client()
    for ask, *words in (
        ("nope", "'nope'", "cover"),
        ("cover@nope", "no alias 'nope'", "cover@canary"),
        ("cover:9", "no version 9", "cover:2"),
        ("cover:zwei", "'cover:zwei'", "Known are"),
        ("cover@canary:2", "Known are"),
        ("cover@0123456789ab", "0123456789ab", "The present one"),
    ):
        answer = client.get(f"/field/{ask}/{place.tile}.png")
        assert answer.status_code == 404 and answer.headers["cache-control"] == "no-store"
        assert all(word in answer.json()["detail"] for word in words), answer.json()
    assert client.get(f"/field/..%2Fcover/{place.tile}.png").status_code == 404


def test_a_broken_version_says_why_and_is_not_tried_at_every_tile(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_broken(place.store)
    client = place.client()
    loads = counted(monkeypatch)
    for _ in range(3):
        answer = client.get(f"/field/cover:3/{place.tile}.png")
        assert answer.status_code == 422 and "7" in answer.json()["detail"]
        assert str(place.folder) not in answer.text
    assert len(loads) == 1
    assert client.get("/models/cover:3").json()["state"] == "failed"
    assert place.store.resolve("cover:3").state.name == "failed"
    assert client.get(f"/field/cover/{place.tile}.png").status_code == 200


@pytest.mark.slow
def test_settings_may_name_references(place: Place) -> None:
    client = place.client(models={"land": "cover@canary", "own": str(place.store.resolve("cover:1").folder)})
    land = client.get(f"/field/land/{place.tile}.npy")
    assert land.headers["x-model"].startswith("cover:2#")
    own = client.get(f"/field/own/{place.tile}.npy")
    assert own.content == client.get(f"/field/cover:1/{place.tile}.npy").content
    assert client.get("/tilejson.json").json()["tiles"][0].startswith("http://testserver/field/cover:2@")
    place.store.alias("cover", "canary", 1)
    assert state_of(client).reload() == ["land"]
    assert client.get(f"/field/land/{place.tile}.npy").headers["x-model"].startswith("cover:1#")


def test_an_alias_that_looks_like_a_revision_is_refused(place: Place) -> None:
    from model_registry import RegistryError

    with pytest.raises(RegistryError, match="12 hexadecimal"):
        place.store.alias("cover", "abcdefabcdef", 1)


def test_pairs_and_lists_load_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    put(place.store, "roads", seed=5)
    client = place.client(default_model="cover")
    loads = counted(monkeypatch)
    pairs = client.get("/api/pairs").json()
    assert [(pair["scene"], pair["model"]) for pair in pairs] == [("field", "cover"), ("field", "roads")]
    listed = {item["id"]: item["state"] for item in client.get("/models").json()["models"]}
    assert listed == {"cover:1": "ready", "cover:2": "registered", "roads:1": "registered"} or set(listed.values()) <= {
        "ready",
        "verified",
        "registered",
    }
    assert listed["cover:1"] == "ready" and not loads


# Memory


def counted(patch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that are loaded from here on."""
    loads: list[str] = []
    real = catalog_room.load

    def load(model: Any, *args: Any, **options: Any) -> Any:
        loads.append(f"{model.name}:{model.version}")
        return real(model, *args, **options)

    patch.setattr(catalog_room, "load", load)
    return loads


@pytest.mark.slow
def test_the_least_recently_used_goes_and_comes_back_with_its_revision(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in (2, 3):
        put(place.store, seed=seed)
    client = place.client(max_models=3)
    loads = counted(monkeypatch)
    ask = lambda n: client.get(f"/field/cover:{n}/{place.tile}.npy")  # noqa: E731
    first = ask(2)
    ask(3)
    ask(2)  # used again: 3 is the oldest now
    ask(4)
    # cover:1 is the default pair's: it stays although it was used least.
    assert set(pool_of(client).entries()) == {"cover:1", "cover:2", "cover:4"}
    assert loads == ["cover:2", "cover:3", "cover:4"]
    ask(3)
    assert set(pool_of(client).entries()) == {"cover:1", "cover:3", "cover:4"}
    state_of(client).service.engine.pictures.clear()
    state_of(client).service.engine.cache.clear()
    again = ask(2)
    assert loads == ["cover:2", "cover:3", "cover:4", "cover:3", "cover:2"]
    assert again.headers["x-revision"] == first.headers["x-revision"] and again.content == first.content


@pytest.mark.slow
def test_a_budget_in_bytes_is_held_and_what_alone_is_larger_is_refused(place: Place) -> None:
    size = sum(artifact.size for artifact in place.store.open("cover:1").artifacts)
    client = place.client()
    pool = pool_of(client)
    pool.max_bytes = pool.nbytes + size // 2
    answer = client.get(f"/field/cover:2/{place.tile}.npy")
    # The default is never unloaded, so there is no room: a clear 503 or 422, no crash.
    assert answer.status_code in (422, 503) and "cover:2" in answer.json()["detail"]
    pool.max_bytes = size // 2
    assert client.get(f"/field/cover:2/{place.tile}.npy").status_code == 422
    pool.max_bytes = None
    assert client.get(f"/field/cover:2/{place.tile}.npy").status_code == 200


@pytest.mark.slow
def test_one_in_use_is_never_unloaded(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """cover:2 is held inside its network while others want its room."""
    put(place.store, seed=2)
    client = place.client(max_models=2)
    pool, engine = pool_of(client), state_of(client).service.engine
    client.get("/field/cover:2/tilejson.json")
    runner = pool.peek("cover:2").runner
    held_runner = [runner]
    entered, go = threading.Event(), threading.Event()
    real = type(runner).__call__

    def held(self: Any, *args: Any, **options: Any) -> Any:
        if self in held_runner:
            entered.set()
            assert go.wait(30)
        return real(self, *args, **options)

    monkeypatch.setattr(type(runner), "__call__", held)
    with ThreadPoolExecutor(1) as others:
        slow = others.submit(client.get, f"/field/cover:2/{place.tile}.npy")
        try:
            assert entered.wait(30) and engine.busy
            refused = client.get(f"/field/cover:3/{place.tile}.npy")
            assert refused.status_code == 503 and int(refused.headers["retry-after"]) > 0
            assert set(pool.entries()) == {"cover:1", "cover:2"}
        finally:
            go.set()
        assert slow.result(30).status_code == 200
    until(lambda: not engine.busy)
    assert client.get(f"/field/cover:3/{place.tile}.npy").status_code == 200
    assert set(pool.entries()) == {"cover:1", "cover:3"}
    gone = weakref.ref(runner)
    held_runner.clear()
    del runner
    until(lambda: gc.collect() >= 0 and gone() is None, "the unloaded network's end")


@pytest.mark.slow
def test_first_requests_at_the_same_time_load_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    client = place.client()
    loads = counted(monkeypatch)
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(client.get, [f"/field/cover:2/{place.tile}.npy"] * 6))
    assert {answer.status_code for answer in answers} == {200} and loads == ["cover:2"]


@pytest.mark.slow
def test_while_a_model_is_loaded_the_others_answer(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice as many wait for it as there are threads that open things."""
    client = place.client()
    real, entered, go = catalog_room.load, threading.Event(), threading.Event()

    def slow(*args: Any, **options: Any) -> Any:
        entered.set()
        assert go.wait(30)
        return real(*args, **options)

    monkeypatch.setattr(catalog_room, "load", slow)
    with serving(client.app) as port, ThreadPoolExecutor(9) as pool:
        waiting = [pool.submit(get, port, f"/field/cover:2/{place.tile}.npy") for _ in range(8)]
        try:
            assert entered.wait(30)
            assert pool.submit(get, port, f"/field/cover/{place.tile}.npy").result(10).status == 200
            assert not any(answer.done() for answer in waiting)
        finally:
            go.set()
        assert {answer.result(30).status for answer in waiting} == {200}


# Reload


@pytest.mark.slow
def test_a_moved_alias_under_load_fails_and_mixes_nothing_in_a_thousand_requests(place: Place) -> None:
    client = place.client(admin_token="secret")
    passes = {n: place.expected(place.store.resolve(f"cover:{n}")) for n in (1, 2)}
    tiles = place.tiles
    answers: list[tuple[int, str, Any, bytes]] = []
    begun, moved = threading.Event(), threading.Event()
    counter = iter(range(10**6))

    def ask() -> None:
        while not (moved.is_set() and len(answers) >= 1000):
            tile = tiles[next(counter) % len(tiles)]
            # A new size now and then, so that not everything comes from the cache of tiles.
            answer = client.get(f"/field/cover/{tile.z}/{tile.x}/{tile.y}.npy")
            answers.append((answer.status_code, answer.headers.get("x-model", ""), tile, answer.content))
            if len(answers) > 200:
                begun.set()

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert begun.wait(60)
    place.store.alias("cover", "default", 2)
    reloaded = client.post("/models/reload", headers={"Authorization": "Bearer secret"})
    assert reloaded.status_code == 200 and reloaded.json() == {"changed": ["cover"], "failed": {}}
    assert client.get(f"/field/cover/{place.tile}.npy").headers["x-model"].startswith("cover:2#")
    moved.set()
    for thread in threads:
        thread.join()
    assert len(answers) >= 1000 and {status for status, *_ in answers} == {200}
    seen = {}
    for _, model, tile, content in answers:
        assert seen.setdefault((model, tile), content) == content
    assert {int(model[6]) for model, _ in seen} == {1, 2}
    mixed = [key for key, content in seen.items() if not is_version(place, content, key[1], passes[int(key[0][6])])]
    assert mixed == []


@pytest.mark.slow
def test_the_old_revision_goes_on_answering(place: Place) -> None:
    client = place.client()
    before = client.get("/field/cover/tilejson.json").json()["revision"]
    old = client.get(f"/field/cover@{before}/{place.tile}.npy")
    place.store.alias("cover", "default", 2)
    assert state_of(client).reload() == ["cover"]
    state_of(client).service.engine.pictures.clear()
    # Both as it was known under the name, and by version; also when it has to be loaded anew.
    pool_of(client).drop("cover:1")
    for ask in (f"cover@{before}", f"cover:1@{before}"):
        again = client.get(f"/field/{ask}/{place.tile}.npy")
        assert again.status_code == 200 and again.content == old.content
        assert again.headers["cache-control"] == IMMUTABLE and again.headers["x-revision"] == before
    assert client.get(f"/field/cover/{place.tile}.npy").content != old.content
    # After a restart the bare name does not know it any more, the version does.
    fresh = place.client()
    assert fresh.get(f"/field/cover@{before}/{place.tile}.npy").status_code == 404
    assert fresh.get(f"/field/cover:1@{before}/{place.tile}.npy").content == old.content


def test_a_broken_new_version_changes_nothing_and_is_told(place: Place) -> None:
    client = place.client(admin_token="secret")
    before = client.get(f"/field/cover/{place.tile}.npy")
    bad = put_broken(place.store)
    place.store.alias("cover", "default", bad.number)
    done = client.post("/models/reload", headers={"Authorization": "Bearer secret"})
    assert done.status_code == 422 and done.json()["changed"] == []
    assert "7" in done.json()["failed"]["cover"] and str(place.folder) not in done.text
    for ask in ("cover", "cover@default"):
        after = client.get(f"/field/{ask}/{place.tile}.npy")
        assert after.content == before.content and after.headers["x-model"] == before.headers["x-model"]
    listed = {item["id"]: item for item in client.get("/models").json()["models"]}
    assert listed["cover:3"]["state"] == "failed" and "7" in listed["cover:3"]["reason"]
    # The alias points to the broken one; what answers is the last good one, and the list says both.
    assert listed["cover:3"]["aliases"] == ["default"] and "cover" in listed["cover:1"]["answers"]
    assert place.store.resolve("cover:3").state.name == "failed"
    with pytest.raises(MisfitError):
        state_of(client).reload()
    # A better one takes over.
    place.store.alias("cover", "default", 2)
    assert state_of(client).reload() == ["cover", "cover@default"]


@pytest.mark.slow
def test_a_new_version_that_does_not_run_is_not_taken(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    client = place.client()
    place.store.alias("cover", "default", 2)

    def fail(*_: Any) -> None:
        raise RuntimeError("/a/path/of/this/machine")

    monkeypatch.setattr(state_of(client).service.engine, "warm", fail)
    done = state_of(client).refresh()
    assert done.changed == () and "RuntimeError" in done.failed["cover"] and "/a/path" not in done.failed["cover"]
    assert client.get(f"/field/cover/{place.tile}.npy").headers["x-model"].startswith("cover:1#")
    assert "cover:2" not in pool_of(client).entries()


def test_a_new_version_is_known_after_a_reload(place: Place) -> None:
    client = place.client()
    put(place.store, seed=7)
    assert client.get(f"/field/cover:3/{place.tile}.npy").status_code == 404
    assert state_of(client).reload() == []
    assert client.get(f"/field/cover:3/{place.tile}.npy").status_code == 200


@pytest.mark.slow
def test_a_registry_that_is_watched_reloads_itself_once(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    client = place.client(watch_seconds=0.02)
    looks: list[str] = []
    catalog = type(state_of(client).service.catalog)
    real = catalog.refresh

    def refresh(self: Any, warm: Any = None) -> Any:
        done = real(self, warm)
        looks.append(str(done))
        return done

    monkeypatch.setattr(catalog, "refresh", refresh)
    place.store.alias("cover", "default", 2)
    until(lambda: client.get(f"/field/cover/{place.tile}.npy").headers["x-model"].startswith("cover:2#"), "the reload")
    bad = put_broken(place.store)
    place.store.alias("cover", "default", bad.number)
    until(lambda: any("failed={'cover'" in look for look in looks), "the failure")
    done = len(looks)
    time.sleep(0.2)
    # What failed is recorded in the registry, and that is no reason to reload.
    assert len(looks) == done
    assert client.get(f"/field/cover/{place.tile}.npy").headers["x-model"].startswith("cover:2#")


def test_only_who_knows_the_token_may_reload(place: Place) -> None:
    for token, shown in (
        (None, {"Bearer ": 404, "Bearer None": 404}),
        ("secret", {"": 401, "Bearer wrong": 401, "Bearer sécret": 401, "Basic secret": 401, "bearer secret": 200}),
    ):
        client = place.client(admin_token=token)
        for header, status in shown.items():
            answer = client.post("/models/reload", headers={"Authorization": header.encode()})
            assert answer.status_code == status and answer.headers["cache-control"] == "no-store"
            if status == 401:
                assert answer.headers["www-authenticate"] == "Bearer"


def test_nothing_is_registered_over_http(place: Place) -> None:
    client = place.client(admin_token="secret")
    for method in ("post", "put", "patch", "delete"):
        for path in ("/models", "/models/cover", "/models/new", "/models/cover:1/item.json"):
            assert getattr(client, method)(path).status_code in (404, 405)


# Shadow


@pytest.mark.slow
def test_a_shadow_is_counted_as_an_independent_comparison_counts(place: Place) -> None:
    # The other version counts its classes differently; names are what is compared.
    put(place.store, seed=1, classes=[{"value": 5, "name": "Water"}, {"value": 3, "name": "forest"}, "moss"])
    place.store.alias("cover", "canary", 3)
    client = place.client(shadow={"cover": "cover@canary"}, shadow_share=1.0)
    plain = place.client()
    main, other = (place.expected(place.store.resolve(f"cover:{n}")) for n in (1, 3))
    counts = np.zeros((3, 2), int)
    for _ in range(2):  # the second time is not counted again
        for tile in place.tiles:
            answer = client.get(f"/field/cover/{tile.z}/{tile.x}/{tile.y}.png")
            assert answer.content == plain.get(f"/field/cover/{tile.z}/{tile.x}/{tile.y}.png").content
            assert answer.headers["x-model"].startswith("cover:1#")
    for tile in place.tiles:
        rows, cols, inside = scene_pixels_of_tile(place.scene, tile, 256)
        a, b = main[rows, cols][inside], other[rows, cols][inside]
        for index in range(3):
            counts[index] += ((a == index).sum(), ((a == index) & (b == index) & (index < 2)).sum())
    shadow = state_of(client).service.shadow
    until(lambda: shadow.idle, "the comparison")
    (pair,) = client.get("/models/cover").json()["shadow"]
    assert (pair["model"], pair["shadow"], pair["tiles"], pair["failed"]) == ("cover:1", "cover:3", len(place.tiles), 0)
    found = {item["name"]: (item["pixels"], item["agreed"]) for item in pair["classes"]}
    for name, (pixels, agreed) in zip(CLASSES, counts.tolist(), strict=True):
        # Pixels whose best two classes are equal in rounding may differ between runs.
        assert found[name] == pytest.approx((pixels, agreed), abs=5)
    assert found["soil"][1] == 0 and 0 < found["water"][1] < found["water"][0]
    metrics = client.get("/metrics").text
    assert 'tiler_shadow_pixels_total{class="soil",model="cover:1",result="differ",shadow="cover:3"}' in metrics
    assert 'tiler_model_bytes{model="cover:3"}' in metrics


@pytest.mark.slow
def test_a_shadow_that_fails_harms_nobody(place: Place) -> None:
    bad = put_broken(place.store)
    place.store.alias("cover", "canary", bad.number)
    client = place.client(shadow={"cover": "cover@canary", "nope": "cover@nope"}, shadow_share=1.0)
    assert client.get(f"/field/cover/{place.tile}.png").status_code == 200
    until(lambda: state_of(client).service.shadow.idle)
    (pair,) = client.get("/models/cover:3").json()["shadow"]
    assert pair["failed"] == 1 and pair["tiles"] == 0 and "7" in pair["reason"]


def test_a_share_of_the_tiles_is_taken_and_the_same_ones_everywhere() -> None:
    from tiler.shadow import chosen

    taken = [n for n in range(4000) if chosen("a" * 12, (18, n, 3), 0.05)]
    assert 120 < len(taken) < 290
    assert taken == [n for n in range(4000) if chosen("a" * 12, (18, n, 3), 0.05)]
    assert not any(chosen("a" * 12, n, 0.0) for n in range(100)) and all(chosen("b", n, 1.0) for n in range(100))


# What is told


def test_a_model_is_told_to_programs_and_to_people(place: Place) -> None:
    put(place.store, "roads", seed=4, title="Roads <b>&amp;", license="CC-BY-4.0")
    client = place.client()
    client.get(f"/field/roads/{place.tile}.png")
    found = client.get("/models/roads").json()
    assert found["id"] == "roads:1" and found["state"] == "ready" and found["license"] == "CC-BY-4.0"
    assert found["running"]["runtime"] and [item["name"] for item in found["classes"]] == CLASSES
    assert found["links"]["tilejson"]["field"].endswith("/field/roads/tilejson.json")
    assert client.get(found["links"]["tilejson"]["field"]).status_code == 200
    for path in ("/models", "/models/roads", "/models/cover@canary", "/models/cover:2"):
        for page in (
            client.get(path, params={"f": "html"}),
            client.get(path, headers={"Accept": "text/html,*/*;q=0.8"}),
        ):
            assert page.status_code == 200 and page.headers["content-type"].startswith("text/html")
            assert "default-src 'none'" in page.headers["content-security-policy"]
            assert "<script" not in page.text and " style=" not in page.text and "<b>" not in page.text
        assert client.get(path, params={"f": "json"}).headers["content-type"] == "application/json"
        assert str(place.folder) not in page.text and str(place.folder) not in client.get(path).text
    assert client.get("/static/models.css").status_code == 200
    assert client.get("/models/nope").status_code == 404


def test_readiness_is_told_and_loads_nothing(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    client = place.client()
    loads = counted(monkeypatch)
    assert client.get("/models/cover/ready").json() == {"ready": True, "state": "ready", "reason": ""}
    waiting = client.get("/models/cover@canary/ready")
    assert waiting.status_code == 503 and not waiting.json()["ready"] and not loads
    client.get(f"/field/cover@canary/{place.tile}.png")
    assert client.get("/models/cover@canary/ready").status_code == 200


def test_an_item_is_one_that_the_registry_reads_again(place: Place) -> None:
    from model_registry.mlm import document_from_item

    client = place.client()
    answer = client.get("/models/cover:2/item.json")
    assert answer.headers["content-type"].startswith("application/geo+json")
    item = answer.json()
    assert item["type"] == "Feature" and item["properties"]["mlm:name"] and str(place.folder) not in answer.text
    assert item["properties"]["serving:digest"] == place.store.open("cover:2").digest
    assert document_from_item(item)


@pytest.mark.slow
def test_a_retired_version_is_told_and_served_by_number_only(place: Place) -> None:
    put(place.store, seed=8)
    place.store.retire("cover:3")
    client = place.client()
    assert client.get("/models/cover:3").json()["state"] == "retired"
    assert client.get(f"/field/cover:3/{place.tile}.png").status_code == 200


# Elsewhere


@pytest.fixture
def foreign(place: Place) -> Callable[..., TestClient]:
    def make(**options: Any) -> TestClient:
        factory = TilerFactory(router_prefix="/cog", extensions=[inferenceExtension(**options)])
        app = FastAPI()
        app.include_router(factory.router, prefix="/cog")
        return TestClient(app)

    return make


@pytest.mark.slow
@pytest.mark.parametrize("opened", [True, False])
def test_references_in_a_foreign_application(place: Place, foreign: Callable[..., TestClient], opened: bool) -> None:
    folder = place.store.resolve("cover:1").folder
    registry = place.store if opened else str(place.store.root)
    client = foreign(registry=registry, models={"own": str(folder), "land": "cover@canary"})
    query = {"url": str(place.scene)}
    path = "/cog/inference/{}/tiles/WebMercatorQuad/" + place.tile
    for ask, number in (("cover", 1), ("cover@canary", 2), ("cover:2", 2), ("cover%3A1", 1), ("land", 2)):
        answer = client.get(path.format(ask) + ".npy", params=query)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-model"].startswith(f"cover:{number}#")
    document = client.get("/cog/inference/cover@canary/WebMercatorQuad/tilejson.json", params=query)
    assert document.status_code == 200 and "/inference/cover@canary/tiles" in document.json()["tiles"][0].replace(
        "%40", "@"
    )
    revision = answer.headers["x-revision"]
    pinned = client.get(path.format(f"cover:2@{revision}") + ".png", params=query)
    assert pinned.headers["cache-control"] == IMMUTABLE
    lost = client.get(path.format("nope") + ".png", params=query)
    assert lost.status_code == 404 and "own" in lost.json()["detail"] and "cover" in lost.json()["detail"]
    listed = client.get("/cog/inference").json()
    assert [item["id"] for item in listed] == ["own", "land", "cover:1", "cover:2"]
    assert client.get("/cog/inference/cover:2/legend.json").status_code == 200


@pytest.mark.slow
def test_a_remote_registry_is_served(place: Place) -> None:
    pytest.importorskip("obstore")
    write_index(place.store.root)
    with web.files(place.store.root) as address:
        remote = place.client(registry=address, default_model="cover")
        local = place.client()
        for ask in ("cover", "cover@canary", "cover:2"):
            answer = remote.get(f"/field/{ask}/{place.tile}.npy")
            assert answer.status_code == 200, answer.text
            assert answer.content == local.get(f"/field/{ask}/{place.tile}.npy").content
        place.store.alias("cover", "default", 2)
        write_index(place.store.root)
        assert state_of(remote).reload() == ["cover"]
        assert address not in remote.get("/models").text
        assert len(remote.get("/models").json()["models"]) == 2
    # The registry is gone: what it was goes on answering, and a reload says so.
    assert remote.get(f"/field/cover/{place.tile}.npy").headers["x-model"].startswith("cover:2#")
    failed = state_of(remote).refresh().failed
    assert failed and "registry" in failed
    assert remote.get("/models/cover").status_code in (200, 503)
    with pytest.raises(InferenceError):
        create_app(Settings(registry=address))


def test_busy_is_told_as_busy() -> None:
    from model_registry import RegistryError
    from tiler.models import in_our_words

    assert isinstance(in_our_words("m", RegistryError("it cannot be reached")), BusyError)


@pytest.mark.slow
def test_the_command_tells_a_server_to_reload(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")

    def command(*arguments: str, **environment: str) -> Any:
        return CliRunner().invoke(cli, ["models", "reload", *arguments], env={**GDAL_DEFAULTS, **environment})

    client = place.client(admin_token="secret")
    with serving(client.app) as port:
        url = f"http://127.0.0.1:{port}"
        refused = command("--url", url, TILER_ADMIN_TOKEN="wrong")
        assert refused.exit_code == 2 and "refused the token" in refused.stderr and "secret" not in refused.output
        place.store.alias("cover", "default", 2)
        done = command("--url", url, TILER_ADMIN_TOKEN="secret")
        assert done.exit_code == 0 and done.stdout.strip() == "Reloaded: cover", done.output
        place.store.alias("cover", "default", put_broken(place.store).number)
        broken = command("--url", url, "--json", "--token", "secret")
        assert broken.exit_code == 1 and "7" in json.loads(broken.stdout)["failed"]["cover"]
    for wrong in (url, "file:///etc/passwd"):
        gone = command("--url", wrong, "--token", "secret")
        assert gone.exit_code == 2 and len(gone.stderr.strip().splitlines()) == 1
