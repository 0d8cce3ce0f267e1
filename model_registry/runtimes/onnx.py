"""ONNX files through ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from model_registry import scaling
from model_registry.errors import ArtifactError, StoppedError, UnsupportedModel
from model_registry.manifest import Model, Precision, RuntimeName
from model_registry.onnx_file import Dim, summarise
from model_registry.postprocess import Float32, Prediction, predict
from model_registry.runtimes import Unscale, to_float32
from model_registry.runtimes._shapes import (
    as_scores,
    check_dims,
    demands_of,
    failure,
    in_batches,
    refuse_external_data,
    short,
)
from model_registry.threads import default_threads

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

    runtime: RuntimeName = "onnxruntime"
    precision: Precision = "fp32"

    def __init__(self, model: Model, data: bytes, device: str = "cpu", threads: int | None = None) -> None:
        """Load `data`, the content of the model's .onnx file; for the errors see `load_runner`."""
        refuse_external_data(summarise(data))
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
        self._running: onnxruntime.RunOptions | None = None
        self.demands = demands_of(dims)

    def __call__(
        self, pixels: npt.NDArray[np.generic], unscale: Unscale | None = None, probabilities: bool = False
    ) -> Prediction:
        """See `Runner`."""
        x = scaling.apply(self._model.scaling, to_float32(pixels, unscale))
        return predict(self.logits(x), self._model, probabilities)

    def logits(self, x: Float32) -> Float32:
        """See `Runner`."""
        return in_batches(self._run, np.ascontiguousarray(x, dtype=self._dtype), self.demands.batch)

    def _run(self, x: npt.NDArray[np.generic]) -> Float32:
        import onnxruntime

        running = self._running = onnxruntime.RunOptions()
        try:
            scores = np.asarray(self._session.run([self._output], {self._input: x}, running)[0])
        except Exception as error:  # the exceptions of ONNX Runtime have no common base class
            if running.terminate:
                raise StoppedError("the forward pass was stopped", "Ask again") from None
            raise failure(x.shape, error) from None
        finally:
            self._running = None
        return as_scores(scores)

    def stop(self) -> bool:
        """See `Runner`. It stops before the network's next operator."""
        if (running := self._running) is None:
            return False
        running.terminate = True
        return True

    def close(self) -> None:
        """See `Runner`."""
        del self._session


def _open_session(data: bytes, device: str, threads: int) -> onnxruntime.InferenceSession:
    try:
        import onnxruntime
    except ImportError:
        raise UnsupportedModel("the package onnxruntime is not installed", "Run: pip install onnxruntime") from None
    # It would report its use to its maker; a server of maps has no business doing so.
    onnxruntime.disable_telemetry_events()
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
            f"ONNX Runtime cannot load the file ({short(error)})", "Check it with onnx.checker, or export it again"
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
    check_dims(dims, len(model.bands))
    dtype = _FLOATS.get(kind) or (None if model.scaling else _INTEGERS.get(kind))
    if dtype is None:
        raise UnsupportedModel(
            f"the network's input {name!r} is {kind}", "Export it with a float32 input, or drop the scaling"
        )
    return name, dtype, dims
