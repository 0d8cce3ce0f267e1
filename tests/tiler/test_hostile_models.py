"""A running server, and model files that mean it harm: it refuses them and goes on answering."""

from __future__ import annotations

import shutil
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.error import HTTPError

import pytest

from model_registry.testing import conv_chain, write_model
from tests.model_registry import hostile
from tests.tiler.helpers import RES, landscape, tiles_over, write_scene
from tests.tiler.servers import serving
from tiler.app import create_app
from tiler.errors import InferenceError
from tiler.settings import SceneSettings, Settings

# Each test starts whole models or children; the fast suite has their parts.
pytestmark = pytest.mark.slow

# Folders that a careless operator might put in a model's place; the files among them are put there as the artifact.
FOLDERS = (
    "artifact_above", "artifact_absolute", "artifact_by_url", "artifact_linked", "artifact_hard_linked",
    "artifact_that_is_a_pipe", "artifact_altered", "artifact_of_another_size", "yaml_bomb", "yaml_nested_deeply",
    "yaml_that_makes_an_object", "yaml_too_long", "manifest_linked", "manifest_that_trusts_itself",
)  # fmt: skip
NETWORKS = (
    "noise", "onnx_cut_off", "onnx_data_absolute", "onnx_data_above", "onnx_nested_deeply",
    "onnx_with_operations_of_its_own", "onnx_with_a_weight_of_a_petabyte", "onnx_with_weights_that_are_nan",
    "onnx_that_answers_boxes", "script_called_onnx",
)  # fmt: skip
CODE = ("pt2_with_a_pickle", "pt2_with_code_in_a_size", "pt2_with_code_in_a_guard", "torchscript_that_writes_a_file")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


class Place:
    """A served model whose folder can be filled with anything."""

    def __init__(self, folder: Path) -> None:
        self.good = write_model(folder / "good", conv_chain(), classes=list("abcde"), gsd=round(RES, 4))
        self.live = folder / "live"
        shutil.copytree(self.good, self.live)
        self.scene = write_scene(folder / "scene.tif", landscape(200, 300))
        self.allowed = folder / "allowed"
        self.allowed.mkdir()
        files = partial(Quiet, directory=str(self.allowed))
        self.files = ThreadingHTTPServer(("127.0.0.1", 0), files)
        threading.Thread(target=self.files.serve_forever, daemon=True).start()
        self.prefix = f"http://127.0.0.1:{self.files.server_port}/"
        settings = Settings(
            scenes={"s": SceneSettings(path=str(self.scene))},
            models={"m": str(self.live)},
            allowed_urls=[self.prefix],
            allow_private_addresses=True,
        )
        self.app = create_app(settings)
        self.port = 0
        tile = tiles_over(self.scene)[0]
        self.path = f"/s/m/{tile.z}/{tile.x}/{tile.y}"

    def get(self, path: str) -> tuple[int, bytes]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=20) as answer:
                return answer.status, answer.read()
        except HTTPError as error:
            return error.code, error.read()

    def put(self, source: Path) -> None:
        """Take the live folder away and lay another there."""
        shutil.rmtree(self.live)
        source.rename(self.live)

    def restore(self) -> None:
        shutil.rmtree(self.live, ignore_errors=True)
        shutil.copytree(self.good, self.live)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    patch = pytest.MonkeyPatch()
    patch.setenv("TILER_TRUST", str(tmp_path_factory.mktemp("trust") / "trust.json"))
    made = Place(tmp_path_factory.mktemp("served"))
    with serving(made.app) as port:
        made.port = port
        yield made
    made.files.shutdown()
    made.files.server_close()
    patch.undo()


@pytest.fixture
def first(place: Place) -> Iterator[bytes]:
    """The tile as it is before, and as it must still be afterwards."""
    status, before = place.get(f"{place.path}.npy")
    assert status == 200
    yield before
    status, after = place.get(f"{place.path}.npy?fresh=1")
    assert (status, after) == (200, before)
    place.restore()


def refused(place: Place, marker: Path) -> None:
    with pytest.raises(InferenceError) as caught:
        place.app.state.inference.reload()
    assert str(marker.parent) not in str(caught.value) and not marker.exists()


@pytest.mark.parametrize("name", FOLDERS)
def test_a_hostile_folder_in_the_models_place(name: str, place: Place, first: bytes, tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    hostile.CORPUS[name].write(tmp_path / "files", tmp_path / "marker")
    place.put(tmp_path / "files")
    refused(place, tmp_path / "marker")


@pytest.mark.parametrize("name", [*NETWORKS, *CODE])
def test_a_hostile_network_in_the_models_place(name: str, place: Place, first: bytes, tmp_path: Path) -> None:
    """With a manifest that names it rightly, checksum and all, and calls it what it is."""
    from model_registry.artifacts import checksum_of

    if name in CODE:
        pytest.importorskip("torch")
    (tmp_path / "files").mkdir()
    data = hostile.CORPUS[name].write(tmp_path / "files", tmp_path / "marker").read_bytes()
    shutil.copytree(place.good, tmp_path / "new")
    text = (tmp_path / "new" / "model.yaml").read_text()
    old = (tmp_path / "new" / "model.onnx").read_bytes()
    (tmp_path / "new" / "model.onnx").write_bytes(data)
    kind = "onnx" if name not in CODE else "pt2" if name.startswith("pt2") else "torchscript"
    text = text.replace(checksum_of(old), checksum_of(data)).replace(f"size: {len(old)}", f"size: {len(data)}")
    (tmp_path / "new" / "model.yaml").write_text(text.replace("format: onnx", f"format: {kind}"))
    place.put(tmp_path / "new")
    refused(place, tmp_path / "marker")


@pytest.mark.parametrize("name", ["bare_pickle", "noise", "zip_bomb", "onnx_data_absolute", "script_called_onnx"])
def test_a_url_names_no_model(name: str, place: Place, first: bytes, tmp_path: Path) -> None:
    """What a request names is read as a raster or not at all, even below an allowed prefix."""
    folder = place.allowed / name
    folder.mkdir()
    path = hostile.CORPUS[name].write(folder, tmp_path / "marker")
    tile = place.path.removeprefix("/s/m/")
    for url in (f"{place.prefix}{name}/{path.name}", str(path), f"file://{path}", f"/vsizip/{path}"):
        query = urllib.parse.urlencode({"url": url, "model": url})
        status, body = place.get(f"/inference/m/tiles/WebMercatorQuad/{tile}.png?{query}")
        assert 400 <= status < 500 and b"Traceback" not in body
    status, body = place.get(f"/s/{urllib.parse.quote(str(path), safe='')}/{tile}.png")
    assert 400 <= status < 500 and not (tmp_path / "marker").exists()
