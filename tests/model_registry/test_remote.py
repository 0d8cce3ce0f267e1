"""Registries behind a web server and in S3: found, fetched, verified, and never believed."""

from __future__ import annotations

import json
import shutil
import traceback
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from model_registry import live
from model_registry.artifacts import checksum_of
from model_registry.errors import (
    ArtifactError,
    ManifestError,
    ModelError,
    RegistryError,
    UnknownModel,
    UnsupportedModel,
)
from model_registry.index import read_index, write_index
from model_registry.remote import CACHE_VARIABLE, RemoteStore, named_files, open_store
from model_registry.store import Store
from tests.model_registry import web
from tests.model_registry.shelves import put, write

pytest.importorskip("obstore")
SECRETS = {"AWS_ACCESS_KEY_ID": "AKIASECRETKEY", "AWS_SECRET_ACCESS_KEY": "hunter2hunter2"}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("site")
    with web.files(folder) as address:
        yield address, folder


@pytest.fixture
def place(site: tuple[str, Path], request: pytest.FixtureRequest) -> tuple[str, Store]:
    """A registry behind a web server: its URL, and the folder where it lies."""
    address, folder = site
    name = "".join(c if c.isalnum() else "-" for c in request.node.name)
    return f"{address}/{name}", Store(folder / name)


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def remote(url: str, cache: Path, **more: int) -> RemoteStore:
    return RemoteStore(url, cache, **more)


def left_in(cache: Path) -> list[str]:
    """Files in the cache, and hidden folders."""
    return [p.name for p in cache.rglob("*") if p.is_file() or p.name.startswith(".")]


# Behind a web server


def test_a_version_is_fetched_and_runs(place, cache: Path):
    url, store = place
    put(store)
    put(store, values=(0, 4, 9))
    store.alias("cover", "stable", 1)
    write_index(store.root)
    registry = remote(url, cache)
    assert registry.names() == ("cover",) and registry.versions("cover") == (1, 2)
    version = registry.resolve("cover@stable")
    assert (version.number, version.aliases, version.state.name) == (1, ("stable",), "registered")
    assert not version.folder.exists()
    model = registry.open("cover@stable")
    assert (model.name, model.version, model.digest) == ("cover", "1", store.open("cover:1").digest)
    assert registry.resolve("cover:1").state.name == "verified"
    loaded = live.load(model)
    loaded.close()
    assert len(registry.open("cover").classes) == 3
    assert [n for n in left_in(cache) if n.startswith(".")] == []


def test_only_what_the_manifest_names_is_fetched(place, cache: Path):
    url, store = place
    with store.publish("cover") as draft:
        write(draft.folder)
        (draft.folder / "notes.txt").write_text("private")
        test = draft.folder / "test"
        test.mkdir()
        (test / "x.npy").write_bytes(b"pixels")
    digest = store.open("cover").digest
    (store.root / "cover" / "1" / "probe.json").write_text(json.dumps({"digest": digest, "halo": 0}))
    write_index(store.root)
    registry = remote(url, cache)
    registry.open("cover")
    assert sorted(left_in(cache)) == ["model.onnx", "model.yaml", "probe.json"]
    assert registry.resolve("cover").state.name == "probed"
    document, probe = registry.documents(registry.resolve("cover"))
    assert document["properties"]["name"] and probe == {"digest": digest, "halo": 0}


def test_the_manifest_decides_which_files_there_are():
    checksum = "1220" + "a" * 64
    document = {
        "serving": {
            "artifacts": [
                {"href": "m.onnx", "checksum": checksum, "size": 3},
                {"href": "m.data", "checksum": checksum},
            ],
            "output": {"components": {"href": "c.json", "checksum": checksum}},
            "test": {
                "input": "test/x.npy",
                "input_checksum": checksum,
                "output": "test/y.npy",
                "output_checksum": checksum,
            },
        }
    }
    found = [(file.href, file.size) for file in named_files(document)]
    assert found == [("m.onnx", 3), ("m.data", None), ("c.json", None), ("test/x.npy", None), ("test/y.npy", None)]


@pytest.mark.parametrize(
    "serving",
    [
        None,
        [],
        {},
        {"artifacts": []},
        {"artifacts": "model.onnx"},
        {"artifacts": [{"href": "a", "checksum": "1220" + "a" * 64}] * 257},
        {"artifacts": ["model.onnx"]},
        {"artifacts": [{"href": "model.onnx"}]},
        {"artifacts": [{"href": "model.onnx", "checksum": "md5"}]},
        {"artifacts": [{"href": "model.onnx", "checksum": "1220" + "a" * 64, "size": -1}]},
        {"artifacts": [{"href": "a", "checksum": "1220" + "a" * 64}], "test": {"input": "x.npy", "output": "y.npy"}},
    ],
)
def test_a_manifest_that_names_files_without_digests_is_refused(serving):
    with pytest.raises(ManifestError):
        list(named_files({"serving": serving}))


