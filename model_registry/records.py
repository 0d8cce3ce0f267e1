"""The small files beside and inside the versions: their names, and how they are read when others wrote them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from model_registry import aside
from model_registry.artifacts import read_file
from model_registry.errors import ArtifactError, ManifestError, ModelError, RegistryError
from model_registry.manifest import open_model
from model_registry.refs import check_name
from model_registry.yaml_text import read_yaml

MANIFEST = "model.yaml"
PROBE = "probe.json"
ALIASES = "aliases.json"
RETIRED = "retired.json"
STATE = ".state"
_MANIFEST_BYTES = 1 << 20


def parse_json(data: bytes | None) -> Any:
    """Return what JSON `data` holds, None for no data; "" (which is nowhere right) for what is no JSON."""
    try:
        return None if data is None else json.loads(data)
    except (ValueError, RecursionError):
        return ""


def parse_object(data: bytes | None) -> dict[str, Any] | None:
    """Return the JSON object in `data`, None where there is none."""
    found = parse_json(data)
    return found if isinstance(found, dict) else None


def parse_manifest(data: bytes) -> Any:
    """Return the content of a model.yaml as it stands; ManifestError where it is no YAML, or has aliases."""
    return read_yaml(data, MANIFEST)


def read_probe(folder: Path) -> dict[str, Any] | None:
    """Return the content of `folder`/probe.json, None where there is none that can be read."""
    found = aside.read_json(folder / PROBE)
    return found if isinstance(found, dict) else None


def is_probed(folder: Path) -> bool:
    """Tell whether `folder` holds a probe.json whose `digest` is that of the model beside it."""
    probe = read_probe(folder)
    if probe is None:
        return False
    try:
        return bool(probe.get("digest") == open_model(folder).digest)
    except ModelError:
        return False


def is_name(text: str) -> bool:
    """Tell whether `text` can be a name or an alias."""
    try:
        check_name(text)
    except RegistryError:
        return False
    return True


def aliases_from(found: Any) -> dict[str, int]:
    """Return the aliases in the content of an aliases.json; ManifestError when it is not {name: number}."""
    sound = isinstance(found, dict) and all(
        is_name(key) and isinstance(to, int) and not isinstance(to, bool) for key, to in found.items()
    )
    if not sound:
        raise ManifestError(f"{ALIASES} is not an object of aliases and version numbers", 'Write e.g. {"default": 3}')
    return dict(found)


def read_aliases(home: Path) -> dict[str, int]:
    """Return the aliases of the model in `home`; see `aliases_from`."""
    return aliases_from(aside.read_json(home / ALIASES)) if (home / ALIASES).exists() else {}


def retired_from(found: Any) -> frozenset[int]:
    """Return the numbers in the content of a retired.json; ManifestError when it is no list of them."""
    if not isinstance(found, list) or not all(isinstance(n, int) for n in found):
        raise ManifestError(f"{RETIRED} is not a list of version numbers", "Write e.g. [1, 2], or delete it")
    return frozenset(found)


def read_retired(home: Path) -> frozenset[int]:
    """Return the retired numbers of the model in `home`."""
    return retired_from(aside.read_json(home / RETIRED)) if (home / RETIRED).exists() else frozenset()


def read_documents(folder: Path) -> tuple[Any, dict[str, Any] | None]:
    """Return the content of `folder`/model.yaml, and of probe.json where there is one, as they stand.

    Raises:
        ManifestError: model.yaml is missing, a link, too large, or no YAML.
    """
    try:
        text = read_file(folder, MANIFEST, _MANIFEST_BYTES)
    except ArtifactError as error:
        raise ManifestError(f"the manifest cannot be read: {error.reason}", error.remedy) from None
    return parse_manifest(text), read_probe(folder)


def read_record(home: Path, number: int) -> dict[str, Any]:
    """Return what is remembered of a version: published, verified, failed, removed; each a text, and each may lack."""
    found = aside.read_json(home / STATE / f"{number}.json")
    return found if isinstance(found, dict) else {}


def write_record(home: Path, number: int, **news: str) -> None:
    """Remember `news` of a version besides what is remembered already."""
    (home / STATE).mkdir(exist_ok=True)
    aside.write_json(home / STATE / f"{number}.json", {**read_record(home, number), **news})
