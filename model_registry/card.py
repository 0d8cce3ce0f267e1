"""What there is to say of a version, JSON-ready: for a page, a table or a program. No path, no credential."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from model_registry.errors import ModelError
from model_registry.manifest import Model
from model_registry.versions import Registry, State, Version

# Of `properties:`, what says where a model comes from.
_PROVENANCE = (
    "source", "providers", "framework", "framework_version", "architecture", "total_parameters", "pretrained",
    "pretrained_source", "created", "updated", "datetime", "sci:doi", "sci:citation", "keywords",
)  # fmt: skip
# Of probe.json, what is worth showing; `check` writes it.
_MEASURED = (
    "exactness", "halo", "period", "multiple", "error", "golden", "served", "findings", "notes", "drift", "speed",
    "machine",
)  # fmt: skip


def card(registry: Registry, version: Version) -> dict[str, Any]:
    """Return everything about `version`; of a remote one its files are fetched.

    Raises:
        ModelError: it cannot be fetched, or its manifest cannot be used.
    """
    model = registry.open(version)
    document, probe = registry.documents(version)
    if probe is None or probe.get("digest") != model.digest:
        probe = {}
    properties = _properties(document)
    window = model.window
    return _plain(
        {
            **_head(version),
            "title": model.title,
            "description": model.description,
            "license": model.license,
            "attribution": model.attribution,
            "digest": model.digest,
            "bands": list(model.bands),
            "input": {"values": model.input_values, "dtypes": list(model.input_dtypes)},
            "classes": [
                {
                    "value": item.value,
                    "name": item.name,
                    "color": "#{:02x}{:02x}{:02x}{:02x}".format(*item.color),
                    "description": item.description,
                }
                for item in model.classes
            ],
            "resolution": _resolution(model),
            # What the manifest says of an answer that is no class goes along: name, unit, range.
            "output": {
                **_mapping(_mapping(_mapping(document).get("serving")).get("output")),
                "emits": model.emits, "activation": model.activation, "threshold": model.threshold,
            },
            "window": {
                "multiple": window.multiple, "period": window.period, "halo": window.halo, "fixed": window.fixed,
            },
            "exactness": model.exactness or probe.get("exactness"),
            "members": [
                {"model": member.model, "gsd": member.gsd, "weight": member.weight, "digest": member.digest}
                for member in model.members
            ],
            "artifacts": [
                {"href": item.href, "format": item.format, "size": item.size, "checksum": item.checksum}
                for item in model.artifacts
            ],
            "provenance": {key: properties[key] for key in _PROVENANCE if properties.get(key) not in (None, "", [])},
            "measured": {key: probe[key] for key in _MEASURED if probe.get(key) not in (None, [], {})} or None,
        }
    )  # fmt: skip


def summary(registry: Registry, version: Version) -> dict[str, Any]:
    """Return what a list shows of `version`, without opening it: only model.yaml and probe.json are read.

    A version that cannot be read is listed as failed.
    """
    try:
        document, probe = registry.documents(version)
    except ModelError as error:
        if version.state.name != "retired":
            version = replace(version, state=State("failed", str(error)))
        document, probe = {}, None
    properties, serving = _properties(document), _mapping(_mapping(document).get("serving"))
    outputs = properties.get("output")
    output = _mapping(outputs[0]) if isinstance(outputs, list) and outputs else {}
    classes = output.get("classification:classes")
    return _plain(
        {
            **_head(version),
            "title": properties.get("name") or version.name,
            "license": properties.get("license"),
            "classes": len(classes) if isinstance(classes, list) else 0,
            "gsd": _finest(serving),
            "exactness": serving.get("exactness") or (probe or {}).get("exactness"),
        }
    )


def _finest(serving: Mapping[str, Any]) -> Any:
    """The resolution that a manifest states; of an ensemble the finest."""
    members = serving.get("members")
    gsds = [_mapping(member).get("gsd") for member in members] if isinstance(members, list) else []
    known = [gsd for gsd in gsds if isinstance(gsd, int | float)]
    return min(known) if known else _mapping(serving.get("resolution")).get("value")


def _head(version: Version) -> dict[str, Any]:
    return {
        "ref": str(version.ref) if version.number else version.name,  # a folder of no registry has no number
        "name": version.name,
        "version": version.number,
        "aliases": list(version.aliases),
        "state": version.state.name,
        "reason": version.state.reason,
    }


def _resolution(model: Model) -> dict[str, Any] | None:
    where = model.resolution
    if where is None:
        return None
    return {"value": where.value, "unit": "m", "tolerance": where.tolerance, "policy": where.policy}


def _properties(document: Any) -> dict[str, Any]:
    found = _mapping(_mapping(document).get("properties"))
    return {str(key).removeprefix("mlm:"): value for key, value in found.items()}


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}


def _plain(found: dict[str, Any]) -> dict[str, Any]:
    """YAML knows dates, JSON does not."""
    plain: dict[str, Any] = json.loads(json.dumps(found, default=str))
    return plain