def test_a_manifest_whose_aliases_could_stand_for_billions_of_values_is_not_even_looked_through(place, cache: Path):
    url, store = place
    folder = write(store.root / "cover" / "1")
    write_index(store.root)
    registry = remote(url, cache)
    with (folder / "model.yaml").open("a") as file:
        file.write("once: &once [1, 2]\ntwice: [*once, *once]\n")
    with pytest.raises(ManifestError, match="has an alias"):
        registry.documents(registry.resolve("cover"))


def edit(folder: Path, change) -> None:
    document = yaml.safe_load((folder / "model.yaml").read_text())
    change(document["serving"])
    (folder / "model.yaml").write_text(yaml.safe_dump(document))


def spoil_bytes(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"\0" * (folder / "model.onnx").stat().st_size)


def spoil_longer(folder: Path) -> None:
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\0")


def spoil_shorter(folder: Path) -> None:
    (folder / "model.onnx").write_bytes((folder / "model.onnx").read_bytes()[:-1])


def spoil_missing(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def spoil_href(href: str):
    def change(folder: Path) -> None:
        edit(folder, lambda serving: serving["artifacts"][0].update(href=href))

    return change


def spoil_size(folder: Path) -> None:
    edit(folder, lambda serving: serving["artifacts"][0].update(size=1 << 50))


def spoil_twice(folder: Path) -> None:
    edit(folder, lambda serving: serving["artifacts"].append(dict(serving["artifacts"][0])))


def spoil_manifest(folder: Path) -> None:
    def change(serving) -> None:
        text = (folder / "model.yaml").read_bytes()
        serving["artifacts"].append({"href": "model.yaml", "format": "onnx", "checksum": checksum_of(text)})

    edit(folder, change)


def spoil_unknown_key(folder: Path) -> None:
    edit(folder, lambda serving: serving.update(resolutoin=1))


def spoil_yaml(folder: Path) -> None:
    (folder / "model.yaml").write_text("{")


def spoil_endless(folder: Path) -> None:
    (folder / "model.yaml").write_bytes(b" " * (2 << 20))


@pytest.mark.parametrize(
    ("spoil", "kind", "says"),
    [
        (spoil_bytes, ArtifactError, "checksum"),
        (spoil_longer, ArtifactError, "more than"),
        (spoil_shorter, ArtifactError, "declared"),
        (spoil_missing, RegistryError, "model.onnx is not in the registry"),
        (spoil_href("../../../escaped"), ArtifactError, "does not lie inside"),
        (spoil_href("/tmp/escaped"), ArtifactError, "does not lie inside"),
        (spoil_href("https://elsewhere/model.onnx"), ArtifactError, "does not lie inside"),
        (spoil_href("a\\..\\b"), ArtifactError, "does not lie inside"),
        (spoil_size, ArtifactError, "more than the"),
        (spoil_twice, ManifestError, "twice"),
        (spoil_manifest, ManifestError, "twice"),
        (spoil_unknown_key, ManifestError, "resolutoin"),
        (spoil_yaml, ManifestError, "not valid YAML"),
        (spoil_endless, RegistryError, "more than 1048576 bytes"),
    ],
)
def test_a_version_that_is_not_what_it_says_leaves_nothing_in_the_cache(place, cache: Path, spoil, kind, says):
    url, store = place
    folder = write(store.root / "cover" / "1")
    spoil(folder)
    write_index(store.root)
    registry = remote(url, cache)
    with pytest.raises(kind, match=says) as caught:
        registry.open("cover")
    assert url not in str(caught.value) and str(cache) not in str(caught.value)
    assert [name for name in left_in(cache) if not name.startswith(".lock")] == []
    assert not registry.resolve("cover").folder.exists()
    registry.record_failure(registry.resolve("cover"), caught.value.reason)
    assert registry.resolve("cover").state.name == "failed"


def test_what_a_version_may_have_is_bounded_where_it_does_not_say_its_size(place, cache: Path):
    url, store = place
    folder = write(store.root / "cover" / "1")
    edit(folder, lambda serving: serving["artifacts"][0].pop("size"))
    write_index(store.root)
    with pytest.raises(ArtifactError, match="more than 100 bytes"):
        remote(url, cache, limit=100).open("cover")
    assert remote(url, cache, limit=1 << 20).open("cover").name == "cover"


def test_a_version_that_changed_under_its_number_is_not_taken_for_the_old_one(place, cache: Path):
    url, store = place
    folder = write(store.root / "cover" / "1")
    write_index(store.root)
    registry = remote(url, cache)
    first = registry.open("cover")
    write(folder, (0, 4, 9))
    # The index still means the old one; it is in the cache, and stays what it was.
    assert registry.open("cover").digest == first.digest
    shutil.rmtree(cache)
    with pytest.raises(ArtifactError, match="not the one that the registry's index means"):
        registry.open("cover")
    write_index(store.root)
    assert len(registry.open("cover").classes) == 3


def test_a_fetched_file_that_is_changed_in_the_cache_is_refused_when_it_is_loaded(place, cache: Path):
    url, store = place
    put(store)
    write_index(store.root)
    model = remote(url, cache).open("cover")
    (model.folder / "model.onnx").chmod(0o644)
    spoil_bytes(model.folder)
    with pytest.raises(ArtifactError, match="checksum"):
        live.load(model)


def test_another_models_probe_is_left_where_it_is(place, cache: Path):
    url, store = place
    version = put(store)
    (version.folder / "probe.json").write_text(json.dumps({"digest": "0" * 64}))
    write_index(store.root)
    registry = remote(url, cache)
    registry.open("cover")
    assert "probe.json" not in left_in(cache) and registry.resolve("cover").state.name == "verified"
    # It may be measured after it was first fetched.
    digest = registry.open("cover").digest
    (version.folder / "probe.json").write_text(json.dumps({"digest": digest}))
    registry.open("cover")
    assert registry.resolve("cover").state.name == "probed"


def test_a_fingerprint_tells_of_a_new_index(place, cache: Path):
    url, store = place
    put(store)
    write_index(store.root)
    registry = remote(url, cache)
    before = registry.fingerprint()
    registry.open("cover")
    assert registry.fingerprint() == before and registry.fingerprint("cover") != ""
    put(store)
    assert registry.fingerprint() == before, "what is not in the index is not there"
    write_index(store.root)
    after = registry.fingerprint()
    store.alias("cover", "default", 1)
    store.retire("cover:2")
    write_index(store.root)
    assert len({before, after, registry.fingerprint()}) == 3
    assert registry.resolve("cover").number == 1 and registry.resolve("cover:2").state.name == "retired"


def test_without_an_index_a_web_server_is_not_understood(place, cache: Path):
    url, store = place
    put(store)
    with pytest.raises(RegistryError, match=r"no index.json .* cannot be listed") as caught:
        remote(url, cache).names()
    assert "tiler models index" in caught.value.remedy


def test_what_is_not_there_is_told(place, cache: Path):
    url, store = place
    put(store)
    write_index(store.root)
    registry = remote(url, cache)
    with pytest.raises(UnknownModel, match="no model 'soil' in the registry. Known are: cover"):
        registry.resolve("soil")
    with pytest.raises(UnknownModel, match="no version 2"):
        registry.open("cover:2")
    with pytest.raises(RegistryError, match="cannot be a model name"):
        registry.shelf("../x")


@pytest.mark.parametrize(
    "text",
    [
        "<html>please log in</html>",
        "[]",
        '{"schema": 2, "models": {}}',
        '{"schema": 1}',
        '{"schema": 1, "models": {"cover": {}}}',
        '{"schema": 1, "models": {"../x": {"versions": {}}}}',
        '{"schema": 1, "models": {"cover": {"versions": {"01": {"manifest": "1220' + "a" * 64 + '"}}}}}',
        '{"schema": 1, "models": {"cover": {"versions": {"1": {"manifest": "abc"}}}}}',
        '{"schema": 1, "models": {"cover": {"versions": {"1": {}}, "aliases": []}}}',
        "[" * 100_000,
    ],
)
def test_an_index_that_is_none_is_refused(text: str):
    with pytest.raises(ModelError):
        read_index(text.encode())


# Which URLs, and what is never said


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://host/models", "cannot be at ftp://"),
        ("file:///models", "cannot be at file://"),
        ("https://", "cannot be at https://"),
        ("http://[::1", "cannot be read"),
        ("http://registry.example/models", "plain http"),
        ("https://host/models?sig=hunter2", "has a query"),
    ],
)
def test_urls_that_are_not_for_this_are_refused(url: str, says: str, cache: Path):
    with pytest.raises(RegistryError, match=says) as caught:
        open_store(url, cache)
    assert "hunter2" not in str(caught.value)


