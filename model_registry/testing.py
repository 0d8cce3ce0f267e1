"""Tiny networks for tests, written with onnx.helper (no PyTorch), and model folders around them.

Networks whose answer encodes their input (`value_classes`, `passthrough`) show a shift of one pixel; random ones with a
known receptive field (`conv_chain`, `strided_unet`) show seams; `global_mean` and `instance_norm` are networks that no
halo makes exact. Needs the packages onnx and onnxruntime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import yaml
from onnx import TensorProto, helper, numpy_helper

from model_registry.artifacts import checksum_of

Float32 = npt.NDArray[np.float32]


class _Graph:
    """Collects nodes and weights; every method returns the name of what it computes."""

    def __init__(self, seed: int = 0) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.random = np.random.default_rng(seed)

    def weight(self, array: npt.ArrayLike, dtype: Any = np.float32) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(array, dtype=dtype), name))
        return name

    def add(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def conv(self, x: str, into: int, out: int, kernel: int = 3, dilation: int = 1, gain: float = 1.5) -> str:
        """A random convolution without bias, He-scaled by `gain`."""
        w = self.random.normal(0, gain / np.sqrt(into * kernel**2), (out, into, kernel, kernel))
        pad = dilation * (kernel // 2)
        return self.add("Conv", x, self.weight(w), pads=[pad] * 4, dilations=[dilation] * 2, kernel_shape=[kernel] * 2)

    def finish(
        self, output: str, bands: int, classes: int, size: tuple[int, int] | None = None, batch: int | None = None
    ) -> onnx.ModelProto:
        """The checked network: float32 "x" [n, bands, h, w] -> float32 "scores" [n, classes, h, w].

        output: the name of what the scores are. n, h and w are free unless `batch` and `size` say otherwise.
        """
        self.nodes.append(helper.make_node("Identity", [output], ["scores"]))
        height, width = size or ("h", "w")
        axes: list[int | str] = [batch or "n", bands, height, width]
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, axes)],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [axes[0], classes, *axes[2:]])],
            self.weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model)
        return model


def value_classes(values: Sequence[float]) -> onnx.ModelProto:
    """One band; class k is the one whose `values[k]` is nearest to the pixel. 1 x 1, halo 0, period 1.

    The score 2 v x - v^2 has the same order as -(x - v)^2; whole numbers up to 1000 are exact in float32.
    """
    g = _Graph()
    v = np.asarray(values, dtype=np.float32)
    return g.finish(g.add("Conv", "x", g.weight(2 * v[:, None, None, None]), g.weight(-v * v)), 1, len(v))


def passthrough(bands: int = 1) -> onnx.ModelProto:
    """The answer is the pixel itself: of one band a network that emits labels (declare emits="labels"), or a vector."""
    g = _Graph()
    return g.finish("x", bands, bands)


def conv_chain(
    kernel: int = 3, dilation: int = 1, layers: int = 4, classes: int = 5, bands: int = 3, hidden: int = 8,
    seed: int = 0, size: tuple[int, int] | None = None, batch: int | None = None,
) -> onnx.ModelProto:  # fmt: skip
    """Random convolutions of stride 1. Halo: layers * dilation * (kernel - 1) / 2; period 1.

    Input values are expected around 0..1 (scaling [{type: scale, value: 255}] for uint8).
    """
    g = _Graph(seed)
    x, into = "x", bands
    for _ in range(layers):
        x = g.add("Tanh", g.conv(x, into, hidden, kernel, dilation))
        into = hidden
    return _balanced(g, g.conv(x, into, classes, 1), bands, classes, size, batch)


def strided_unet(
    depth: int = 2, classes: int = 5, bands: int = 3, hidden: int = 8, seed: int = 0,
    size: tuple[int, int] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    """A small U-Net: `depth` max-poolings of 2 and nearest upsamplings with skips. Multiple and period 2 ** depth.

    Halo of windows that lie on the period: 3 * 2 ** depth.
    """
    g = _Graph(seed)
    x, into, skips = "x", bands, []
    for _ in range(depth):
        x = g.add("Tanh", g.conv(x, into, hidden))
        skips.append(x)
        x = g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
        into = hidden
    x = g.add("Tanh", g.conv(x, into, hidden))
    for skip in reversed(skips):
        x = g.add("Resize", x, "", g.weight([1, 1, 2, 2]), mode="nearest", coordinate_transformation_mode="asymmetric",
                  nearest_mode="floor")  # fmt: skip
        x = g.add("Tanh", g.conv(g.add("Concat", x, skip, axis=1), 2 * hidden, hidden))
    return _balanced(g, g.conv(x, hidden, classes, 1), bands, classes, size)


def global_mean(classes: int = 4, bands: int = 3, seed: int = 0) -> onnx.ModelProto:
    """Subtracts the window's mean before two convolutions: no halo makes it exact."""
    g = _Graph(seed)
    x = g.add("Sub", "x", g.add("GlobalAveragePool", "x"))
    x = g.add("Tanh", g.conv(x, bands, 8))
    return g.finish(g.conv(x, 8, classes), bands, classes)


