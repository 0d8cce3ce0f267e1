"""From a user's words to a list of scenes; STAC documents from files and from a server of the test's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from tiler.errors import RequestError
from tiler.export.scenes import scenes_of

COG = "image/tiff; application=geotiff; profile=cloud-optimized"


def item(name: str, assets: dict[str, dict[str, Any]], **fields: Any) -> dict[str, Any]:
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": name,
        "geometry": {"type": "Point", "coordinates": [9, 50]},
        "bbox": [9, 50, 9, 50],
        "properties": {"datetime": "2024-01-01T00:00:00Z"},
        "links": [],
        "assets": assets,
        **fields,
    }


def collection(*items: dict[str, Any], links: list[dict[str, Any]] | None = None) -> dict[str, Any]:
    return {"type": "FeatureCollection", "features": list(items), "links": links or []}


def cog(href: str, *roles: str) -> dict[str, Any]:
    return {"href": href, "type": COG, "roles": list(roles)}


def write(path: Path, document: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("x/b.tif", "x/a.tif", "y/a.tif", "y/deep/c.tif", "y/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    return tmp_path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(tmp_path))

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as http:
        Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_files_and_globs_in_order_and_once(folder: Path) -> None:
    found = scenes_of([str(folder / "y/deep/c.tif"), f"{folder}/x/*.tif", f"{folder}/**/c.tif"])
    assert [scene.name for scene in found] == ["c", "a", "b"]
    assert found[1].source == str(folder / "x/a.tif")


def test_files_of_one_name_get_their_folder_in_front(folder: Path) -> None:
    assert [scene.name for scene in scenes_of([f"{folder}/*/*.tif"])] == ["x-a", "b", "y-a"]
    (folder / "z/x").mkdir(parents=True)
    (folder / "z/x/A.tif").write_bytes(b"")
    with pytest.raises(RequestError, match="x-"):
        scenes_of([f"{folder}/**/*.tif", str(folder / "z/x/A.tif")])


def test_names_can_be_files_everywhere(tmp_path: Path) -> None:
    (tmp_path / "..été: 1?.tif").write_bytes(b"")
    (tmp_path / "[1].tif").write_bytes(b"")
    assert [scene.name for scene in scenes_of([str(tmp_path / "..été: 1?.tif"), str(tmp_path / "[1].tif")])] == [
        "t-1",
        "1",
    ]


def test_urls_are_as_given_and_their_secrets_stay(folder: Path) -> None:
    url = "https://user:secret@host.example/data/scene.tif?token=secret"
    (scene,) = scenes_of([url])
    assert (scene.name, scene.source) == ("scene", url)
    assert "secret" not in repr(scene)
    with pytest.raises(RequestError) as told:
        scenes_of([url, url.replace("=secret", "=secret2")])
    assert "secret" not in str(told.value)


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("none.tif", "no file 'none.tif'"),
        ("x/*.jp2", r"'\*.jp2' finds no file"),
        ("x", r"folder.*x/\*.tif"),
        ("none.json", "'none.json' is not there"),
        ("s3://bucket/items.json", "object store"),
        ("http://127.0.0.1:1/items.json?token=secret", "'items.json' cannot be read"),
        ("http://user:secret@127.0.0.1:1/items.json", "'items.json' cannot be read"),
    ],
)
def test_what_is_not_there(folder: Path, word: str, told: str) -> None:
    with pytest.raises(RequestError, match=told) as error:
        scenes_of([word if "://" in word else f"{folder}/{word}"])
    assert error.value.remedy
    assert str(folder) not in str(error.value) and "secret" not in str(error.value)


def test_nothing() -> None:
    with pytest.raises(RequestError, match="no scene"):
        scenes_of([])


def test_an_item_in_a_file(tmp_path: Path) -> None:
    assets = {"data": cog("./img/a.tif"), "small": cog("t.tif", "thumbnail"), "x": {"href": "m.xml"}}
    (scene,) = scenes_of([write(tmp_path / "a" / "item.json", item("S2/A", assets))])
    assert (scene.name, scene.source) == ("S2-A", str(tmp_path / "a/img/a.tif"))


def test_items_in_a_file(tmp_path: Path) -> None:
    own = [{"rel": "self", "href": "https://host.example/c/two.json", "type": "application/json"}]
    beside = [{"rel": "self", "href": "./three.json", "type": "application/json"}]
    document = collection(
        item("one", {"a": cog("one.tif")}),
        item("two", {"a": cog("../two.tif")}, links=own),
        item("three", {"a": cog("three.tif")}, links=beside),
        item("four", {"a": cog("s3://bucket/four.tif")}, collection="c"),
    )
    found = scenes_of([write(tmp_path / "items.geojson", document)])
    assert [(scene.name, scene.source) for scene in found] == [
        ("one", str(tmp_path / "one.tif")),
        ("two", "https://host.example/two.tif"),
        ("three", str(tmp_path / "three.tif")),
        ("four", "s3://bucket/four.tif"),
    ]


@pytest.mark.parametrize(
    ("assets", "chosen"),
    [
        ({"a": cog("a.tif"), "b": {"href": "b.png", "type": "image/png"}}, "a"),
        ({"a": {"href": "A.TIF"}, "b": {"href": "b.xml"}}, "a"),
        ({"a": cog("a.tif", "data"), "visual": cog("v.tif", "visual")}, "visual"),
        ({"a": cog("a.tif", "data"), "b": cog("b.tif", "cloud")}, "a"),
        ({"a": cog("a.tif", "data"), "b": cog("b.tif", "overview")}, "a"),
    ],
)
def test_the_asset_that_is_meant(tmp_path: Path, assets: dict[str, dict[str, Any]], chosen: str) -> None:
    (scene,) = scenes_of([write(tmp_path / "i.json", item("i", assets))])
    assert scene.source == str(tmp_path / assets[chosen]["href"])


def test_an_asset_must_be_chosen(tmp_path: Path) -> None:
    assets = {"B02": cog("2.tif", "data"), "B03": cog("3.tif", "data"), "meta": {"href": "m"}}
    place = write(tmp_path / "i.json", item("i", assets))
    with pytest.raises(RequestError, match=r"'i' has several .*--asset: B02, B03"):
        scenes_of([place])
    assert scenes_of([place], asset="B03")[0].source == str(tmp_path / "3.tif")
    with pytest.raises(RequestError, match=r"no asset 'B04'. Its assets: B02, B03, meta"):
        scenes_of([place], asset="B04")
    with pytest.raises(RequestError, match=r"no asset that is a GeoTIFF.*m"):
        scenes_of([write(tmp_path / "j.json", item("j", {"m": {"href": "m.xml"}}))])


@pytest.mark.parametrize(
    "document",
    [
        [],
        {"type": "Collection", "id": "c"},
        {"type": "Polygon", "coordinates": []},
        collection(),
        {"type": "FeatureCollection", "features": 3},
        collection({"type": "Feature", "geometry": None, "properties": {}}),
        collection({"type": "Feature", "assets": {"a": {}}, "id": "x"}),
        {"type": "FeatureCollection", "features": ["x"]},
    ],
)
def test_documents_that_are_not_items(tmp_path: Path, document: Any) -> None:
    with pytest.raises(RequestError) as error:
        scenes_of([write(tmp_path / "d.json", document)])
    assert "d.json" in str(error.value) and str(tmp_path) not in str(error.value)
    assert error.value.remedy


def test_items_from_a_server(tmp_path: Path, server: str) -> None:
    """An address of an API has no ending; its pages are read one after the other, relative links from where it is."""
    write(tmp_path / "c" / "items" / "one", item("one", {"a": cog("../one.tif")}))
    (scene,) = scenes_of([f"{server}/c/items/one"])
    assert scene.source == f"{server}/c/one.tif"
    more = [{"rel": "next", "href": "second.json"}]
    write(tmp_path / "first.json", collection(item("one", {"a": cog("x/one.tif")}), links=more))
    write(tmp_path / "second.json", collection(item("two", {"a": cog("gs://b/two.tif")})))
    assert [scene.source for scene in scenes_of([f"{server}/first.json"])] == [f"{server}/x/one.tif", "gs://b/two.tif"]
    with pytest.raises(RequestError, match="404"):
        scenes_of([f"{server}/none.json?token=secret"])


def test_pages_that_cannot_be_followed(tmp_path: Path, server: str) -> None:
    one = item("one", {"a": cog("https://host.example/one.tif")})
    for name, link in (
        ("post", {"rel": "next", "href": f"{server}/search", "method": "POST", "body": {}}),
        ("file", {"rel": "next", "href": "file:///etc/hostname"}),
        ("ring", {"rel": "next", "href": f"{server}/ring.json"}),
    ):
        write(tmp_path / f"{name}.json", collection(one, links=[link]))
        with pytest.raises(RequestError, match="page"):
            scenes_of([f"{server}/{name}.json"])
    with pytest.raises(RequestError, match="page"):
        scenes_of([str(tmp_path / "ring.json")])


@pytest.mark.parametrize("href", ["file:///etc/hostname.tif", "/vsicurl/http://x/y.tif"])
def test_a_server_does_not_name_files_of_this_machine(tmp_path: Path, server: str, href: str) -> None:
    write(tmp_path / "i.json", item("i", {"a": cog(href)}))
    with pytest.raises(RequestError, match="not at a URL"):
        scenes_of([f"{server}/i.json"])
    own = [{"rel": "self", "href": "/etc/i.json"}]
    write(tmp_path / "j.json", collection(item("j", {"a": cog("a.tif")}, links=own)))
    with pytest.raises(RequestError, match="not at a URL"):
        scenes_of([f"{server}/j.json"])