def test_a_folder_is_a_registry_as_well(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert isinstance(open_store(tmp_path / "models"), Store)
    assert isinstance(open_store("models"), Store)


def test_the_cache_can_be_put_elsewhere(place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    url, store = place
    put(store)
    write_index(store.root)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert open_store(url).open("cover").folder.is_relative_to(tmp_path / "xdg" / "titiler-inference" / "models")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "own"))
    assert open_store(url).open("cover").folder.is_relative_to(tmp_path / "own")
    (tmp_path / "file").write_text("")
    with pytest.raises(RegistryError, match="cannot be written") as caught:
        open_store(url, tmp_path / "file").open("cover")
    assert str(tmp_path) not in str(caught.value)


def test_credentials_are_never_told(place, cache: Path):
    url, store = place
    put(store)
    store.root.joinpath("cover", "1", "model.onnx").unlink()
    write_index(store.root)
    registry = remote(url.replace("http://", "http://user:hunter2@"), cache)
    assert registry.names() == ("cover",)
    dead = remote("http://user:hunter2@127.0.0.1:9/models", cache)
    for failing in (lambda: registry.open("cover"), dead.names):
        with pytest.raises(RegistryError) as caught:
            failing()
        said = "".join(traceback.format_exception(caught.value))
        assert "hunter2" not in said and "127.0.0.1" not in said


