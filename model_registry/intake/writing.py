"""Write a model.yaml that people can read: MLM's words first, then `serving:`, lists of plain values on one line."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from model_registry.manifest import Model, Op, PrecisionSpec, Rgba
from model_registry.model_yaml import MANIFEST
from model_registry.scaling import PARAMETERS

SCHEMA = "https://stac-extensions.github.io/mlm/v1.6.0/schema.json"
_HEAD = "# Written by `tiler models add`. A published version is never changed: edit a copy and add that.\n"


class _Dumper(yaml.SafeDumper):
    """Lists of plain values and short objects of them on one line, all else in blocks; no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


def _plain(value: Any) -> bool:
    return value is None or isinstance(value, str | int | float | bool)


def _list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    flow = all(_plain(v) for v in data) and len(str(data)) < 400
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=flow)


def _mapping(dumper: yaml.SafeDumper, data: dict[str, Any]) -> yaml.Node:
    inner = all(_plain(v) or (isinstance(v, list) and all(map(_plain, v))) for v in data.values())
    flow = inner and len(data) > 0 and len(str(data)) < 110
    return dumper.represent_mapping("tag:yaml.org,2002:map", data.items(), flow_style=flow)


_Dumper.add_representer(list, _list)
_Dumper.add_representer(dict, _mapping)


def manifest_text(document: Mapping[str, Any]) -> str:
    """Return `document` ({"properties": ..., "serving": ...}) as YAML."""
    ordered = _ordered({"$schema": SCHEMA, **document}, "")
    return _HEAD + str(yaml.dump(ordered, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=118))


# What a reader looks for first stands first; keys that are not named here follow in their own order.
_ORDER: Mapping[str, tuple[str, ...]] = {
    "": ("$schema", "properties", "serving"),
    "properties": (
        "name", "description", "license", "attribution", "source", "architecture", "hyperparameters", "framework",
        "tasks", "input", "output",
    ),
    "input": ("name", "bands", "input", "value_scaling"),
    "output": ("name", "tasks", "result", "classification:classes"),
    "serving": (
        "schema", "artifacts", "input", "preprocess", "resolution", "window", "output", "nodata", "precision",
        "exactness", "test",
    ),
    "output block": ("kind", "emits", "activation", "threshold", "value"),
}  # fmt: skip


def _ordered(value: Any, place: str) -> Any:
    if isinstance(value, list | tuple):
        return [_ordered(item, place) for item in value]
    if not isinstance(value, Mapping):
        return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e9 else value
    first = [key for key in _ORDER.get(place, ()) if key in value]
    blocks = {"serving": {"output": "output block", "input": "other"}}.get(place, {})
    known = place in ("", "properties", "serving")
    return {
        key: _ordered(value[key], blocks.get(key, str(key)) if known else "other")
        for key in [*first, *(key for key in value if key not in first)]
    }


def write_manifest(document: Mapping[str, Any], folder: Path) -> Path:
    """Write `folder`/model.yaml, aside and renamed; return its path. What it says is checked when it is read."""
    path = folder / MANIFEST
    descriptor, aside = tempfile.mkstemp(dir=folder, prefix=f".{MANIFEST}.")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(manifest_text(document))
        os.chmod(aside, 0o644)
        os.replace(aside, path)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return path


def document_of(model: Model) -> dict[str, Any]:
    """Return the model.yaml document that says what `model` says; `model_yaml` reads the same model from it."""
    # MLM's words have room for one step on all bands; anything else is told in ours.
    simple = len(model.scaling) <= 1 and not (model.scaling and len(model.scaling[0].bands) < len(model.bands))
    return {"properties": _properties(model, simple), "serving": _serving(model, simple)}


