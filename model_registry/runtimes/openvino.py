"""ONNX files, and whatever PyTorch runs, through OpenVINO on the CPU.

Four things it does not say by itself. It answers NaN with 0 (its ReLU turns NaN into 0), so windows are checked before
they go in, and whether a network's numbers are finite at all is seen by the reference runtime (`live`). It computes in
bf16 wherever the CPU can unless told otherwise, so the precision is always told. And a window size that the network
cannot take breaks it for good: with several threads every later window fails too, with one thread the last window's
answer comes back, without an error. So each new shape is tried on the graph first. And a request that is cancelled
leaves some operators at the shape of the window before it: of 994 windows between 643 cancelled ones, 90 failed
(2026.4). So it is never stopped.

Scaling and argmax are numpy's, outside the graph. Folded into it they saved nothing (0.2 and 0.3 ms of 22 ms), with
16 bit input the folded scaling moved bf16 scores, and a folded argmax doubled the time of one network in fp32.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Mapping
from math import lcm
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry import scaling
from model_registry.errors import ArtifactError, ContractError, UnsupportedModel
from model_registry.manifest import Model, Precision, RuntimeName
from model_registry.onnx_file import summarise
from model_registry.postprocess import Float32, Prediction, predict
from model_registry.runtimes import Demands, Unscale, to_float32
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

_HINTS: Mapping[str, str] = {"fp32": "f32", "bf16": "bf16"}
_EXAMPLE_EDGE = 64  # px; what a network is traced on, rounded up to its multiple


class OpenVinoRunner:
    """A `Runner` on OpenVINO's CPU plugin: one stream, one request, windows of any size, precision and threads set.

    The first window of each shape costs some milliseconds more (primitives are prepared per shape): see
    `LoadedModel.warm`.
    """

    runtime: RuntimeName = "openvino"

    def __init__(
        self, model: Model, data: bytes, device: str = "cpu", threads: int | None = None, precision: Precision = "fp32"
    ) -> None:
        """Load `data`, the content of the model's artifact; for the errors see `load_runner`."""
        if device != "cpu":
            raise UnsupportedModel(f"OpenVINO serves the CPU, not {device!r}", "Use runtime: auto, or device: cpu")
        if precision not in _HINTS:
            raise UnsupportedModel(f"OpenVINO on a CPU does not run {precision}", "Use precision: bf16 or fp32")
        openvino = import_openvino()
        self.device = device
        self.precision: Precision = precision
        self._model = model
        # One core per process: devices are looked up once, and compiled models keep it alive.
        core = openvino.Core()
        graph, self.demands = (_from_onnx if model.artifacts[0].format == "onnx" else _from_torch)(core, model, data)
        if len(graph.outputs) != 1:
            raise UnsupportedModel(
                f"the network has {len(graph.outputs)} outputs", "Export it with the class map as its only output"
            )
        self._dtype = np.dtype(graph.inputs[0].get_element_type().to_dtype())
        if self._dtype.kind != "f" and model.scaling:
            raise UnsupportedModel(f"the network's input is {self._dtype}", "Export it with a float32 input")
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision],
            "INFERENCE_NUM_THREADS": threads or default_threads(),
            "NUM_STREAMS": 1,
            # Pinned threads fight with readers and encoders, and with another process pinned to the same first cores.
            "ENABLE_CPU_PINNING": False,
        }
        try:
            self._request = core.compile_model(graph, "CPU", settings).create_infer_request()
        except RuntimeError as error:
            raise _cannot_load(error) from None
        self._graph = graph
        self._fitting: set[tuple[int, ...]] = set()

    def __call__(
        self, pixels: npt.NDArray[np.generic], unscale: Unscale | None = None, probabilities: bool = False
    ) -> Prediction:
        """See `Runner`."""
        x = scaling.apply(self._model.scaling, to_float32(pixels, unscale))
        if pixels.dtype.kind == "f" and not np.isfinite(x).all():
            share = 100 * float(np.mean(~np.isfinite(x)))
            raise ContractError(
                f"{share:.3g} % of the window's values are not finite, which OpenVINO would answer as if they were 0",
                "Mask them as nodata",
            )
        answer = predict(self._scores(x), self._model, probabilities)
        # Without an activation the probabilities are the scores themselves, whose memory the next call overwrites.
        return answer if answer.probabilities is None else answer._replace(probabilities=answer.probabilities.copy())

    def logits(self, x: Float32) -> Float32:
        """See `Runner`. NaN in `x` does not reach the answer."""
        return self._scores(x).copy()

    def stop(self) -> bool:
        """See `Runner`. OpenVINO could, but must not be: see above."""
        return False

    def close(self) -> None:
        """See `Runner`."""
        del self._request, self._graph

    def _scores(self, x: Float32) -> Float32:
        """Return float32[B, K, H, W], often in memory that the next call overwrites."""
        return in_batches(self._run, np.ascontiguousarray(x, dtype=self._dtype), self.demands.batch)

    def _run(self, x: npt.NDArray[np.generic]) -> Float32:
        if x.shape not in self._fitting:
            self._check_fit(x.shape)
            self._fitting.add(x.shape)
        try:
            answer = self._request.infer([x], share_inputs=True, share_outputs=True)
        except RuntimeError as error:
            raise failure(x.shape, error) from None
        return as_scores(np.asarray(answer[0]))

    def _check_fit(self, shape: tuple[int, ...]) -> None:
        """Raise a ContractError unless the network takes a window of that shape and answers at its size.

        Told by the graph, in about a millisecond, before the compiled network sees such a window.
        """
        try:
            self._graph.reshape(list(shape))
            dims = list(self._graph.outputs[0].get_partial_shape())[-2:]
            if any(d.is_static and d.get_length() != wish for d, wish in zip(dims, shape[-2:], strict=True)):
                raise RuntimeError(f"it answers {dims}")
        except RuntimeError as error:
            raise failure(shape, error) from None


