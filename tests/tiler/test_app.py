"""The standalone application: names, revisions, documents, CORS, and what it opens of others' URLs."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import yaml
from fastapi import FastAPI
from pydantic import ValidationError
from starlette.testclient import TestClient

from model_registry.testing import conv_chain, write_model
from tests.tiler.files import FileServer, serving
from tests.tiler.helpers import MERCATOR, RES, landscape, rgba, scene_pixels_of_tile, tiles_over, write_scene
from tiler.allowed import allowed_path
from tiler.app import create_app
from tiler.errors import InferenceError
from tiler.settings import Settings

IMMUTABLE = "public, max-age=31536000, immutable"
SHORT = "public, max-age=60"
NS = {
    "wmts": "http://www.opengis.net/wmts/1.0",
    "ows": "http://www.opengis.net/ows/1.1",
}
HREF = "{http://www.w3.org/1999/xlink}href"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("app")


def network(folder: Path, classes: list[str], seed: int = 0) -> Path:
    window = {"multiple": 1, "period": 1, "halo": 1}
    net = conv_chain(layers=1, classes=len(classes), seed=seed)
    return write_model(folder, net, classes=classes, gsd=round(RES, 4), window=window, exactness="exact")


@pytest.fixture(scope="module")
def settings(folder: Path) -> dict[str, Any]:
    """Two scenes (one of 16 bit, which no model takes) and two models."""
    pixels = landscape(300, 400)
    return {
        "scenes": {
            "field": {"path": str(write_scene(folder / "field.tif", pixels)), "title": "The <field>"},
            "deep": {"path": str(write_scene(folder / "deep.tif", pixels.astype(np.uint16) * 40))},
        },
        "models": {
            "cover": str(network(folder / "cover", ["water", "forest", "soil"])),
            "roads": str(network(folder / "roads", ["road", "other"], seed=5)),
        },
    }


@pytest.fixture(scope="module")
def client(settings: dict[str, Any]) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(**settings))) as made:
        yield made


@pytest.fixture(scope="module")
def scene(folder: Path, client: TestClient) -> Path:
    return folder / "field.tif"


@pytest.fixture(scope="module")
def tile(scene: Path) -> str:
    item = tiles_over(scene)[0]
    return f"{item.z}/{item.x}/{item.y}"


@pytest.fixture(scope="module")
def revision(client: TestClient) -> str:
    return str(client.get("/field/cover/tilejson.json").json()["revision"])


@pytest.fixture(scope="module")
def center(client: TestClient) -> tuple[float, float]:
    lon, lat, _ = client.get("/tilejson.json").json()["center"]
    return lon, lat


# Names and revisions


def test_the_short_form_is_the_default_pair(client: TestClient, tile: str) -> None:
    short = client.get(f"/{tile}.png")
    assert short.status_code == 200 and short.headers["content-type"] == "image/png"
    assert client.get(f"/field/cover/{tile}.png").content == short.content
    assert client.get(f"/{tile}").content == short.content
    assert client.get(f"/field/roads/{tile}.png").content != short.content


def test_a_tile_shows_one_class_per_pixel_of_the_scene(client: TestClient, scene: Path) -> None:
    item = tiles_over(scene)[0]
    _, _, inside = scene_pixels_of_tile(scene, item, 256)
    picture = rgba(client.get(f"/{item.z}/{item.x}/{item.y}.png").content)
    np.testing.assert_array_equal(picture[..., 3] > 0, inside)
    legend = {entry["color"] for entry in client.get("/legend.json").json()}
    shown = {"#{:02x}{:02x}{:02x}".format(*color) for color in np.unique(picture[inside][:, :3], axis=0)}
    assert shown == legend and len(legend) == 3


def test_a_pinned_revision_is_kept_for_ever_and_a_bare_name_shortly(
    client: TestClient, tile: str, revision: str
) -> None:
    pinned = client.get(f"/field/cover@{revision}/{tile}.png")
    bare = client.get(f"/field/cover/{tile}.png")
    assert pinned.content == bare.content and pinned.headers["etag"] == bare.headers["etag"]
    assert pinned.headers["cache-control"] == IMMUTABLE
    assert bare.headers["cache-control"] == client.get(f"/{tile}.png").headers["cache-control"] == "public, max-age=60"


def test_a_pinned_tile_is_answered_with_304(client: TestClient, tile: str, revision: str) -> None:
    path = f"/field/cover@{revision}/{tile}.png"
    again = client.get(path, headers={"If-None-Match": client.get(path).headers["etag"]})
    assert again.status_code == 304 and again.headers["cache-control"] == IMMUTABLE and again.content == b""


def test_a_revision_that_is_gone_is_a_404_that_names_the_present_one(
    client: TestClient, tile: str, revision: str
) -> None:
    for path in (f"{tile}.png", "tilejson.json", "1.0.0/WMTSCapabilities.xml", "info", "legend.json"):
        answer = client.get(f"/field/cover@0123456789ab/{path}")
        assert answer.status_code == 404, path
        assert revision in answer.json()["detail"] and answer.headers["cache-control"] == "no-store"


def test_a_pair_that_does_not_fit_says_why_and_the_others_are_served(client: TestClient, tile: str) -> None:
    answer = client.get(f"/deep/cover/{tile}.png")
    assert answer.status_code == 422 and "the scene is uint16" in answer.json()["detail"]
    pairs = client.get("/api/pairs").json()
    assert [(pair["scene"], pair["model"]) for pair in pairs] == [("field", "cover"), ("field", "roads")]
    for pair in pairs:
        assert client.get("/" + pair["tilejson"]).status_code == 200
        z, x, y = tile.split("/")
        imagery = "/" + pair["imagery"].replace("{z}", z).replace("{x}", x).replace("{y}", y)
        assert client.get(imagery).headers["content-type"] == "image/png"


# Every endpoint, in the short form and by name: no route may hide another


@pytest.mark.parametrize("base", ["", "/field/cover"])
def test_every_endpoint_answers_in_the_short_form_and_by_name(
    client: TestClient, base: str, tile: str, center: tuple[float, float]
) -> None:
    lon, lat = center
    box = f"{lon - 1e-4},{lat - 1e-4},{lon + 1e-4},{lat + 1e-4}"
    questions = {
        f"/{tile}": "image/png",
        f"/{tile}.webp": "image/webp",
        f"/{tile}@2x.png": "image/png",
        f"/tiles/WebMercatorQuad/{tile}.png": "image/png",
        "/tiles": "application/json",
        "/tiles/WebMercatorQuad": "application/json",
        "/tilejson.json": "application/json",
        "/WebMercatorQuad/tilejson.json": "application/json",
        "/1.0.0/WMTSCapabilities.xml": "application/xml",
        f"/point/{lon},{lat}": "application/json",
        "/legend.json": "application/json",
        "/info": "application/json",
        "/info.geojson": "application/geo+json",
        "/statistics": "application/json",
        "/preview": "image/png",
        "/preview.tif": "image/tiff; application=geotiff",
        "/preview/20x10.png": "image/png",
        f"/bbox/{box}.png": "image/png",
        f"/bbox/{box}/30x20.png": "image/png",
    }
    for path, kind in questions.items():
        answer = client.get(base + path)
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind), (path, answer.text[:200])
    ring = [[lon, lat], [lon + 1e-4, lat], [lon, lat + 1e-4], [lon, lat]]
    area = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    for path in ("/statistics", "/feature", "/feature.png", "/feature/20x20.npy"):
        assert client.post(base + path, json=area).status_code == 200, path
    point = client.get(f"{base}/point/{lon},{lat}").json()
    assert point == client.get(f"/field/cover/point/{lon},{lat}").json()


def test_openapi_is_built_without_a_warning(client: TestClient, recwarn: pytest.WarningsRecorder) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    ids = [operation["operationId"] for item in paths.values() for operation in item.values()]
    assert len(ids) == len(set(ids))
    assert not [warning for warning in recwarn if "Operation ID" in str(warning.message)]


# Documents


def test_tilejson_is_complete_and_its_tiles_are_there(
    client: TestClient, scene: Path, tile: str, revision: str
) -> None:
    answer = client.get("/tilejson.json", params={"class": "forest"}).json()
    assert answer["tilejson"] == "3.0.0" and answer["revision"] == revision
    assert answer["name"] == "The <field>: cover"
    with rasterio.open(scene) as dataset:
        expected = rasterio.warp.transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    assert answer["bounds"] == pytest.approx(expected, abs=1e-9)
    west, south, east, north = answer["bounds"]
    lon, lat, zoom = answer["center"]
    assert west < lon < east and south < lat < north and zoom == answer["maxzoom"] == 18
    assert [item["name"] for item in answer["classes"]] == ["water", "forest", "soil"]
    assert answer["classes"] == [
        {key: item[key] for key in ("value", "name", "color")} for item in client.get("/legend.json").json()
    ]
    (link,) = answer["tiles"]
    assert link.startswith(f"http://testserver/field/cover@{revision}/") and link.endswith("?class=forest")
    z, x, y = tile.split("/")
    shown = client.get(link.replace("{z}", z).replace("{x}", x).replace("{y}", y))
    assert shown.headers["cache-control"] == IMMUTABLE
    assert shown.content == client.get(f"/{tile}.png", params={"class": "forest"}).content
    point = client.get(answer["point"].replace("{lon}", str(lon)).replace("{lat}", str(lat)))
    assert point.status_code == 200


def test_zooms_of_tilejson_are_those_that_are_predicted(client: TestClient, scene: Path) -> None:
    answer = client.get("/tilejson.json").json()
    lon, lat, _ = answer["center"]
    kinds = {}
    for zoom in (answer["minzoom"], answer["minzoom"] - 1):
        item = MERCATOR.tile(lon, lat, zoom)
        shown = client.get(f"/{item.z}/{item.x}/{item.y}.png")
        kinds[zoom] = shown.headers["x-inference"]
        assert (rgba(shown.content)[..., 3].any()) == (zoom == answer["minzoom"])
    assert kinds == {answer["minzoom"]: "predicted", answer["minzoom"] - 1: "zoom-in"}


def test_a_tile_that_says_zoom_in_is_not_kept_for_ever(settings: dict[str, Any]) -> None:
    """An operator may raise the limit, or somebody export the scene: the same address then shows a prediction."""
    seen = []
    for limit in (4096, 2048 * 2048):
        with TestClient(create_app(Settings(**settings, max_tile_pixels=limit))) as client:
            answer = client.get("/tilejson.json").json()
            item = MERCATOR.tile(*answer["center"][:2], 16)
            path = answer["tiles"][0].replace("{z}", "16").replace("{x}", str(item.x)).replace("{y}", str(item.y))
            seen.append((path, client.get(path).headers))
    (first, below), (second, shown) = seen
    assert first == second
    assert (below["x-inference"], below["cache-control"]) == ("zoom-in", SHORT)
    assert (shown["x-inference"], shown["cache-control"]) == ("predicted", IMMUTABLE)
    assert below["etag"] != shown["etag"]


def test_addresses_are_absolute_below_the_root_path_of_a_proxy(settings: dict[str, Any], tile: str) -> None:
    app = create_app(Settings(**settings))
    with TestClient(app, root_path="/proxy/maps") as client:
        headers = {"host": "maps.example.org"}
        (link,) = client.get("/proxy/maps/tilejson.json", headers=headers).json()["tiles"]
        assert link.startswith("http://maps.example.org/proxy/maps/field/cover@")
        xml = client.get("/proxy/maps/1.0.0/WMTSCapabilities.xml", headers=headers).text
        assert 'template="http://maps.example.org/proxy/maps/field/cover@' in xml
        inner = client.get("/proxy/maps/WebMercatorQuad/tilejson.json", headers=headers).json()["tiles"][0]
        assert inner.startswith("http://maps.example.org/proxy/maps/tiles/WebMercatorQuad/")


@pytest.mark.parametrize(
    "path",
    [
        "/1.0.0/WMTSCapabilities.xml",
        "/field/cover/1.0.0/WMTSCapabilities.xml",
        "/?service=WMTS&request=GetCapabilities&version=1.0.0",
        "/?SERVICE=WMTS&REQUEST=GetCapabilities",
        "/field/cover?Service=WMTS&Request=getcapabilities",
    ],
)
def test_wmts_has_one_layer_whose_tiles_are_there(client: TestClient, path: str, tile: str) -> None:
    answer = client.get(path)
    assert answer.headers["content-type"] == "application/xml"
    root = ElementTree.fromstring(answer.text)
    (layer,) = root.findall("wmts:Contents/wmts:Layer", NS)
    assert layer.findtext("ows:Title", namespaces=NS) == "The <field>: cover"
    assert layer.findtext("ows:Identifier", namespaces=NS) == "field-cover"
    assert [item.text for item in layer.findall("wmts:Format", NS)] == ["image/png"]
    assert layer.findtext("wmts:TileMatrixSetLink/wmts:TileMatrixSet", namespaces=NS) == "WebMercatorQuad"
    (matrix_set,) = root.findall("wmts:Contents/wmts:TileMatrixSet", NS)
    assert matrix_set.findtext("ows:SupportedCRS", namespaces=NS) == "urn:ogc:def:crs:EPSG::3857"
    tilejson = client.get("/tilejson.json").json()
    levels = [item.findtext("ows:Identifier", namespaces=NS) for item in matrix_set.findall("wmts:TileMatrix", NS)]
    assert levels == [str(z) for z in range(tilejson["minzoom"], tilejson["maxzoom"] + 1)]
    z, x, y = tile.split("/")
    (limits,) = [
        item for item in layer.iter(f"{{{NS['wmts']}}}TileMatrixLimits")
        if item.findtext("wmts:TileMatrix", namespaces=NS) == z
    ]  # fmt: skip
    low, high = (int(limits.findtext(f"wmts:{name}TileCol", "", NS)) for name in ("Min", "Max"))
    assert low <= int(x) <= high
    (resource,) = layer.findall("wmts:ResourceURL", NS)
    link = resource.attrib["template"]
    link = link.replace("{TileMatrix}", z).replace("{TileCol}", x).replace("{TileRow}", y)
    shown = client.get(link)
    assert shown.headers["cache-control"] == IMMUTABLE
    expected = client.get(f"/{tile}.png").content
    assert shown.content == expected
    get_tile = root.find(".//ows:Operation[@name='GetTile']//ows:Get", NS)
    assert get_tile is not None
    kvp = client.get(
        f"{get_tile.attrib[HREF]}service=WMTS&request=GetTile&version=1.0.0&layer=field-cover"
        f"&style=default&format=image/png&tilematrixset=WebMercatorQuad&tilematrix={z}&tilecol={x}&tilerow={y}"
    )
    assert kvp.content == expected


def test_wmts_by_kvp_takes_any_case_and_refuses_what_is_not_there(client: TestClient, tile: str) -> None:
    z, x, y = tile.split("/")
    expected = client.get(f"/{tile}.png").content
    for base in ("/", "/field/cover"):
        for name in (str.upper, str.lower, str.title):
            query = {
                name(key): value
                for key, value in {"request": "GetTile", "tilematrix": z, "tilecol": x, "tilerow": y}.items()
            }
            assert client.get(base, params=query).content == expected
        for query in (
            {"request": "GetFeatureInfo"},
            {"request": "GetTile"},
            {"request": "GetTile", "tilematrix": "a", "tilecol": x, "tilerow": y},
            {"request": "GetTile", "tilematrix": z, "tilecol": -1, "tilerow": y},
            {"request": "GetTile", "tilematrixset": "Other", "tilematrix": z, "tilecol": x, "tilerow": y},
        ):
            answer = client.get(base, params=query)
            assert answer.status_code == 400, query
            assert answer.headers["cache-control"] == "no-store"


GDAL_CLIENT = """
import sys, rasterio
with rasterio.open(sys.argv[1]) as dataset:
    assert dataset.crs.to_epsg() == 3857
    picture = dataset.read(window=dataset.window(*map(float, sys.argv[2:])).round())
