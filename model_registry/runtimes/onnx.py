"""ONNX files through ONNX Runtime."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model_registry import scaling
from model_registry.errors import ArtifactError, ContractError, UnsupportedModel
from model_registry.manifest import Model
from model_registry.onnx_file import Dim, summarise
from model_registry.postprocess import Float32, Prediction, predict
from model_registry.runtimes import Demands, Unscale, to_float32
from model_registry.runtimes._threads import default_threads

if TYPE_CHECKING:
    import onnxruntime

_FLOATS: dict[str, type[np.generic]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
}
_INTEGERS: dict[str, type[np.generic]] = {
    "tensor(uint8)": np.uint8,
    "tensor(uint16)": np.uint16,
    "tensor(int16)": np.int16,
}


class OnnxRunner:
    """A `Runner` on ONNX Runtime's CPU or CUDA provider; loads from verified bytes, never from a path."""

    runtime = "onnxruntime"
    precision = "fp32"

    def __init__(self, model: Model, data: bytes, device: str = "cpu", threads: int | None = None) -> None:
        """Load `data`, the content of the model's .onnx file; for the errors see `load_runner`."""
        summary = summarise(data)
        if summary.external_data:
            raise UnsupportedModel(
                "the ONNX file keeps weights in other files (external data)",
                "Save it as one file, e.g. onnx.save(model, path, save_as_external_data=False)",
            )
        self.device = device
        self._model = model
        self._session = _open_session(data, device, threads or default_threads())
        self._input, self._dtype, dims = _check_input(self._session, model)
        outputs = self._session.get_outputs()
        if len(outputs) != 1:
            raise UnsupportedModel(
                f"the ONNX file has {len(outputs)} outputs ({', '.join(o.name for o in outputs)})",
                "Export it with the class map as its only output",
            )
        self._output = outputs[0].name
        self.demands = _demands(dims)

    def __call__(
        self, pixels: npt.NDArray[np.generic], unscale: Unscale | None = None, probabilities: bool = False
    ) -> Prediction:
        """See `Runner`."""
        x = scaling.apply(self._model.scaling, to_float32(pixels, unscale))
        return predict(self.logits(x), self._model, probabilities)

    def logits(self, x: Float32) -> Float32:
        """See `Runner`."""
        x = np.ascontiguousarray(x, dtype=self._dtype)
        batch = self.demands.batch
        if batch is None or batch == len(x):
            return self._run(x)
        # A graph with a fixed batch size: the last part is filled up with copies of its last window.
        parts = []
        for start in range(0, len(x), batch):
            part = x[start : start + batch]
            filled = np.concatenate([part, np.repeat(part[-1:], batch - len(part), axis=0)])
            parts.append(self._run(filled)[: len(part)])
        return np.concatenate(parts)

    def _run(self, x: npt.NDArray[np.generic]) -> Float32:
        try:
            scores = np.asarray(self._session.run([self._output], {self._input: x})[0])
        except Exception as error:  # the exceptions of ONNX Runtime have no common base class
            raise ContractError(
                f"the network fails on an input of shape {list(x.shape)} ({_short(error)})",
                "Check the window's size multiple and the number of bands",
            ) from None
        if scores.ndim == 3:
            scores = scores[:, None]
        if scores.ndim != 4:
            raise ContractError(
                f"the network answers an array of shape {list(scores.shape)}", "It must be [batch, class, row, column]"
            )
        return scores.astype(np.float32, copy=False)

    def close(self) -> None:
        """See `Runner`."""
        del self._session


def _open_session(data: bytes, device: str, threads: int) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError:
        raise UnsupportedModel("the package onnxruntime is not installed", "Run: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    # Errors reach us as exceptions; its own log would print them a second time, for every size that the probe tries.
    options.log_severity_level = 4
    # Idle workers of ONNX Runtime spin by default, which takes cores from readers and encoders beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    providers = _providers(onnxruntime, device)
    try:
        return onnxruntime.InferenceSession(data, options, providers=providers)
    except Exception as error:  # the exceptions of ONNX Runtime have no common base class
        raise ArtifactError(
            f"ONNX Runtime cannot load the file ({_short(error)})", "Check it with onnx.checker, or export it again"
        ) from None


def _providers(onnxruntime: object, device: str) -> list[str | tuple[str, dict[str, str]]]:
    kind, _, index = device.partition(":")
    if kind == "cpu":
        return ["CPUExecutionProvider"]
    if kind != "cuda" or (index and not index.isdigit()):
        raise UnsupportedModel(f"unknown device {device!r}", "Use cpu, cuda or cuda:<index>")
    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():  # type: ignore[attr-defined]
        raise UnsupportedModel(
            f"device {device!r} was asked for, but this ONNX Runtime has no CUDA", "Run: pip install onnxruntime-gpu"
        )
    # TF32 rounds to ten bits; what is called fp32 shall be fp32.
    return [("CUDAExecutionProvider", {"device_id": index or "0", "use_tf32": "0"}), "CPUExecutionProvider"]


def _check_input(
    session: onnxruntime.InferenceSession, model: Model
) -> tuple[str, type[np.generic], tuple[Dim | None, ...]]:
    inputs = session.get_inputs()
    if len(inputs) != 1:
        raise UnsupportedModel(
            f"the ONNX file has {len(inputs)} inputs ({', '.join(i.name for i in inputs)})",
            "Export it with one image as its only input",
        )
    name, kind, dims = inputs[0].name, inputs[0].type, tuple(inputs[0].shape)
    bands = len(model.bands)
    if len(dims) != 4 or (isinstance(dims[1], int) and dims[1] != bands):
        hint = "; it looks like [batch, row, column, band]" if len(dims) == 4 and dims[3] == bands else ""
        raise ContractError(
            f"the network's input is {list(dims)}, the manifest has {bands} bands{hint}",
            "The input must be [batch, band, row, column] with that many bands",
        )
    dtype = _FLOATS.get(kind) or (None if model.scaling else _INTEGERS.get(kind))
    if dtype is None:
        raise UnsupportedModel(
            f"the network's input {name!r} is {kind}", "Export it with a float32 input, or drop the scaling"
        )
    return name, dtype, dims


def _demands(dims: tuple[Dim | None, ...]) -> Demands:
    """Read what the input's dims tell: numbers are fixed, "16*h" (torch.export) is a multiple of 16."""
    batch, _, height, width = dims
    fixed = (height, width) if isinstance(height, int) and isinstance(width, int) else None
    multiples = [int(m[1] or m[2]) for d in (height, width) if (m := _MULTIPLE.fullmatch(str(d)))]
    return Demands(
        fixed=fixed,
        multiple=int(np.lcm.reduce(multiples)) if multiples and fixed is None else None,
        batch=batch if isinstance(batch, int) else None,
    )


_MULTIPLE = re.compile(r"(?:(\d+)\s*\*\s*[A-Za-z_]\w*|[A-Za-z_]\w*\s*\*\s*(\d+))")


def _short(error: Exception) -> str:
    """The first line of a runtime's message, without anything that looks like a path."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return re.sub(r"(?:[A-Za-z]:)?(?:[\\/][\w.+-]+){2,}", "<path>", lines[0])[:200]
