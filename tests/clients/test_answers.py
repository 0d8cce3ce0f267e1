"""What map clients were seen to need of a server's answers, asked for as they ask, plainly over HTTP.

A tile outside of the data is a transparent one of full size, and nothing else: 204 leaves an enlarged coarser tile
standing in OpenLayers, 404 does so in MapLibre and ends GDAL's reading, a picture of 1 x 1 px ends it too.
"""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import pytest
from PIL import Image

from tests.clients.places import PLACES
from tests.clients.server import Server
from tiler.settings import Settings

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MERCATOR = morecantile.tms.get("WebMercatorQuad")
WMTS = "{http://www.opengis.net/wmts/1.0}"
IMMUTABLE = "public, max-age=31536000, immutable"


def template(server: Server, scene: str) -> str:
    """Path of a pair's tiles at their present revision."""
    return str(server.tilejson(scene)["tiles"][0]).removeprefix(f"{server.address}/")


def filled(path: str, z: int, x: int, y: int) -> str:
    return path.replace("{z}", str(z)).replace("{x}", str(x)).replace("{y}", str(y))


@pytest.mark.parametrize(
    ("scale", "query", "size"),
    [("", "", 256), ("@2x", "", 512), ("", "?tilesize=512", 512), ("@2x", "?tilesize=512", 1024)],
)
@pytest.mark.parametrize("scene", PLACES)
def test_a_tile_without_data_is_transparent_of_full_size_and_kept(
    server: Server, scene: str, scale: str, query: str, size: int
) -> None:
    path = template(server, scene).replace(".png", f"{scale}.png{query}")
    lon, lat = PLACES[scene].center
    near = MERCATOR.tile(lon, lat, 18)
    for x, y in ((near.x + 9, near.y), (near.x, near.y - 9), (0, 0), (2**18 - 1, 2**18 - 1)):
        answer = server.get(filled(path, 18, x, y), Origin="https://somebody.example")
        assert (answer.status, answer.headers["content-type"]) == (200, "image/png")
        assert answer.headers["cache-control"] == IMMUTABLE and answer.headers["etag"]
        assert answer.headers["access-control-allow-origin"] == "*"
        picture = Image.open(io.BytesIO(answer.read()))
        assert picture.size == (size, size)
        assert not np.asarray(picture.convert("RGBA"))[..., 3].any()


@pytest.mark.parametrize("scene", PLACES)
def test_below_the_smallest_zoom_and_above_the_deepest_a_tile_is_a_tile(server: Server, scene: str) -> None:
    """A client that ignores the TileJSON's limits gets no error: above them the prediction enlarged, below nothing."""
    path, limits = template(server, scene), server.tilejson(scene)
    lon, lat = PLACES[scene].center
    for z, shown in ((max(limits["minzoom"] - 1, 0), limits["minzoom"] == 0), (limits["maxzoom"] + 2, True)):
        tile = MERCATOR.tile(lon - 3e-4, lat + 3e-4, z)
        answer = server.get(filled(path, *(tile.z, tile.x, tile.y)))
        assert answer.status == 200
        picture = np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGBA"))
        assert picture.shape == (256, 256, 4) and picture[..., 3].any() == shown


def test_a_tile_that_does_not_exist_is_an_error_that_nobody_keeps(server: Server) -> None:
    path = template(server, "utm")
    for wrong in (filled(path, 3, 8, 0), filled(path, 3, -1, 0), path.replace("{z}/{x}/{y}", "a/b/c")):
        answer = server.get(wrong, Origin="https://somebody.example")
        assert 400 <= answer.status < 500 and answer.headers["cache-control"] == "no-store"
        assert answer.headers["access-control-allow-origin"] == "*" and json.load(answer)["detail"]


def test_what_names_the_revision_is_asked_for_again_and_tiles_are_not(server: Server) -> None:
    """Kept for a minute, QGIS showed the old model after a restart: its capabilities came from its own disk."""
    for document in ("tilejson.json", "1.0.0/WMTSCapabilities.xml", "legend.json"):
        assert server.get(f"utm/landcover/{document}").headers["cache-control"] == "no-cache", document
    assert server.get("utm/landcover?service=WMTS&request=GetCapabilities").headers["cache-control"] == "no-cache"
    path = filled(template(server, "utm"), 18, *MERCATOR.tile(*PLACES["utm"].center, 18)[:2])
    first = server.get(path)
    assert first.headers["cache-control"] == IMMUTABLE
    again = server.get(path, **{"If-None-Match": first.headers["etag"]})
    assert again.status == 304 and again.read() == b""
    unnamed = server.get(re.sub("@[0-9a-f]{12}", "", path))
    assert unnamed.headers["cache-control"] == "public, max-age=60"


def test_a_request_is_given_up_before_qgis_gives_it_up() -> None:
    """QGIS waits 60 s, then leaves the place blank and does not ask again."""
    assert Settings.model_fields["timeout"].default <= 45


def test_what_esris_clients_ask_for_is_answered_without_a_query(server: Server) -> None:
    """They drop the query of a capabilities URL X, and ask X/1.0.0/WMTSCapabilities.xml, then X by key and value."""
    documents = []
    for path in (
        "utm/landcover/1.0.0/WMTSCapabilities.xml",
        "utm/landcover/1.0.0/WMTSCapabilities.xml?url=ignored&model=ignored",
        "utm/landcover?request=GetCapabilities&service=WMTS&version=1.0.0",
    ):
        answer = server.get(path)
        assert (answer.status, answer.headers["content-type"]) == (200, "application/xml")
        documents.append(answer.read())
    assert documents[0] == documents[1] == documents[2]
    assert len(documents[0]) < 20_000, "one layer, not one per tile matrix set"
    root = ElementTree.fromstring(documents[0])
    resource = root.find(f"{WMTS}Contents/{WMTS}Layer/{WMTS}ResourceURL")
    assert resource is not None
    link = resource.attrib["template"]
    assert "?" not in link and re.search("/utm/landcover@[0-9a-f]{12}/{TileMatrix}/{TileCol}/{TileRow}.png$", link)
    assert not re.search("opengis.net/def/crs", documents[0].decode()), "ArcMap rejects a CRS by its opengis.net URL"


def test_the_address_in_the_arcgis_example_is_one_that_answers(server: Server) -> None:
    """The script itself needs ArcGIS, which does not run here; what it asks for does."""
    text = (EXAMPLES / "arcgis.py").read_text(encoding="utf-8")
    compile(text, "arcgis.py", "exec")
    (address,) = set(re.findall(r'"http://127\.0\.0\.1:8000/demo/(\S+)"', text))
    assert server.get(f"utm/{address}").status == 200


def test_addresses_in_documents_follow_a_proxy_in_front(server: Server) -> None:
    headers = {"X-Forwarded-Proto": "https", "Host": "maps.example.org"}
    told: dict[str, Any] = json.load(server.get("utm/landcover/tilejson.json", **headers))
    assert told["tiles"][0].startswith("https://maps.example.org/utm/landcover@")
    assert told["name"] and "vector_layers" not in told
    xml = server.get("utm/landcover/1.0.0/WMTSCapabilities.xml", **headers).read().decode()
    assert 'template="https://maps.example.org/utm/landcover@' in xml
