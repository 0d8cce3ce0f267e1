"""index.json: everything that a registry holds, in one file at its root.

Web servers cannot be listed, so remote roots at https:// need it; where it is present it is used, and nothing else
tells what there is. `manifest` is the multihash of the version's model.yaml.

    {"schema": 1, "models": {"cover": {"aliases": {"default": 2}, "retired": [1],
                                       "versions": {"1": {"manifest": "1220..."}, "2": {"manifest": "1220..."}}}}}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model_registry import aside, records
from model_registry.artifacts import check_checksum, checksum_of
from model_registry.errors import ManifestError
from model_registry.records import MANIFEST
from model_registry.refs import check_name, version_number
from model_registry.store import Store
from model_registry.versions import Shelf

INDEX = "index.json"
SCHEMA = 1


@dataclass(frozen=True)
class Index:
    """Shelves by name, and the multihash of each version's model.yaml by (name, number)."""

    shelves: Mapping[str, Shelf]
    manifests: Mapping[tuple[str, int], str]


def write_index(root: str | Path) -> tuple[Path, int]:
    """Write `root`/index.json; return its path and how many versions it lists.

    Raises:
        RegistryError, ManifestError: see `Store`.
    """
    store = Store(root)
    models: dict[str, Any] = {}
    for name in store.names():
        shelf = store.shelf(name)
        manifests = {n: checksum_of((store.root / name / str(n) / MANIFEST).read_bytes()) for n in shelf.versions}
        models[name] = {
            "aliases": dict(shelf.aliases),
            "retired": sorted(shelf.retired),
            "versions": {str(n): {"manifest": checksum} for n, checksum in manifests.items()},
        }
    place = store.root / INDEX
    aside.write_json(place, {"schema": SCHEMA, "models": models})
    return place, sum(len(model["versions"]) for model in models.values())


def read_index(data: bytes) -> Index:
    """Read an index.json.

    Raises:
        ManifestError: it is none, or one of a later form.
    """
    try:
        found = json.loads(data)
        if not isinstance(found, dict) or found.get("schema") != SCHEMA:
            raise ManifestError(
                f"{INDEX} is not of the form {SCHEMA}", "Write it with `tiler models index` of this version"
            )
        shelves: dict[str, Shelf] = {}
        manifests: dict[tuple[str, int], str] = {}
        for name, model in found["models"].items():
            check_name(name)
            for text, version in model["versions"].items():
                number = version_number(text)
                if number is None:
                    raise ValueError(f"the version {text[:20]!r} of {name}")
                manifests[name, number] = check_checksum(version["manifest"])
            numbers = tuple(sorted(number for owner, number in manifests if owner == name))
            aliases = records.aliases_from(model.get("aliases", {}))
            if numbers:
                shelves[name] = Shelf(name, numbers, aliases, records.retired_from(model.get("retired", [])))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ManifestError(
            f"{INDEX} cannot be used ({type(error).__name__})", "Write it anew with `tiler models index`"
        ) from None
    return Index(shelves, manifests)