def instance_norm(classes: int = 4, bands: int = 3, seed: int = 0) -> onnx.ModelProto:
    """Normalises by the window's mean and deviation between two convolutions: no halo makes it exact."""
    g = _Graph(seed)
    x = g.conv("x", bands, 8)
    x = g.add("Tanh", g.add("InstanceNormalization", x, g.weight(np.ones(8)), g.weight(np.zeros(8))))
    return g.finish(g.conv(x, 8, classes), bands, classes)


def learned_positions(side: int, classes: int = 4, bands: int = 3, seed: int = 0) -> onnx.ModelProto:
    """Adds a table of `side` x `side` px between two convolutions: it takes no larger window, and is never exact."""
    g = _Graph(seed)
    x = g.conv("x", bands, 8)
    size = g.add("Slice", g.add("Shape", "x"), g.weight([2], np.int64), g.weight([4], np.int64))
    table = g.weight(g.random.normal(0, 0.3, (1, 8, side, side)))
    x = g.add("Add", x, g.add("Slice", table, g.weight([0, 0], np.int64), size, g.weight([2, 3], np.int64)))
    return g.finish(g.conv(g.add("Tanh", x), 8, classes), bands, classes)


def _balanced(
    g: _Graph, x: str, bands: int, classes: int, size: tuple[int, int] | None = None, batch: int | None = None
) -> onnx.ModelProto:
    """Give every class mean 0 and deviation 1 on noise, so that all occur and the answer varies from pixel to pixel."""
    import onnxruntime

    nodes = list(g.nodes)
    draft = g.finish(x, bands, classes)
    edge = max(64, *(size or (64, 64)))
    noise = g.random.random((1, bands, edge, edge), dtype=np.float32)
    # Half of it coarse: real images are smooth, and a balance found on white noise alone would not hold there.
    coarse = noise[:, :, ::8, ::8].repeat(8, axis=2).repeat(8, axis=3)[:, :, :edge, :edge]
    image = ((noise + coarse) / 2).astype(np.float32)
    session = onnxruntime.InferenceSession(draft.SerializeToString(), providers=["CPUExecutionProvider"])
    scores = np.asarray(session.run(None, {"x": image})[0])
    mean: Float32 = scores.mean(axis=(0, 2, 3), keepdims=True)
    deviation: Float32 = scores.std(axis=(0, 2, 3), keepdims=True)
    g.nodes = nodes
    x = g.add("Div", g.add("Sub", x, g.weight(mean)), g.weight(deviation))
    return g.finish(x, bands, classes, size, batch)


def with_metadata(model: onnx.ModelProto, **metadata: str) -> onnx.ModelProto:
    """Return a copy of `model` that carries `metadata` as ONNX metadata keys."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    helper.set_model_props(copy, metadata)
    return copy


def write_model(
    folder: Path,
    onnx_model: onnx.ModelProto,
    *,
    classes: Sequence[str | Mapping[str, Any]] = (),
    bands: Sequence[str] = ("red", "green", "blue"),
    gsd: float | None = 0.5,
    values: str | None = "dn",
    dtypes: Sequence[str] = ("uint8",),
    scaling: Sequence[Mapping[str, Any] | None] | None = ({"type": "scale", "value": 255},),
    window: Mapping[str, Any] | None = None,
    title: str = "",
    license: str | None = None,
    tasks: Sequence[str] = (),
    channels: int | None = None,
    **serving: Any,
) -> Path:
    """Write `folder`/model.onnx and a model.yaml that fits it; return `folder`.

    classes: names (valued 0, 1, ...) or MLM class objects {value, name, color_hint}.
    gsd: metres, None for a model that takes any. values: None leaves `serving.input` out.
    scaling: MLM's value_scaling. tasks: MLM's, e.g. regression. channels: written into the result's shape.
    serving: further blocks of `serving:`, e.g. output={"emits": "labels"}.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = onnx_model.SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    listed = [{"value": i, "name": c} if isinstance(c, str) else dict(c) for i, c in enumerate(classes)]
    block: dict[str, Any] = {
        "schema": 1,
        "artifacts": [{"href": "model.onnx", "format": "onnx", "checksum": checksum_of(data), "size": len(data)}],
    }
    if values is not None:
        block["input"] = {"values": values, "dtypes": list(dtypes)}
    if gsd is not None:
        block["resolution"] = {"value": gsd, "unit": "m"}
    if window is not None:
        block["window"] = dict(window)
    properties: dict[str, Any] = {
        "name": title or folder.name,
        "architecture": "",
        "input": [
            {
                "name": "x",
                "bands": list(bands),
                "input": {
                    "shape": [-1, len(bands), -1, -1],
                    "dim_order": ["batch", "bands", "height", "width"],
                    "data_type": "float32",
                },
                "value_scaling": None if scaling is None else [None if s is None else dict(s) for s in scaling],
            }
        ],
        "output": [{"name": "scores", "classification:classes": listed}],
    }
    if tasks:
        properties["output"][0]["tasks"] = list(tasks)
    if channels is not None:
        properties["output"][0]["result"] = {"shape": [-1, channels, -1, -1], "data_type": "float32"}
    if license is not None:
        properties["license"] = license
    document = {"properties": properties, "serving": {**block, **serving}}
    (folder / "model.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    return folder
