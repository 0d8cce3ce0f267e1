"""Which runtimes and precisions this machine has for a model, before anything is measured."""

from __future__ import annotations

import importlib.metadata
import importlib.util
from typing import Literal, NamedTuple

from model_registry.errors import UnsupportedModel
from model_registry.manifest import Model, Precision, RuntimeName
from model_registry.runtimes import _cpu, native_runtime

Policy = Literal["fp32", "bf16", "fp16", "auto"]
RuntimeWish = Literal["auto", "onnxruntime", "openvino", "torch"]

_BF16_GPU = (8, 0)  # compute capability from which a GPU multiplies bfloat16 in hardware


class Candidate(NamedTuple):
    """One way to run a model."""

    runtime: RuntimeName
    precision: Precision

    def __str__(self) -> str:
        return f"{self.runtime} {self.precision}"


def candidates(model: Model, device: str = "cpu") -> list[Candidate]:
    """Return what can run `model` on `device` here, the reference (the format's own runtime in fp32) first.

    ONNX Runtime runs fp32 only. bf16 needs a CPU with AMX or AVX512-BF16 (BF16 on ARM), or a GPU of compute capability
    8.0; fp16 needs a GPU. A runtime that is not installed is left out.

    Raises:
        UnsupportedModel: not exactly one artifact.
    """
    native = native_runtime(model)
    found = [Candidate(native, "fp32")]
    if device == "cpu":
        bf16 = _cpu.has_bf16()
        if native == "torch" and bf16:
            found.append(Candidate("torch", "bf16"))
        if installed("openvino"):
            found += [Candidate("openvino", "fp32"), *([Candidate("openvino", "bf16")] if bf16 else [])]
    elif native == "torch":
        if _capability(device) >= _BF16_GPU:
            found.append(Candidate("torch", "bf16"))
        found.append(Candidate("torch", "fp16"))
    return found


def wanted(model: Model, device: str, policy: Policy, runtime: RuntimeWish) -> list[Candidate]:
    """Return the `candidates` that the operator's wishes and the model's author leave; the reference, if left, first.

    "auto" takes fp32 and what the manifest's `precision.allowed` names, fp16 only on GPUs without bf16. A precision
    named by the operator is taken whatever the manifest says.

    Raises:
        UnsupportedModel: none is left; the message says which package or which precision would do.
    """
    here = candidates(model, device)
    if runtime == "openvino" and not installed("openvino"):
        raise UnsupportedModel(
            "runtime openvino was asked for, but the package is not installed",
            "Run: pip install titiler-inference[openvino]",
        )
    if policy == "auto":
        bf16 = any(c.precision == "bf16" for c in here)
        allowed = {"fp32", *model.precision.allowed} - ({"fp16"} if bf16 else set())
    else:
        allowed = {policy}
    left = [c for c in here if c.precision in allowed and runtime in ("auto", c.runtime)]
    if left:
        return left
    remedy = f"Possible here: {', '.join(map(str, here))}"
    if policy == "bf16" and device == "cpu" and _cpu.has_bf16() and not installed("openvino"):
        remedy += "; or run: pip install titiler-inference[openvino]"
    asked = f"precision {policy}" if runtime == "auto" else f"runtime {runtime} with precision {policy}"
    raise UnsupportedModel(f"{asked} cannot run this model on this machine's {device}", remedy)


def installed(package: str) -> bool:
    """Whether `package` can be imported, found out without importing it."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def versions() -> str:
    """Return the versions of the runtimes that are installed: another version may be faster, or wrong."""
    told = []
    for package in ("onnxruntime", "onnxruntime-gpu", "openvino", "torch"):
        try:
            told.append(f"{package}={importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return " ".join(told)


def machine(device: str) -> str:
    """Return the name of the processor behind `device`."""
    if device == "cpu":
        return _cpu.name()
    if not installed("torch"):
        return device
    from model_registry.runtimes.torch import device_name

    return device_name(device)


def _capability(device: str) -> tuple[int, int]:
    from model_registry.runtimes.torch import import_torch

    capability: tuple[int, int] = import_torch(device).cuda.get_device_capability(device)
    return capability
