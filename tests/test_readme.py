"""The README's code is run, so that it can be pasted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from model_registry.testing import conv_chain, value_classes, write_model

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.S)


def test_the_titiler_application_builds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "models" / "landcover", value_classes([0, 255]), classes=["dark", "light"], bands=["gray"])
    monkeypatch.chdir(tmp_path)
    (code,) = blocks("python")
    space: dict[str, object] = {}
    exec(code, space)
    paths = set(space["app"].openapi()["paths"])
    assert "/cog/inference/{model}/tiles/{tileMatrixSetId}/{z}/{x}/{y}.{format}" in paths


def test_the_model_yaml_is_read(tmp_path: Path) -> None:
    from model_registry import open_model

    text = next(block for block in blocks("yaml") if block.startswith("properties:"))
    folder = tmp_path / "fields"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(conv_chain(bands=4, classes=3).SerializeToString())
    (folder / "model.yaml").write_text(text.replace("<sha256>", "0" * 64), encoding="utf-8")
    model = open_model(folder)
    assert model.bands == ("B04", "B03", "B02", "B08")
    assert [item.name for item in model.classes] == ["background", "field", "boundary"]
    assert model.window.halo is None


def test_the_settings_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tiler.settings import Settings

    text = next(block for block in blocks("yaml") if block.startswith("scenes:"))
    file = tmp_path / "tiler.yaml"
    file.write_text(text, encoding="utf-8")
    monkeypatch.setenv("TILER_CONFIG", str(file))
    monkeypatch.setenv("TILER_CACHE_BYTES", "2000")
    settings = Settings()
    assert settings.scenes["field"].bands == [3, 2, 1]
    assert settings.cache_bytes == 2000
    assert set(yaml.safe_load(text)) <= set(Settings.model_fields)


def test_every_command_exists() -> None:
    shell = "\n".join(blocks("sh"))
    targets = re.findall(r"^make (\S+)", shell, re.M)
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets and all(re.search(rf"^{target}:", makefile, re.M) for target in targets)
    for command in sorted(set(re.findall(r"^tiler (\w+)", shell, re.M))):
        run = subprocess.run(
            [sys.executable, "-m", "tiler.cli", command, "--help"],
            cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert run.returncode == 0, run.stderr


def test_every_link_to_a_file_leads_somewhere() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target
