"""docs/accuracy.md: its settings are served, and its commands run against them, line by line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from pyproj import Transformer

from model_registry.testing import conv_chain, write_model
from tests.shell import ROOT, ask, commands, serving, surroundings
from tests.tiler.helpers import RES, landscape, write_scene
from tiler.settings import Settings

TEXT = (ROOT / "docs" / "accuracy.md").read_text(encoding="utf-8")
(CONFIG,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
SERVE, *ASKS = commands(TEXT)
FIELDS = re.findall(r"`(\w+)`", TEXT[TEXT.index("| field |") : TEXT.index("Pixels are **")])


def test_the_settings_of_the_page_are_read() -> None:
    labels = Settings(**yaml.safe_load(CONFIG)).scenes["field"].labels
    assert labels is not None and labels.classes == {1: "road", 2: ["field", "forest"], 0: "*"}


@pytest.mark.slow
def test_every_command_of_the_page_answers(tmp_path: Path) -> None:
    """The one that serves is given a free port, the others ask it."""
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
    environment = surroundings(tmp_path / "home")
    with serving(SERVE, tmp_path, environment) as printed:
        lines = [line.replace("http://127.0.0.1:8000", printed["Map page"].rstrip("/")) for line in ASKS]
        answers = [json.loads(ask(line, tmp_path, environment)) for line in lines]
    whole, part, box, sure, areas, labels, errors = answers
    for field in FIELDS:
        assert field in whole or field in whole["pixels"] or field in whole["classes"][0] or field == "null", field
    assert whole["pixels"]["total"] == 6400 and 0 < part["pixels"]["total"] < box["pixels"]["total"] < 6400
    assert whole["pixels"]["ignored"] == (drawn == 9).sum()
    assert sure["pixels"]["no_prediction"] > 0 and areas["classes"][1]["name"] == "road"
    assert [entry["labels"] for entry in labels] == [[0], [1], [2]]
    assert [entry["name"] for entry in errors] == ["missed", "false"]
