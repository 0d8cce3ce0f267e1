"""The commands, as a user types them: what they say, where, and how they end."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner, Result

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import RES, landscape, rgba, tiles_over, write_scene
from tiler.cli import GDAL_DEFAULTS, app

pytestmark = pytest.mark.usefixtures("no_settings")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cli")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    return write_scene(folder / "field.tif", landscape(200, 300))


@pytest.fixture(scope="module")
def deep(folder: Path) -> Path:
    """A scene that no model here takes: 16 bit, and two bands."""
    return write_scene(folder / "deep.tif", landscape(64, 64, bands=2).astype(np.uint16) * 40)


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    window = {"multiple": 1, "period": 1, "halo": 2}
    network = conv_chain(layers=2, classes=3)
    classes = ["water", "forest", "soil"]
    return write_model(folder / "cover", network, classes=classes, gsd=round(RES, 4), window=window, exactness="exact")


def tiler(*arguments: Any, **environment: str) -> Result:
    """Run the command; the GDAL options that it sets are taken back."""
    return CliRunner().invoke(app, [str(item) for item in arguments], env={**GDAL_DEFAULTS, **environment})


def told(done: Result, *words: str, folder: Path) -> str:
    """Assert that a run ended with 2 and one line of error that a user can act on, and return the line."""
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    for word in words:
        assert word in line
    assert "Traceback" not in line and str(folder) not in line
    return line


# info


def test_info_tells_grid_zooms_and_what_fits(scene: Path, model: Path) -> None:
    done = tiler("info", scene, "--model", model)
    assert done.exit_code == 0, done.output
    shown = re.sub(r"\s+", " ", done.stdout)
    for words in (
        "field.tif, 300 x 200 px, 3 bands, uint8, EPSG:3857",
        "0 water, 1 forest, 2 soil",
        "exact, halo 2 px, period 1 px",
        "300 x 200 px of",
        "the scene's own pixels",
        "(WebMercatorQuad)",
        "bands: fits: red <- 1",
        "dtype: fits",
        "resolution: fits",
    ):
        assert words in shown, shown
    assert str(scene.parent) not in shown


def test_info_as_json_says_the_same(scene: Path, model: Path) -> None:
    done = tiler("info", scene, "--model", model, "--json")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert {item["subject"]: item["fits"] for item in found["findings"]} == {
        "bands": True, "dtype": True, "resolution": True,
    }  # fmt: skip
    assert found["facts"]["zooms"].startswith(tuple("0123456789"))
    assert len(found["facts"]["revision"]) == 12


def test_info_ends_with_1_and_names_all_that_does_not_fit(deep: Path, model: Path) -> None:
    done = tiler("info", deep, "--model", model)
    assert done.exit_code == 1
    assert "bands: does not fit: the model wants 3 bands" in done.stdout and "--bidx" in done.stdout
    found = json.loads(tiler("info", deep, "--model", model, "--json", "--bidx", "1,2,1").stdout)
    wrong = [item for item in found["findings"] if not item["fits"]]
    assert [item["subject"] for item in wrong] == ["dtype"]
    assert "uint16" in wrong[0]["detail"] and wrong[0]["remedy"]
    assert "revision" not in found["facts"]


def test_a_permitted_factor_fits(folder: Path, model: Path) -> None:
    from affine import Affine

    coarse = write_scene(folder / "coarse.tif", landscape(64, 64), transform=Affine(6 * RES, 0, 0, 0, -6 * RES, 0))
    assert tiler("info", coarse, "--model", model).exit_code == 1
    assert tiler("info", coarse, "--model", model, "--max-gsd-factor", 7).exit_code == 0


@pytest.mark.parametrize("command", ["info", "serve"])
def test_a_missing_scene_is_one_line_with_a_remedy(command: str, folder: Path, model: Path) -> None:
    done = tiler(command, folder / "gone.tif", "--model", model)
    told(done, "Error: 'gone.tif' cannot be opened as a raster. Check that it exists", folder=folder)


@pytest.mark.parametrize("command", ["info", "serve"])
def test_a_missing_model_is_one_line_with_a_remedy(command: str, folder: Path, scene: Path) -> None:
    line = told(tiler(command, scene, "--model", folder / "gone"), "gone", folder=folder)
    assert re.search(r"Error: .+\. [A-Z].+", line)


@pytest.mark.parametrize("command", ["info", "serve"])
@pytest.mark.parametrize("bidx", ["red,green", "1;2;3", "1,,2", "1.5"])
def test_bands_are_whole_numbers(command: str, bidx: str, scene: Path, model: Path) -> None:
    done = tiler(command, scene, "--model", model, "--bidx", bidx)
    assert done.exit_code == 2
    assert "--bidx" in done.stderr and "3,2,1" in done.stderr and "Traceback" not in done.output


# serve


def test_what_does_not_fit_is_not_served(folder: Path, deep: Path, model: Path) -> None:
    told(tiler("serve", deep, "--model", model), "the model wants 3 bands", "--bidx", folder=folder)


def test_brackets_in_a_name_are_no_markup(folder: Path, model: Path) -> None:
    told(tiler("serve", folder / "[red]gone.tif", "--model", model), "'[red]gone.tif'", folder=folder)


@pytest.mark.parametrize("arguments", [["serve"], ["serve", "SCENE"], ["serve", "--model", "MODEL"]])
def test_serving_needs_a_scene_and_a_model_or_settings(arguments: list[str], scene: Path, model: Path) -> None:
    given = [{"SCENE": str(scene), "MODEL": str(model)}.get(item, item) for item in arguments]
    done = tiler(*given)
    assert done.exit_code == 2 and "TILER_CONFIG" in done.stderr and "Traceback" not in done.output


def test_without_arguments_the_commands_are_listed() -> None:
    done = tiler()
    assert {"serve", "info", "demo"} <= set(re.findall(r"\w+", done.output))
    assert done.exception is None or isinstance(done.exception, SystemExit)


def test_settings_that_cannot_be_meant_are_one_line_each(folder: Path, tmp_path: Path, scene: Path) -> None:
    file = tmp_path / "tiler.yaml"
    file.write_text(yaml.safe_dump({"scenes": {"a": {"path": str(scene), "colour": 1}}, "timeout": 0}))
    done = tiler("serve", TILER_CONFIG=str(file))
    assert done.exit_code == 2
    lines = sorted(done.stderr.strip().splitlines())
    assert len(lines) == 2
    assert lines[0].startswith("Settings: scenes.a.colour: ") and lines[1].startswith("Settings: timeout: ")
    told(tiler("serve", TILER_CONFIG=str(tmp_path / "gone.yaml")), "'gone.yaml', which is not there", folder=tmp_path)


def test_a_prefix_that_cannot_be_meant_is_one_line(folder: Path) -> None:
    told(tiler("serve", TILER_ALLOWED_URLS='["/data"]'), "allowed_urls: '/data'", "https://host", folder=folder)


def test_a_port_that_is_taken_is_named(scene: Path, model: Path) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = tiler("serve", scene, "--model", model, "--port", port)
    assert done.exit_code == 2 and str(port) in done.stderr and "--port" in done.stderr


@pytest.mark.slow
def test_a_server_prints_its_addresses_answers_and_ends(folder: Path, model: Path) -> None:
    # A name that no address of a terminal's width can hold: addresses must not be wrapped.
    name = "a-field-with-a-name-that-is-much-longer-than-a-terminal-is-wide"
    scene = write_scene(folder / f"{name}.tif", landscape(200, 300))
    command = [sys.executable, "-m", "tiler.cli", "serve", str(scene), "--model", str(model), "--port", "0"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            lines = []
            for line in process.stdout:
                lines.append(line.rstrip("\n"))
                if "Ctrl-C" in line:
                    break
            said = dict(line.split(None, 1) for line in lines if "http" in line and line.startswith(("T", "W")))
            page = next(line.partition("Map page: ")[2] for line in lines if line.startswith("Map page: "))
            assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", page), lines
            assert said["Tiles:"] == f"{page}{name}/cover/{{z}}/{{x}}/{{y}}.png"
            item = tiles_over(scene)[0]
            address = said["Tiles:"].format(z=item.z, x=item.x, y=item.y)
            assert rgba(fetch(address)).any()
            assert json.loads(fetch(said["TileJSON:"]))["tilejson"] == "3.0.0"
            assert b"WebMercatorQuad" in fetch(said["WMTS:"])
            assert json.loads(fetch(f"{page}healthz"))["status"] == "ok"
            process.send_signal(signal.SIGTERM)
            _, complaints = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode in (0, -signal.SIGTERM)
    assert "Traceback" not in complaints and "Error" not in complaints


def fetch(address: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(address, timeout=60) as answer:
        return bytes(answer.read())
