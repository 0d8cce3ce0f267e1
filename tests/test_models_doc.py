"""Every model.yaml in docs/models.md, read as a user would write it: the whole ones alone, parts put into the first."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from model_registry import open_model
from model_registry.artifacts import checksum_of
from model_registry.components import first_three, to_json

TEXT = (Path(__file__).resolve().parents[1] / "docs" / "models.md").read_text(encoding="utf-8")
OUTPUTS = TEXT[TEXT.index("## Outputs beyond classes") :].split("\n## ")[0]
BLOCKS = [block.replace("<sha256>", "0" * 64) for block in re.findall(r"```yaml\n(properties:.*?)```", OUTPUTS, re.S)]


def document(number: int) -> dict[str, Any]:
    """A block; what a part leaves out is that of the first."""
    whole, part = yaml.safe_load(BLOCKS[0]), yaml.safe_load(BLOCKS[number])
    return {name: {**whole[name], **part[name]} for name in whole}


@pytest.mark.parametrize(("number", "kind"), [(0, "regression"), (1, "embedding"), (2, "classes")])
def test_what_the_page_shows_is_read(number: int, kind: str, tmp_path: Path) -> None:
    assert len(BLOCKS) == 3
    data = to_json(first_three(64, -1, 1))
    (tmp_path / "components.json").write_bytes(data)
    (tmp_path / "model.onnx").write_bytes(b"not read by open_model")
    shown = document(number)
    if "components" in shown["serving"]["output"]:
        shown["serving"]["output"]["components"]["checksum"] = checksum_of(data)
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(shown))
    model = open_model(tmp_path)
    assert model.kind == kind
    if kind == "regression":
        assert model.values is not None
        assert (model.values.unit, model.values.range, model.values.ramp) == ("m", (0, 40), "ylgn")
    if kind == "embedding":
        assert model.values is not None and (model.values.channels, model.values.components) == (
            64,
            first_three(64, -1, 1),
        )
    if kind == "classes":
        assert (model.threshold, model.activation, len(model.classes)) == (0.4, "sigmoid", 2)


def test_an_ensemble_as_the_page_shows_it_is_read(tmp_path: Path) -> None:
    section = TEXT[TEXT.index("## Ensembles") :].split("\n## ")[0]
    (block,) = re.findall(r"```yaml\n(.*?)```", section, re.S)
    whole = yaml.safe_load(BLOCKS[2])
    whole["serving"] |= yaml.safe_load(block)["serving"]
    (tmp_path / "model.onnx").write_bytes(b"not read by open_model")
    first = yaml.safe_load(BLOCKS[0])
    (tmp_path / "model.yaml").write_text(yaml.safe_dump({name: {**first[name], **whole[name]} for name in first}))
    assert [(member.gsd, round(member.weight, 3)) for member in open_model(tmp_path).members] == [
        (0.5, 0.667),
        (1, 0.333),
    ]