assert picture.shape[0] == 4 and picture[3].mean() > 250
assert picture[:3].reshape(3, -1).std(axis=1).min() > 0
"""


def test_gdal_reads_the_wmts(settings: dict[str, Any], scene: Path) -> None:
    """GDAL's own client, over a real socket; in a process of its own, since it may keep Python's global lock."""
    with rasterio.open(scene) as truth:
        bounds = [str(value) for value in truth.bounds]
    with running(create_app(Settings(**settings))) as address:
        source = f"WMTS:{address}/1.0.0/WMTSCapabilities.xml,layer=field-cover"
        command = [sys.executable, "-c", GDAL_CLIENT, source, *bounds]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


# What a browser needs


def test_every_answer_may_be_read_by_other_origins(client: TestClient, tile: str) -> None:
    origin = {"Origin": "https://somebody.example"}
    questions = {
        f"/{tile}.png": 200,
        "/tilejson.json": 200,
        "/legend.json": 200,
        f"/field/imagery/{tile}.png": 200,
        "/1.0.0/WMTSCapabilities.xml": 200,
        f"/nope/cover/{tile}.png": 404,
        f"/field/cover@0123456789ab/{tile}.png": 404,
        "/there/is/nothing/here": 404,
        "/99/0/0.png": 400,
        "/a/b/c.png": 422,
        f"/deep/cover/{tile}.png": 422,
    }
    for path, status in questions.items():
        answer = client.get(path, headers=origin)
        assert (answer.status_code, answer.headers.get("access-control-allow-origin")) == (status, "*"), path
        if status >= 400:
            assert answer.headers["cache-control"] == "no-store" and answer.json()["detail"], path
    exposed = client.get(f"/{tile}.png", headers=origin).headers["access-control-expose-headers"]
    assert {"ETag", "X-Inference", "X-Revision", "Retry-After"} <= set(exposed.split(", "))
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}
    asked = client.options("/statistics", headers={**origin, **wanted})
    assert asked.status_code == 200 and "POST" in asked.headers["access-control-allow-methods"]


def test_origins_can_be_limited(settings: dict[str, Any], tile: str) -> None:
    with TestClient(create_app(Settings(**settings, cors_origins=["https://ours.example"]))) as client:
        ours = client.get(f"/{tile}.png", headers={"Origin": "https://ours.example"})
        theirs = client.get(f"/{tile}.png", headers={"Origin": "https://theirs.example"})
    assert ours.headers["access-control-allow-origin"] == "https://ours.example"
    assert "access-control-allow-origin" not in theirs.headers


def test_health_is_told(client: TestClient) -> None:
    answer = client.get("/healthz")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok" and answer.json()["models"] == ["cover", "roads"]


def test_the_page_is_served(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("text/html")
    assert client.get("/static/map.js").status_code == 200


def test_the_scene_itself_is_shown(client: TestClient, scene: Path) -> None:
    item = tiles_over(scene)[0]
    path = f"{item.z}/{item.x}/{item.y}"
    picture = rgba(client.get(f"/field/imagery/{path}.png").content)
    rows, cols, inside = scene_pixels_of_tile(scene, item, 256)
    with rasterio.open(scene) as dataset:
        pixels = np.moveaxis(dataset.read(), 0, -1)
    # A pixel that hangs half over the edge may be shown.
    assert ((picture[..., 3] > 0) == inside).mean() > 0.99
    # Resampled by less than half a pixel: the same landscape, not the same numbers.
    shown, truth = picture[inside][:, :3].astype(float), pixels[rows[inside], cols[inside]].astype(float)
    assert np.corrcoef(shown.ravel(), truth.ravel())[0, 1] > 0.8
    assert rgba(client.get(f"/field/imagery/{path}@2x.png").content).shape == (512, 512, 4)
    assert client.get(f"/deep/imagery/{path}.png").status_code == 200
    outside = client.get("/field/imagery/18/0/0.png")
    assert outside.status_code == 200 and not rgba(outside.content)[..., 3].any()
    assert client.get(f"/nope/imagery/{path}.png").status_code == 404
    assert client.get("/field/imagery/18/-1/0.png").status_code == 400


# Others' URLs


def test_without_a_list_no_url_is_taken(client: TestClient, scene: Path, tile: str) -> None:
    assert client.get("/cog/info", params={"url": str(scene)}).status_code == 404
    assert client.get("/cog/inference/cover/info", params={"url": str(scene)}).status_code in (404, 422)
    # Where url= is no parameter, it changes nothing.
    other = client.get(f"/{tile}.png", params={"url": "file:///data/other.tif"})
    assert other.content == client.get(f"/{tile}.png").content
    assert not [path for path in client.app.openapi()["paths"] if path.startswith("/cog")]


@pytest.fixture(scope="module")
def files(folder: Path, scene: Path) -> Iterator[FileServer]:
    """A file server on the loopback interface: /open is what will be allowed."""
    root = folder / "files"
    for place in ("open", "open/deep", "secret", "open-and-secret"):
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / "scene.tif").write_bytes(scene.read_bytes())
    # A VRT that names a local file, under a name that does not say so.
    (root / "open" / "vrt.tif").write_text(
        '<VRTDataset rasterXSize="400" rasterYSize="300"><SRS>EPSG:3857</SRS>'
        f"<GeoTransform>1000, {RES}, 0, 5000, 0, -{RES}</GeoTransform>"
        + "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource><SourceFilename>{scene}</SourceFilename>'
            f"<SourceBand>{band}</SourceBand></SimpleSource></VRTRasterBand>"
            for band in (1, 2, 3)
        )
        + "</VRTDataset>"
    )
    with serving(root) as server:
        yield server


@pytest.fixture(scope="module")
def asking(settings: dict[str, Any], files: FileServer) -> Iterator[TestClient]:
    """An application that may open what is below /open on the file server."""
    made = Settings(**settings, allowed_urls=[f"{files.address}/open"], allow_private_addresses=True)
    with TestClient(create_app(made), raise_server_exceptions=False) as client:
        yield client


def test_the_vrt_is_one_that_gdal_would_open(files: FileServer) -> None:
    """The refusal below can fail: GDAL itself reads the file behind it."""
    with rasterio.open(f"/vsicurl/{files.address}/open/vrt.tif") as dataset:
        assert dataset.driver == "VRT" and dataset.read(1).any()


def test_an_allowed_url_is_served(asking: TestClient, client: TestClient, files: FileServer, tile: str) -> None:
    for place in ("open/scene.tif", "open/deep/scene.tif"):
        answer = asking.get(
            f"/cog/inference/cover/tiles/WebMercatorQuad/{tile}.png", params={"url": f"{files.address}/{place}"}
        )
        assert answer.status_code == 200, answer.text
        assert answer.content == client.get(f"/field/cover/{tile}.png").content
    assert asking.get("/cog/info", params={"url": f"{files.address}/open/scene.tif"}).json()["count"] == 3
    # The named pairs stay what they were.
    assert asking.get(f"/{tile}.png").content == client.get(f"/{tile}.png").content


FORBIDDEN = [
    "{files}/secret/scene.tif",
    "{files}/open-and-secret/scene.tif",
    "{files}/open/../secret/scene.tif",
    "{files}/open/%2e%2e/secret/scene.tif",
    "{files}/open/%2E./secret/scene.tif",
    "{files}/open/..%2fsecret/scene.tif",
    "{files}/open/%252e%252e/secret/scene.tif",
    "{files}/open/..\\secret\\scene.tif",
    "{files}/open/%5c..%5csecret/scene.tif",
    "{files}/open/./scene.tif",
    "{files}/open/moved.tif",
    "{files}/open/vrt.tif",
    "{files}/open/missing.tif",
    "{files}/open",
    "http://user:secret@{host}/open/scene.tif",
    "http://{host}@127.0.0.2/open/scene.tif",
    "http://{host}#@127.0.0.2/open/scene.tif",
    "http://{host}.example/open/scene.tif",
    "http://localhost:{port}/open/scene.tif",
    "https://{host}/open/scene.tif",
    "ftp://{host}/open/scene.tif",
    "//{host}/open/scene.tif",
    "file://{scene}",
    "FILE://{scene}",
    "{scene}",
    "/vsicurl/{files}/open/scene.tif",
    "/vsizip/{scene}",
    "/vsimem/scene.tif",
    "vrt://{files}/open/scene.tif",
    "GTIFF_DIR:1:{scene}",
    "WMS:{files}/open/scene.tif",
    "<VRTDataset/>",
    "http://[::1",
    "http://{host}:99999999/open/scene.tif",
    "",
    "\x00",
]


@pytest.mark.parametrize("template", FORBIDDEN)
def test_whatever_is_not_plainly_below_a_prefix_is_refused(
    asking: TestClient, files: FileServer, scene: Path, template: str, tile: str
) -> None:
    host = files.address.removeprefix("http://")
    url = template.format(files=files.address, host=host, port=host.rpartition(":")[2], scene=scene)
    before = len(files.asked)
    for path in ("info", "inference/cover/info", f"inference/cover/tiles/WebMercatorQuad/{tile}.png"):
        answer = asking.get(f"/cog/{path}", params={"url": url})
        assert 400 <= answer.status_code < 500, answer.text[:300]
        assert answer.json()["detail"] and answer.headers["cache-control"] == "no-store"
        assert "secret@" not in answer.text and str(scene.parent) not in answer.text
    assert not [path for path in files.asked[before:] if "secret" in path]


def test_private_addresses_are_refused_unless_allowed(settings: dict[str, Any], files: FileServer) -> None:
    made = Settings(**settings, allowed_urls=[f"{files.address}/open/", "http://169.254.169.254/", "http://[::1]/"])
    before = len(files.asked)
    with TestClient(create_app(made)) as client:
        for url in (f"{files.address}/open/scene.tif", "http://169.254.169.254/latest/x.tif", "http://[::1]/x.tif"):
            answer = client.get("/cog/inference/cover/info", params={"url": url})
            assert answer.status_code == 403, answer.text
            assert "private network" in answer.json()["detail"]
    assert len(files.asked) == before


@pytest.mark.parametrize("prefix", ["/data", "file:///data/", "https://", "example.org/x/", "https://a.example/?x=1"])
def test_a_prefix_that_cannot_be_meant_is_an_error_at_the_start(settings: dict[str, Any], prefix: str) -> None:
    with pytest.raises(InferenceError, match="allowed_urls"):
        allowed_path([prefix])
    with pytest.raises(InferenceError, match="allowed_urls"):
        create_app(Settings(**settings, allowed_urls=[prefix]))


# Settings


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name.startswith("TILER_"):
            monkeypatch.delenv(name)
    return monkeypatch


def test_a_file_sets_everything_and_the_environment_overrides_it(
    settings: dict[str, Any], tmp_path: Path, clean: pytest.MonkeyPatch, tile: str
) -> None:
    file = tmp_path / "tiler.yaml"
    file.write_text(
        yaml.safe_dump({**settings, "default_model": "roads", "max_side": 300, "timeout": 11}, sort_keys=False)
    )
    clean.setenv("TILER_CONFIG", str(file))
    clean.setenv("TILER_MAX_SIDE", "600")
    clean.setenv("TILER_CORS_ORIGINS", '["https://ours.example"]')
    clean.setenv("TILER_SCENES__FIELD__TITLE", "Ours")
    made = Settings()
    assert (made.max_side, made.timeout, made.cors_origins) == (600, 11, ["https://ours.example"])
    assert list(made.scenes) == ["field", "deep"] and made.scenes["field"].title == "Ours"
    assert made.default_pair == ("field", "roads")
    assert Settings(timeout=7).timeout == 7
    with TestClient(create_app()) as client:
        assert client.get("/tilejson.json").json()["name"] == "Ours: roads"
        assert client.get(f"/{tile}.png", params={"tilesize": 600}).status_code == 200
        assert client.get(f"/{tile}.png", params={"tilesize": 601}).status_code == 400


def test_the_environment_alone_is_enough(settings: dict[str, Any], clean: pytest.MonkeyPatch) -> None:
    clean.setenv("TILER_SCENES__FIELD__PATH", settings["scenes"]["field"]["path"])
    clean.setenv("TILER_MODELS__COVER", settings["models"]["cover"])
    assert Settings().default_pair == ("field", "cover")


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"scene": {}}, "scene"),
        ({"scenes": {"a": {"path": "x", "colour": "red"}}}, "colour"),
        ({"scenes": {"a": {}}}, "path"),
        ({"scenes": {"imagery": {"path": "x"}}}, "imagery"),
        ({"scenes": {"a/b": {"path": "x"}}}, "a/b"),
        ({"scenes": {"1": {"path": "x"}}}, "1"),
        ({"models": {"m@1": "x"}}, "m@1"),
        ({"default_scene": "nope"}, "nope"),
        ({"default_model": "nope"}, "nope"),
        ({"timeout": 0}, "timeout"),
        ({"max_side": 2}, "max_side"),
        ({"max_gsd_factor": 0.5}, "max_gsd_factor"),
        ({"threads": "many"}, "threads"),
    ],
)
def test_settings_that_cannot_be_meant_are_named(
    given: dict[str, Any], where: str, tmp_path: Path, clean: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValidationError, match=where):
        Settings(**given)
    file = tmp_path / "tiler.yaml"
    file.write_text(yaml.safe_dump(given))
    clean.setenv("TILER_CONFIG", str(file))
    with pytest.raises(ValidationError, match=where):
        Settings()


@pytest.mark.parametrize(("text", "what"), [("a: [", "line 1"), ("- a\n- b\n", "mapping"), ("just words", "mapping")])
def test_a_file_that_is_no_mapping_is_named(text: str, what: str, tmp_path: Path, clean: pytest.MonkeyPatch) -> None:
    file = tmp_path / "tiler.yaml"
    file.write_text(text)
    clean.setenv("TILER_CONFIG", str(file))
    with pytest.raises(InferenceError, match=f"'tiler.yaml' is not a YAML mapping.*{what}|{what}"):
        Settings()
    clean.setenv("TILER_CONFIG", str(tmp_path / "other.yaml"))
    with pytest.raises(InferenceError, match="'other.yaml', which is not there"):
        Settings()


def test_a_default_pair_that_does_not_fit_ends_the_start(settings: dict[str, Any]) -> None:
    with pytest.raises(InferenceError, match="uint16"):
        create_app(Settings(**settings, default_scene="deep"))


def test_an_application_with_nothing_to_serve_still_answers(clean: pytest.MonkeyPatch) -> None:
    with TestClient(create_app(Settings())) as client:
        assert client.get("/healthz").status_code == 200
        assert client.get("/api/pairs").json() == []
        assert client.get("/1/0/0.png").status_code == 404


def test_bands_can_be_chosen_for_a_scene(settings: dict[str, Any], tile: str) -> None:
    path = settings["scenes"]["field"]["path"]
    chosen = {"found": None, "same": [1, 2, 3], "turned": [3, 2, 1]}
    scenes = {name: {"path": path, "bands": bands} for name, bands in chosen.items()}
    with TestClient(create_app(Settings(scenes=scenes, models=settings["models"]))) as client:
        classes = {
            name: np.load(io.BytesIO(client.get(f"/{name}/cover/{tile}.npy").content)) for name in chosen
        }  # fmt: skip
    np.testing.assert_array_equal(classes["found"], classes["same"])
    assert (classes["found"] != classes["turned"]).any()


class running:
    """A real server on the loopback interface, on a port that is free."""

    def __init__(self, app: FastAPI) -> None:
        import uvicorn

        self.server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
        self.thread = threading.Thread(target=self.server.run, daemon=True)

    def __enter__(self) -> str:
        self.thread.start()
        while not self.server.started:
            assert self.thread.is_alive()
            self.thread.join(0.01)
        return f"http://127.0.0.1:{self.server.servers[0].sockets[0].getsockname()[1]}"

    def __exit__(self, *_: object) -> None:
        self.server.should_exit = True
        self.thread.join()
