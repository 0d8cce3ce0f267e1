"""A folder: one with a model.yaml as it is, any other for the one model in it."""

from __future__ import annotations

from pathlib import Path

from model_registry import golden
from model_registry.artifacts import checksum_of, read_artifact, read_file
from model_registry.components import MAX_BYTES as COMPONENTS_BYTES
from model_registry.errors import ArtifactError, ManifestError, UnsupportedModel
from model_registry.intake.found import Found
from model_registry.model_yaml import MANIFEST, read_folder
from model_registry.yaml_text import read_yaml

_MAX_MANIFEST = 1 << 20
# The safest first: where a folder has a network in several formats, that one is taken.
_SUFFIXES = ((".onnx",), (".safetensors",), (".pt2",), (".pt", ".pts", ".torchscript"), (".pth", ".ckpt"))


def read(folder: Path) -> Found:
    """Return a finished model folder, verified.

    Raises:
        ManifestError, ArtifactError, UnsupportedModel: see `read_folder` and `read_artifact`.
    """
    model = read_folder(folder)
    if len(model.artifacts) != 1:
        raise UnsupportedModel(f"the model has {len(model.artifacts)} artifacts", "Keep one of them in the manifest")
    data = read_artifact(folder, model.artifacts[0])
    document = read_yaml(read_file(folder, MANIFEST, _MAX_MANIFEST), MANIFEST)
    properties = {str(k).removeprefix("mlm:"): v for k, v in document["properties"].items()}
    found = Found(data, model.artifacts[0].format, {**document, "properties": properties}, complete=True)
    if model.test is not None:
        found.tests = {
            key: read_file(folder, getattr(model.test, key), golden.MAX_BYTES) for key in ("input", "output")
        }
        for key, data in found.tests.items():
            if checksum_of(data) != getattr(model.test, f"{key}_checksum"):
                raise ArtifactError(f"the golden {key} is not the file that its checksum names", "Restore it")
    components = (document["serving"].get("output") or {}).get("components")
    if components:
        data = read_file(folder, components["href"], COMPONENTS_BYTES)
        document["serving"]["output"]["components"] = {**components, "href": "components.json"}
        found.beside = {"components.json": data}
    return found


def only_file(folder: Path) -> Path:
    """Return the one model file in `folder`; of several formats the one that can do least.

    Raises:
        ManifestError: none, or several of one format.
    """
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise ManifestError(f"the folder cannot be read ({error.strerror})", "Name the model's file") from None
    for suffixes in _SUFFIXES:
        fitting = [name for name in names if name.lower().endswith(suffixes)]
        if len(fitting) > 1:
            raise ManifestError(
                f"the folder has several models: {', '.join(fitting[:5])}", "Name the one that is meant"
            )
        if fitting:
            return folder / fitting[0]
    raise ManifestError("the folder has no model.yaml and no model file", "Name the model's file")
