"""`tiler models check`, as a user types it: tables, one line of JSON, exit codes, and a picture of a scene."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from model_registry.store import Store
from model_registry.testing import global_mean, strided_unet, value_classes, with_metadata, write_model
from tests.model_registry.networks import CLASSES, NETWORKS
from tests.tiler.helpers import RES, landscape, write_scene
from tiler.cli import GDAL_DEFAULTS, app


def check(*arguments: Any) -> Result:
    return CliRunner().invoke(app, ["models", "check", *map(str, arguments)], env={**GDAL_DEFAULTS, "COLUMNS": "120"})


def last_line(done: Result) -> dict[str, Any]:
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "unet", NETWORKS["unet nearest"].make(), classes=CLASSES, gsd=round(RES, 4))


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "field.tif", landscape(300, 400))


def test_one_line_of_json_and_the_same_in_the_folder(model: Path) -> None:
    done = check(model, "--json")
    assert done.exit_code == 0, done.output
    assert len(done.stdout.strip().splitlines()) == 1
    found = last_line(done)
    assert {"exactness", "period", "halo", "multiple", "error", "drift", "speed"} <= set(found)
    assert (found["exactness"], found["period"], found["halo"]) == ("exact", 4, 12)
    assert json.loads((model / "probe.json").read_text()) == found


def test_tables_for_people(model: Path) -> None:
    done = check(model)
    assert done.exit_code == 0, done.output
    shown = re.sub(r"\s+", " ", done.stdout)
    assert "exact: tiles equal one pass over the whole scene" in shown
    assert "halo 12 px, on multiples of 4 px" in shown and "1 px off the period moves" in shown
    assert "onnxruntime fp32" in shown and "reference" in shown and "Kept in" in shown


def test_errors_by_halo_for_networks_that_are_not_exact(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "norm", NETWORKS["group norm"].make(), classes=CLASSES)
    done = check(folder)
    assert done.exit_code == 0, done.output
    shown = re.sub(r"\s+", " ", done.stdout)
    assert "unsafe: on noise, neighbouring windows differ in" in shown and "statistics over the window" in shown
    assert re.search(r"512 px 0 px \S+ %", shown) and re.search(r"512 px 128 px \S+ %", shown)


@pytest.mark.slow
def test_a_manifest_that_claims_too_much_exits_with_one(tmp_path: Path) -> None:
    net = NETWORKS["unet nearest"].make()
    folder = write_model(tmp_path / "m", net, classes=CLASSES, window={"halo": 4}, exactness="exact")
    done = check(folder)
    assert done.exit_code == 1
    assert "serving.window.halo is 4, an exact answer needs 12 px" in re.sub(r"\s+", " ", done.stdout)
    assert check(folder, "--json").exit_code == 1
    assert json.loads((folder / "probe.json").read_text())["findings"][0]["level"] == "error"


@pytest.mark.slow
def test_a_scene_adds_seams_on_its_pixels_and_a_picture(model: Path, scene: Path) -> None:
    done = check(model, "--scene", scene, "--json")
    assert done.exit_code == 0, done.output
    shown = last_line(done)["scene"]
    assert shown["name"] == "field.tif" and shown["picture"] == "check.png" and not shown["why_not"]
    curve = {row["halo"]: row for row in shown["seams"]}
    assert curve[12]["moved"] == 0 and curve[12]["dprob"] < 1e-5
    assert curve[0]["moved"] > curve[4]["moved"] > curve[8]["moved"] > 0
    assert sum(shown["shares"].values()) == pytest.approx(1, abs=1e-3)
    assert {row["on"] for row in last_line(done)["drift"]} == {"the scene"}
    picture = np.asarray(Image.open(model / "check.png").convert("RGB"))
    # Three panels of 400 x 300 px: imagery, mask, confidence.
    assert picture.shape[0] > 300 and picture.shape[1] > 3 * 400
    top, left = panel(picture)
    pixels = landscape(300, 400).transpose(1, 2, 0)
    assert np.abs(picture[top : top + 300, left : left + 400].astype(int) - pixels).mean() < 2
    assert len(np.unique(picture[top : top + 300, left + 412 : left + 812].reshape(-1, 3), axis=0)) == len(CLASSES)
    assert str(model.parent) not in json.dumps(last_line(done))


def panel(picture: np.ndarray) -> tuple[int, int]:
    """Upper left corner of the first panel: titles above it are ink on white, and the first column is its own."""
    column = picture[:, 12].astype(int)
    rows = [row for row in range(len(column) - 20) if (column[row : row + 20] != 255).any(axis=1).all()]
    return rows[0], 12


def test_a_scene_without_model_bands_is_refused(model: Path, tmp_path: Path) -> None:
    two = write_scene(tmp_path / "two.tif", landscape(64, 64, bands=2))
    done = check(model, "--scene", two)
    told(done, "bands", tmp_path)
    assert not (model / "check.png").exists()
    told(check(model, "--scene", tmp_path / "absent.tif"), "absent.tif", tmp_path)


@pytest.mark.slow
def test_networks_that_are_not_exact_on_a_scene(tmp_path: Path, scene: Path) -> None:
    network = NETWORKS["squeeze-excite"].make()
    folder = write_model(tmp_path / "se", network, classes=CLASSES, gsd=round(RES, 4), window={"preferred": 128})
    done = check(folder, "--scene", scene)
    assert done.exit_code == 0, done.output
    assert "What a halo leaves on field.tif" in re.sub(r"\s+", " ", done.stdout) and "Picture:" in done.stdout
    seams = json.loads((folder / "probe.json").read_text())["scene"]["seams"]
    assert {row["window"] for row in seams} == {128} and seams[-1]["halo"] == 32 and seams[0]["moved"] > 0


def test_a_bare_onnx_file_keeps_its_report_beside_it(tmp_path: Path) -> None:
    keys = {
        "model_type": '"Segmentor"',
        "class_names": '{"0": "dark", "1": "light"}',
        "resolution": "50",
        "tiles_size": "256",
    }
    network = with_metadata(NETWORKS["plain"].make(), **keys | {"class_names": json.dumps(dict(enumerate(CLASSES)))})
    (tmp_path / "net.onnx").write_bytes(network.SerializeToString())
    assert check(tmp_path / "net.onnx").exit_code == 0
    assert json.loads((tmp_path / "net.probe.json").read_text())["halo"] == 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["regression", "embedding"])
def test_values_and_vectors_are_measured_and_drawn(tmp_path: Path, scene: Path, kind: str) -> None:
    if kind == "regression":
        value = {"name": "canopy height", "unit": "m", "range": [-2, 2]}
        net, options = strided_unet(depth=2, classes=1), {"tasks": [kind], "output": {"value": value}}
    else:
        net, options = global_mean(classes=8), {"tasks": [kind], "channels": 8}
    folder = write_model(tmp_path / kind, net, gsd=round(RES, 4), **options)
    done = check(folder, "--scene", scene, "--json")
    assert done.exit_code == 0, done.output
    found = last_line(done)
    assert (found["exactness"] == "exact") == (kind == "regression")
    assert found["contract"]["kind"] == kind and found["contract"]["seen"] == {} == found["scene"]["shares"]
    seams = found["scene"]["seams"]
    assert seams[0]["halo"] == 0 and seams[0]["moved"] > seams[-1]["moved"]
    assert seams[-1]["moved"] == 0 if kind == "regression" else seams[-1]["dprob"] > 0
    picture = np.asarray(Image.open(folder / "check.png").convert("RGB"))
    top, left = panel(picture)
    answer = picture[top : top + 300, left + 412 : left + 812]
    assert len(np.unique(answer.reshape(-1, 3), axis=0)) > 50
    assert check(folder).exit_code == 0


@pytest.mark.slow
def test_models_of_a_registry_by_reference(tmp_path: Path, scene: Path) -> None:
    store = Store(tmp_path / "models")
    with store.publish("cover") as draft:
        write_model(draft.folder, NETWORKS["plain"].make(), classes=CLASSES, gsd=round(RES, 4))
    assert store.resolve("cover").state.name == "verified"
    done = check("cover:1", "--registry", tmp_path / "models", "--json", "--scene", scene)
    assert done.exit_code == 0, done.output
    assert last_line(done)["model"] == "cover:1"
    # Measured, and still the version that was verified: nothing in the folder but report and picture is new.
    assert store.resolve("cover").state.name == "probed"
    folder = tmp_path / "models" / "cover" / "1"
    assert sorted(path.name for path in folder.iterdir()) == ["check.png", "model.onnx", "model.yaml", "probe.json"]
    (folder / "probe.json").unlink()
    assert store.resolve("cover").state.name == "verified"
    told(check("cover@canary", "--registry", tmp_path / "models"), "canary", tmp_path)
    told(check("clover", "--registry", tmp_path / "models"), "cover", tmp_path)


def told(done: Result, word: str, folder: Path) -> None:
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    assert word in line and "Traceback" not in line and str(folder) not in line


def test_what_cannot_be_loaded_exits_with_two(tmp_path: Path, model: Path) -> None:
    told(check(tmp_path / "nothing"), "nothing", tmp_path)
    (tmp_path / "empty").mkdir()
    told(check(tmp_path / "empty"), "model.yaml", tmp_path)
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x07garbage" * 20)
    told(check(tmp_path / "bad.onnx"), "not an ONNX model", tmp_path)
    (model / "model.onnx").write_bytes(value_classes([1, 2]).SerializeToString())
    told(check(model, "--json"), "model.onnx", tmp_path)
    assert not (model / "probe.json").exists()


def test_time_and_memory_are_limited(model: Path, tmp_path: Path) -> None:
    told(check(model, "--seconds", "1", "--memory", "0.1"), "", tmp_path)
    assert not (model / "probe.json").exists()


def test_a_folder_that_cannot_be_written_to(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from model_registry import check as room

    monkeypatch.setattr(room, "write", lambda *_: None)
    done = check(model)
    assert done.exit_code == 0 and "Not kept" in done.stdout


# The page about it


PAGE = (Path(__file__).parents[2] / "docs" / "models.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_commands_of_the_page_work(tmp_path: Path, scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    scene.rename(tmp_path / "scene.tif")
    with Store("models").publish("landcover") as draft:
        write_model(draft.folder, NETWORKS["plain"].make(), classes=CLASSES, gsd=round(RES, 4))
    Store("models").alias("landcover", "default", 1)
    write_model(tmp_path / "models" / "landcover", NETWORKS["plain"].make(), classes=CLASSES, gsd=round(RES, 4))
    section = PAGE[PAGE.index("## Checking a model") :]
    commands = [
        line.partition("#")[0].split() for line in re.findall(r"```sh\n(.*?)```", section, re.S)[0].splitlines()
    ]
    assert len(commands) == 4 and all(command[:3] == ["tiler", "models", "check"] for command in commands)
    for command in commands:
        assert check(*command[3:]).exit_code == 0, command


@pytest.mark.slow
def test_the_page_names_every_key_of_the_report(model: Path, scene: Path) -> None:
    found = last_line(check(model, "--scene", scene, "--json"))
    table = PAGE[PAGE.index("### The report") :].partition("\n## ")[0]
    named = {key for row in re.findall(r"^\| (`.*?) \|", table, re.M) for key in re.findall(r"`(\w+)`", row)}
    assert named - set(found) == set()
    assert set(found) - named == {"version", "model", "title", "seconds", "cpu_seconds"}


# Real networks


@pytest.mark.real
@pytest.mark.slow
def test_trained_networks_on_their_imagery(tmp_path: Path, shared: Path) -> None:
    onnx = pytest.importorskip("onnx")
    classes = ["water", "trees", "grass", "flooded", "crops", "shrub", "built", "bare", "snow"]
    bands = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"]
    net = onnx.load(shared / "dynamicworld" / "dynamicworld_forward_dn.onnx")
    kinds = {"gsd": 10, "scaling": None, "dtypes": ["uint16", "int16"]}
    folder = write_model(tmp_path / "dw", net, classes=classes, bands=bands, **kinds)
    done = check(folder, "--scene", shared / "majortom_thailand" / "majortom_thailand_12band_10m_cog.tif", "--json")
    assert done.exit_code == 0, done.output
    found = last_line(done)
    assert (found["exactness"], found["period"], found["halo"]) == ("exact", 2, 22)
    moved = [row["moved"] for row in found["scene"]["seams"]]
    assert moved[-1] == 0 and moved == sorted(moved, reverse=True) and moved[0] > 0.01
    bf16 = [row for row in found["drift"] if row["precision"] == "bf16"]
    assert all(0.005 < row["moved"] < 0.05 for row in bf16)
    assert (folder / "check.png").stat().st_size > 100_000

    net = onnx.load(shared / "azure_naip_landcover_model" / "naip4_landcover5_250epochs.onnx")
    classes, bands = ["none", "water", "trees", "herbs", "barren"], ["red", "green", "blue", "nir"]
    folder = write_model(tmp_path / "naip", net, classes=classes, bands=bands, gsd=1, scaling=None)
    found = last_line(check(folder, "--json"))
    # It subtracts the mean of its window.
    assert (found["exactness"], found["period"], found["halo"]) == ("unsafe", 8, 128)
    assert "statistics over the window" in found["notes"][0]