def import_openvino() -> Any:
    """Return the module openvino, imported without its usage statistics.

    Importing OpenVINO writes an identifier into the home folder and reports the import to a web analytics service. It
    does neither where its package openvino_telemetry is missing, and a server of maps has no business doing either.
    """
    try:
        if "openvino" in sys.modules or "openvino_telemetry" in sys.modules:
            import openvino

            return openvino
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            import openvino
        finally:
            del sys.modules["openvino_telemetry"]
        return openvino
    except ImportError:
        raise UnsupportedModel(
            "runtime openvino was asked for, but the package is not installed",
            "Run: pip install titiler-inference[openvino]",
        ) from None


def _from_onnx(core: Any, model: Model, data: bytes) -> tuple[Any, Demands]:
    summary = summarise(data)
    refuse_external_data(summary)
    if len(summary.inputs) != 1 or summary.inputs[0][1] is None:
        raise UnsupportedModel(
            f"the ONNX file has {len(summary.inputs)} inputs with a known shape", "Export it with one image input"
        )
    dims = summary.inputs[0][1]
    check_dims(dims, len(model.bands))
    try:
        return core.read_model(data, b""), demands_of(dims)
    except RuntimeError as error:
        raise _cannot_load(error) from None


def _from_torch(core: Any, model: Model, data: bytes) -> tuple[Any, Demands]:
    from model_registry.runtimes.torch import build_network, import_torch

    torch = import_torch("cpu")
    network, demands = build_network(model, data)
    multiple = lcm(model.window.multiple or 1, demands.multiple or 1)
    edge = -(-_EXAMPLE_EDGE // multiple) * multiple
    fixed = model.window.fixed or demands.fixed
    height, width = fixed or (edge, edge)
    example = torch.zeros((demands.batch or 1, len(model.bands), height, width))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # tracing is deprecated in PyTorch, and OpenVINO's only way to take sizes
            graph = import_openvino().convert_model(network, example_input=example)
        graph.reshape([demands.batch or -1, len(model.bands), *(fixed or (-1, -1))])
    except Exception as error:  # tracing runs the network, whose exceptions may be any
        raise _cannot_load(error) from None
    return graph, demands._replace(fixed=fixed)


def _cannot_load(error: Exception) -> ArtifactError:
    return ArtifactError(f"OpenVINO cannot load the network ({short(error)})", "Use runtime: auto")
