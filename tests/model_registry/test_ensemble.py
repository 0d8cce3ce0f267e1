"""Ensembles as models: what they are made of, how they are told apart, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_registry import ManifestError, ModelError, RegistryError, UnsupportedModel, at_gsds, load, open_model
from model_registry.card import card, summary
from model_registry.ensemble import member_models, of_models, refs_of, users
from model_registry.ensemble_check import merged
from model_registry.ensemble_yaml import write_ensemble
from model_registry.manifest import Member
from model_registry.mlm import item_from_model
from model_registry.remote import named_files
from model_registry.store import Store
from model_registry.versions import Version
from tests.model_registry.shelves import put, write


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """cover:1 and cover:2 (other weights, the same classes), soil:1 (other classes)."""
    store = Store(tmp_path / "registry")
    put(store, license="MIT", gsd=1)
    put(store, values=(0, 7), license="CC-BY-4.0")
    put(store, "soil", values=(0, 9), classes=["sand", "clay"])
    return store


def join(store: Store, refs: list[str], gsds: list[float], weights: list[float] = [], **more: Any) -> Version:  # noqa: B006
    whole = of_models([(ref, store.open(ref)) for ref in refs], gsds, weights, name="zooms", **more)
    with store.publish("zooms") as draft:
        write_ensemble(whole, draft.folder)
    assert draft.version is not None
    return draft.version


def test_an_ensemble_is_read_as_it_was_written(store: Store) -> None:
    version = join(store, ["cover:2", "cover:1", "cover:1"], [2, 0.5, 1], [1, 1, 2], title="Zooms")
    model = store.open("zooms")
    assert [(one.model, one.gsd, one.weight) for one in model.members] == [
        ("cover:1", 0.5, 0.25), ("cover:1", 1, 0.5), ("cover:2", 2, 0.25)
    ]  # fmt: skip
    assert model.members[0].digest == store.open("cover:1").digest
    assert (model.title, model.license) == ("Zooms", "CC-BY-4.0 AND MIT")
    assert model.resolution is not None and model.resolution.value == 0.5
    assert (model.kind, model.emits, model.artifacts) == ("classes", "probabilities", ())
    assert model.classes == store.open("cover:1").classes
    assert [network.resolution.value for network in member_models(model, store.open) if network.resolution] == [
        0.5,
        1,
        2,
    ]
    assert store.verify(version).digest == model.digest


def test_the_digest_is_that_of_members_resolutions_and_weights(store: Store) -> None:
    def digest(*given: Any, **more: Any) -> str:
        refs, gsds, *weights = given
        return of_models([(ref, store.open(ref)) for ref in refs], gsds, *weights, name="z", **more).digest

    same = digest(["cover:1", "cover:2"], [1, 2])
    assert same == digest(["cover:2", "cover:1"], [2, 1], [3, 3], title="another")
    others = [
        digest(["cover:1", "cover:1"], [1, 2]), digest(["cover:1", "cover:2"], [1, 3]),
        digest(["cover:1", "cover:2"], [1, 2], [1, 2]), digest(["cover:1", "cover:2"], [2, 1]),
        digest(["cover:1", "cover:2"], [1, 2], threshold=0.4), store.open("cover:1").digest,
    ]  # fmt: skip
    assert len({same, *others}) == 7


@pytest.mark.parametrize(
    ("refs", "gsds", "weights", "says"),
    [
        ([], [], [], "no members"),
        (["cover:1", "soil:1"], [1, 2], [], "soil:1 has the classes 0 sand, 1 clay, cover:1 has 0 class 0"),
        (["cover:1", "cover:1"], [1, 1], [], "same model at the same resolution"),
        (["cover:1"], [0], [], "gsd 0"),
        (["cover:1"], [float("inf")], [], "gsd inf"),
        (["cover:1", "cover:2"], [1, 2], [1], "1 weights for 2 members"),
        (["cover:1", "cover:2"], [1, 2], [1, 0], "weight 0"),
        (["cover:1"] * 17, list(range(1, 18)), [], "17 members"),
        (["cover", "cover:2"], [1, 2], [], "does not say which version"),
    ],
)
def test_what_cannot_be_averaged_is_told(
    store: Store, refs: list[str], gsds: list[float], weights: list[float], says: str
) -> None:
    with pytest.raises(ModelError, match=re.escape(says)) as told:
        of_models([(ref, store.open(ref)) for ref in refs], gsds, weights, name="z")
    assert told.value.remedy


def test_members_need_probabilities_and_are_no_ensembles(store: Store, tmp_path: Path) -> None:
    put(store, "labels", values=(3,), classes=["a", "b"], output={"emits": "labels", "activation": "none"})
    with pytest.raises(ManifestError, match="labels:1 answers class numbers only"):
        of_models([("labels:1", store.open("labels:1"))], [1], name="z")
    with pytest.raises(ManifestError, match="class numbers only"):
        at_gsds(store.open("labels:1"), [1, 2])
    join(store, ["cover:1"], [1])
    with pytest.raises(ManifestError, match="zooms:1 is an ensemble itself"):
        of_models([("zooms:1", store.open("zooms:1"))], [1], name="z")
    with pytest.raises(ManifestError, match="an ensemble already"):
        at_gsds(store.open("zooms:1"), [1])


def test_thresholds_that_differ_need_a_word(store: Store) -> None:
    put(store, output={"emits": "logits", "activation": "softmax", "threshold": 0.7})
    models = [(ref, store.open(ref)) for ref in ("cover:1", "cover:3")]
    with pytest.raises(ManifestError, match="different thresholds"):
        of_models(models, [1, 2], name="z")
    assert of_models(models, [1, 2], name="z", threshold=0.4).threshold == 0.4
    assert of_models(models[1:], [1], name="z").threshold == 0.7


def edited(version: Version, **changes: Any) -> dict[str, Any]:
    document = yaml.safe_load((version.folder / "model.yaml").read_text())
    document["serving"] |= changes
    return {key: value for key, value in document.items() if value is not None}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"kind": "network"}, "serving.kind is network and serving.members has 1 entries"),
        ({"members": []}, "serving.kind is ensemble and serving.members has 0 entries"),
        ({"members": [{"model": "cover:1", "gsd": 1}]}, "has the digest ''"),
        ({"members": [{"model": "cover", "gsd": 1, "digest": "0" * 64}]}, "does not say which version"),
        ({"members": [{"model": "cover:1", "gsd": 1, "digest": "0" * 64}]}, "not the model that the ensemble"),
        ({"members": [{"model": "gone:1", "gsd": 1, "digest": "0" * 64}]}, "no model 'gone'"),
        ({"members": [{"gsd": 1}]}, "serving.artifacts has 0 entries"),
        ({"members": [{"gsd": 1, "wieght": 2}]}, "unknown key 'serving.members.0.wieght'"),
        ({"members": [{"gsd": -1, "model": "cover:1", "digest": "0" * 64}]}, "gsd -1"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_not_published(store: Store, changes: dict[str, Any], says: str) -> None:
    document = edited(join(store, ["cover:1"], [1]), **changes)
    with pytest.raises(ModelError, match=re.escape(says)), store.publish("zooms") as draft:
        (draft.folder / "model.yaml").write_text(yaml.safe_dump(document))
    assert store.versions("zooms") == (1,)


def test_the_folders_own_artifact_at_several_resolutions(tmp_path: Path) -> None:
    folder = write(tmp_path / "cover", gsd=1)
    network = open_model(folder)
    document = yaml.safe_load((folder / "model.yaml").read_text())
    document["serving"] |= {"kind": "ensemble", "members": [{"gsd": 2, "weight": 3}, {"gsd": 0.5}]}
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    model = open_model(folder)
    assert model.members == (Member(0.5, 0.25, network.digest), Member(2, 0.75, network.digest))
    assert model.digest == at_gsds(network, [0.5, 2], [1, 3]).digest != network.digest
    assert refs_of(model) == ()
    loaded = load(model, runtime="onnxruntime")
    try:
        assert loaded.networks[0].runner is loaded.members[1].runner is loaded.runner
        assert [one.model.digest for one in loaded.members] == [network.digest] * 2
        assert (loaded.model.exactness, loaded.model.window.halo) == ("exact", 0)
    finally:
        loaded.close()
    document["serving"]["members"][0]["model"] = "cover:1"
    (folder / "model.yaml").write_text(yaml.safe_dump(document))
    with pytest.raises(ManifestError, match="although the members are other models"):
        open_model(folder)


def test_a_loaded_ensemble_says_what_follows_from_its_members(store: Store) -> None:
    put(store, exactness="bounded", window={"multiple": 1, "period": 1, "halo": 5})
    join(store, ["cover:3", "cover:1", "cover:3"], [0.5, 0.5, 2])
    loaded = load(store.resolve("zooms").folder, runtime="onnxruntime")
    try:
        assert loaded.model.exactness == "bounded"
        assert loaded.model.window.halo == 20  # 5 px of 2 m, in pixels of 0.5 m
        assert len(loaded.networks) == 2 and len(loaded.members) == 3
        assert loaded.choice.candidate == loaded.networks[0].choice.candidate
    finally:
        loaded.close()


def test_members_outside_of_a_registry_are_not_guessed(store: Store, tmp_path: Path) -> None:
    join(store, ["cover:1"], [1])
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "model.yaml").write_bytes((store.resolve("zooms").folder / "model.yaml").read_bytes())
    with pytest.raises(UnsupportedModel, match="its folder lies in none"):
        load(folder)


def test_a_version_that_an_ensemble_uses_is_not_removed(store: Store) -> None:
    version = join(store, ["cover:1", "cover:2"], [1, 2])
    assert users(store, store.resolve("cover:2").ref) == ("zooms:1",)
    for force in (False, True):
        with pytest.raises(RegistryError, match="cover:2 is a member of zooms:1"):
            store.remove("cover:2", force)
    assert 2 in store.versions("cover")
    store.remove("soil:1")
    store.remove(version.ref)
    store.remove("cover:2")


def test_what_is_told_of_an_ensemble(store: Store) -> None:
    version = join(store, ["cover:1", "cover:2"], [1, 0.5], [3, 1])
    told = card(store, version)
    assert [(one["model"], one["gsd"], one["weight"]) for one in told["members"]] == [
        ("cover:2", 0.5, 0.25), ("cover:1", 1, 0.75)
    ]  # fmt: skip
    assert told["artifacts"] == []
    assert (summary(store, version)["gsd"], summary(store, version)["classes"]) == (0.5, 2)
    with pytest.raises(UnsupportedModel, match="MLM has no words"):
        item_from_model(store.open("zooms"))
    assert list(named_files(yaml.safe_load((version.folder / "model.yaml").read_text()))) == []


def test_reports_of_members_become_one(store: Store) -> None:
    model = store.open(join(store, ["cover:1", "cover:2"], [0.5, 1]))

    def report(exactness: str | None, halo: int | None, subject: str = "") -> dict[str, Any]:
        findings = [{"subject": subject, "level": "error", "detail": "", "remedy": ""}] if subject else []
        machine = {"device": "cpu", "threads": 2, "processor": "p", "runtimes": {}}
        return {
            "exactness": exactness, "halo": halo, "machine": machine, "findings": findings, "seconds": 1,
            "cpu_seconds": 2,
        }  # fmt: skip

    found = merged(model, {"cover:1": report("exact", 4), "cover:2": report("bounded", 3, "window")})
    assert (found["exactness"], found["halo"], found["seconds"], found["digest"]) == ("bounded", 6, 2, model.digest)
    assert [finding["subject"] for finding in found["findings"]] == ["cover:2: window"]
    assert json.dumps(found)
    assert merged(model, {"cover:1": report("exact", 4), "cover:2": report(None, None)})["exactness"] is None
