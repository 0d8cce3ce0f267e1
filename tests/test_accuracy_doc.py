"""docs/accuracy.md: its settings are served, and its commands run against them, line by line."""

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
from pyproj import Transformer

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import RES, landscape, write_scene
from tiler.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
(CONFIG,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
SERVE, *ASKS = [line for block in re.findall(r"```sh\n(.*?)```", TEXT, re.S) for line in block.splitlines()]
FIELDS = re.findall(r"`(\w+)`", TEXT[TEXT.index("| field |") : TEXT.index("Pixels are **")])


def test_the_settings_of_the_page_are_read() -> None:
    labels = Settings(**yaml.safe_load(CONFIG)).scenes["field"].labels
    assert labels is not None and labels.classes == {1: "road", 2: ["field", "forest"], 0: "*"}


@pytest.mark.slow
def test_every_command_of_the_page_answers(tmp_path: Path) -> None:
    """The one that serves is given a free port, the others ask it; Python does what `curl` would."""
    from affine import Affine

    left, top = Transformer.from_crs(4326, 3857, always_xy=True).transform(9.0, 48.7506)
    place = Affine(RES, 0, left, 0, -RES, top)
    write_scene(tmp_path / "scene.tif", landscape(160, 160), transform=place)
    drawn = np.random.default_rng(0).choice([0, 1, 2, 9], (1, 80, 80)).astype(np.uint8)
    write_scene(tmp_path / "labels.tif", drawn, transform=place * Affine.scale(2))
    classes = ["background", "road", "field", "forest"]
    write_model(
        tmp_path / "models" / "roads" / "1", conv_chain(layers=1, classes=4), classes=classes, gsd=None,
        window={"multiple": 1, "period": 1, "halo": 1}, exactness="exact",
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text(CONFIG)
    ring = [[9.0, 48.75], [9.0005, 48.75], [9.0005, 48.7505], [9.0, 48.75]]
    area = {"type": "Feature", "properties": {}, "geometry": {"type": "Polygon", "coordinates": [ring]}}
    (tmp_path / "area.geojson").write_text(json.dumps(area))
    assert SERVE == "TILER_CONFIG=config.yaml tiler serve" and len(ASKS) == 7
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TILER_")}
    path = os.pathsep.join([str(ROOT), *filter(None, [kept.get("PYTHONPATH")])])
    with subprocess.Popen(
        [sys.executable, "-m", "tiler.cli", "serve", "--port", "0"],
        cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={**kept, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "TILER_CONFIG": "config.yaml"},
    ) as server:  # fmt: skip
        try:
            assert server.stdout is not None
            printed = next((line for line in server.stdout if line.startswith("Map page:")), "it did not start /")
            address = printed.split()[-1].rstrip("/")
            answers = [ask(line.replace("http://127.0.0.1:8000", address), tmp_path) for line in ASKS]
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(60)
    whole, part, box, sure, areas, labels, errors = answers
    for field in FIELDS:
        assert field in whole or field in whole["pixels"] or field in whole["classes"][0] or field == "null", field
    assert whole["pixels"]["total"] == 6400 and 0 < part["pixels"]["total"] < box["pixels"]["total"] < 6400
    assert whole["pixels"]["ignored"] == (drawn == 9).sum()
    assert sure["pixels"]["no_prediction"] > 0 and areas["classes"][1]["name"] == "road"
    assert [entry["labels"] for entry in labels] == [[0], [1], [2]]
    assert [entry["name"] for entry in errors] == ["missed", "false"]


def ask(line: str, folder: Path) -> Any:
    """What a line with curl asks for."""
    words = re.findall(r"'[^']*'|\S+", line)
    assert words[:2] == ["curl", "-fsS"], line
    url = words[-1].strip("'")
    body = (folder / words[words.index("-d") + 1].lstrip("@")).read_bytes() if "-d" in words else None
    headers = {"Content-Type": "application/json"} if "-H" in words else {}
    request = urllib.request.Request(url, body, headers, method="POST" if "POST" in words else "GET")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())
