"""Every client has its file, nothing in them leads elsewhere, and what docs/clients.md tells readers to type is run."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import rasterio

from tests.clients.places import PLACES, expected
from tests.clients.server import ROOT, Server
from tests.clients.test_gdal import example

EXAMPLES = ROOT / "examples"
TEXT = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
HERE = ROOT / "tests" / "clients"


def test_every_example_is_named_in_the_docs_and_run_by_a_test() -> None:
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file() and not path.name.startswith(".")}
    assert files == set(re.findall(r"\]\(\.\./examples/([\w.-]+)\)", TEXT))
    tests = "\n".join(path.read_text(encoding="utf-8") for path in HERE.glob("test_*.py") if path != Path(__file__))
    named = {name for name in files if f'"{name}"' in tests}
    assert files - named == {"leaflet.html", "openlayers.html", "maplibre.html"}, "which are named by their library"


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.*")), ids=lambda path: path.name)
def test_an_example_names_no_host_but_this_machine_and_stays_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    hosts = {host for host in re.findall(r"https?://([\w.-]+)", text) if not host.endswith("example.org")}
    assert hosts <= {"127.0.0.1", "..."}
    if path.suffix != ".ipynb":
        assert len(text.splitlines()) <= 40


def commands() -> list[str]:
    return [line for block in re.findall(r"^```sh\n(.*?)^```", TEXT, re.S | re.M) for line in block.splitlines()]


@pytest.mark.slow
def test_the_commands_for_gdal_do_what_the_docs_say(server: Server, tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    for name in ("gdal-tms.xml", "gdal-wmts.xml"):
        example(name, server, "utm", tmp_path / "examples")
    ran = [line for line in commands() if line.startswith("rio ")]
    assert len(ran) == 2
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    for line in ran:
        done = subprocess.run(
            ["bash", "-ec", line], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
    with rasterio.open(tmp_path / "classes.tif") as made:
        classes, transform = made.read(1), made.transform
        assert made.nodata == 255 and made.crs.to_epsg() == 3857
    cols, rows = np.meshgrid(np.arange(classes.shape[1]) + 0.5, np.arange(classes.shape[0]) + 0.5)
    x, y = transform.a * cols + transform.c, transform.e * rows + transform.f
    shown, sure = expected(PLACES["utm"], x, y, "EPSG:3857", 0.1)
    assert len(np.unique(shown[sure])) > 2
    np.testing.assert_array_equal(classes[sure], shown[sure])


def test_the_server_of_files_in_the_docs_exists() -> None:
    (line,) = [line for line in commands() if not line.startswith("rio ")]
    assert line == "python -m http.server 8080 --directory examples"
