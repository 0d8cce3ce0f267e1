"""The example for QGIS, drawn without a screen by Debian's QGIS: XYZ and WMTS, in Web Mercator and in UTM."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.clients.places import COLORS, GSD, PLACES, UTM, VALUES, misplaced, replace_model, write_classifier
from tests.clients.server import Server, running

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "qgis.py"
PYTHON = os.environ.get("QGIS_PYTHON", "/usr/bin/python3")
SIZE = (800, 600)


def outside() -> dict[str, str]:
    """The environment without what belongs to our own Python."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}


@pytest.fixture(scope="module", autouse=True)
def qgis() -> None:
    try:
        done = subprocess.run([PYTHON, "-c", "import qgis.core"], env=outside(), capture_output=True, timeout=60)
    except OSError:
        pytest.skip(f"QGIS is not here: there is no {PYTHON}")
    if done.returncode:
        pytest.skip("QGIS is not here: its Python has no qgis.core (Debian: python3-qgis qgis-providers)")


def views(scene: str) -> list[str]:
    """800 x 600 px around a scene's middle: in EPSG:3857 the pixels of zoom 18, in UTM the scene's own size."""
    lon, lat = PLACES[scene].center
    found = []
    for crs, pixel in (("EPSG:3857", 2 * 20037508.342789244 / 256 / 2**18), (UTM, GSD * 0.8)):
        x, y = pyproj.Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(lon, lat)
        across, up = pixel * SIZE[0] / 2, pixel * SIZE[1] / 2
        found.append(f"{crs}={x - across!r},{y - up!r},{x + across!r},{y + up!r}")
    return found


def draw(server: Server, scene: str, profile: Path, out: Path) -> dict[str, Any]:
    """Run the example, and draw its layers; `profile` is where QGIS keeps its settings and its cache."""
    names = {"SERVER": server.address, "SCENE": scene, "MODEL": "landcover", "QGIS_CUSTOM_CONFIG_PATH": str(profile)}
    names["XDG_DATA_HOME"] = names["XDG_CACHE_HOME"] = str(profile)
    command = [PYTHON, str(HERE / "qgis_pictures.py"), str(EXAMPLE), str(out), *map(str, SIZE), *views(scene)]
    done = subprocess.run(command, env={**outside(), **names}, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def picture(out: Path, name: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(out / f"{name}.png").convert("RGB"))


def wrong_pixels(out: Path, name: str, drawn: dict[str, Any], scene: str, **options: Any) -> int:
    left, bottom, right, top = drawn["bounds"]

    def coordinates(xs: NDArray[Any], ys: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        return left + xs / SIZE[0] * (right - left), top - ys / SIZE[1] * (top - bottom)

    wrong, compared = misplaced(picture(out, name), PLACES[scene], coordinates, drawn["crs"], margin=2.0, **options)
    assert compared > SIZE[0] * SIZE[1] / 2
    return wrong


@pytest.mark.parametrize("scene", PLACES)
def test_qgis_shows_every_class_at_its_place_and_nothing_outside(scene: str, server: Server, tmp_path: Path) -> None:
    told = draw(server, scene, tmp_path / "profile", tmp_path)
    assert set(told["pictures"]) == {"WMTS-EPSG3857", "WMTS-EPSG32632", "XYZ-EPSG3857", "XYZ-EPSG32632"}
    for name, drawn in told["pictures"].items():
        assert drawn["errors"] == []
        assert wrong_pixels(tmp_path, name, drawn, scene) == 0, name
    # What answers early enough for QGIS answers before it gives up.
    assert told["timeout_ms"] >= 60_000


def test_opened_again_qgis_shows_the_new_revision(scenes: dict[str, Path], tmp_path: Path) -> None:
    """QGIS keeps tiles and capabilities on disk, under the same profile: they must not outlive the model."""
    model = write_classifier(tmp_path / "landcover")
    with running(tmp_path, {"utm": scenes["utm"]}, {"landcover": model}) as server:
        for colors in (COLORS, COLORS[::-1]):
            if colors != COLORS:
                replace_model(model, write_classifier(tmp_path / "fresh", VALUES[::-1]))
                server.reload("utm")
            told = draw(server, "utm", tmp_path / "profile", tmp_path)
            for name, drawn in told["pictures"].items():
                assert wrong_pixels(tmp_path, name, drawn, "utm", colors=colors) == 0, name
