"""A folder of segmentation_models_pytorch's `save_pretrained`: config.json and model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model_registry.architectures import smp as library
from model_registry.artifacts import read_file
from model_registry.errors import ManifestError, UnsupportedModel
from model_registry.intake import safetensors
from model_registry.intake.answers import Answers
from model_registry.intake.found import Found

CONFIG = "config.json"
_WEIGHTS = "model.safetensors"
_MAX_CONFIG = 1 << 20
# The activation is part of the saved network and is done inside it; this is what comes out.
_EMITS = {
    None: "logits", "identity": "logits", "logsoftmax": "logits", "sigmoid": "probabilities",
    "softmax2d": "probabilities", "softmax": "probabilities", "argmax2d": "labels",
}  # fmt: skip


def config_of(folder: Path) -> Mapping[str, Any] | None:
    """Return the folder's config where it is one of this library's, None where there is none such."""
    if not (folder / CONFIG).is_file():
        return None
    try:
        config = json.loads(read_file(folder, CONFIG, _MAX_CONFIG))
    except (ValueError, RecursionError):
        raise ManifestError(f"{CONFIG} is not JSON", "Save the model again with save_pretrained") from None
    return config if isinstance(config, Mapping) and "_model_class" in config else None


def read(folder: Path, config: Mapping[str, Any], answers: Answers) -> Found:
    """Return what the folder says: class, encoder, bands, classes and activation.

    Raises:
        ManifestError: not a class, encoder or option of the allow-list.
        ArtifactError: no weights, or not safetensors.
        ContractError, UnsupportedModel: the library is missing, or the weights are another network's.
    """
    name = library.PREFIX + str(config["_model_class"])
    given = {key: value for key, value in config.items() if not key.startswith("_")}
    try:
        options = library.checked(name, given)
    except ValueError as error:
        raise ManifestError(f"{CONFIG}: {error}", "Export the network to ONNX instead") from None
    activation = options.get("activation")
    if activation not in _EMITS:
        raise UnsupportedModel(
            f"{CONFIG}: activation {activation!r}", "Save it with activation None, or export it to ONNX"
        )
    if not (folder / _WEIGHTS).exists():
        raise ManifestError(
            f"the folder has no {_WEIGHTS}",
            "Older versions of the library saved a pickle: convert it with tiler models import FILE "
            f"--architecture {name} --hyperparameters ...",
        )
    data = read_file(folder, _WEIGHTS)
    options = {key: list(value) if isinstance(value, tuple) else value for key, value in options.items()}
    checked = safetensors.read(data, Answers(architecture=name, hyperparameters=options))
    checked.emits = _EMITS[activation]
    return checked
