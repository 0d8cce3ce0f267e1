"""Exported programs, and the metadata that stac-model packs into them; for sizes the program is believed, not that."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from model_registry import trust
from model_registry.errors import ManifestError
from model_registry.intake.found import Found
from model_registry.pt2_file import Pt2Summary, summarise
from model_registry.runtimes._shapes import demands_of
from model_registry.yaml_schema import unprefixed
from model_registry.yaml_text import read_yaml


def read(data: bytes) -> Found:
    """Return what the .pt2 file says, read without torch.

    Raises:
        ArtifactError: not a .pt2 file.
        UnsupportedModel: an AOTInductor package, several inputs or outputs, or not on the operator's list of trust.
        ManifestError: embedded metadata that is no YAML.
    """
    summary = summarise(data)
    trust.require(data, "a .pt2 file")
    dims = summary.input_dims
    demands = demands_of(dims) if len(dims) == 4 else None
    notes = ["its program 'transforms' is not run: say its scaling"] if summary.transforms else []
    return Found(
        data,
        "pt2",
        {} if summary.metadata is None else document_of_metadata(summary.metadata),
        bands=dims[1] if len(dims) == 4 and isinstance(dims[1], int) else None,
        channels=_channels(summary),
        fixed=demands.fixed if demands else None,
        multiple=demands.multiple if demands else None,
        largest=summary.largest,
        notes=notes,
    )


def _channels(summary: Pt2Summary) -> int | None:
    dims = summary.output_dims
    return dims[1] if len(dims) == 4 and isinstance(dims[1], int) else 1 if len(dims) == 3 else None


def document_of_metadata(text: str) -> dict[str, Any]:
    """Return the model.yaml document that stac-model's embedded YAML amounts to."""
    document = read_yaml(text, "mlm-metadata")
    properties = unprefixed(document.get("properties")) if isinstance(document, Mapping) else None
    if not isinstance(properties, dict):
        raise ManifestError("the embedded mlm-metadata has no 'properties'", "Package it again, or without metadata")
    for key in ("input", "output"):
        if not isinstance(properties.get(key, []), list):
            raise ManifestError(
                f"the embedded mlm-metadata has no list {key!r}", "Package it again, or without metadata"
            )
    if (entries := properties.get("input")) and isinstance(entries[0], Mapping):
        # null is what a missing scaling becomes on its way: it says nothing.
        properties["input"] = [{k: v for k, v in entries[0].items() if not (k == "value_scaling" and not v)}]
    return {"properties": properties}
