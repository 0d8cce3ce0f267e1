"""`tiler.notebook.layer` with the real ipyleaflet and folium; what folium saves is looked at in Chromium."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tiler.notebook
from tests.clients.browser import PATIENCE, ready, show
from tests.clients.places import PLACES, write_classifier
from tests.clients.server import ROOT, Server
from tests.clients.test_browsers import wrong_pixels
from tiler import background
from tiler.errors import InferenceError, MisfitError, RequestError, UnknownNameError
from tiler.notebook import Tiles, layer, stop

ZOOM = 18


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_classifier(tmp_path_factory.mktemp("notebook") / "landcover"))


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    """Each test's server ends with it, and leaves no thread behind."""
    yield
    stop()
    assert not [thread.name for thread in threading.enumerate() if thread.name == "tiler-notebook"]


def test_a_plain_layer_says_where_it_is_and_its_tiles_are_there(scenes: dict[str, Path], model: str) -> None:
    tiles = layer(str(scenes["utm"]), model, kind="plain")
    assert isinstance(tiles, Tiles)
    lon, lat = PLACES["utm"].center
    west, south, east, north = tiles.bounds
    assert west < lon < east and south < lat < north and tiles.corners == [[south, west], [north, east]]
    assert tiles.minzoom < tiles.maxzoom == ZOOM
    assert tiles.name == tiles.attribution == "utm: landcover"
    assert [item["name"] for item in tiles.tilejson["classes"]] == ["a", "b", "c", "d"]
    with urllib.request.urlopen(tiles.url.replace("{z}/{x}/{y}", "18/138828/90691")) as answer:
        assert answer.headers["cache-control"].endswith("immutable")
        assert Image.open(io.BytesIO(answer.read())).size == (256, 256)


