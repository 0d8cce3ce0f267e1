"""docs/export.md: its commands are run line by line, and what it says of options, tags and settings is compared."""

from __future__ import annotations

import json
import re
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import typer

from tests.shell import ROOT, ask, commands, lay_out, run, sections, serving, surroundings
from tests.tiler.helpers import write_scene
from tiler.settings import Settings

TEXT = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
SECTIONS = sections(TEXT)
EXPORTS = [line for name in SECTIONS if name != "Over HTTP" for line in commands(SECTIONS[name])]
SERVE, *ASKS = commands(SECTIONS["Over HTTP"])
NUMBER = "0123456789ab"


def test_every_option_is_named_and_nothing_else() -> None:
    from tiler.cli import app

    known = set()
    for option in typer.main.get_command(app).commands["export"].params:  # type: ignore[attr-defined]
        known |= {name for name in (*option.opts, *option.secondary_opts) if name.startswith("-")}
    told = set(re.findall(r"`(--?[a-z][a-z-]*)", SECTIONS["Options"])) - {"--help"}
    assert told == known


def test_settings_are_those_there_are() -> None:
    told = set(re.findall(r"^\| `(\w+)` \|", SECTIONS["Over HTTP"], re.M))
    assert told == {name for name in Settings.model_fields if "export" in name}
    fields = Settings.model_fields
    assert (fields["max_export_pixels"].default, fields["keep_exports"].default) == (2**32, 50)


@pytest.mark.slow
def test_every_command_does_what_the_page_says(tmp_path: Path) -> None:
    folder, environment = tmp_path / "work", surroundings(tmp_path / "home")
    lay_out(folder)
    lay_out_more(folder)
    outputs: dict[str, str] = {}
    for line in EXPORTS:
        outputs[line] = run(line, folder, environment)
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert {
        "landcover.tif", "landcover.tif.aux.xml", "shares_probability.tif", "shares_confidence.tif", "box.tif",
        "metres.tif", "area.tif", "results/west.tif", "results/east.tif", "results/all.tif", "ensemble_spread.tif",
        "land.tif", "land.gpkg",
    } <= files  # fmt: skip
    assert not list(folder.rglob("*.parts"))
    tags = set()
    for name in ("landcover.tif", "shares_confidence.tif", "area.tif"):
        with rasterio.open(folder / name) as dataset:
            tags |= {tag.removeprefix("TITILER_INFERENCE_") for tag in dataset.tags() if tag.startswith("TITILER")}
    table = SECTIONS["What comes out"]
    assert tags == set(re.findall(r"`(?:TITILER_INFERENCE)?_([A-Z_]+)`", table))
    with rasterio.open(folder / "shares_probability.tif") as dataset:
        assert dataset.dtypes == ("uint8",) * 4 and dataset.scales == (1 / 254,) * 4 and dataset.nodata == 255
    whole = read(folder / "landcover.tif")
    assert (read(folder / "box.tif") != 255).any() and (read(folder / "area.tif") == 255).any()
    with rasterio.open(folder / "metres.tif") as dataset:
        assert dataset.bounds == (500100, 5399700, 500300, 5399900)
        assert (dataset.read(1) == whole[200:600, 200:600]).all()
    assert read(folder / "results" / "all.tif").shape == (700, 900)
    dry = next(text for line, text in outputs.items() if "--dry-run" in line)
    assert "memory mb" in dry and "seconds" in dry
    events = [json.loads(text) for text in next(o for line, o in outputs.items() if "--json" in line).splitlines()]
    assert events[0]["event"] == "begin" and events[-1]["event"] == "finished" and events[-1]["already"]
    # A wrong word is exit code 2, as the page's table has it.
    run("tiler export nothing.tif --model models/landcover -o nothing.tif", folder, environment, expect=2)


def lay_out_more(folder: Path) -> None:
    """A polygon, two scenes that are the halves of the first, and STAC items of both."""
    ring = [[9.001, 48.7505], [9.004, 48.7505], [9.0025, 48.752], [9.001, 48.7505]]
    (folder / "area.geojson").write_text(json.dumps({"type": "Polygon", "coordinates": [ring]}))
    (folder / "scenes").mkdir()
    items = []
    with rasterio.open(folder / "scene.tif") as dataset:
        pixels, place = dataset.read(), dataset.transform
    for name, left, right in (("west", 0, 500), ("east", 500, 900)):
        write_scene(
            folder / "scenes" / f"{name}.tif", pixels[:, :, left:right], crs="EPSG:32632",
            transform=place * rasterio.Affine.translation(left, 0),
        )  # fmt: skip
        asset = {"href": f"scenes/{name}.tif", "type": "image/tiff; application=geotiff", "roles": ["data"]}
        items.append(
            {
                "type": "Feature",
                "stac_version": "1.0.0",
                "id": name,
                "geometry": None,
                "links": [],
                "assets": {"image": asset},
                "properties": {"datetime": "2026-01-01T00:00:00Z"},
            }  # fmt: skip
        )
    (folder / "items.json").write_text(json.dumps({"type": "FeatureCollection", "features": items}))


def read(path: Path) -> Any:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


@pytest.mark.slow
def test_the_addresses_answer(tmp_path: Path) -> None:
    """The line that serves gets a free port."""
    folder, environment = tmp_path / "work", surroundings(tmp_path / "home")
    lay_out(folder)
    with serving(SERVE, folder, environment) as printed:
        address, number, answers = printed["Map page"].rstrip("/"), NUMBER, []
        for line in ASKS:
            line = line.replace("http://127.0.0.1:8000", address).replace(NUMBER, number)
            answers.append(ask(line, folder, environment))
            if len(answers) == 1:
                number = json.loads(answers[0])["id"]
        made, events, one, _, gone = answers
        with pytest.raises(urllib.error.HTTPError, match="401"):
            body = b'{"scene": "scene", "model": "landcover"}'
            headers = {"Content-Type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(f"{address}/exports", body, headers))
    assert json.loads(made)["status"] in ("queued", "running", "finished")
    last = json.loads(events.strip().splitlines()[-1].removeprefix("data: "))
    assert last["status"] == "finished" and json.loads(one)["files"] == last["files"]
    names = {item["name"] for item in last["files"]}
    assert names == {"scene-landcover.tif", "scene-landcover_confidence.tif", "scene-landcover.gpkg"}
    assert (folder / "landcover.gpkg").read_bytes().startswith(b"SQLite")
    assert json.loads(gone)["status"] in ("finished", "cancelled") and not list((folder / "exports").iterdir())
    for field in re.findall(
        r"`(\w+)`", SECTIONS["Over HTTP"].split("| `GET /exports/{id}/events`")[0].split("one:")[1]
    ):
        assert field in last or field in ("queued", "running", "finished", "failed", "cancelled", "error"), field


def test_numbers_of_shares_are_as_told() -> None:
    from tiler.export.products import NO_SHARE, STEPS

    assert f"round(p * {STEPS})" in TEXT and f"{NO_SHARE} for no data" in TEXT
    assert np.rint(1.0 * STEPS) < NO_SHARE
