"""The demo's network in everybody's format, with the same weights: ONNX for us and GeoDeep, TorchScript for geoai."""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.processes import ROOT
from model_registry.artifacts import checksum_of
from model_registry.intake.writing import write_manifest

DEMO = ROOT / "tiler" / "demo" / "model"
WINDOW = 512  # px; the side of the peers' windows, which GeoDeep reads off the file


@dataclass(frozen=True, slots=True)
class Networks:
    """Where they are.

    Attributes:
        ours: a model folder: ONNX of logits, scaling in model.yaml.
        onnx: probabilities [1, K, WINDOW, WINDOW] of pixels / 255, with GeoDeep's metadata.
        script: TorchScript, the same for any size.
        classes, halo: of the network; halo in px.
    """

    ours: Path
    onnx: Path
    script: Path
    classes: int
    halo: int


def write_networks(folder: Path) -> Networks:
    """Write all three; the same weights always give the same files of ours."""
    import torch
    from safetensors.torch import load_file

    from model_registry.architectures import build

    document = yaml.safe_load((DEMO / "model.yaml").read_text(encoding="utf-8"))
    properties, serving = document["properties"], document["serving"]
    network = build(properties["architecture"], properties["hyperparameters"])
    network.load_state_dict(load_file(DEMO / "model.safetensors"))
    network.eval()
    scaling = properties["input"][0]["value_scaling"]
    names = [item["name"] for item in properties["output"][0]["classification:classes"]]
    halo = int(serving["window"]["halo"])
    folder.mkdir(parents=True, exist_ok=True)

    class OfShares(torch.nn.Module):
        """Probabilities of what both peers feed a network with: pixels / 255."""

        def __init__(self) -> None:
            super().__init__()
            self.network = network
            for name, key in (("mean", "mean"), ("deviation", "stddev")):
                self.register_buffer(name, torch.tensor([band[key] for band in scaling]).reshape(1, -1, 1, 1))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.softmax(self.network((x * 255.0 - self.mean) / self.deviation), dim=1)

    peer, example = OfShares().eval(), torch.zeros(1, len(scaling), WINDOW, WINDOW)
    found = Networks(folder / "ours", folder / "geodeep.onnx", folder / "geoai.pt", len(names), halo)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.freeze(torch.jit.trace(peer, example)), found.script)
        _to_onnx(peer, example, found.onnx, {})
        found.ours.mkdir(exist_ok=True)
        free = {0: "n", 2: "h", 3: "w"}
        _to_onnx(network, example, found.ours / "model.onnx", {"x": free, "scores": free})
    _describe(found.onnx, names, halo)
    data = (found.ours / "model.onnx").read_bytes()
    serving["artifacts"] = [{"href": "model.onnx", "format": "onnx", "checksum": checksum_of(data), "size": len(data)}]
    for key in ("architecture", "hyperparameters"):
        properties.pop(key, None)
    write_manifest({"properties": properties, "serving": serving}, found.ours)
    return found


def _to_onnx(network: Any, example: Any, path: Path, axes: dict[str, dict[int, str]]) -> None:
    import torch

    torch.onnx.export(
        network, (example,), str(path), dynamo=False, input_names=["x"], output_names=["scores"], dynamic_axes=axes
    )


def _describe(path: Path, names: list[str], halo: int) -> None:
    """What GeoDeep wants to know: as much overlap as the halo asks for, no sieve."""
    import onnx

    model = onnx.load(path)
    told = {
        "model_type": "Segmentor",
        "class_names": {str(number): name for number, name in enumerate(names)},
        "resolution": 50,  # cm
        "tiles_overlap": 100 * 2 * halo / WINDOW,  # percent of a window, half of it cropped on each side
        "seg_thresh": 0,
        "seg_small_segment": 0,
    }
    for key, value in told.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)
    onnx.save(model, path)
