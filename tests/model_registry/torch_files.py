"""The same small network in every format that PyTorch writes, each made once."""

from __future__ import annotations

import io
import warnings
from functools import cache

import torch
from safetensors.torch import save

from model_registry import architectures

HYPERPARAMETERS = {"in_channels": 3, "classes": 4, "base": 4, "depth": 2}
MULTIPLE = 4


@cache
def network() -> torch.nn.Module:
    torch.manual_seed(3)
    net = architectures.build("unet", HYPERPARAMETERS)
    with torch.no_grad():
        for _ in range(10):
            net(torch.randn(4, 3, 32, 32))  # batch norms with statistics of their own
        net.eval()
        last = [module for module in net.modules() if isinstance(module, torch.nn.Conv2d)][-1]
        last.weight.mul_(4)
        last.bias -= net(torch.randn(4, 3, 32, 32)).mean(dim=(0, 2, 3))
    return net


@cache
def pt2(largest: int | None = None, batch: int | None = None, metadata: str | None = None) -> bytes:
    """torch.export with sizes that are multiples of 4, the batch free or fixed."""
    height, width = (torch.export.Dim(name, max=largest) for name in "hw")
    dims = {2: MULTIPLE * height, 3: MULTIPLE * width}
    program = torch.export.export(
        network(),
        (torch.zeros(batch or 2, 3, 32, 32),),
        dynamic_shapes={"x": dims | ({} if batch else {0: torch.export.Dim("b")})},
    )
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={"mlm-metadata": metadata} if metadata else None)
    return file.getvalue()


@cache
def torchscript() -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        script = torch.jit.trace(network(), torch.zeros(1, 3, 32, 32))
        file = io.BytesIO()
        torch.jit.save(script, file)
    return file.getvalue()


@cache
def safetensors() -> bytes:
    return save(network().state_dict())


def checkpoint(content: object) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()
