"""The networks whose weights may be loaded by name: an allow-list, so that a manifest can never name code to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from model_registry.architectures import smp

if TYPE_CHECKING:
    from torch import nn


def _unet(hyperparameters: Mapping[str, Any]) -> nn.Module:
    # Here and not above: naming an architecture must not cost the import of torch.
    from model_registry.architectures.unet import UNet, UNetConfig

    return UNet(UNetConfig(**hyperparameters))


BUILDERS: Mapping[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "unet": _unet,
    **{smp.PREFIX + name: partial(smp.build, smp.PREFIX + name) for name in sorted(smp.CLASSES)},
}
# They cannot be built on torch's "meta" device, which takes no memory: they bound their sizes themselves.
COMPUTE_WHILE_BUILT = frozenset(smp.PREFIX + name for name in smp.CLASSES)


def build(name: str, hyperparameters: Mapping[str, Any]) -> nn.Module:
    """A network with random weights, in training mode; ValueError for unknown names or hyperparameters."""
    if name not in BUILDERS:
        raise ValueError(f"unknown architecture {name!r}; known: {', '.join(sorted(BUILDERS))}")
    try:
        return BUILDERS[name](hyperparameters)
    except TypeError as error:
        raise ValueError(f"hyperparameters of {name!r}: {error}") from error
