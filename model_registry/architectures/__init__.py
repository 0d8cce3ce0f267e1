"""The networks whose weights may be loaded by name: an allow-list, so that a manifest can never name code to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


def _unet(hyperparameters: Mapping[str, Any]) -> nn.Module:
    # Here and not above: naming an architecture must not cost the import of torch.
    from model_registry.architectures.unet import UNet, UNetConfig

    return UNet(UNetConfig(**hyperparameters))


BUILDERS: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = {"unet": _unet}


def build(name: str, hyperparameters: Mapping[str, Any]) -> nn.Module:
    """A network with random weights, in training mode; ValueError for unknown names or hyperparameters."""
    if name not in BUILDERS:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(sorted(BUILDERS))}")
    try:
        return BUILDERS[name](hyperparameters)
    except TypeError as error:
        raise ValueError(f"hyperparameters of {name!r}: {error}") from error