@pytest.mark.slow
def test_one_server_for_all_layers_of_a_process(
    scenes: dict[str, Path], model: str, halo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another scene and another model join the first ones; two files of one name are two scenes."""
    namesake = tmp_path / "utm.tif"
    shutil.copy(scenes["degrees"], namesake)
    pairs = [(scenes["utm"], model), (scenes["utm"], model), (scenes["degrees"], halo_model), (namesake, model)]
    layers = [layer(str(scene), str(network), kind="plain") for scene, network in pairs]
    addresses = [item.url.split("@")[0] for item in layers]
    base = addresses[0].rsplit("/", 2)[0]
    assert addresses == [
        f"{base}/utm/landcover", f"{base}/utm/landcover", f"{base}/degrees/network", f"{base}/utm-2/landcover",
    ]  # fmt: skip
    # A notebook may go to another folder meanwhile.
    monkeypatch.chdir(scenes["utm"].parent)
    assert layer("utm.tif", model, kind="plain") == layers[0]
    monkeypatch.chdir(tmp_path)
    assert layers[0] == layers[1] and layers[3].bounds == layers[2].bounds != layers[0].bounds
    assert len({item.tilejson["revision"] for item in layers}) == 3
    assert len([thread for thread in threading.enumerate() if thread.name == "tiler-notebook"]) == 1


@pytest.mark.slow
def test_after_stop_the_next_layer_starts_another_server(scenes: dict[str, Path], model: str) -> None:
    first = layer(str(scenes["utm"]), model, kind="plain")
    stop()
    stop()
    with pytest.raises(OSError):
        urllib.request.urlopen(first.url.replace("{z}/{x}/{y}", "0/0/0"), timeout=5)
    second = layer(scenes["utm"], Path(model), kind="plain")
    assert urllib.request.urlopen(second.url.replace("{z}/{x}/{y}", "0/0/0"), timeout=60).status == 200


def test_a_server_that_runs_is_used(server: Server) -> None:
    tiles = layer("utm", "landcover", kind="plain", server=f"{server.address}/", name="Mine")
    assert tiles.url == server.tilejson("utm")["tiles"][0] and tiles.name == "Mine"
    assert not background.running(), "no other one was started"
    behind = layer(
        "utm", "landcover", kind="plain", server=server.address, reach="https://hub.example.org/proxy/{port}/"
    )
    port = server.address.rpartition(":")[2]
    assert behind.url.startswith(f"https://hub.example.org/proxy/{port}/utm/landcover@")


def test_a_style_goes_into_the_address_as_a_tile_wants_it(server: Server) -> None:
    def query(**style: Any) -> str:
        return str(layer("utm", "landcover", kind="plain", server=server.address, **style).url.partition("?")[2])

    assert query() == query(threshold=None) == ""
    assert query(classes=["a", 2], threshold=0.5) == "class=a,2&threshold=0.5"
    assert query(output="probability", classes="b", rescale=(0, 0.5)) == "output=probability&class=b&rescale=0,0.5"
    assert query(colormap={"0": "#ff0000"}, tilesize=512) == "colormap=%7B%220%22%3A+%22%23ff0000%22%7D&tilesize=512"
    assert query(return_mask=False, bidx=[1]) == "return_mask=false&bidx=1"


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"scene": "nowhere"}, UnknownNameError, "there is no scene 'nowhere'. Known are: degrees, utm."),
        ({"model": "none"}, UnknownNameError, "there is no model 'none'. Known are: landcover, network."),
        ({"colour": "red"}, RequestError, "'colour' is not a style. Known are: output, classes"),
        ({"classes": ["zz"]}, RequestError, "class='zz' is not a class of this model. Known are: a (0)"),
        ({"output": "nope"}, InferenceError, "output: Input should be 'class'"),
        ({"colormap": "{"}, RequestError, "The colormap cannot be parsed"),
        ({"kind": "globe"}, RequestError, "kind='globe' is not known"),
        ({"bands": [1]}, RequestError, "bands= is for a server of this process"),
        ({"server": "http://127.0.0.1:9"}, InferenceError, "no server answers at 127.0.0.1:9"),
        ({"server": "nonsense"}, InferenceError, "no server answers at nonsense"),
    ],
)
def test_what_is_wrong_is_said(server: Server, given: dict[str, Any], error: type[Exception], words: str) -> None:
    asked = {"scene": "utm", "model": "landcover", "server": server.address, "kind": "plain", **given}
    with pytest.raises(error, match=re.escape(words)):
        layer(asked.pop("scene"), asked.pop("model"), **asked)


@pytest.mark.slow
def test_a_scene_or_a_model_that_cannot_be_used_is_said_first_or_later(
    scenes: dict[str, Path], model: str, tmp_path: Path
) -> None:
    for _ in range(2):
        with pytest.raises(MisfitError, match="neither a folder with a model.yaml nor an .onnx file"):
            layer(str(scenes["utm"]), str(tmp_path / "none"), kind="plain")
        with pytest.raises(InferenceError, match=r"'none.tif' cannot be opened as a raster"):
            layer(str(tmp_path / "none.tif"), model, kind="plain")
        layer(str(scenes["utm"]), model, kind="plain")


def test_a_library_that_is_not_installed_is_said(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiler.notebook.importlib.util, "find_spec", lambda name: None)
    for name in ("ipyleaflet", "folium"):
        monkeypatch.delitem(sys.modules, name, raising=False)
        with pytest.raises(
            InferenceError, match=rf"{name} is not installed. pip install 'titiler-inference\[notebook\]'"
        ):
            layer("utm", "landcover", server=server.address, kind=name)
    assert isinstance(layer("utm", "landcover", server=server.address), Tiles)


def test_ipyleaflet_gets_a_layer_of_its_own_kind(server: Server) -> None:
    ipyleaflet = pytest.importorskip("ipyleaflet")
    made = layer("degrees", "landcover", kind="ipyleaflet", server=server.address, opacity=0.5)
    assert isinstance(made, ipyleaflet.TileLayer)
    told = server.tilejson("degrees")
    west, south, east, north = told["bounds"]
    assert made.url == told["tiles"][0].replace(".png", "{r}.png") and made.opacity == 0.5
    assert (made.min_zoom, made.max_native_zoom) == (told["minzoom"], told["maxzoom"]) and made.max_zoom > ZOOM
    assert [list(corner) for corner in made.bounds] == [[south, west], [north, east]]
    shown = ipyleaflet.Map()
    shown.add(made)
    assert made in shown.layers
    assert isinstance(layer("degrees", "landcover", server=server.address), ipyleaflet.TileLayer), "it is imported"


@pytest.mark.slow
@pytest.mark.parametrize("scene", PLACES)
def test_what_folium_saves_shows_the_prediction_at_its_place(
    scene: str, scenes: dict[str, Path], model: str, browser: Any, node_modules: Path, tmp_path: Path
) -> None:
    folium = pytest.importorskip("folium")
    made = layer(str(scenes[scene]), model, kind="folium")
    shown = folium.Map(tiles=None)
    made.add_to(shown)
    shown.fit_bounds(made.bounds)
    file = tmp_path / "map.html"
    shown.save(str(file))

    def answer(route: Any) -> None:
        """folium's page names its libraries by addresses elsewhere: Leaflet is given to it, the rest is not needed."""
        url = route.request.url
        name = url.rpartition("/")[2]
        if url.startswith(("http://127.0.0.1:", "file:", "data:")):
            route.continue_()
        elif name in ("leaflet.js", "leaflet.css"):
            route.fulfill(path=node_modules / "leaflet" / "dist" / name)
        else:
            route.abort()

    page = browser.new_page(viewport={"width": 800, "height": 600})
    try:
        page.route("**/*", answer)
        page.goto(f"file://{file}")
        page.evaluate(f"globalThis.map = {shown.get_name()}")
        ready(page)
        # As it opens: the whole scene is in the view.
        page.wait_for_function("map.getZoom() >= 17", timeout=PATIENCE)
        picture = show(page, "leaflet", PLACES[scene].center, ZOOM)
        # Leaflet smooths tiles that it moves by part of a pixel, hence half a pixel more than elsewhere.
        assert wrong_pixels(page, "leaflet", PLACES[scene], picture, margin=2.0) == 0
        assert (np.asarray(picture) != 255).any()
    finally:
        page.close()


EXIT = """
import threading
from tiler.notebook import layer
tiles = layer({scene!r}, {model!r}, kind="plain")
import urllib.request
assert urllib.request.urlopen(tiles.url.replace("{{z}}/{{x}}/{{y}}", "18/138828/90691")).status == 200
print("done")
"""


@pytest.mark.slow
def test_the_process_ends_quietly_and_at_once(scenes: dict[str, Path], model: str) -> None:
    """As a kernel that is shut down while its server runs."""
    code = EXIT.format(scene=str(scenes["utm"]), model=model)
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", code], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout == "done\n"
    assert "Error" not in done.stderr and "NotGeoreferenced" not in done.stderr, done.stderr


@pytest.mark.slow
def test_the_example_notebook_runs(
    scenes: dict[str, Path], model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cell by cell, but for those whose library is not installed; leafmap is too heavy for every run."""
    notebook = json.loads((ROOT / "examples" / "notebook.ipynb").read_text(encoding="utf-8"))
    shutil.copy(scenes["utm"], tmp_path / "scene.tif")
    shutil.copytree(model, tmp_path / "models" / "landcover")
    monkeypatch.chdir(tmp_path)
    space: dict[str, Any] = {}
    ran = []
    for cell in notebook["cells"]:
        code = "".join(cell["source"])
        if cell["cell_type"] != "code":
            continue
        wanted = re.match(r"import (\w+)", code)
        if wanted:
            try:
                __import__(wanted[1])
            except ImportError:
                continue
            ran.append(wanted[1])
        exec(compile(code, f"cell of {wanted[1] if wanted else 'the notebook'}", "exec"), space)
    if not ran:
        pytest.skip("neither ipyleaflet nor folium nor leafmap is installed")
    assert set(ran) <= {"ipyleaflet", "folium", "leafmap"}
