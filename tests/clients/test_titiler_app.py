"""The example inside a TiTiler application, started as its first line says."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from urllib.parse import quote

import morecantile
import numpy as np
import pytest
from PIL import Image

from tests.clients.places import PLACES, expected, palette, write_classifier
from tests.clients.server import ROOT

EXAMPLES = ROOT / "examples"


@pytest.mark.slow
def test_the_example_application_serves_tiles(scenes: dict[str, Path], tmp_path: Path) -> None:
    text = (EXAMPLES / "app.py").read_text(encoding="utf-8")
    assert "`uvicorn app:app`" in text
    (path,) = re.findall(r"^(/cog/\S+)\?url=", text, re.M)
    environment = {
        **os.environ,
        "MODEL": str(write_classifier(tmp_path / "landcover")),
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", "0"]
    log = tmp_path / "log"
    with log.open("w") as out:
        process = subprocess.Popen(command, cwd=EXAMPLES, env=environment, stdout=out, stderr=out)
    try:
        until = time.monotonic() + 60
        while not (found := re.search(r"running on (http://\S+)", log.read_text())):
            assert process.poll() is None and time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        place, tms = PLACES["utm"], morecantile.tms.get("WebMercatorQuad")
        tile = tms.tile(*place.center, 18)
        address = found[1] + path.replace("{z}", "18").replace("{x}", str(tile.x)).replace("{y}", str(tile.y))
        with urllib.request.urlopen(f"{address}?url={quote(str(scenes['utm']))}", timeout=60) as answer:
            picture = np.asarray(Image.open(io.BytesIO(answer.read())).convert("RGBA"))
    finally:
        process.terminate()
        process.wait(30)
    left, bottom, right, top = tms.xy_bounds(tile)
    steps = (np.arange(256) + 0.5) / 256
    x, y = np.meshgrid(left + steps * (right - left), top - steps * (top - bottom))
    shown, sure = expected(place, x, y, "EPSG:3857", 0.1)
    there = sure & (shown != 255)
    assert there.mean() > 0.3
    np.testing.assert_array_equal(picture[there][:, :3], palette()[shown[there]])
    np.testing.assert_array_equal(picture[sure][:, 3] > 0, (shown != 255)[sure])
