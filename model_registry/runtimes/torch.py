"""Weights in safetensors, run by an allow-listed architecture in PyTorch.

The file holds numbers only; the code that gives them a meaning is `model_registry.architectures`, never the file's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from model_registry import scaling
from model_registry.components import arrays
from model_registry.errors import ArtifactError, ContractError, UnsupportedModel
from model_registry.manifest import Model, Precision, RuntimeName
from model_registry.postprocess import Float32, Prediction, not_finite, predict, shown_components
from model_registry.runtimes import Demands, Unscale
from model_registry.runtimes._shapes import failure
from model_registry.runtimes._threads import default_threads
from model_registry.values import Values

if TYPE_CHECKING:
    import torch


class TorchRunner:
    """A `Runner` on PyTorch: eval mode, channels_last, everything that PyTorch keeps per thread set inside each call.

    precision: "fp32" without TF32; "bf16" or "fp16" is autocast: convolutions in that type, float32 scores.
    """

    runtime: RuntimeName = "torch"

    def __init__(
        self, model: Model, data: bytes, device: str = "cpu", threads: int | None = None, precision: Precision = "fp32"
    ) -> None:
        """Build the architecture and load `data`, the content of a .safetensors file; errors as in `load_runner`."""
        self._torch = import_torch(device)
        self._check_precision(precision, device)
        self.device = device
        self.precision: Precision = precision
        self.demands = Demands(fixed=model.window.fixed)
        self._model = model
        self._threads = threads or default_threads()
        # channels_last is what lets oneDNN and cuDNN use their fast convolutions; without it, bf16 gains little.
        network: Any = build_network(model, data)
        self._network = network.to(device=device, memory_format=self._torch.channels_last)
        self._steps = [
            (step.kind, *(self._constant(v) for v in (step.a, step.b)))
            for step in (scaling.constants(op, len(model.bands)) for op in model.scaling)
        ]

    def __call__(
        self, pixels: npt.NDArray[np.generic], unscale: Unscale | None = None, probabilities: bool = False
    ) -> Prediction:
        """See `Runner`. Pixels travel to the device in the raster's dtype; plain class numbers travel back."""
        torch = self._torch
        with self._session():
            x = torch.from_numpy(np.ascontiguousarray(pixels)).to(self.device).to(torch.float32)
            if unscale is not None:
                scale, offset = (self._constant(np.asarray(v)) for v in unscale)
                x = x * scale + offset
            for kind, a, b in self._steps:
                x = (x - a) / b if kind == "affine" else torch.minimum(torch.maximum(x, a), b)
            scores = self._forward(x)
            if self._model.values is not None and self.device != "cpu":
                return self._values(scores, self._model.values, probabilities)
            plain = self._model.emits != "labels" and self._model.threshold is None and not probabilities
            # On a CPU nothing is saved by staying in PyTorch, whose argmax takes 2 to 20 ms where `predict` takes 0.3.
            if plain and scores.shape[1] > 1 and self.device != "cpu":
                largest, classes = scores.max(dim=1)  # of equals the first, as in `predict`
                if not bool(torch.isfinite(largest).all()):
                    raise not_finite(100 * float((~torch.isfinite(largest)).float().mean()))
                return Prediction(classes.to(torch.uint8).cpu().numpy(), None)
            return predict(scores.cpu().contiguous().numpy(), self._model, probabilities)

    def _values(self, scores: torch.Tensor, values: Values, everything: bool) -> Prediction:
        """Finish a regression or an embedding on the device, as `predict` does; what nobody asked for stays there."""
        torch = self._torch
        if not bool(torch.isfinite(scores).all()):
            raise not_finite(100 * float((~torch.isfinite(scores)).float().mean()))
        if self._model.activation == "sigmoid":
            scores = torch.sigmoid(scores)
        answer = scores * values.scale + values.offset
        if values.clip != (None, None):
            answer = answer.clamp(*values.clip)
        if self._model.kind == "regression":
            return Prediction(None, values=answer.cpu().contiguous().numpy())
        matrix, bias = arrays(shown_components(self._model))
        # The session's autocast would project in bf16.
        with torch.autocast(self.device.partition(":")[0], enabled=False):
            flat = torch.from_numpy(matrix).to(self.device) @ answer.flatten(2)
            shown = flat.unflatten(2, answer.shape[2:]) + self._constant(bias)
        kept = answer.cpu().contiguous().numpy() if everything else None
        return Prediction(None, values=kept, components=shown.cpu().contiguous().numpy())

    def logits(self, x: Float32) -> Float32:
        """See `Runner`."""
        with self._session():
            scores = self._forward(self._torch.from_numpy(np.ascontiguousarray(x)).to(self.device))
            return np.asarray(scores.cpu().contiguous().numpy())

    def close(self) -> None:
        """See `Runner`."""
        del self._network

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        try:
            scores: torch.Tensor = self._network(x.contiguous(memory_format=self._torch.channels_last))
        except (RuntimeError, AssertionError, ValueError, IndexError) as error:
            raise failure(x.shape, error) from None
        if scores.ndim == 3:
            scores = scores[:, None]
        if scores.ndim != 4:
            raise ContractError(
                f"the network answers an array of shape {list(scores.shape)}", "It must be [batch, class, row, column]"
            )
        return scores.float()

    def _constant(self, values: npt.NDArray[Any]) -> torch.Tensor:
        constant: torch.Tensor = self._torch.from_numpy(values.astype(np.float32).reshape(1, -1, 1, 1))
        return constant.to(self.device)

    @contextlib.contextmanager
    def _session(self) -> Iterator[None]:
        """Set what PyTorch keeps per thread: thread count, inference mode, autocast; and keep fp32 free of TF32."""
        torch = self._torch
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        kind = self.device.partition(":")[0]
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.inference_mode())
            if kind == "cuda":
                stack.enter_context(torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False))
            reduced = {"bf16": torch.bfloat16, "fp16": torch.float16}.get(self.precision)
            # Said for fp32 too: a caller's own autocast must not reach in here.
            stack.enter_context(torch.autocast(kind, dtype=reduced, enabled=reduced is not None))
            yield

    def _check_precision(self, precision: str, device: str) -> None:
        if precision not in ("fp32", "bf16", "fp16"):
            raise UnsupportedModel(f"unknown precision {precision!r}", "Use fp32, bf16 or fp16")
        if precision == "fp16" and device == "cpu":
            raise UnsupportedModel("PyTorch on a CPU does not run fp16 at speed", "Use precision: bf16 or fp32")


