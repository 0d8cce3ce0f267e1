"""A model as an item of STAC's Machine Learning Model extension (MLM, spec 1.6), and back.

What MLM has a word for is said in MLM's words; the rest stands in the item's properties under the prefix `serving:`,
one for each block of `serving:` in model.yaml, so that `document_from_item(item_from_model(m))` is the same model.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from model_registry import records, scaling
from model_registry.errors import ModelError, UnsupportedModel
from model_registry.manifest import Model, Op
from model_registry.mlm_reading import document_from_item, properties_from_mlm
from model_registry.model_yaml import slug

__all__ = ["SCHEMA_URI", "document_from_item", "item_from_model", "properties_from_mlm"]

SCHEMA_URI = "https://stac-extensions.github.io/mlm/v1.6.0/schema.json"
_FILE_URI = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
# STAC 1.1 has `bands` of its own, which MLM's bands must refer to.
_STAC = "1.1.0"

# Format of an artifact: (mlm:artifact_type, media type).
_TYPES = {
    "onnx": ("onnx", "application/octet-stream; application=onnx"),
    "safetensors": ("safetensors.torch.save_file", "application/octet-stream; application=safetensors"),
    "pt2": ("torch.export.save", "application/octet-stream; application=pytorch"),
    "torchscript": ("torch.jit.save", "application/octet-stream; application=pytorch"),
}
TASKS = frozenset(
    "regression classification scene-classification detection object-detection segmentation semantic-segmentation "
    "instance-segmentation panoptic-segmentation similarity-search generative image-captioning super-resolution "
    "downscaling".split()
)
# MLM's own optional properties, with the shape in which its schema wants them; others' go along as they are.
_PASSED: dict[str, type | tuple[type, ...]] = {
    "framework": str,
    "framework_version": str,
    "total_parameters": int,
    "memory_size": int,
    "batch_size_suggestion": int,
    "pretrained": bool,
    "pretrained_source": (str, type(None)),
    "accelerator_summary": str,
}
_FOREIGN = ("providers", "keywords", "created", "updated", "sci:doi", "sci:citation", "source", "attribution")
_NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]")
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?")
_FRAMEWORK = re.compile(r"(?=[^\s._\-]).*[^\s._\-]")
_AXIS = re.compile(r"[a-z-_]+")
_KEY = re.compile(r"[0-9a-zA-Z_.-]+")
_SPDX = re.compile(r"[\w\-.+]+")


def item_from_model(model: Model, *, folder: Path | None = None, base: str = "./") -> dict[str, Any]:
    """Return `model` as an MLM item: JSON-ready, without a geometry, as a model is true anywhere.

    Args:
        model: as `open_model` returns it.
        folder: where its model.yaml is; None takes the model's own. A bare ONNX file has none.
        base: what stands before the names of its files: "./" for an item that lies beside them.

    Raises:
        ManifestError: model.yaml cannot be read any more.
        UnsupportedModel: an ensemble, for which MLM has no words.
    """
    if model.members:
        raise UnsupportedModel(f"{model.name!r} is an ensemble, for which MLM has no words", "Export its members")
    folder = folder or model.folder
    document: Any = {}
    probe = None
    if (folder / records.MANIFEST).is_file():
        document, probe = records.read_documents(folder)
    raw = _mapping(document.get("properties"))
    raw = {str(key).removeprefix("mlm:"): value for key, value in raw.items()}
    serving = _mapping(document.get("serving"))
    return {
        "type": "Feature",
        "stac_version": _STAC,
        "stac_extensions": [SCHEMA_URI, _FILE_URI],
        "id": f"{model.name}-{model.version}",
        "geometry": None,
        "properties": {
            "datetime": _datetime(model, folder, raw),
            **_general(model, raw),
            **_mlm(model, raw),
            **_serving(model, serving, raw),
            "serving:digest": model.digest,
            **({} if probe is None or probe.get("digest") != model.digest else {"serving:measured": _measured(probe)}),
        },
        "links": [],
        "assets": _assets(model, serving, folder, base),
    }


def _general(model: Model, raw: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {"title": model.title, "version": model.version}
    if model.description:
        found["description"] = model.description
    if model.license:
        found["license"] = model.license if _SPDX.fullmatch(model.license) else "other"
        found["serving:license"] = model.license
    if model.resolution is not None:
        found["gsd"] = model.resolution.value
    found["bands"] = _band_list(model)
    found |= {key: raw[key] for key in _FOREIGN if raw.get(key) is not None}
    return found


def _mlm(model: Model, raw: Mapping[str, Any]) -> dict[str, Any]:
    tasks = _tasks(model, raw)
    ops, steps = _value_scaling(model.scaling, len(model.bands))
    height, width = model.window.fixed or (-1, -1)
    entry: dict[str, Any] = {
        "name": _first(raw, "input").get("name") or "image",
        "bands": list(model.bands),
        "input": {
            "shape": [-1, len(model.bands), height, width],
            "dim_order": ["batch", "bands", "height", "width"],
            "data_type": "float32",
        },
    }
    if ops:
        entry["value_scaling"] = ops
    if steps:
        entry["pre_processing_function"] = {
            "format": "serving:preprocess",
            "expression": steps,
            "description": "MLM's scaling operations, one after the other",
        }
    output: dict[str, Any] = {
        "name": _first(raw, "output").get("name") or "scores",
        "tasks": tasks,
        "result": _result(model, raw),
    }
    if model.classes:
        output["classification:classes"] = [
            {
                "value": item.value,
                "name": slug(item.name),
                "description": item.description or item.name,
                "color_hint": "{:02X}{:02X}{:02X}".format(*item.color[:3]),
            }
            for item in model.classes
        ]
    found: dict[str, Any] = {
        "mlm:name": _name(model),
        "mlm:architecture": model.architecture or "unknown",
        "mlm:tasks": tasks,
        "mlm:input": [entry],
        "mlm:output": [output],
    }
    found |= {f"mlm:{key}": value for key, value in _passed(raw).items()}
    if model.hyperparameters and all(_KEY.fullmatch(str(key)) for key in model.hyperparameters):
        found["mlm:hyperparameters"] = dict(model.hyperparameters)
    return found


def _serving(model: Model, serving: Mapping[str, Any], raw: Mapping[str, Any]) -> dict[str, Any]:
    """Every block of `serving:` but the artifacts, which are assets; what was left to rules is said outright."""
    found: dict[str, Any] = {f"serving:{key}": value for key, value in serving.items() if key != "artifacts"}
    found["serving:schema"] = 1
    found["serving:input"] = {"values": model.input_values, "dtypes": list(model.input_dtypes)}
    output = _mapping(serving.get("output"))
    if model.classes:
        output |= {"emits": model.emits, "activation": model.activation}
        # MLM's classes have no spaces in their names, and no opacity.
        found["serving:classes"] = [
            {
                "value": item.value,
                "name": item.name,
                "description": item.description,
                "color_hint": "{:02X}{:02X}{:02X}{:02X}".format(*item.color),
            }
            for item in model.classes
        ]
    found["serving:output"] = output
    told = _told_tasks(raw)
    if told and told != _tasks(model, raw):
        found["serving:tasks"] = told  # MLM has no word for an embedding
    if serving:
        scaled = _first(raw, "input").get("value_scaling")
        if "serving:preprocess" not in found and scaled:
            found["serving:value_scaling"] = scaled
        return found
    # A bare file, whose description is in its metadata.
    window = model.window
    found["serving:preprocess"] = [_step(op) for op in model.scaling]
    found["serving:window"] = {"preferred": window.preferred, "max": window.max}
    sizes = ("multiple", "period", "halo", "cell")
    found["serving:window"] |= {key: value for key in sizes if (value := getattr(window, key)) is not None}
    found["serving:nodata"] = {"fill": model.nodata.fill, "mask": model.nodata.mask}
    if model.threshold is not None:
        output["threshold"] = model.threshold
    if model.resolution is not None:
        where = model.resolution
        found["serving:resolution"] = {"value": where.value, "tolerance": where.tolerance, "policy": where.policy}
    return found


def _assets(model: Model, serving: Mapping[str, Any], folder: Path, base: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for index, artifact in enumerate(model.artifacts):
        kind, media = _TYPES[artifact.format]
        found["model" if index == 0 else f"model-{index + 1}"] = {
            "href": base + artifact.href,
            "type": media,
            "title": "Model" if index == 0 else "Further weights",
            # Only the first is the model; the others are what it reads, and MLM wants no artifact_type there.
            "roles": ["mlm:model", "mlm:weights"] if index == 0 else ["mlm:weights"],
            # STAC's core allows `bands` in the properties only where an asset has some too.
            **({"mlm:artifact_type": kind, "bands": _band_list(model)} if index == 0 else {}),
            "file:checksum": artifact.checksum,
            "file:size": artifact.size,
            "serving:format": artifact.format,
        }
    test = _mapping(serving.get("test"))
    for key in ("input", "output"):
        if isinstance(test.get(key), str):
            found[f"test-{key}"] = {"href": base + test[key], "title": f"Golden test, {key}", "roles": ["data"]}
            if test.get(f"{key}_checksum"):
                found[f"test-{key}"]["file:checksum"] = test[f"{key}_checksum"]
    for name, title in ((records.MANIFEST, "How it is served"), (records.PROBE, "What was measured")):
        if (folder / name).is_file():
            kind = "application/json" if name.endswith("json") else "application/yaml"
            found[name.partition(".")[0] + "-document"] = {
                "href": base + name, "type": kind, "title": title, "roles": ["metadata"]
            }  # fmt: skip
    return found


def _band_list(model: Model) -> list[dict[str, str]]:
    return [{"name": name} for name in dict.fromkeys(model.bands)]


def _value_scaling(ops: Sequence[Op], bands: int) -> tuple[list[Any], list[Any]]:
    """Return (MLM's value_scaling, steps): MLM has one operation a band; a chain of them is told as a function."""
    if not ops:
        return [], []
    if sum(len(op.bands) for op in ops) > len({band for op in ops for band in op.bands}):
        return [], [_step(op) for op in ops]
    # MLM's schema has no null beside operations: a band that passes unchanged is divided by 1.
    found: list[Any] = [{"type": "scale", "value": 1}] * bands
    for op in ops:
        for position, band in enumerate(op.bands):
            names = scaling.PARAMETERS[op.kind]
            numbers = {name: values[position] for name, values in zip(names, op.numbers, strict=True)}
            found[band] = {"type": op.kind, **numbers}
    return (found[:1] if all(entry == found[0] for entry in found) else found), []


def _step(op: Op) -> dict[str, Any]:
    numbers = zip(scaling.PARAMETERS[op.kind], op.numbers, strict=True)
    return {"type": op.kind, **{name: values[0] if len(set(values)) == 1 else list(values) for name, values in numbers}}


def _tasks(model: Model, raw: Mapping[str, Any]) -> list[str]:
    found = [task for task in _told_tasks(raw) if task in TASKS]
    return list(dict.fromkeys(found)) or ["semantic-segmentation" if model.classes else "regression"]


def _told_tasks(raw: Mapping[str, Any]) -> list[str]:
    told = _first(raw, "output").get("tasks") or raw.get("tasks")
    return [str(task) for task in told] if isinstance(told, list) else []


def _result(model: Model, raw: Mapping[str, Any]) -> dict[str, Any]:
    told = _mapping(_first(raw, "output").get("result"))
    shape, order = told.get("shape"), told.get("dim_order")
    sound = isinstance(shape, list) and isinstance(order, list) and len(shape) == len(order) == 4
    if sound and all(isinstance(n, int) and n >= -1 for n in shape or ()) and "bands" not in (order or ()):
        if all(isinstance(axis, str) and _AXIS.fullmatch(axis) for axis in order or ()):
            return {"shape": shape, "dim_order": order, "data_type": told.get("data_type") or "float32"}
    labels = model.emits == "labels"
    return {
        "shape": [-1, 1 if labels else model.values.channels if model.values else len(model.classes), -1, -1],
        "dim_order": ["batch", "class" if model.classes else "channel", "height", "width"],
        "data_type": "uint8" if labels else "float32",
    }


def _passed(raw: Mapping[str, Any]) -> dict[str, Any]:
    """MLM's own optional properties, as far as its schema takes them."""
    patterns = {"framework": _FRAMEWORK, "framework_version": _VERSION}
    found = {key: raw[key] for key, kind in _PASSED.items() if key in raw and _is(raw[key], kind)}
    return {key: value for key, value in found.items() if key not in patterns or patterns[key].fullmatch(value)}


def _is(value: Any, kind: type | tuple[type, ...]) -> bool:
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool) and value >= 0
    return isinstance(value, kind)


def _name(model: Model) -> str:
    for name in (model.title, model.name, f"model {model.name}"):
        if _NAME.fullmatch(name):
            return name
    return f"model {re.sub(r'[^a-zA-Z0-9]+', ' ', model.name).strip() or '1'}"


def _datetime(model: Model, folder: Path, raw: Mapping[str, Any]) -> str:
    """When the model came to be: what it says, else when its description was written."""
    told = raw.get("datetime")
    if isinstance(told, datetime):
        return told.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(told, str):
        return told
    for path in (folder / records.MANIFEST, *(model.folder / artifact.href for artifact in model.artifacts)):
        try:
            written = datetime.fromtimestamp(int(path.stat().st_mtime), UTC)
        except OSError:
            continue
        return written.isoformat().replace("+00:00", "Z")
    raise ModelError(f"the files of {model.name!r} are gone", "Restore them")


def _measured(probe: Mapping[str, Any]) -> dict[str, Any]:
    return {key: probe[key] for key in ("exactness", "halo", "period", "multiple", "error") if key in probe}


def _first(raw: Mapping[str, Any], key: str) -> dict[str, Any]:
    entries = raw.get(key)
    return _mapping(entries[0]) if isinstance(entries, list) and entries else {}


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