def _properties(model: Model, simple: bool) -> dict[str, Any]:
    """What MLM has words for; `simple`: whether that includes the scaling."""
    properties: dict[str, Any] = {
        "name": model.title,
        "architecture": model.architecture,
        "tasks": ["semantic-segmentation"],
        "input": [
            {
                "name": "image",
                "bands": list(model.bands),
                "input": {
                    "shape": [-1, len(model.bands), *(model.window.fixed or (-1, -1))],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
                "value_scaling": value_scaling(model.scaling, len(model.bands)) if simple else None,
            }
        ],
        "output": [
            {
                "name": "classes",
                "tasks": ["semantic-segmentation"],
                "classification:classes": [
                    {"value": c.value, "name": c.name, "color_hint": hex_color(c.color)}
                    | ({"description": c.description} if c.description else {})
                    for c in model.classes
                ],
            }
        ],
    }
    for key, text in (
        ("license", model.license),
        ("attribution", model.attribution),
        ("description", model.description),
    ):
        if text:
            properties[key] = text
    if model.hyperparameters:
        properties["hyperparameters"] = dict(model.hyperparameters)
    return properties


def _serving(model: Model, simple: bool) -> dict[str, Any]:
    """What MLM lacks; `simple`: whether the scaling is told there already."""
    serving: dict[str, Any] = {
        "schema": 1,
        "artifacts": [
            {"href": a.href, "format": a.format, "checksum": a.checksum, "size": a.size} for a in model.artifacts
        ],
        "input": {"values": model.input_values, "dtypes": list(model.input_dtypes)},
    }
    if not simple:
        serving["preprocess"] = [op_document(op, len(model.bands)) for op in model.scaling]
    if model.resolution is not None:
        serving["resolution"] = {
            "value": model.resolution.value, "unit": "m", "tolerance": model.resolution.tolerance,
            "policy": model.resolution.policy,
        }  # fmt: skip
    window = model.window
    serving["window"] = {
        **{key: "auto" if (value := getattr(window, key)) is None else value for key in ("multiple", "period", "halo")},
        "preferred": window.preferred,
        **{key: value for key in ("max", "cell") if (value := getattr(window, key)) is not None},
    }
    serving["output"] = {
        "emits": model.emits, "activation": model.activation,
        **({"threshold": model.threshold} if model.threshold is not None else {}),
    }  # fmt: skip
    serving["nodata"] = {"fill": model.nodata.fill, "mask": model.nodata.mask}
    if model.precision != PrecisionSpec():
        serving["precision"] = {**asdict(model.precision), "allowed": list(model.precision.allowed)}
    if model.exactness is not None:
        serving["exactness"] = model.exactness
    return serving


def value_scaling(ops: Sequence[Op], bands: int) -> list[dict[str, Any]] | None:
    """Return MLM's value_scaling of at most one step on all bands: one object, or one for each band."""
    if not ops:
        return None
    whole = op_document(ops[0])
    if not any(isinstance(value, list) for value in whole.values()):
        return [whole]
    return [{k: v[band] if isinstance(v, list) else v for k, v in whole.items()} for band in range(bands)]


def hex_color(color: Rgba) -> str:
    """Return RRGGBB, or RRGGBBAA where the colour is not opaque."""
    digits = bytes(color).hex().upper()
    return digits if color[3] != 255 else digits[:6]


_FAR = 3.4e38  # beyond every float32
_IDLE: Mapping[str, tuple[float, ...]] = {
    "min-max": (0, 1), "z-score": (0, 1), "offset": (0,), "scale": (1,),
    "clip": (-_FAR, _FAR), "clip-min": (-_FAR,), "clip-max": (_FAR,),
}  # fmt: skip


def op_document(op: Op, bands: int | None = None) -> dict[str, Any]:
    """Return one scaling step as MLM writes it; a number that all bands share stands once.

    A step that leaves some of `bands` alone is written with the numbers that change nothing there.
    """
    rows = [list(row) for row in op.numbers]
    if bands is not None and len(op.bands) < bands:
        full = [[number] * bands for number in _IDLE[op.kind]]
        for row, own in zip(full, rows, strict=True):
            for band, number in zip(op.bands, own, strict=True):
                row[band] = number
        rows = full
    numbers = [row[0] if len(set(row)) == 1 else row for row in rows]
    return {"type": op.kind, **dict(zip(PARAMETERS[op.kind], map(_short, numbers), strict=True))}


def _short(number: Any) -> Any:
    if isinstance(number, list):
        return [_short(n) for n in number]
    return int(number) if float(number).is_integer() and abs(number) < 1e15 else float(number)
