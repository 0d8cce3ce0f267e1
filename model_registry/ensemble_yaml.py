"""Write the model.yaml of an ensemble of other models."""

from __future__ import annotations

from pathlib import Path

from model_registry.intake.writing import document_of, write_manifest
from model_registry.manifest import Model


def write_ensemble(model: Model, folder: Path) -> Path:
    """Write `folder`/model.yaml for an ensemble of other models; return its path. It is checked when it is read."""
    document = document_of(model)
    properties, serving = document["properties"], document["serving"]
    # What a network is like is said by the members' own manifests.
    for block, keys in ((properties, ("architecture",)), (serving, ("artifacts", "resolution", "window"))):
        for key in keys:
            block.pop(key, None)
    members = [
        {"model": one.model, "gsd": one.gsd, "weight": one.weight, "digest": one.digest} for one in model.members
    ]
    document["serving"] = {"schema": serving.pop("schema"), "kind": "ensemble", "members": members, **serving}
    return write_manifest(document, folder)
