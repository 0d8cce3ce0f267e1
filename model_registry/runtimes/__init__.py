"""How a model runs: one file per runtime, each imported only when a model needs it.

A `Runner` is called from one thread at a time. Both runtimes release Python's global lock while they compute.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from model_registry.artifacts import read_artifact
from model_registry.errors import UnsupportedModel
from model_registry.manifest import Model
from model_registry.postprocess import Float32, Prediction

Unscale = tuple[npt.ArrayLike, npt.ArrayLike]

__all__ = ["Demands", "Prediction", "Runner", "Unscale", "load_runner", "to_float32"]


class Demands(NamedTuple):
    """What the artifact itself asks of its input: one (height, width), a size multiple, a batch size; None: no say."""

    fixed: tuple[int, int] | None = None
    multiple: int | None = None
    batch: int | None = None


class Runner(Protocol):
    """A loaded network."""

    @property
    def runtime(self) -> str:
        """Name of the runtime: "onnxruntime" or "torch"."""
        ...

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda", "cuda:1"."""
        ...

    @property
    def precision(self) -> str:
        """Arithmetic of the network: "fp32"."""
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
        the model's scaling. All arithmetic is float32.
        """
        ...

    def logits(self, x: Float32) -> Float32:
        """Return the raw scores float32[B, K, H, W] of `x` float32[B, C, H, W], which is already scaled."""
        ...

    def close(self) -> None:
        """Free the network; the runner must not be called afterwards."""
        ...


def load_runner(model: Model, device: str = "cpu", threads: int | None = None) -> Runner:
    """Verify the model's artifact and load it.

    Args:
        model: what `open_model` returned.
        device: "cpu", "cuda" or "cuda:<index>".
        threads: threads inside the runtime; None takes the cores that this process may use.

    Raises:
        ArtifactError: the file was altered or cannot be loaded.
        ContractError: its inputs or weights are not those of the manifest.
        UnsupportedModel: a package or a device is missing.
    """
    if len(model.artifacts) != 1:
        raise UnsupportedModel(f"the model has {len(model.artifacts)} artifacts", "Keep one of them in the manifest")
    artifact = model.artifacts[0]
    data = read_artifact(model.folder, artifact)
    if artifact.format == "onnx":
        from model_registry.runtimes.onnx import OnnxRunner

        return OnnxRunner(model, data, device, threads)
    from model_registry.runtimes.torch import TorchRunner

    return TorchRunner(model, data, device, threads)


def to_float32(pixels: npt.NDArray[np.generic], unscale: Unscale | None) -> Float32:
    """Return `pixels` [B, C, H, W] as float32 physical values (dn * scale + offset where `unscale` is given)."""
    x = pixels.astype(np.float32)
    if unscale is None:
        return x
    scale, offset = (np.asarray(v, dtype=np.float32).reshape(1, -1, 1, 1) for v in unscale)
    return x * scale + offset
