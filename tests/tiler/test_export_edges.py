"""`tiler export` where somebody errs, interferes, or has an unusual scene or model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from filelock import FileLock
from typer.testing import CliRunner, Result

from model_registry.testing import conv_chain, write_model
from tests.tiler.helpers import RES, landscape, write_scene
from tiler.cli import GDAL_DEFAULTS, app

CLASSES = ["water", "forest", "soil", "road", "roof"]
HEIGHT, WIDTH = 300, 410


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("TILER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("edges")


@pytest.fixture(scope="module")
def scene(folder: Path) -> Path:
    return write_scene(folder / "field.tif", landscape(HEIGHT, WIDTH), transform=Affine(RES, 0, 1000, 0, -RES, 5000))


@pytest.fixture(scope="module")
def model(folder: Path) -> Path:
    return write_model(folder / "cover", conv_chain(layers=2), classes=CLASSES, gsd=round(RES, 4))


def tiler(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["export", *(str(item) for item in arguments)], env=dict(GDAL_DEFAULTS))


def exported(scene: Path, model: Path, out: Path, *options: Any) -> np.ndarray:
    done = tiler(scene, "-m", model, "-o", out, "--runtime", "onnxruntime", *options)
    assert done.exit_code == 0, done.output
    with rasterio.open(out) as dataset:
        return dataset.read()


def refused(done: Result, words: str) -> None:
    assert done.exit_code == 2 and words in done.stderr, done.output
    assert done.stderr.count("Error:") == 1 and words in done.stderr.strip().splitlines()[-1]


# Whose files these are


@pytest.mark.parametrize("name", ["field.tif", "link.tif", "hard.tif"])
def test_the_scene_is_never_replaced(scene: Path, model: Path, tmp_path: Path, name: str) -> None:
    own = tmp_path / "field.tif"
    own.write_bytes(scene.read_bytes())
    (tmp_path / "link.tif").symlink_to(own)
    os.link(own, tmp_path / "hard.tif")
    refused(tiler(own, "-m", model, "-o", tmp_path / name, "--overwrite"), f"output '{name}' is the scene itself")
    assert own.read_bytes() == scene.read_bytes() and not list(tmp_path.glob("*.parts"))


def test_a_folder_of_scenes_is_no_place_for_results(scene: Path, model: Path, tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.tif").write_bytes(scene.read_bytes())
    done = tiler(tmp_path / "*.tif", "-m", model, "-o", tmp_path, "--overwrite")
    assert done.exit_code == 2 and done.stderr.count("is the scene itself") == 2
    assert (tmp_path / "a.tif").read_bytes() == scene.read_bytes() == (tmp_path / "b.tif").read_bytes()


def test_polygons_do_not_replace_the_area(scene: Path, model: Path, tmp_path: Path) -> None:
    area = tmp_path / "field.geojson"
    area.write_text("{}")
    given = ["-o", tmp_path / "out.tif", "--aoi", area, "--vector", area, "--overwrite"]
    refused(tiler(scene, "-m", model, *given), "is the polygon of --aoi itself")
    assert area.read_text() == "{}"


def test_a_finished_export_leaves_the_parts_of_one_that_runs(scene: Path, model: Path, tmp_path: Path) -> None:
    """Somebody makes another export of that name (--overwrite), and the old command is given again."""
    out, parts = tmp_path / "out.tif", tmp_path / "out.tif.parts"
    exported(scene, model, out)
    parts.mkdir()
    (parts / "job.json").write_text(json.dumps({"job": "0" * 12}))
    (parts / "00000.json").write_text("{}")
    with FileLock(parts / "lock"):
        exported(scene, model, out)
        assert (parts / "00000.json").exists()
    exported(scene, model, out)
    assert (parts / "00000.json").exists()


def test_parts_of_a_finished_export_are_kept_or_go(scene: Path, model: Path, tmp_path: Path) -> None:
    out, parts = tmp_path / "out.tif", tmp_path / "out.tif.parts"
    exported(scene, model, out, "--keep-parts")
    exported(scene, model, out, "--keep-parts")
    assert (parts / "00000.json").exists()
    exported(scene, model, out)
    assert not parts.exists()


def test_one_file_finished_and_the_other_not(scene: Path, model: Path, tmp_path: Path) -> None:
    """Killed between two COGs: no block is made again, and the first file is left alone."""
    out, options = tmp_path / "out.tif", ["--output", "confidence", "--keep-parts", "--json"]
    exported(scene, model, out, *options)
    second, moment = tmp_path / "out_confidence.tif", out.stat().st_mtime_ns
    whole = second.read_bytes()
    second.unlink()
    done = tiler(scene, "-m", model, "-o", out, "--runtime", "onnxruntime", *options)
    end = json.loads(done.stdout.splitlines()[-1])
    assert (end["made"], end["kept"]) == (0, 1) and second.read_bytes() == whole
    assert out.stat().st_mtime_ns == moment


def test_a_file_to_be_replaced_stays_until_the_new_one_is_whole(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tiler.export import cog

    out = tmp_path / "out.tif"
    exported(scene, model, out)
    before = out.read_bytes()

    def broken(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(cog, "copy", broken)
        options = ["--attribution", "me", "--overwrite"]
        refused(tiler(scene, "-m", model, "-o", out, *options), "could not be put together")
    assert out.read_bytes() == before
    exported(scene, model, out, *options)
    assert out.read_bytes() != before


def test_a_disk_that_fills_up_before_the_last_step(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.write_text

    def full(self: Path, *args: Any, **options: Any) -> int:
        if self.suffix == ".vrt":
            raise OSError(28, "No space left on device")
        return real(self, *args, **options)

    monkeypatch.setattr(Path, "write_text", full)
    refused(tiler(scene, "-m", model, "-o", tmp_path / "out.tif"), "could not be put together")
    assert not (tmp_path / "out.tif").exists() and (tmp_path / "out.tif.parts" / "00000.json").exists()


@pytest.mark.parametrize(
    "error, words", [(PermissionError(13, "no"), "may not be written"), (NotImplementedError("flock"), "no locks")]
)
def test_a_folder_that_cannot_be_locked(
    scene: Path, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, words: str
) -> None:
    def no(self: Any, *_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(FileLock, "acquire", no)
    refused(tiler(scene, "-m", model, "-o", tmp_path / "out.tif"), words)


# Words


def test_names_that_no_xml_may_hold(model: Path, scene: Path, tmp_path: Path) -> None:
    odd = tmp_path / "fie\x0bld & <b>.tif"
    odd.write_bytes(scene.read_bytes())
    exported(odd, model, tmp_path / "out.tif", "--attribution", "(c) \x0c & <i>")
    with rasterio.open(tmp_path / "out.tif") as dataset:
        assert dataset.tags()["TITILER_INFERENCE_SCENE"] == "fie?ld & <b>.tif"
        assert dataset.tags()["TIFFTAG_COPYRIGHT"] == "(c) ? & <i>"


def test_messages_are_no_markup(model: Path, tmp_path: Path) -> None:
    parts, out = tmp_path / "parts", tmp_path / "out"
    parts.mkdir()
    out.mkdir()
    write_scene(parts / "[red]a.tif", landscape(60, 60, bands=2), descriptions=["[/red]", "[bold]"])
    write_scene(parts / "b.tif", landscape(60, 60))
    done = tiler(parts / "[[]red]a.tif", parts / "b.tif", "-m", model, "-o", out)
    assert done.exit_code == 2 and "[/red]" in done.stderr and "1 of 2 scenes failed" in done.stderr, done.output
