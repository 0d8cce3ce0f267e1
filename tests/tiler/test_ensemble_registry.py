"""Ensembles of a registry, from the command that makes them to the server that keeps them in memory."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner, Result

from model_registry import Store, Version
from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import landscape, tiles_over, write_scene
from tests.tiler.test_ensemble import CLASSES, STATED, UTM, placed
from tests.tiler.whole_ensemble import Whole, whole_ensemble
from tiler.app import create_app
from tiler.cli import GDAL_DEFAULTS
from tiler.cli import app as cli
from tiler.errors import BusyError, MisfitError
from tiler.settings import Settings

SHAPE = (120, 150)


def put(store: Store, name: str, seed: int, **more: Any) -> Version:
    with store.publish(name) as draft:
        write_model(
            draft.folder, conv_chain(layers=3, seed=seed), **{"classes": CLASSES, "gsd": 0.5, **STATED["conv"], **more}
        )
    assert draft.version is not None
    return draft.version


class Place:
    """A registry with cover:1 and cover:2, a scene of 0.5 m, and applications over them."""

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder / "registry")
        put(self.store, "cover", 0)
        put(self.store, "cover", 1, gsd=1)
        self.scene = write_scene(folder / "field.tif", landscape(*SHAPE), transform=placed(0.5), **UTM)
        self.tile = max(tiles_over(self.scene, 19), key=lambda tile: (tile.y, tile.x))
        self.closing: list[TestClient] = []

    def run(self, *arguments: Any) -> Result:
        environment = {"TILER_REGISTRY": str(self.store.root), "COLUMNS": "200", **GDAL_DEFAULTS}
        return CliRunner().invoke(cli, [*map(str, arguments)], env=environment)

    def make(self, *members: str, **options: str) -> str:
        """What `tiler models ensemble zooms` says."""
        given = [part for member in members for part in ("--member", member)]
        done = self.run(
            "models", "ensemble", "zooms", *given, *(x for key in options for x in (f"--{key}", options[key]))
        )
        assert done.exit_code == 0, done.output
        return " ".join(done.stdout.split())

    def client(self, **settings: Any) -> TestClient:
        given = {"scenes": {"field": {"path": str(self.scene)}}, "registry": str(self.store.root), **settings}
        client = TestClient(create_app(Settings(runtime="onnxruntime", **given)))
        self.closing.append(client)
        client.__enter__()
        return client

    def expected(self, refs: Sequence[str], gsds: Sequence[float], weights: Sequence[float]) -> Whole:
        files = [self.store.resolve(ref).folder / "model.onnx" for ref in refs]
        return whole_ensemble(files, landscape(*SHAPE), 0.5, gsds, weights)


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """One window is warm enough here."""
    monkeypatch.setattr("tiler.engine.WARM_SECONDS", 0.0)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for client in made.closing:
        client.__exit__(None, None, None)


def preview(client: TestClient, model: str, **query: Any) -> np.ndarray:
    import io

    answer = client.get(f"/field/{model}/preview.npy", params={"max_size": 4096, **query})
    assert answer.status_code == 200, answer.text
    return np.load(io.BytesIO(answer.content))


def pool_of(client: TestClient) -> Any:
    return client.app.state.inference.service.catalog.models.pool  # type: ignore[attr-defined]


def test_from_the_command_to_the_map(place: Place) -> None:
    place.store.alias("cover", "fine", 1)
    said = place.make("cover@fine@0.5", "cover@1", weights="3,1", alias="best")
    assert said == "Added zooms:1, which is now @best: cover:1 at 0.5 m, cover:2 at 1 m"
    client = place.client()
    right = place.expected(["cover:1", "cover:2"], (0.5, 1.0), (0.75, 0.25))
    found, mask = preview(client, "zooms@best")
    assert mask.all() and (found == right.classes)[right.sure].all()
    np.testing.assert_allclose(preview(client, "zooms", output="spread")[0], right.spread, atol=6e-4)
    tile = f"{place.tile.z}/{place.tile.x}/{place.tile.y}"
    answer = client.get(f"/field/zooms/{tile}.png")
    assert answer.status_code == 200 and answer.headers["x-model"].startswith("zooms:1#")
    document = client.get("/field/zooms/tilejson.json").json()
    assert document["outputs"][-1] == "spread" and len(document["spread"]["stops"]) == 11
    assert [(one["model"], one["gsd"], one["weight"]) for one in document["members"]] == [
        ("cover:1", 0.5, 0.75), ("cover:2", 1, 0.25)
    ]  # fmt: skip
    pinned = (
        document["tiles"][0].replace("http://testserver", "").format(z=place.tile.z, x=place.tile.x, y=place.tile.y)
    )
    assert client.get(pinned).headers["cache-control"].endswith("immutable")
    assert "WebMercatorQuad" in client.get("/field/zooms/1.0.0/WMTSCapabilities.xml").text
    assert isinstance(client.get("/field/zooms/legend.json").json(), list)
    assert client.get("/field/zooms/legend.json?output=spread").json()["value"]["name"] == "spread"
    assert client.get("/field/zooms/info?output=spread").json()["dtype"] == "float32"


@pytest.mark.slow
def test_pages_and_lists_know_it(place: Place) -> None:
    place.make("cover:1@0.5", "cover:2@2")
    client = place.client()
    entry = next(one for one in client.get("/models").json()["models"] if one["id"] == "zooms:1")
    assert (entry["gsd"], entry["classes"], entry["loaded"]) == (0.5, 5, False)
    assert client.get("/models/zooms:1/ready").status_code == 503
    preview(client, "zooms")
    details = client.get("/models/zooms:1").json()
    assert details["loaded"] and len(details["members"]) == 2 and details["running"]["exactness"] == "exact"
    assert client.get("/models/zooms:1/ready").status_code == 200
    assert client.get("/models/zooms:1?f=html").status_code == 200
    assert client.get("/models/zooms:1/item.json").status_code == 422
    (pair,) = [one for one in client.get("/api/pairs").json() if one["model"] == "zooms"]
    assert pair["scene"] == "field"
    assert client.get("/metrics").status_code == 200
    listed = place.run("models", "list")
    assert re.search(r"zooms:1\s+verified\s+5\s+0.5 m", listed.stdout), listed.stdout
    shown = place.run("models", "show", "zooms")
    assert "cover:1 at 0.5 m, 50 % of the mean" in " ".join(shown.stdout.split())
    removed = place.run("models", "remove", "cover:1")
    assert removed.exit_code == 2 and "cover:1 is a member of zooms:1" in removed.stderr
    assert place.run("models", "export-mlm", "zooms").exit_code == 2
    assert place.run("models", "remove", "zooms:1").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--member", "cover:1"], "does not say at which resolution"),
        (["--member", "cover:1@x"], "does not say at which resolution"),
        (["--member", "@0.5"], "does not say at which resolution"),
        (["--member", "cover:7@0.5"], "there is no version 7"),
        (["--member", "cover:1@0.5", "--weights", "1,2"], "2 weights for 1 members"),
        (["--member", "cover:1@0.5", "--member", "soil@1"], "soil:1 has the classes"),
    ],
)
def test_what_is_no_ensemble_is_told_and_leaves_nothing(place: Place, arguments: list[str], says: str) -> None:
    put(place.store, "soil", 0, classes=["x", "y", "z", "v", "w"])
    done = place.run("models", "ensemble", "zooms", *arguments)
    assert done.exit_code == 2 and says in done.stderr and len(done.stderr.splitlines()) == 1
    assert "zooms" not in place.store.names()


@pytest.mark.slow
def test_check_measures_each_member(place: Place) -> None:
    place.make("cover:1@0.5", "cover:2@1")
    done = place.run("models", "check", "zooms", "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert (found["exactness"], found["halo"], found["model"]) == ("exact", 6, "zooms:1")
    assert set(found["members"]) == {"cover:1", "cover:2"}
    assert place.store.resolve("zooms").state.name == "probed"
    assert "exact" in place.run("models", "check", "zooms").stdout
    assert place.run("models", "check", "zooms", "--scene", place.scene).exit_code == 2


def test_members_are_loaded_once_and_unloaded_with_what_is_made_of_them(place: Place) -> None:
    place.make("cover:1@0.5", "cover:1@2", "cover:2@1")
    put(place.store, "other", 5)
    client = place.client(max_models=2)
    preview(client, "zooms")
    assert set(pool_of(client).entries()) == {"cover:1", "cover:2", "zooms:1"}
    first = pool_of(client).peek("cover:1")
    preview(client, "cover:1")
    assert pool_of(client).peek("cover:1") is first  # served by the same network
    preview(client, "other")
    kept = set(pool_of(client).entries())
    assert "zooms:1" not in kept and len(kept) == 2  # nothing without its members
    right = place.expected(["cover:1", "cover:1", "cover:2"], (0.5, 2.0, 1.0), [1 / 3] * 3)
    client.app.state.inference.service.engine.cache.clear()  # type: ignore[attr-defined]
    assert (preview(client, "zooms")[0] == right.classes)[right.sure].all()
    assert "other:1" not in pool_of(client).entries()


def test_an_ensemble_at_work_keeps_its_members(place: Place) -> None:
    place.make("cover:1@0.5", "cover:2@1")
    put(place.store, "other", 5)
    client = place.client(max_models=2)
    preview(client, "zooms")
    service = client.app.state.inference.service  # type: ignore[attr-defined]
    layer = client.app.state.inference.open("field", "zooms").layer  # type: ignore[attr-defined]
    with service.engine._made_jointly(layer, [], False):
        assert layer.revision in service.engine.busy
        with pytest.raises(BusyError, match="leave no room"):
            service.catalog.model("other")
    assert service.catalog.model("other") is not None


def test_what_can_never_be_loaded_is_refused_and_not_put_off(place: Place) -> None:
    place.make("cover:1@0.5", "cover:2@1")
    assert "2 networks, 1 may be loaded" in place.client(max_models=1).get("/field/zooms/preview.png").json()["detail"]
    answer = place.client(model_bytes=9000).get("/field/zooms/preview.png")
    assert answer.status_code == 422 and "the budget is" in answer.json()["detail"]


@pytest.mark.slow
def test_a_member_that_was_changed_behind_the_registrys_back_is_noticed(place: Place) -> None:
    place.make("cover:1@0.5", "cover:2@1")
    folder = place.store.resolve("cover:2").folder
    (folder / "model.yaml").chmod(0o644)
    text = (folder / "model.yaml").read_text().replace("halo: 3", "halo: 4")
    (folder / "model.yaml").write_text(text)
    answer = place.client().get("/field/zooms/preview.png")
    assert answer.status_code == 422 and "cover:2 is not the model" in answer.json()["detail"]
    with pytest.raises(Exception, match="not the model"):
        place.store.verify("zooms")


def test_a_version_that_cannot_be_read_has_failed(place: Place) -> None:
    manifest = place.store.resolve("cover:1").folder / "model.yaml"
    manifest.chmod(0o644)
    manifest.write_text("serving: {}")
    models = place.client().app.state.inference.service.catalog.models  # type: ignore[attr-defined]
    with pytest.raises(MisfitError, match="lacks the blocks"):
        models.get("cover:1")
    assert models.state("cover:1").name == "failed"
    assert place.store.resolve("cover:1").state.name == "failed"


def test_an_alias_that_moves_takes_over(place: Place) -> None:
    place.make("cover:1@0.5", "cover:2@1")
    client = place.client()
    before = preview(client, "zooms")[0]
    place.make("cover:1@0.5", "cover:2@2")
    assert client.app.state.inference.reload() == ["zooms"]  # type: ignore[attr-defined]
    right = place.expected(["cover:1", "cover:2"], (0.5, 2.0), (0.5, 0.5))
    after = preview(client, "zooms")[0]
    assert (after == right.classes)[right.sure].all() and (after != before).any()


@pytest.mark.slow
def test_gsds_of_a_folder_need_no_registry(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = place.store.resolve("cover:1").folder
    right = place.expected(["cover:1"] * 2, (0.5, 1.0), (0.5, 0.5))
    client = place.client(registry=None, models={"cover": str(folder)}, gsds={"cover": [1.0, 0.5]})
    assert (preview(client, "cover")[0] == right.classes)[right.sure].all()
    assert client.app.state.inference.reload() == []  # type: ignore[attr-defined]
    info = place.run("info", place.scene, "--model", folder, "--gsds", "0.5,1", "--json")
    assert info.exit_code == 0, info.output
    told = json.loads(info.stdout)
    assert told["facts"]["members"] == "cover at 0.5 m (50 %), cover at 1 m (50 %)"
    assert [one["subject"] for one in told["findings"] if "resolution" in one["subject"]] == [
        "resolution, cover at 0.5 m", "resolution, cover at 1 m"
    ]  # fmt: skip
    wrong = place.run("info", place.scene, "--model", folder, "--gsds", "0.5,8")
    assert wrong.exit_code == 1
    assert "0.5,x" in place.run("info", place.scene, "--model", folder, "--gsds", "0.5,x").stderr
    seen: dict[str, Any] = {}
    monkeypatch.setattr("tiler.cli.serving._run", lambda settings, host, port: seen.update(gsds=settings.gsds))
    served = CliRunner().invoke(cli, ["serve", str(place.scene), "--model", str(folder), "--gsds", "0.5,1"])
    assert served.exit_code == 0, served.output
    assert seen["gsds"] == {"cover": [0.5, 1.0]}


def test_an_ensembles_folder_is_served_without_naming_its_registry(place: Place) -> None:
    place.make("cover:1@0.5", "cover:2@1")
    client = place.client(registry=None, models={"zooms": str(place.store.resolve("zooms").folder)})
    right = place.expected(["cover:1", "cover:2"], (0.5, 1.0), (0.5, 0.5))
    assert (preview(client, "zooms")[0] == right.classes)[right.sure].all()


def test_gsds_of_what_is_no_file_are_refused(place: Place) -> None:
    with pytest.raises(MisfitError, match="tiler models ensemble"):
        place.client(models={"mine": "cover:1"}, gsds={"mine": [1.0]})
    with pytest.raises(MisfitError, match="gsds names 'gone'"):
        place.client(gsds={"gone": [1.0]})