def test_two_that_fetch_one_version_at_once_share_it(place, cache: Path):
    url, store = place
    put(store)
    write_index(store.root)
    with ThreadPoolExecutor(4) as threads:
        models = list(threads.map(lambda _: remote(url, cache).open("cover"), range(8)))
    assert len({model.folder for model in models}) == 1
    assert sorted(left_in(cache)) == ["model.onnx", "model.yaml"]


def test_without_obstore_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    import sys

    for name in [name for name in sys.modules if name.split(".")[0] == "obstore"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(UnsupportedModel, match=r"titiler-inference\[remote\]"):
        open_store("s3://bucket/models")


# S3


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    pytest.importorskip("moto")
    pytest.importorskip("flask_cors")
    with web.s3() as address:
        yield address


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of an empty bucket; the environment is what an operator would set."""
    for key, value in {**SECRETS, "AWS_ENDPOINT_URL": s3, "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1"}.items():
        monkeypatch.setenv(key, value)
    name = f"bucket-{uuid.uuid4()}"
    web.make_bucket(s3, name)
    return name


def test_a_bucket_is_listed(bucket, tmp_path: Path, cache: Path):
    store = Store(tmp_path / "here" / "team" / "models")
    put(store)
    second = put(store, values=(0, 4, 9))
    put(store, "soil")
    store.alias("cover", "default", 1)
    store.retire("cover:2")
    (store.root / "cover" / ".staging-x").mkdir()
    (store.root / "cover" / ".staging-x" / "model.yaml").write_text("x")
    web.upload(bucket, tmp_path / "here")
    registry = open_store(f"s3://{bucket}/team/models/", cache)
    assert registry.names() == ("cover", "soil")
    assert registry.versions("cover") == (1, 2)
    assert registry.resolve("cover").aliases == ("default",)
    assert registry.resolve("cover:2").state.name == "retired"
    assert registry.open("cover:2").digest == store.open(second).digest
    assert registry.resolve("soil").number == 1
    before = registry.fingerprint()
    store.alias("cover", "canary", 1)
    web.upload(bucket, tmp_path / "here")
    assert registry.fingerprint() != before


def test_a_version_whose_manifest_has_not_come_yet_is_not_there(bucket, tmp_path: Path, cache: Path):
    store = Store(tmp_path / "models")
    put(store)
    put(store)
    web.upload(bucket, tmp_path)
    web.delete(bucket, "models/cover/2/model.yaml")
    registry = open_store(f"s3://{bucket}/models", cache)
    assert registry.versions("cover") == (1,) and registry.open("cover").version == "1"


def test_an_index_in_a_bucket_is_what_counts(bucket, tmp_path: Path, cache: Path):
    store = Store(tmp_path / "models")
    put(store)
    write_index(store.root)
    put(store)
    web.upload(bucket, tmp_path)
    assert open_store(f"s3://{bucket}/models", cache).versions("cover") == (1,)


def test_a_bucket_that_is_not_there_is_told_without_secrets(bucket, cache: Path):
    registry = open_store("s3://no-such-bucket-here/models", cache)
    with pytest.raises(RegistryError) as caught:
        registry.names()
    said = str(caught.value) + repr(caught.value.__cause__)
    assert not any(secret in said for secret in SECRETS.values()) and "127.0.0.1" not in said
