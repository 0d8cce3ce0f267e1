"""The demo model's card, model.yaml: what the network expects, what it answers, and which weights belong to it."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import yaml

CLASSES: tuple[tuple[str, str], ...] = (
    ("grassland", "C3D69B"),
    ("field", "E8C35A"),
    ("forest", "2F7D4A"),
    ("water", "3B82C4"),
    ("road", "6B6B75"),
    ("building", "C8452F"),
)
HYPERPARAMETERS = {"in_channels": 3, "classes": len(CLASSES), "base": 16, "depth": 3}
# Digital numbers, over all seen pixels of the training landscapes, rounded.
MEAN = (130.0, 138.0, 96.0)
DEVIATION = (46.0, 38.0, 29.0)


def checksum(path: Path) -> str:
    """SHA-256 of a file as a multihash in hexadecimal: 12 names the function, 20 its length."""
    return "1220" + hashlib.sha256(path.read_bytes()).hexdigest()


def write_card(path: Path, weights: Path, halo: int) -> None:
    """Write model.yaml beside its weights, whole or not at all."""
    part = path.with_suffix(".part")
    part.write_text(yaml.safe_dump(card(weights, halo), sort_keys=False, allow_unicode=True, width=120))
    os.replace(part, path)


def card(weights: Path, halo: int) -> dict[str, Any]:
    """The card as plain data: the words of STAC MLM under `properties`, what serving needs under `serving`."""
    return {
        "$schema": "https://stac-extensions.github.io/mlm/v1.6.0/schema.json",
        "properties": _properties(),
        "serving": _serving(weights, halo),
    }


def _properties() -> dict[str, Any]:
    return {
        "name": "Demo land cover",
        "architecture": "unet",
        "framework": "pytorch",
        "tasks": ["semantic-segmentation"],
        "description": "Land cover of the invented demo landscape. Not meant for real imagery.",
        "license": "MIT",
        "hyperparameters": dict(HYPERPARAMETERS),
        "input": [
            {
                "name": "image",
                "bands": ["red", "green", "blue"],
                "input": {
                    "shape": [-1, 3, -1, -1],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
                "value_scaling": [
                    {"type": "z-score", "mean": mean, "stddev": deviation}
                    for mean, deviation in zip(MEAN, DEVIATION, strict=True)
                ],
            }
        ],
        "output": [
            {
                "name": "logits",
                "tasks": ["semantic-segmentation"],
                "result": {
                    "shape": [-1, len(CLASSES), -1, -1],
                    "dim_order": ["batch", "class", "height", "width"],
                    "data_type": "float32",
                },
                "classification:classes": [
                    {"value": value, "name": name, "color_hint": colour} for value, (name, colour) in enumerate(CLASSES)
                ],
            }
        ],
    }


def _serving(weights: Path, halo: int) -> dict[str, Any]:
    period = 2 ** HYPERPARAMETERS["depth"]
    artifact = {
        "href": weights.name,
        "format": "safetensors",
        "checksum": checksum(weights),
        "size": weights.stat().st_size,
    }
    return {
        "schema": 1,
        "artifacts": [artifact],
        "input": {"values": "dn", "dtypes": ["uint8"]},
        "resolution": {"value": 0.5, "unit": "m", "tolerance": 0.01, "policy": "resample"},
        "window": {"multiple": period, "period": period, "halo": halo, "preferred": 512},
        "output": {"emits": "logits", "activation": "softmax"},
        "precision": {"default": "auto", "allowed": ["bf16"], "max_moved": 0.005},
        "nodata": {"fill": 0, "mask": "any"},
    }