def import_torch(device: str) -> Any:
    """Return the module torch, once it and the device are known to be there."""
    try:
        import safetensors  # noqa: F401
        import torch
    except ImportError:
        raise UnsupportedModel(
            "the model needs PyTorch and safetensors, which are not installed",
            "Run: pip install titiler-inference[torch]",
        ) from None
    kind, _, index = device.partition(":")
    if kind not in ("cpu", "cuda") or (index and not index.isdigit()):
        raise UnsupportedModel(f"unknown device {device!r}", "Use cpu, cuda or cuda:<index>")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UnsupportedModel(f"device {device!r} was asked for, but PyTorch finds no GPU", "Use device: cpu")
    return torch


def device_name(device: str) -> str:
    """Return the name of the GPU behind `device`, or `device` itself where PyTorch sees none."""
    import torch

    return str(torch.cuda.get_device_name(device)) if torch.cuda.is_available() else device


def build_network(model: Model, data: bytes) -> torch.nn.Module:
    """Return the model's architecture with the weights in `data`: float32, eval mode, no gradients, on the CPU."""
    network = _build(model)
    _load_weights(network, data)
    return cast("torch.nn.Module", network.float().eval().requires_grad_(False))


def _build(model: Model) -> Any:
    from model_registry import architectures

    hyperparameters = dict(model.hyperparameters)
    try:
        return architectures.build(model.architecture, hyperparameters)
    except (ValueError, TypeError, KeyError) as error:
        raise UnsupportedModel(
            f"architecture {model.architecture!r} with {hyperparameters} cannot be built ({error})",
            "Check properties.architecture and properties.hyperparameters",
        ) from None


def _load_weights(network: Any, data: bytes) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        weights: Mapping[str, Any] = load(data)
    except (SafetensorError, ValueError) as error:
        raise ArtifactError(
            f"the file is not valid safetensors ({error})", "Save the weights with safetensors again"
        ) from None
    wanted = network.state_dict()
    # num_batches_tracked counts training steps only; many exporters leave it out.
    missing = [k for k in wanted if k not in weights and not k.endswith("num_batches_tracked")]
    unknown = [k for k in weights if k not in wanted]
    remedy = "Check properties.architecture and properties.hyperparameters against the weights"
    if missing or unknown:
        named = f"lacks {missing[0]!r}" if missing else f"has {unknown[0]!r}, which the architecture lacks"
        raise ContractError(f"the weights' file {named} ({len(missing)} missing, {len(unknown)} unknown)", remedy)
    for key, value in weights.items():
        if value.shape != wanted[key].shape:
            raise ContractError(
                f"weight {key!r} has the shape {list(value.shape)}, the architecture wants {list(wanted[key].shape)}",
                remedy,
            )
    network.load_state_dict(dict(weights), strict=False)
