"""Weights in safetensors and an architecture of the allow-list: numbers from the file, code from us."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from model_registry.errors import ArtifactError, ContractError, UnsupportedModel
from model_registry.manifest import Model

if TYPE_CHECKING:
    import torch

REMEDY = "Check properties.architecture and properties.hyperparameters against the weights"


def network(model: Model, data: bytes) -> torch.nn.Module:
    """Return the model's architecture with the weights in `data`, a .safetensors file; float32, on the CPU.

    Raises:
        ArtifactError: not safetensors.
        ContractError: other weights than the architecture's, in name or shape.
        UnsupportedModel: an architecture that is not on the list, or cannot be built so.
    """
    weights = read(data)
    check_sizes(model.architecture, model.hyperparameters, weights)
    network = build(model.architecture, model.hyperparameters)
    check(weights, network.state_dict())
    network.load_state_dict(dict(weights), strict=False)
    return network.float().eval()


def read(data: bytes) -> Mapping[str, torch.Tensor]:
    """Return the tensors of a .safetensors file by name.

    Raises:
        ArtifactError: not safetensors.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights: Mapping[str, torch.Tensor] = load(data)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        told = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
        raise ArtifactError(
            f"the file is not valid safetensors ({told})", "Save the weights with safetensors again"
        ) from None
    return weights


def build(architecture: str, hyperparameters: Mapping[str, Any]) -> torch.nn.Module:
    """Return the architecture with random weights.

    Raises:
        UnsupportedModel: unknown, or not with these hyperparameters.
    """
    from model_registry import architectures

    try:
        return architectures.build(architecture, dict(hyperparameters))
    # What the constructors of others raise is anything, down to an assertion.
    except (ValueError, TypeError, KeyError, RuntimeError, AssertionError, AttributeError, OverflowError) as error:
        told = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        raise UnsupportedModel(
            f"architecture {architecture!r} with {str(dict(hyperparameters))[:300]} cannot be built ({told})",
            "Check properties.architecture and properties.hyperparameters",
        ) from None


def check_sizes(architecture: str, hyperparameters: Mapping[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    """Compare with the architecture built without memory, so that absurd hyperparameters take none.

    An architecture that computes while it is built cannot be built so; its sizes are bounded where it is (`smp`).
    """
    import torch

    from model_registry import architectures

    if architecture in architectures.COMPUTE_WHILE_BUILT:
        return
    with torch.device("meta"):
        wanted = build(architecture, hyperparameters).state_dict()
    check(weights, wanted)


def check(weights: Mapping[str, torch.Tensor], wanted: Mapping[str, torch.Tensor]) -> None:
    """Raise a ContractError unless names and shapes are those that the architecture wants."""
    # num_batches_tracked counts training steps only; many exporters leave it out.
    missing = [k for k in wanted if k not in weights and not k.endswith("num_batches_tracked")]
    unknown = [k for k in weights if k not in wanted]
    if missing or unknown:
        named = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}, which the architecture lacks"
        raise ContractError(f"the weights' file {named} ({len(missing)} missing, {len(unknown)} unknown)", REMEDY)
    for key, value in weights.items():
        if value.shape != wanted[key].shape:
            raise ContractError(
                f"weight {key!r} has the shape {list(value.shape)}, the architecture wants {list(wanted[key].shape)}",
                REMEDY,
            )
