"""`tiler models add`, `import` and `trust`, as a user types them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from model_registry import trust
from model_registry.store import Store
from model_registry.testing import conv_chain, with_metadata
from tests.model_registry import hostile
from tiler.cli import GDAL_DEFAULTS, app

GIVEN = ("--bands", "1,2,3", "--gsd", "0.5", "--scaling", "scale=255", "--classes", "a,b,c,d,e")


@pytest.fixture(autouse=True)
def own_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in list(os.environ):
        if name.startswith("TILER_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("TILER_TRUST", str(tmp_path / "trust.json"))
    yield


@pytest.fixture
def network(tmp_path: Path) -> Path:
    (tmp_path / "My Cover.onnx").write_bytes(conv_chain().SerializeToString())
    return tmp_path / "My Cover.onnx"


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    return tmp_path / "registry"


def models(*arguments: Any, **environment: str) -> Result:
    runner = CliRunner()
    return runner.invoke(app, ["models", *map(str, arguments)], env={**GDAL_DEFAULTS, **environment})


def told(result: Result) -> str:
    """What was said on standard error: one line, and no traceback."""
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith("Error: ") and "Traceback" not in result.output
    return lines[0]


def test_add_publishes_a_version_and_points_the_alias(network: Path, registry: Path) -> None:
    for number in (1, 2):
        result = models("add", network, "--registry", registry, *GIVEN, "--license", "MIT", "--alias", "default")
        assert result.exit_code == 0, result.output
        assert result.output.splitlines() == [
            f"Added my-cover:{number}, which is now @default",
            f"Next: tiler models check my-cover:{number} --registry {registry}",
        ]
    store = Store(registry)
    assert store.versions("my-cover") == (1, 2) and store.resolve("my-cover@default").number == 2
    model = store.open("my-cover:1")
    assert model.license == "MIT" and [c.name for c in model.classes] == list("abcde")
    assert not os.access(store.resolve("my-cover:1").folder / "model.onnx", os.W_OK) or os.geteuid() == 0


def test_add_takes_the_registry_of_the_environment(network: Path, registry: Path) -> None:
    colors = ("--colors", "FF0000,00FF00,0000FF,FFFF00,00FFFF", "--name", "cover", "--title", "Land cover")
    assert models("add", network, *GIVEN, *colors, TILER_REGISTRY=str(registry)).exit_code == 0
    model = Store(registry).open("cover:1")
    assert model.classes[0].color == (255, 0, 0, 255) and model.title == "Land cover"


def test_deepness_needs_no_questions(tmp_path: Path, registry: Path) -> None:
    names = json.dumps({str(i): n for i, n in enumerate("abcde")})
    network = with_metadata(conv_chain(), model_type='"Segmentor"', class_names=names, resolution="50")
    (tmp_path / "roads.onnx").write_bytes(network.SerializeToString())
    assert models("add", tmp_path / "roads.onnx", "--registry", registry).exit_code == 0
    assert Store(registry).open("roads:1").resolution.value == 0.5


def test_what_is_missing_is_told_and_nothing_is_left(network: Path, registry: Path) -> None:
    line = told(models("add", network, "--registry", registry, "--classes", "a,b"))
    for part in ("2 classes were named, the network answers 5", "--bands 1,2,3", "--scaling none", "--gsd METRES"):
        assert part in line
    assert Store(registry).names() == () and not list(registry.rglob("*.onnx"))


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (("--name", "../../x"), "../../x"),
        (("--name", "a/b"), "a/b"),
        (("--name", ".hidden"), ".hidden"),
        (("--scaling", "eval(x)"), "scaling step"),
        (("--gsd", "close"), "--gsd 'close'"),
        (("--colors", "red"), "1 colours for 5 classes"),
        (("--hyperparameters", "!!python/object:os.system {}"), "--hyperparameters"),
        (("--dtypes", "complex64"), "dtypes"),
    ],
)
def test_answers_that_are_none(network: Path, registry: Path, options: tuple[str, ...], part: str) -> None:
    assert part in told(models("add", network, "--registry", registry, *GIVEN, *options))
    assert not registry.exists() or Store(registry).names() == ()


def test_it_asks_at_a_terminal(network: Path, registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        answers = iter(["red,green,blue", "a,b,c", "none", "0.5", "a,b,c,d,e", "uint8"])

    asked: list[str] = []

    def prompt(text: str) -> str:
        asked.append(text)
        return next(Terminal.answers)

    monkeypatch.setattr("typer.prompt", prompt)
    monkeypatch.setattr("tiler.cli.intake.at_terminal", lambda: True)
    result = models("add", network, "--registry", registry)
    assert result.exit_code == 0, result.output
    first = ["The names of 3 bands", "The names of 5 classes", "How pixels are scaled", "The ground resolution"]
    assert [any(text.startswith(start) for text in asked[:4]) for start in first] == [True] * 4
    assert asked[4].startswith("3 classes were named, the network answers 5")
    assert asked[5].startswith("Which dtype of raster")
    assert Store(registry).open("my-cover:1").bands == ("red", "green", "blue")


@pytest.mark.parametrize(
    "source", ["gone.onnx", "someone/cover@main", "x" * 300, "http://example.org/m.onnx", ".", "\U0001f5fa.onnx"]
)
def test_sources_that_are_none(source: str, registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    told(models("add", source, "--registry", registry, *GIVEN, "--name", "m"))
    assert Store(registry).names() == ()


@pytest.mark.parametrize("name", ["zip_bomb", "artifact_that_is_a_pipe", "a_device", "yaml_bomb", "script_called_onnx"])
def test_hostile_files_end_with_two_and_one_line(name: str, tmp_path: Path, registry: Path) -> None:
    (tmp_path / "files").mkdir()
    path = hostile.CORPUS[name].write(tmp_path / "files", tmp_path / "marker")
    line = told(models("add", path, "--registry", registry, "--name", "m", *GIVEN))
    assert str(tmp_path) not in line and not (tmp_path / "marker").exists()
    assert Store(registry).names() == ()


def test_trust_shows_what_it_is_and_asks(tmp_path: Path) -> None:
    guard = f"__import__('os').mkdir('{tmp_path / 'marker'}') is None"
    program = json.dumps({"guards_code": [guard]})
    path = hostile.saved(tmp_path, hostile.zipped({"a/archive_format": b"pt2", "a/models/model.json": program}))
    assert "nothing was trusted" in told_after_table(models("trust", path))
    assert trust.listed() == {}
    result = models("trust", path, "--yes")
    assert result.exit_code == 0 and "format:  pt2" in result.output and "warning: a guard that is no" in result.output
    (digest,) = trust.listed()
    assert f"sha256:  {digest}" in result.output and not (tmp_path / "marker").exists()
    assert "trusted already" in models("trust", path).output
    assert "no longer trusted" in models("trust", path, "--revoke").output and trust.listed() == {}


def told_after_table(result: Result) -> str:
    assert result.exit_code == 2 and "Traceback" not in result.output
    return result.stderr.strip()


def test_trust_of_what_needs_none(network: Path, registry: Path) -> None:
    assert "onnx needs no trust" in told_after_table(models("trust", network, "--yes"))
    assert models("add", network, "--registry", registry, *GIVEN).exit_code == 0
    assert "onnx needs no trust" in told_after_table(models("trust", "my-cover:1", "--registry", registry, "--yes"))
    assert trust.listed() == {}
    assert "no" in told(models("trust", "nobody:1", "--registry", registry, "--yes"))


@pytest.mark.slow
def test_import_converts_a_checkpoint(tmp_path: Path, registry: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("safetensors")
    from tests.model_registry import torch_files

    state = {f"model.{k}": v for k, v in torch_files.network().state_dict().items()}
    path = tmp_path / "last.ckpt"
    path.write_bytes(torch_files.checkpoint({"state_dict": state}))
    sizes = ("--architecture", "unet", "--hyperparameters", "in_channels=3,classes=4,base=4,depth=2")
    result = models("import", path, *sizes)
    assert result.exit_code == 0, result.output
    weights = tmp_path / "last.safetensors"
    assert weights.is_file() and f"tiler models add {weights}" in result.output
    assert "is there already" in told(models("import", path, *sizes))
    result = models("add", weights, "--registry", registry, *GIVEN[:-1], "a,b,c,d", *sizes)
    assert result.exit_code == 0, result.output
    assert Store(registry).open("last:1").architecture == "unet"
    assert "architecture" in told(
        models("import", path, "--architecture", "os", "--output", tmp_path / "x.safetensors")
    )
    assert sorted(p.name for p in tmp_path.glob("*.safetensors")) == ["last.safetensors"]


def test_help_is_quick() -> None:
    """Nothing heavy is imported for it."""
    import subprocess

    code = (
        "import sys; from typer.testing import CliRunner; from tiler.cli import app\n"
        "assert CliRunner().invoke(app, ['models', 'add', '--help']).exit_code == 0\n"
        "print(sorted({'torch', 'onnxruntime', 'onnx', 'rasterio', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
