"""What the host application decides holds for the new routes, too: who may ask, what is opened, and how."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import attr
import numpy as np
import pytest
import rasterio
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Query
from morecantile import TileMatrixSets
from rio_tiler.io import Reader, STACReader
from starlette.testclient import TestClient
from titiler.core.factory import AlgorithmFactory, BaseFactory, MultiBaseTilerFactory, TilerFactory
from titiler.core.routing import EndpointScope

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import MERCATOR, RES, landscape, square_tiles, tiles_over, write_scene
from tiler.extension import inferenceExtension


def auth(token: Annotated[str | None, Header()] = None) -> None:
    if token != "open sesame":
        raise HTTPException(401, "no")


OPEN = {"token": "open sesame"}
TILE = "/inference/{model}/tiles/{tileMatrixSetId}/{z}/{x}/{y}"
# As TiTiler's users write them: one scope per path template.
SCOPES: list[EndpointScope] = [
    *({"path": TILE + end, "method": "GET"} for end in ("", ".{format}", "@{scale}x", "@{scale}x.{format}")),
    {"path": "/inference/{model}/{tileMatrixSetId}/tilejson.json", "method": "GET"},
    {"path": "/inference/{model}/{tileMatrixSetId}/map.html", "method": "GET"},
    {"path": "/inference/{model}/point/{lon},{lat}", "method": "GET"},
    {"path": "/inference/{model}/statistics", "method": "GET"},
    {"path": "/inference/{model}/statistics", "method": "POST"},
    {"path": "/inference/{model}/feature.{format}", "method": "POST"},
    {"path": "/inference/{model}/accuracy", "method": "POST"},
    {"path": "/inference/{model}/areas", "method": "POST"},
    {"path": "/inference/{model}/bbox/{minx},{miny},{maxx},{maxy}.{format}", "method": "GET"},
    {"path": "/inference/{model}/preview.{format}", "method": "GET"},
    {"path": "/inference/{model}/info", "method": "GET"},
    {"path": "/inference/{model}/legend.json", "method": "GET"},
    {"path": "/inference", "method": "GET"},
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("auth")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    write_scene(folder / "labels.tif", landscape(200, 300, bands=1) % 3)
    return write_scene(folder / "scene.tif", landscape(200, 300))


@pytest.fixture(scope="module")
def extension(folder: Path) -> Callable[..., inferenceExtension]:
    window = {"multiple": 1, "period": 1, "halo": 1}
    network = conv_chain(layers=1, classes=3)
    model = write_model(folder / "net", network, classes=["a", "b", "c"], gsd=round(RES, 4), window=window,
                        exactness="exact")  # fmt: skip
    return lambda **options: inferenceExtension(models={"net": str(model)}, **options)


def serve(factory: TilerFactory, prefix: str = "/cog", **options: Any) -> TestClient:
    app = FastAPI(**options.pop("app", {}))
    app.include_router(factory.router, prefix=prefix, **options)
    return TestClient(app, raise_server_exceptions=False)


def questions(scene: Path) -> list[tuple[str, str, Any]]:
    """One question to each of the new routes: method, path below the factory, body."""
    tile = tiles_over(scene)[0]
    with rasterio.open(scene) as dataset:
        west, south, east, north = rasterio.warp.transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    place = f"inference/net/tiles/WebMercatorQuad/{tile.z}/{tile.x}/{tile.y}"
    ring = [[west, south], [east, south], [east, north], [west, south]]
    area = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    return [
        *(("GET", place + end, None) for end in ("", ".png", "@2x", "@2x.png")),
        ("GET", "inference/net/WebMercatorQuad/tilejson.json", None),
        ("GET", "inference/net/WebMercatorQuad/map.html", None),
        ("GET", f"inference/net/point/{(west + east) / 2},{(south + north) / 2}", None),
        ("GET", "inference/net/statistics", None),
        ("POST", "inference/net/statistics", area),
        ("POST", "inference/net/feature.png", area),
        ("POST", "inference/net/accuracy", area),
        ("POST", "inference/net/areas", area),
        ("GET", f"inference/net/bbox/{west},{south},{east},{north}.png", None),
        ("GET", "inference/net/preview.png", None),
        ("GET", "inference/net/info", None),
        ("GET", "inference/net/legend.json", None),
        ("GET", "inference", None),
    ]


WAYS: dict[str, Callable[[inferenceExtension], TestClient]] = {
    "router": lambda ext: serve(TilerFactory(router=APIRouter(dependencies=[Depends(auth)]), extensions=[ext])),
    "route dependencies": lambda ext: serve(
        TilerFactory(route_dependencies=[(SCOPES, [Depends(auth)])], extensions=[ext])
    ),
    "include": lambda ext: serve(TilerFactory(extensions=[ext]), dependencies=[Depends(auth)]),
    "application": lambda ext: serve(TilerFactory(extensions=[ext]), app={"dependencies": [Depends(auth)]}),
}


@pytest.mark.slow
@pytest.mark.parametrize("way", [*WAYS, "extension"])
def test_auth_covers_every_new_route(extension: Callable[..., inferenceExtension], scene: Path, way: str) -> None:
    if way == "extension":
        client = serve(TilerFactory(extensions=[extension(dependencies=[Depends(auth)])]))
    else:
        client = WAYS[way](extension())
    for method, path, body in questions(scene):
        ask = {"params": {"url": str(scene), "labels_url": str(scene.with_name("labels.tif"))}, "json": body}
        assert client.request(method, f"/cog/{path}", **ask).status_code == 401, (way, method, path)
        assert client.request(method, f"/cog/{path}", headers=OPEN, **ask).status_code == 200, (way, method, path)


def test_every_new_route_is_asked_above(extension: Callable[..., inferenceExtension], scene: Path) -> None:
    """The list of questions cannot go stale: it reaches each kind of endpoint that the extension adds."""
    factory = TilerFactory(extensions=[extension()])
    ours = {route.name for route in factory.router.routes if route.path.startswith("/inference")}
    asked = set()
    for method, path, _ in questions(scene):
        for route in factory.router.routes:
            match, _ = route.matches({"type": "http", "path": f"/{path}", "method": method})
            if match.name == "FULL":
                asked.add(route.name)
    # tilesets and tileset describe tile matrix sets; info_geojson is info in another form.
    assert ours - asked <= {"tileset_list", "tileset", "info_geojson"}


def test_auth_of_the_extension_leaves_the_hosts_own_routes_open(
    extension: Callable[..., inferenceExtension], scene: Path
) -> None:
    client = serve(TilerFactory(extensions=[extension(dependencies=[Depends(auth)])]))
    assert client.get("/cog/info", params={"url": str(scene)}).status_code == 200


# What is inherited besides


def test_the_hosts_path_dependency_decides_what_is_opened(
    extension: Callable[..., inferenceExtension], scene: Path
) -> None:
    def allowed(url: Annotated[str, Query()]) -> str:
        if not url.startswith("field"):
            raise HTTPException(403, "not on the list")
        return str(scene.with_name("labels.tif") if url == "field-labels" else scene)

    client = serve(TilerFactory(path_dependency=allowed, extensions=[extension()]))
    for method, path, body in questions(scene):
        if path not in ("inference", "inference/net/legend.json"):
            good = {"url": "field", "labels_url": "field-labels"}
            answer = client.request(method, f"/cog/{path}", params={**good, "url": str(scene)}, json=body)
            assert answer.status_code == 403, path
            assert client.request(method, f"/cog/{path}", params=good, json=body).status_code == 200
            if path.endswith("/accuracy"):
                labels = {**good, "labels_url": str(scene.with_name("labels.tif"))}
                assert client.request(method, f"/cog/{path}", params=labels, json=body).status_code == 403


@pytest.mark.slow
def test_the_hosts_gdal_options_reach_the_pixels(
    extension: Callable[..., inferenceExtension], scene: Path, folder: Path
) -> None:
    """A damaged file is read only under GTIFF_IGNORE_READ_ERRORS, and each request has its own options."""
    broken = folder / "broken.tif"
    plain = write_scene(folder / "plain.tif", landscape(512, 512, seed=3), compress=None, interleave="band")
    broken.write_bytes(plain.read_bytes()[: plain.stat().st_size * 2 // 3])

    def environment(lenient: Annotated[bool, Query()] = False) -> dict[str, str]:
        return {"GTIFF_IGNORE_READ_ERRORS": "TRUE"} if lenient else {}

    client = serve(TilerFactory(environment_dependency=environment, extensions=[extension()]))
    path = "/cog/inference/net/preview.npy"
    for lenient, status in ((False, 502), (True, 200)):
        answer = client.get(path, params={"url": str(broken), "lenient": lenient, "max_size": 128})
        assert answer.status_code == status, answer.text
    answer = client.get(path, params={"url": str(broken), "output": "probability", "max_size": 128})
    assert answer.status_code == 502
    assert "'broken.tif' could not be read" in answer.json()["detail"]
    assert str(folder) not in answer.text


def test_only_the_hosts_tile_matrix_sets_are_offered(extension: Callable[..., inferenceExtension], scene: Path) -> None:
    own = square_tiles("EPSG:3857", 1000, 5000, 256 * RES)
    client = serve(TilerFactory(supported_tms=TileMatrixSets({"Square": own}), extensions=[extension()]))
    place = {"params": {"url": str(scene)}}
    assert client.get("/cog/inference/net/tiles/Square/0/0/0.png", **place).status_code == 200
    refused = client.get("/cog/inference/net/tiles/WebMercatorQuad/0/0/0.png", **place)
    assert refused.status_code == 422
    assert "Square" in refused.text
    listed = client.get("/cog/inference/net/tiles", **place).json()["tilesets"]
    assert [item["title"].count("Square") for item in listed] == [1]


def test_a_reader_that_rewrites_its_input_is_asked(extension: Callable[..., inferenceExtension], scene: Path) -> None:
    @attr.s
    class NamedReader(Reader):
        """Opens `field:scene` where others would need a path."""

        def __attrs_post_init__(self) -> None:
            kind, _, name = self.input.partition(":")
            assert kind == "field"
            self.input = str(scene.parent / f"{name}.tif")
            super().__attrs_post_init__()

    client = serve(TilerFactory(reader=NamedReader, extensions=[extension()]))
    plain = serve(TilerFactory(extensions=[extension()]))
    path = "/cog/inference/net/preview.npy"
    named = client.get(path, params={"url": "field:scene"})
    assert named.status_code == 200, named.text
    assert named.content == plain.get(path, params={"url": str(scene)}).content
    missing = client.get(path, params={"url": "field:other"})
    assert missing.status_code == 422
    assert str(scene.parent) not in missing.text


def test_a_prefix_with_parameters_is_in_the_links(extension: Callable[..., inferenceExtension], scene: Path) -> None:
    factory = TilerFactory(router_prefix="/{cat}/cog", extensions=[extension()])
    client = serve(factory, prefix="/{cat}/cog")
    answer = client.get("/red/cog/inference/net/WebMercatorQuad/tilejson.json", params={"url": str(scene)}).json()
    (link,) = answer["tiles"]
    assert link.startswith("http://testserver/red/cog/inference/net/tiles/WebMercatorQuad/{z}/{x}/{y}")
    assert client.get(filled(link, scene)).status_code == 200


def test_a_router_with_a_prefix_of_its_own_serves_below_it(
    extension: Callable[..., inferenceExtension], scene: Path
) -> None:
    factory = TilerFactory(router=APIRouter(prefix="/cog"), extensions=[extension()])
    client = serve(factory, prefix="")
    answer = client.get("/cog/inference/net/WebMercatorQuad/tilejson.json", params={"url": str(scene)}).json()
    assert "/cog/inference/net/tiles/" in answer["tiles"][0]
    assert client.get(filled(answer["tiles"][0], scene)).status_code == 200
    assert [item["id"] for item in client.get("/cog/inference").json()] == ["net"]


def filled(link: str, scene: Path) -> str:
    tile = tiles_over(scene)[0]
    return link.replace("{z}", str(tile.z)).replace("{x}", str(tile.x)).replace("{y}", str(tile.y))


@pytest.mark.slow
def test_openapi_has_no_operation_twice(extension: Callable[..., inferenceExtension]) -> None:
    """Two factories with one extension in one application, and still every operation has a name of its own."""
    shared = extension()
    app = FastAPI()
    for prefix in ("/cog", "/other"):
        factory = TilerFactory(router_prefix=prefix, extensions=[shared])
        app.include_router(factory.router, prefix=prefix)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = app.openapi()["paths"]
    ids = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert len(ids) == len(set(ids))
    assert any("inference" in path for path in paths)
    by_model = paths["/cog/inference/{model}/preview.{format}"]["get"]["parameters"]
    names = {item["name"] for item in by_model}
    assert {"url", "output", "class", "threshold", "bidx", "nodata", "colormap", "resampling", "rescale"} <= names
    assert not names & {"algorithm", "expression", "color_formula", "buffer", "request"}


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (
            lambda ext: MultiBaseTilerFactory(reader=STACReader, extensions=[ext]),
            "MultiBaseTilerFactory with STACReader",
        ),
        (lambda ext: AlgorithmFactory(extensions=[ext]), "AlgorithmFactory"),
        (lambda ext: Mosaics(extensions=[ext]), "Mosaics"),
    ],
)  # fmt: skip
def test_a_factory_that_does_not_read_single_rasters_is_refused(
    extension: Callable[..., inferenceExtension], make: Callable[..., Any], name: str
) -> None:
    with pytest.raises(TypeError, match=f"TilerFactory over single rasters, not yet on {name}"):
        make(extension())


@attr.define(kw_only=True)
class Mosaics(BaseFactory):
    """As titiler.mosaic's factory: it has a backend and a reader of datasets, but no `reader`."""

    dataset_reader: type[Reader] = Reader

    def register_routes(self) -> None:
        pass


def test_the_path_of_the_models_must_hold_a_model(extension: Callable[..., inferenceExtension]) -> None:
    with pytest.raises(ValueError, match="must hold {model}"):
        TilerFactory(extensions=[extension(prefix="/predictions")])


def test_the_prefix_can_be_chosen(extension: Callable[..., inferenceExtension], scene: Path) -> None:
    client = serve(TilerFactory(extensions=[extension(prefix="/masks/{model}/now")]))
    tile = MERCATOR.tile(*center(scene), 18)
    path = f"/cog/masks/net/now/tiles/WebMercatorQuad/18/{tile.x}/{tile.y}.npy"
    answer = client.get(path, params={"url": str(scene)})
    assert answer.status_code == 200
    assert client.get("/cog/masks").json()[0]["id"] == "net"


def center(scene: Path) -> tuple[float, float]:
    with rasterio.open(scene) as dataset:
        west, south, east, north = rasterio.warp.transform_bounds(dataset.crs, "EPSG:4326", *dataset.bounds)
    return float(np.mean([west, east])), float(np.mean([south, north]))
