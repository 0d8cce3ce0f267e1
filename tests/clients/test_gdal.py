"""The examples for GDAL, read by rasterio's: at the deepest zoom equal to the prediction, pixel for pixel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import morecantile
import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray

from tests.clients.places import COLORS, PLACES, VALUES, expected, palette, replace_model, write_classifier
from tests.clients.server import Server, running
from tests.tiler.helpers import whole_scene

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
MERCATOR = morecantile.tms.get("WebMercatorQuad")

# In a process of its own: GDAL may keep Python's global lock while it waits for an answer.
READ = """
import sys, numpy, rasterio
from rasterio.windows import Window
source, out, *bounds = sys.argv[1:]
with rasterio.open(source) as layer:
    # A WMTS ends where its capabilities say, a TMS is the whole world.
    window = layer.window(*map(float, bounds)).round().intersection(Window(0, 0, layer.width, layer.height))
    numpy.savez(out, pixels=layer.read(window=window), transform=layer.window_transform(window),
                crs=layer.crs.to_epsg(), nodata=-1 if layer.nodata is None else layer.nodata)
"""


def example(name: str, server: Server, scene: str, folder: Path, model: str = "landcover") -> Path:
    """An example as a reader changes it: the address, the names, and the deepest zoom that TileJSON says."""
    text = (EXAMPLES / name).read_text(encoding="utf-8")
    changes = {
        "http://127.0.0.1:8000/demo/landcover": f"{server.address}/{scene}/{model}",
        "<Layer>demo-landcover<": f"<Layer>{scene}-{model}<",
        "<TileLevel>18<": f"<TileLevel>{server.tilejson(scene, model)['maxzoom']}<",
    }
    assert sum(theirs in text for theirs in changes) == 2
    for theirs, ours in changes.items():
        text = text.replace(theirs, ours)
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def around(server: Server, scene: str) -> list[float]:
    """Bounds in EPSG:3857 of the scene and 60 m around it, on the pixels of its deepest zoom."""
    answer = server.tilejson(scene)
    west, south, east, north = answer["bounds"]
    (left, bottom), (right, top) = MERCATOR.xy(west, south), MERCATOR.xy(east, north)
    cell = MERCATOR.matrix(answer["maxzoom"]).cellSize
    half = 20037508.342789244
    down = [np.floor((value + half - 60) / cell) * cell - half for value in (left, bottom)]
    up = [np.ceil((value + half + 60) / cell) * cell - half for value in (right, top)]
    return [*map(float, down), *map(float, up)]


def read(source: Path | str, bounds: list[float], folder: Path, **environment: str) -> Any:
    """What rasterio reads of a source within bounds."""
    out = folder / "read.npz"
    command = [sys.executable, "-c", READ, str(source), str(out), *map(repr, bounds)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(out)


def places_of(found: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Coordinates of the middles of what was read."""
    transform = rasterio.Affine(*found["transform"].ravel()[:6])
    height, width = found["pixels"].shape[1:]
    cols, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = transform.a * cols + transform.c, transform.e * rows + transform.f
    return x, y


@pytest.mark.parametrize("scene", PLACES)
def test_the_tms_gives_the_class_numbers_to_the_pixel(scene: str, server: Server, tmp_path: Path) -> None:
    found = read(example("gdal-tms.xml", server, scene, tmp_path), around(server, scene), tmp_path)
    # A tenth of a scene's pixel: what two programs may differ by in the projection of a border.
    shown, sure = expected(PLACES[scene], *places_of(found), "EPSG:3857", 0.1)
    assert found["crs"] == 3857 and found["nodata"] == 255
    assert sure.mean() > 0.9 and set(np.unique(shown[sure])) == {0, 1, 2, 3, 255}
    np.testing.assert_array_equal(found["pixels"][0][sure], shown[sure])


@pytest.mark.parametrize("scene", PLACES)
def test_the_wmts_gives_the_colours_to_the_pixel(scene: str, server: Server, tmp_path: Path) -> None:
    bounds = around(server, scene)
    found = read(example("gdal-wmts.xml", server, scene, tmp_path), bounds, tmp_path)
    shown, sure = expected(PLACES[scene], *places_of(found), "EPSG:3857", 0.1)
    pixels = np.moveaxis(found["pixels"], 0, -1)
    assert pixels.shape[-1] == 4
    there = sure & (shown != 255)
    np.testing.assert_array_equal(pixels[there][:, :3], palette()[shown[there]])
    np.testing.assert_array_equal(pixels[sure][:, 3] > 0, (shown != 255)[sure])
    # The same by its address alone, without a file.
    plain = read(f"WMTS:{server.address}/{scene}/landcover/1.0.0/WMTSCapabilities.xml", bounds, tmp_path)
    assert plain["crs"] == 3857
    np.testing.assert_array_equal(plain["pixels"], found["pixels"])


@pytest.mark.slow
@pytest.mark.parametrize("scene", PLACES)
def test_a_network_with_a_halo_is_read_as_one_pass_over_the_scene(
    scene: str, server: Server, scenes: dict[str, Path], tmp_path: Path, halo_model: Path
) -> None:
    with rasterio.open(scenes[scene]) as dataset:
        scaled = dataset.read().astype(np.float32) / 255
    classes, lead = whole_scene(halo_model / "model.onnx", scaled, pad=16, multiple=4)
    found = read(example("gdal-tms.xml", server, scene, tmp_path, "network"), around(server, scene), tmp_path)
    rows, cols = PLACES[scene].rows_and_cols(*places_of(found), "EPSG:3857")
    edge = np.minimum(np.abs(rows - np.round(rows)), np.abs(cols - np.round(cols)))
    shown, sure = expected(PLACES[scene], *places_of(found), "EPSG:3857", 0.1)
    row, col = (
        np.clip(np.floor(at).astype(int), 0, size - 1) for at, size in zip((rows, cols), classes.shape, strict=True)
    )
    sure &= (edge > 0.1) & ((lead[row, col] > 1e-4) | (shown == 255))
    assert sure.mean() > 0.5
    np.testing.assert_array_equal(found["pixels"][0][sure], np.where(shown == 255, 255, classes[row, col])[sure])


@pytest.mark.slow
def test_a_new_revision_is_read_at_once_although_gdal_keeps_tiles_for_a_week(
    scenes: dict[str, Path], tmp_path: Path
) -> None:
    """GDAL's cache ignores every header; the WMTS is right since its tiles' addresses name the revision."""
    model = write_classifier(tmp_path / "landcover")
    with running(tmp_path, {"utm": scenes["utm"]}, {"landcover": model}) as server:
        cache = {"GDAL_DEFAULT_WMS_CACHE_PATH": str(tmp_path / "gdal"), "GDAL_ENABLE_WMS_CACHE": "YES"}
        source, bounds = example("gdal-wmts.xml", server, "utm", tmp_path), around(server, "utm")
        before = read(source, bounds, tmp_path, **cache)["pixels"]
        replace_model(model, write_classifier(tmp_path / "fresh", VALUES[::-1]))
        server.reload("utm")
        found = read(source, bounds, tmp_path, **cache)
    shown, sure = expected(PLACES["utm"], *places_of(found), "EPSG:3857", 0.1)
    there = sure & (shown != 255)
    for pixels, colors in ((before, COLORS), (found["pixels"], COLORS[::-1])):
        np.testing.assert_array_equal(np.moveaxis(pixels, 0, -1)[there][:, :3], palette(colors)[shown[there]])
