"""How a model runs: one file per runtime, each imported only when a model needs it.

A `Runner` is called from one thread at a time. All runtimes release Python's global lock while they compute.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from model_registry.artifacts import read_artifact
from model_registry.errors import ContractError, UnsupportedModel
from model_registry.manifest import Model, Precision, RuntimeName
from model_registry.postprocess import Float32, Prediction

Unscale = tuple[npt.ArrayLike, npt.ArrayLike]

__all__ = ["Demands", "Prediction", "Runner", "Unscale", "load_runner", "native_runtime", "to_float32"]


class Demands(NamedTuple):
    """What the artifact itself asks of its input: one (height, width), a size multiple, a batch size; None: no say."""

    fixed: tuple[int, int] | None = None
    multiple: int | None = None
    batch: int | None = None


class Runner(Protocol):
    """A loaded network."""

    @property
    def runtime(self) -> RuntimeName:
        """Name of the runtime."""
        ...

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda", "cuda:1"."""
        ...

    @property
    def precision(self) -> Precision:
        """Arithmetic inside the network; scaling, scores and classes are always float32's."""
        ...

    @property
    def demands(self) -> Demands:
        """What the artifact demands of its input."""
        ...

    def __call__(
        self, pixels: npt.NDArray[np.generic], unscale: Unscale | None = None, probabilities: bool = False
    ) -> Prediction:
        """Predict `pixels` [B, C, H, W], in the raster's own dtype.

        unscale: (scale, offset) of the scene, one number per band each; physical = dn * scale + offset, applied before
        the model's scaling, in float32. probabilities: whether they are wanted, or all channels of an embedding.

        Raises:
            ContractError: the network cannot take this shape, or its answer is not finite.
            MemoryError: the device or the host has no room for it; a smaller window or batch may do.
            StoppedError: `stop` was called meanwhile.
        """
        ...

    def logits(self, x: Float32) -> Float32:
        """Return the raw scores float32[B, K, H, W] of `x` float32[B, C, H, W], which is already scaled.

        Of an augmented network they are the mean of its views' probabilities or values.
        """
        ...

    def stop(self) -> bool:
        """Give up the call that is running in another thread; False when that is not possible."""
        ...

    def close(self) -> None:
        """Free the network; the runner must not be called afterwards."""
        ...


def native_runtime(model: Model) -> RuntimeName:
    """Return the runtime that a model's format was made for; in fp32 it is the reference for all others.

    Raises:
        UnsupportedModel: not exactly one artifact.
    """
    if len(model.artifacts) != 1:
        raise UnsupportedModel(f"the model has {len(model.artifacts)} artifacts", "Keep one of them in the manifest")
    return "onnxruntime" if model.artifacts[0].format == "onnx" else "torch"


def load_runner(
    model: Model,
    device: str = "cpu",
    threads: int | None = None,
    runtime: RuntimeName | None = None,
    precision: Precision = "fp32",
) -> Runner:
    """Verify the model's artifact and load it.

    Args:
        model: what `open_model` returned.
        device: "cpu", "cuda" or "cuda:<index>".
        threads: threads inside the runtime; None takes the cores that this process may use.
        runtime: None takes the one that the artifact's format was made for.
        precision: as `Runner.precision`.

    Raises:
        ArtifactError: the file was altered or cannot be loaded.
        ContractError: its inputs or weights are not those of the manifest, or its windows cannot be turned.
        UnsupportedModel: a package or a device is missing, or the runtime cannot run this model so.
    """
    runner = _load(model, device, threads, runtime, precision)
    if model.augment == "none":
        return runner
    from model_registry.augment import AugmentedRunner

    try:
        return AugmentedRunner(runner, model)
    except ContractError:
        runner.close()
        raise


def _load(model: Model, device: str, threads: int | None, runtime: RuntimeName | None, precision: Precision) -> Runner:
    native = native_runtime(model)
    runtime = runtime or native
    if runtime not in (native, "openvino"):
        raise UnsupportedModel(
            f"{runtime} does not run {model.artifacts[0].format} files", f"Use runtime: {native}, openvino or auto"
        )
    data = read_artifact(model.folder, model.artifacts[0])
    if runtime == "openvino":
        from model_registry.runtimes.openvino import OpenVinoRunner

        return OpenVinoRunner(model, data, device, threads, precision)
    if runtime == "torch":
        from model_registry.runtimes.torch import TorchRunner

        return TorchRunner(model, data, device, threads, precision)
    if precision != "fp32":
        raise UnsupportedModel(f"ONNX Runtime runs fp32 only, not {precision}", "Use runtime: openvino, or fp32")
    from model_registry.runtimes.onnx import OnnxRunner

    return OnnxRunner(model, data, device, threads)


def to_float32(pixels: npt.NDArray[np.generic], unscale: Unscale | None) -> Float32:
    """Return `pixels` [B, C, H, W] as float32 physical values (dn * scale + offset where `unscale` is given)."""
    x = pixels.astype(np.float32)
    if unscale is None:
        return x
    scale, offset = (np.asarray(v, dtype=np.float32).reshape(1, -1, 1, 1) for v in unscale)
    return x * scale + offset
