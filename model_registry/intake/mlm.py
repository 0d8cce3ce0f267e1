"""A STAC item with the MLM extension: an item.json with the model's file beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_registry.artifacts import check_checksum, checksum_of, read_file, read_named
from model_registry.errors import ArtifactError, ManifestError, UnsupportedModel
from model_registry.mlm import document_from_item

_MAX_ITEM = 4 << 20
_ROLES = ("mlm:model", "mlm:weights", "mlm:checkpoint")


def item_of(path: Path) -> Mapping[str, Any] | None:
    """Return the STAC item in a JSON file, None where it is no such."""
    try:
        item = json.loads(read_named(path, _MAX_ITEM))
    except (ValueError, RecursionError):
        raise ManifestError(f"{path.name!r} is not JSON", "Give an MLM item, a model file or a folder") from None
    return item if isinstance(item, Mapping) and "stac_version" in item and "properties" in item else None


def document_of(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return the model.yaml document that the item amounts to."""
    document = document_from_item(item)
    for entry in (document.get("properties") or {}).get("input") or []:
        if isinstance(entry, dict) and not entry.get("value_scaling"):
            entry.pop("value_scaling", None)  # null is what a missing scaling becomes on its way: it says nothing
    return document


def artifact_of(item: Mapping[str, Any], folder: Path) -> tuple[str, bytes]:
    """Return (name, bytes) of the item's model, which must lie beside it; its `file:checksum` is verified.

    Raises:
        ManifestError: no asset is the model.
        UnsupportedModel: it lies elsewhere.
        ArtifactError: missing, linked, or not the one that is meant.
    """
    assets = item.get("assets")
    for role in _ROLES:
        for asset in assets.values() if isinstance(assets, Mapping) else ():
            if isinstance(asset, Mapping) and role in (asset.get("roles") or ()):
                return _fetch(asset, folder)
    raise ManifestError("the item has no asset with the role mlm:model", "Give the model's file itself")


def _fetch(asset: Mapping[str, Any], folder: Path) -> tuple[str, bytes]:
    href = str(asset.get("href", ""))
    if "://" in href or href.startswith("/"):
        raise UnsupportedModel(
            "the item's model lies elsewhere", "Download it beside the item, and write its name as the asset's href"
        )
    data = read_file(folder, href.removeprefix("./"))
    checksum = asset.get("file:checksum")
    if checksum is not None and check_checksum(str(checksum)) != checksum_of(data):
        raise ArtifactError("the model's file is not the one that the item has the checksum of", "Fetch it again")
    return href.rpartition("/")[2], data
