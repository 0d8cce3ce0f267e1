"""Weights in safetensors: numbers without a network, so an architecture of the allow-list has to be named."""

from __future__ import annotations

from typing import Any

from model_registry import architectures
from model_registry.errors import ManifestError
from model_registry.intake.answers import Answers
from model_registry.intake.found import Found
from model_registry.runtimes import weights


def read(data: bytes, answers: Answers) -> Found:
    """Return what the file and the named architecture say together.

    Raises:
        ArtifactError: not safetensors.
        ManifestError: no architecture is named.
        ContractError, UnsupportedModel: the architecture cannot be built so, or wants other weights.
    """
    tensors = weights.read(data)
    if answers.architecture is None:
        raise no_architecture("the .safetensors file holds weights without a network")
    hyperparameters = dict(answers.hyperparameters or {})
    weights.check_sizes(answers.architecture, hyperparameters, tensors)
    if answers.architecture in architectures.COMPUTE_WHILE_BUILT:
        weights.check(tensors, weights.build(answers.architecture, hyperparameters).state_dict())
    return of_weights(data, answers.architecture, hyperparameters)


def of_weights(data: bytes, architecture: str, hyperparameters: dict[str, Any]) -> Found:
    """Return what an architecture's hyperparameters say; `data` is the .safetensors file that fits them."""
    sizes = {key: hyperparameters.get(key) for key in ("in_channels", "classes")}
    bands, channels = (size if isinstance(size, int) else None for size in sizes.values())
    properties = {"architecture": architecture, "hyperparameters": hyperparameters}
    return Found(data, "safetensors", {"properties": properties}, bands=bands, channels=channels)


def no_architecture(reason: str) -> ManifestError:
    """The error for weights whose network nobody named."""
    known = ", ".join(name for name in sorted(architectures.BUILDERS))
    return ManifestError(
        reason,
        f"Name it with --architecture ({known}) and --hyperparameters in_channels=4,classes=3,...; "
        "or export the network to ONNX",
    )
