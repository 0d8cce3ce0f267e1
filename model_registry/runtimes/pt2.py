"""Exported programs (.pt2, torch.export) as PyTorch modules, for files that the operator trusts.

Loading one runs code in at least three ways (torch 2.15): sample inputs are unpickled, sizes go through sympy's
`sympify`, guards through `exec`. No option of torch turns that off, so the digest of the very bytes that are handed on
must be on the operator's list (`trust`).
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, cast

from model_registry import trust
from model_registry.errors import ArtifactError, UnsupportedModel
from model_registry.pt2_file import summarise
from model_registry.runtimes import Demands
from model_registry.runtimes._shapes import check_dims, demands_of, short

if TYPE_CHECKING:
    import torch


def network(data: bytes, bands: int, device: str = "cpu") -> tuple[torch.nn.Module, Demands]:
    """Return (module, demands) of a .pt2 file whose sizes fit `bands`; the sizes are read before anything is loaded.

    Raises:
        ArtifactError: not a .pt2 file, or torch cannot load it.
        UnsupportedModel: not trusted, an AOTInductor package, or not a float32 image in and a map out.
        ContractError: another number of bands.
    """
    summary = summarise(data)
    trust.require(data, "a .pt2 file")
    check_dims(summary.input_dims, bands)
    if summary.input_dtype != "float32":
        raise UnsupportedModel(
            f"the .pt2 program takes {summary.input_dtype}", "Export the network in float32; precision is chosen here"
        )
    import torch

    try:
        program = torch.export.load(io.BytesIO(data))
        if device != "cpu":
            from torch.export.passes import move_to_device_pass

            program = move_to_device_pass(program, device)
        module: Any = program.module()
    except Exception as error:  # what the file's own code raises may be anything
        raise ArtifactError(
            f"torch.export cannot load the file ({short(error)})", "Export it with this torch"
        ) from None
    # An exported graph has no modes to switch, and refuses to be asked; whoever traces it asks.
    module.eval = module.train = lambda *_: module
    return cast("torch.nn.Module", module), demands_of(summary.input_dims)
