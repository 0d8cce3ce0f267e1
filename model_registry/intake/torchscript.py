"""TorchScript files: they do not tell their sizes, so the trusted script is asked by running it on zeros."""

from __future__ import annotations

from typing import Any

from model_registry.intake.found import Found
from model_registry.runtimes import torchscript

_EDGES = (128, 224, 256, 384, 512)


def read(data: bytes) -> Found:
    """Return what the script's first convolution and its answer to zeros say.

    Raises:
        ArtifactError: not TorchScript.
        UnsupportedModel: not on the operator's list of trust.
    """
    network: Any = torchscript.network(data)
    first = next((p for p in network.parameters() if p.ndim == 4), None)
    bands = None if first is None else int(first.shape[1])
    return Found(data, "torchscript", bands=bands, channels=None if bands is None else _channels(network, bands))


def _channels(network: Any, bands: int) -> int | None:
    import torch

    for edge in _EDGES:
        try:
            with torch.inference_mode():
                answer = network(torch.zeros(1, bands, edge, edge))
        except Exception:  # a size, or a number of bands, that it does not take: the contract's check will say so
            continue
        if isinstance(answer, torch.Tensor) and answer.ndim in (3, 4):
            return int(answer.shape[1]) if answer.ndim == 4 else 1
        return None
    return None
