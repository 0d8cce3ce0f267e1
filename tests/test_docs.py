"""docs/your-model.md, run section by section in an empty folder, as whoever follows it would."""

from __future__ import annotations

import importlib
import re
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from affine import Affine

from model_registry.store import Store
from model_registry.testing import conv_chain
from tests.shell import ROOT, run, serving, surroundings
from tests.tiler.helpers import landscape, write_scene

DOCS = ROOT / "docs"
TEXT = (DOCS / "your-model.md").read_text(encoding="utf-8")
UTM = "EPSG:32632"


def sections(text: str) -> dict[str, list[tuple[str, str]]]:
    """(language, code) of the blocks below each heading, of those that have any."""
    found: dict[str, list[tuple[str, str]]] = {}
    for part in re.split(r"^##+ ", text, flags=re.M)[1:]:
        blocks = re.findall(r"^```(\w+)\n(.*?)^```", part, re.S | re.M)
        if blocks:
            found[part.splitlines()[0]] = blocks
    return found


SECTIONS = sections(TEXT)
# What has to be there before: the scene that a section speaks of, and the reader's own files.
RGB, SENTINEL, TWO_DATES = ("uint8", 3, 0.5), ("uint16", 4, 10.0), ("uint16", 8, 10.0)
SCENES = {"ONNX": RGB, "A PyTorch module": SENTINEL, "segmentation_models_pytorch": SENTINEL, "torchgeo": TWO_DATES}
# Packages that a section needs, and does not name by an import of its own.
NEEDS = {"A PyTorch module": ("onnxscript",), "Checkpoints": ("torch", "safetensors")}


def test_every_section_is_run() -> None:
    assert set(SECTIONS) == {
        "ONNX", "A PyTorch module", "As a .pt2 file", "segmentation_models_pytorch", "torchgeo", "Checkpoints",
        "Other answers",
    }  # fmt: skip
    assert {language for blocks in SECTIONS.values() for language, _ in blocks} == {"sh", "python"}


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Surroundings of a reader's own: `tiler` and `python` are found, nothing else of ours is set."""
    return {
        **surroundings(tmp_path / "home"),
        "TILER_TRUST": str(tmp_path / "trust.json"),
        "TORCH_HOME": str(tmp_path / "torch"),
        "HF_HUB_OFFLINE": "1",
    }


def lay_out(section: str, folder: Path, environment: dict[str, str]) -> None:
    """Put the reader's own files into `folder`."""
    if section in SCENES:
        dtype, bands, gsd = SCENES[section]
        pixels = (landscape(200, 240, bands=bands).astype(np.uint16) * (1 if dtype == "uint8" else 20)).astype(dtype)
        names = ("B02", "B03", "B04", "B08") if bands == 4 else ()
        place = Affine(gsd, 0, 500_000, 0, -gsd, 5_400_000)
        write_scene(folder / "scene.tif", pixels, crs=UTM, transform=place, descriptions=names)
    if section == "ONNX":
        (folder / "roads.onnx").write_bytes(conv_chain(layers=2, classes=3).SerializeToString())
    if section == "Other answers":
        (folder / "height.onnx").write_bytes(conv_chain(layers=2, classes=1).SerializeToString())
    if section == "Checkpoints":
        import torch

        from model_registry.architectures import build

        net = build("unet", {"in_channels": 3, "classes": 4, "base": 8, "depth": 2})
        torch.save(
            {"state_dict": {f"model.{key}": value for key, value in net.state_dict().items()}}, folder / "last.ckpt"
        )
    if section == "torchgeo":
        stand_in_for_the_download(Path(environment["TORCH_HOME"]))


def stand_in_for_the_download(torch_home: Path) -> None:
    """Random weights where torch keeps what it has downloaded: the network is the real one, its numbers are not."""
    import torch
    from torchgeo.models import Unet_Weights, unet

    weights: Any = Unet_Weights.SENTINEL2_3CLASS_FTW
    meta = weights.meta
    net = unet(None, classes=meta["num_classes"], encoder_name=meta["encoder"], encoder_weights=None, in_channels=8)
    cache = torch_home / "hub" / "checkpoints"
    cache.mkdir(parents=True)
    torch.save(net.state_dict(), cache / weights.url.rpartition("/")[2])


def skip_without(section: str) -> None:
    """Skip by name where a package that the section needs cannot be imported."""
    code = "\n".join(block for language, block in SECTIONS[section] if language == "python")
    imported = re.findall(r"^(?:import|from) (\w+)", code, re.M)
    for name in dict.fromkeys((*imported, *NEEDS.get(section, ()))):
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError) as error:  # torchvision made for another torch raises the second
            pytest.skip(f"{name} cannot be imported ({error})")


# Whole models and children; the fast suite has their parts.
@pytest.mark.slow
@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_does_what_it_says(section: str, tmp_path: Path, environment: dict[str, str]) -> None:
    skip_without(section)
    folder = tmp_path / "work"
    folder.mkdir()
    lay_out(section, folder, environment)
    for language, code in SECTIONS[section]:
        if language == "python":
            (folder / "block.py").write_text(code, encoding="utf-8")
            run("python block.py", folder, environment)
            continue
        for line in code.replace("\\\n", " ").splitlines():
            if line.startswith("tiler serve"):
                with serving(line, folder, environment) as printed:
                    address = printed["TileJSON"]
                    assert address.endswith("/scene/roads/tilejson.json"), "models/roads/1 is called roads"
                    with urllib.request.urlopen(address, timeout=60) as answer:
                        assert b'"tilejson"' in answer.read()
            elif line.strip():
                run(line, folder, environment)
    store = Store(folder / "models")
    added = len(re.findall(r"^tiler models add", "\n".join(code for _, code in SECTIONS[section]), re.M))
    assert sum(len(store.versions(name)) for name in store.names()) == added > 0


@pytest.mark.parametrize("page", sorted(path.name for path in DOCS.glob("*.md")))
def test_every_link_leads_somewhere(page: str) -> None:
    for target, anchor in re.findall(
        r"\]\((?!https?:)([^)#]*)(?:#([^)]+))?\)", (DOCS / page).read_text(encoding="utf-8")
    ):
        file = (DOCS / target).resolve() if target else DOCS / page
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}, (
                anchor
            )
