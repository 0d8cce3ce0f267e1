"""The networks that are served: U-Nets with random weights, which speed does not depend on, in model folders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_registry.artifacts import checksum_of
from model_registry.intake.writing import write_manifest

CLASSES = ("grassland", "field", "forest", "water", "road", "building")
BANDS = ("red", "green", "blue")
GSD = 0.5
# How much of the shallow levels gets past `_smooth`.
SKIPPED = 0.2


@dataclass(frozen=True, slots=True)
class Network:
    """A U-Net to build.

    Attributes:
        name: in URLs.
        base, depth: of `model_registry.architectures.unet`.
        bf16: whether bf16 may be used, whatever it moves: random weights move pixels that trained ones would not.
        halo: context in pixels, stated and not measured: the figures are defined for 48.
    """

    name: str
    base: int
    depth: int
    bf16: bool
    halo: int = 48


LARGE = Network("unet-7m8", base=32, depth=4, bf16=False)
LARGE_BF16 = Network("unet-7m8-bf16", base=32, depth=4, bf16=True)
SMALL = Network("unet-1m9", base=16, depth=4, bf16=True)


def write_network(network: Network, folder: Path) -> Path:
    """Write a model folder with seeded random weights; returns it. The same network always gives the same bytes."""
    import torch
    from safetensors.torch import save
    from torch import nn

    from model_registry.architectures import build

    hyperparameters = {
        "in_channels": len(BANDS),
        "classes": len(CLASSES),
        "base": network.base,
        "depth": network.depth,
    }
    torch.manual_seed(42)
    module = build("unet", hyperparameters)
    for layer in module.modules():
        # PyTorch's own start lets the signal fade over twenty layers: every pixel would get one class.
        if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    _narrow(module)
    _smooth(module)
    data = save({name: tensor.contiguous() for name, tensor in module.state_dict().items()})
    place = folder / network.name
    place.mkdir(parents=True, exist_ok=True)
    (place / "model.safetensors").write_bytes(data)
    document = _manifest(network, hyperparameters, data)
    write_manifest(document, place)
    return place


def _narrow(module: Any) -> None:
    """Let the deepest convolutions see their own pixel only, so that a halo of 48 px makes a depth of 4 exact.

    Otherwise it would need 96 px, and the registry would rightly leave every runtime that shows it. The work stays the
    same: no runtime here skips zeros.
    """
    import torch

    with torch.no_grad():
        for block in (module.down[-1], module.merge[-1]):
            for layer in block:
                if isinstance(layer, torch.nn.Conv2d):
                    centre = layer.weight[:, :, 1, 1].clone() * 3
                    layer.weight.zero_()
                    layer.weight[:, :, 1, 1] = centre


def _smooth(module: Any) -> None:
    """Let the deep levels decide, so that the answer is a map of areas and no noise.

    Encoding noise takes ten times as long as encoding what a trained network answers, and would be most of a tile.
    """
    import torch

    with torch.no_grad():
        for up in module.up:
            up.weight.copy_(up.weight.mean(dim=(2, 3), keepdim=True).expand_as(up.weight) * 2)
        for merge in module.merge[:-1]:
            merge[0].weight[:, : merge[0].weight.shape[1] // 2] *= SKIPPED


def _manifest(network: Network, hyperparameters: dict[str, int], data: bytes) -> dict[str, Any]:
    shape, order = [-1, len(BANDS), -1, -1], ["batch", "bands", "height", "width"]
    step = 2**network.depth
    precision = {"default": "auto", "max_moved": 1.0} if network.bf16 else {"default": "fp32"}
    return {
        "properties": {
            "name": network.name,
            "architecture": "unet",
            "hyperparameters": hyperparameters,
            "input": [
                {
                    "name": "image",
                    "bands": list(BANDS),
                    "input": {"shape": shape, "dim_order": order, "data_type": "float32"},
                    "value_scaling": [{"type": "z-score", "mean": 120.0, "stddev": 40.0}] * len(BANDS),
                }
            ],
            "output": [
                {
                    "name": "logits",
                    "result": {
                        "shape": [-1, len(CLASSES), -1, -1],
                        "dim_order": ["batch", "class", "height", "width"],
                        "data_type": "float32",
                    },
                    "classification:classes": [{"value": i, "name": name} for i, name in enumerate(CLASSES)],
                }
            ],
        },
        "serving": {
            "schema": 1,
            "artifacts": [
                {
                    "href": "model.safetensors",
                    "format": "safetensors",
                    "checksum": checksum_of(data),
                    "size": len(data),
                }
            ],
            "input": {"values": "dn", "dtypes": ["uint8"]},
            "resolution": {"value": GSD, "unit": "m"},
            # Stated in full, so that nothing is probed.
            "window": {"multiple": step, "period": step, "halo": network.halo, "preferred": 512},
            "exactness": "exact",
            "precision": precision,
        },
    }
