"""Networks in PyTorch: weights in safetensors with an architecture of the allow-list, .pt2 programs, TorchScript.

Each format has a room that makes a module of verified bytes (`weights`, `pt2`, `torchscript`); all are run alike.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from model_registry import scaling
from model_registry.components import arrays
from model_registry.errors import ContractError, UnsupportedModel
from model_registry.manifest import Model, Precision, RuntimeName
from model_registry.postprocess import Float32, Prediction, not_finite, predict, shown_components
from model_registry.runtimes import Demands, Unscale
from model_registry.runtimes._shapes import failure
from model_registry.threads import default_threads
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
        self._model = model
        self._threads = threads or default_threads()
        # channels_last is what lets oneDNN and cuDNN use their fast convolutions; without it, bf16 gains little.
        network: Any
        network, self.demands = build_network(model, data, device)
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

    def stop(self) -> bool:
        """See `Runner`. PyTorch cannot, and what a GPU has been told it will do."""
        return False

    def close(self) -> None:
        """See `Runner`."""
        del self._network

    def _forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = self.demands.batch
        if batch is None or batch == len(x):
            return self._run(x)
        # A program exported for one batch size: the last part is filled up with copies of its end.
        parts = [x[start : start + batch] for start in range(0, len(x), batch)]
        filled = [self._torch.cat([part, part[-1:].expand(batch - len(part), -1, -1, -1)]) for part in parts]
        answers = [self._run(f)[: len(part)] for f, part in zip(filled, parts, strict=True)]
        return cast("torch.Tensor", self._torch.cat(answers))

    def _run(self, x: torch.Tensor) -> torch.Tensor:
        try:
            scores: Any = self._network(x.contiguous(memory_format=self._torch.channels_last))
        except Exception as error:  # a file's own code may raise anything
            raise failure(x.shape, error) from None
        if isinstance(scores, tuple | list) and len(scores) == 1:
            scores = scores[0]
        if not isinstance(scores, self._torch.Tensor):
            told = (
                f"a {type(scores).__name__} of {len(scores)}" if hasattr(scores, "__len__") else type(scores).__name__
            )
            raise ContractError(f"the network answers {told}", "Export it so that its one answer is the class map")
        if scores.ndim == 3:
            scores = scores[:, None]
        if scores.ndim != 4:
            raise ContractError(
                f"the network answers an array of shape {list(scores.shape)}", "It must be [batch, class, row, column]"
            )
        return cast("torch.Tensor", scores.float())

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


def build_network(model: Model, data: bytes, device: str = "cpu") -> tuple[torch.nn.Module, Demands]:
    """Return (module, what it demands) of the artifact's bytes: float32, without gradients; see the formats' rooms."""
    kind = model.artifacts[0].format
    demands = Demands(fixed=model.window.fixed)
    network: Any
    if kind == "pt2":
        from model_registry.runtimes import pt2

        network, demands = pt2.network(data, len(model.bands), device)
    elif kind == "torchscript":
        from model_registry.runtimes import torchscript

        network = torchscript.network(data)
    else:
        from model_registry.runtimes import weights

        network = weights.network(model, data)
    for parameter in network.parameters():  # a script has no requires_grad_ of its own
        parameter.requires_grad_(False)
    return cast("torch.nn.Module", network), demands
