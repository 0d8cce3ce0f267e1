"""`tiler models ...`, as a user types it: what it says, where, and how it ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from model_registry.store import Store
from tests.model_registry.shelves import put, write
from tiler.cli import GDAL_DEFAULTS, app

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """cover:1 (default), cover:2 with a probe, soil:1."""
    store = Store(tmp_path / "registry")
    put(store, license="MIT")
    version = put(
        store, values=(0, 4, 9), classes=["water", {"value": 3, "name": "[red]field", "color_hint": "E6B800"}, "x"]
    )
    put(store, "soil", gsd=None)
    store.alias("cover", "default", 1)
    probe = {
        "digest": store.open(version).digest, "exactness": "bounded", "halo": 64, "period": 16, "multiple": 16,
        "drift": [
            {"runtime": "onnxruntime", "precision": "fp32", "moved": 0, "reference": True},
            {"runtime": "openvino", "precision": "bf16", "moved": 0.0123, "why_not": "too much"},
            {"runtime": "torch", "precision": "bf16", "moved": None},
        ],
        "speed": [{"runtime": "openvino", "precision": "fp32", "mpx_per_s": 12.34}],
    }  # fmt: skip
    (version.folder / "probe.json").write_text(json.dumps(probe))
    return store


def models(store: Store, *arguments: Any, **environment: str) -> Result:
    environment = {"TILER_REGISTRY": str(store.root), "COLUMNS": "200", **GDAL_DEFAULTS, **environment}
    return CliRunner().invoke(app, ["models", *map(str, arguments)], env=environment)


def said(done: Result) -> str:
    """What a run that went well said, in one line."""
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


def told(done: Result, *words: str, store: Store) -> None:
    """Assert that a run ended with 2 and one line that a user can act on."""
    assert done.exit_code == 2, done.output
    assert done.stdout == ""
    (line,) = done.stderr.strip().splitlines()
    for word in words:
        assert word in line
    assert "Traceback" not in line and str(store.root) not in line


def test_list_shows_every_version(store: Store):
    store.retire("cover:2")
    shown = said(models(store, "list"))
    for words in (
        "cover:1 default verified 2 0.5 m exact MIT",
        "cover:2 retired 3 0.5 m exact -",
        "soil:1 verified 2 - exact -",
    ):
        assert words in shown
    found = json.loads(models(store, "list", "--json").stdout)
    assert [(one["ref"], one["state"], one["classes"]) for one in found] == [
        ("cover:1", "verified", 2),
        ("cover:2", "retired", 3),
        ("soil:1", "verified", 2),
    ]


def test_list_of_nothing_says_how_to_begin(tmp_path: Path):
    assert "tiler models add" in said(models(Store(tmp_path / "none"), "list"))


def test_a_version_that_cannot_be_read_is_listed_as_failed(store: Store):
    (store.root / "soil" / "1" / "model.yaml").chmod(0o644)
    (store.root / "soil" / "1" / "model.yaml").write_text("{")
    shown = said(models(store, "list"))
    assert "soil:1 failed -" in shown and "soil:1: model.yaml is not valid YAML" in shown and "cover:1" in shown
    told(models(store, "show", "soil"), "model.yaml is not valid YAML", store=store)


def test_show_tells_all_about_a_model(store: Store):
    shown = said(models(store, "show", "cover:2"))
    for words in (
        "cover:2 Land cover",
        "State probed",
        "Licence not stated",
        "Bands x (dn, uint8)",
        "Resolution 0.5 m, give or take 1 %; other scenes are resampled",
        "0 water #e69f00",
        "3 [red]field #e6b800",
        "emits logits, activation softmax",
        "exact, halo 64 px, period 16 px, multiple 16 px",
        "openvino bf16: 1.23 % of the pixels change (too much) torch bf16: cannot be used",
        "openvino fp32: 12.3 million pixels a second",
        "model.onnx onnx,",
    ):
        assert words in shown, words
    assert "onnxruntime fp32: 0" not in shown, "the reference does not drift from itself"
    found = json.loads(models(store, "show", "cover", "--json").stdout)
    assert (found["ref"], found["license"], found["aliases"]) == ("cover:1", "MIT", ["default"])
    assert found["measured"] is None and found["digest"] == store.open("cover:1").digest
    assert str(store.root) not in json.dumps(found)


@pytest.mark.parametrize(
    "probe",
    ["[]", "{}", '{"drift": 3, "speed": ["x", {"mpx_per_s": "fast"}], "findings": null, "halo": [], "error": "?"}'],
)
def test_show_reads_a_strange_probe_leniently(store: Store, probe: str):
    digest = store.open("soil").digest
    text = probe if probe == "[]" else json.dumps({**json.loads(probe), "digest": digest})
    (store.root / "soil" / "1" / "probe.json").write_text(text)
    assert "soil:1" in said(models(store, "show", "soil")) and "soil:1" in said(models(store, "list"))


def test_aliases_are_moved_and_taken_away(store: Store):
    assert said(models(store, "alias", "cover:2", "canary")) == "cover@canary is cover:2"
    assert said(models(store, "alias", "cover@canary", "default")) == "cover@default is cover:2"
    assert store.resolve("cover").number == 2
    assert said(models(store, "alias", "cover", "canary", "--remove")) == "cover@canary is gone"
    assert store.shelf("cover").aliases == {"default": 2}
    told(models(store, "alias", "cover", "canary", "--remove"), "no alias 'canary'", store=store)
    told(models(store, "alias", "cover:7", "canary"), "no version 7", "cover:2", store=store)


def test_versions_are_retired_and_removed_by_number_only(store: Store):
    assert said(models(store, "retire", "cover:2")) == "cover:2 is retired"
    assert store.resolve("cover:2").state.name == "retired"
    assert said(models(store, "retire", "cover:2", "--undo")) == "cover:2 is back"
    for command in ("retire", "remove"):
        told(models(store, command, "cover"), "does not say which version", "cover:3", store=store)
        told(models(store, command, "cover@default"), "does not say which version", store=store)
        told(models(store, command, "cover:1"), "in use: cover@default", store=store)
    assert store.versions("cover") == (1, 2)
    assert said(models(store, "remove", "cover:2")) == "cover:2 is gone"
    assert said(models(store, "remove", "cover:1", "--force")) == "cover:1 is gone"
    assert store.names() == ("soil",)


def test_export_mlm_writes_an_item(store: Store, tmp_path: Path):
    item = json.loads(models(store, "export-mlm", "cover:2").stdout)
    assert item["id"] == "cover-2" and item["assets"]["model"]["href"] == "./model.onnx"
    place = tmp_path / "items" / "cover.json"
    place.parent.mkdir()
    assert said(models(store, "export-mlm", "cover:2", "-o", place)) == "cover.json written"
    href = json.loads(place.read_text())["assets"]["model"]["href"]
    assert (place.parent / href).resolve() == (store.root / "cover" / "2" / "model.onnx").resolve()
    done = models(store, "export-mlm", "cover:2", "-o", tmp_path / "none" / "cover.json")
    assert done.exit_code == 2 and "cannot be written" in done.stderr


def test_index_is_written(store: Store):
    assert said(models(store, "index", store.root)) == "index.json lists 3 versions"
    assert set(json.loads((store.root / "index.json").read_text())["models"]) == {"cover", "soil"}


def test_errors_are_one_line(store: Store):
    told(models(store, "show", "nope"), "no model 'nope'", "Known are: cover, soil", store=store)
    told(models(store, "show", "cover:x"), "'x' is not a version of 'cover'", store=store)
    told(models(store, "list", "-r", "ftp://host/x"), "cannot be at ftp://", store=store)


def test_a_remote_registry_is_only_read(store: Store):
    pytest.importorskip("obstore")
    url = "https://user:hunter2@127.0.0.1:9/models"
    for command in (["alias", "cover:1", "x"], ["remove", "cover:1"], ["retire", "cover:1"]):
        done = models(store, *command, "--registry", url)
        told(done, "only read", store=store)
        assert "hunter2" not in done.output


def test_the_registry_is_the_folder_models_unless_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "models" / "cover" / "1")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TILER_REGISTRY", raising=False)
    done = CliRunner().invoke(app, ["models", "list", "--json"], env=GDAL_DEFAULTS)
    assert json.loads(done.stdout)[0]["ref"] == "cover:1"


def test_listing_loads_no_runtime_and_no_server(store: Store):
    code = (
        "import sys; from typer.testing import CliRunner; from tiler.cli import app\n"
        f"done = CliRunner().invoke(app, ['models', 'list', '-r', {str(store.root)!r}])\n"
        "assert done.exit_code == 0 and 'cover:2' in done.stdout, done.output\n"
        "print({'torch', 'onnxruntime', 'openvino', 'fastapi', 'obstore'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
