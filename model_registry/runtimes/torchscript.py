"""TorchScript files as PyTorch modules, for files that the operator trusts.

TorchScript is a program: run, it may read and write files (`torch.from_file`). PyTorch's own advice is to treat it as
code, and deprecates the format; it is read here because many have it.
"""

from __future__ import annotations

import io
import warnings
from typing import TYPE_CHECKING, Any, cast

from model_registry import trust
from model_registry.errors import ArtifactError
from model_registry.runtimes._shapes import short
from model_registry.zip_file import TorchZip

if TYPE_CHECKING:
    import torch


def is_torchscript(archive: TorchZip) -> bool:
    """Whether a PyTorch zip file holds a script: its source, and the constants beside it."""
    return "constants.pkl" in archive.names and any(name.startswith("code/") for name in archive.names)


def network(data: bytes) -> torch.nn.Module:
    """Return the module of a TorchScript file; float32, eval mode, on the CPU.

    Raises:
        ArtifactError: not TorchScript, or torch cannot load it.
        UnsupportedModel: not trusted.
    """
    if not is_torchscript(TorchZip(data)):
        raise ArtifactError("the file is not TorchScript", "Save it with torch.jit.save, or better export it to ONNX")
    trust.require(data, "a TorchScript file")
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated: said above
            module: Any = torch.jit.load(io.BytesIO(data), map_location="cpu")  # type: ignore[no-untyped-call]
    except Exception as error:  # its exceptions are RuntimeErrors, its own code may raise others
        raise ArtifactError(f"torch.jit cannot load the file ({short(error)})", "Save it with this torch") from None
    return cast("torch.nn.Module", module.float().eval())
