"""Eleven small networks of the kinds that people bring, each with what is known of it from how it is built.

All have random weights, three bands in 0..1, five classes that all occur. Exact ones say their period and the halo that
windows on that period need; written down by hand from the layers, not measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx

from model_registry.testing import _balanced, _Graph

CLASSES = ["a", "b", "c", "d", "e"]
WIDTH = 8


@dataclass(frozen=True)
class Known:
    """A network, and its period and halo in px; None where no halo makes it exact."""

    make: Callable[[], onnx.ModelProto]
    period: int | None = None
    halo: int | None = None


def _finish(g: _Graph, x: str, into: int = WIDTH, size: tuple[int, int] | None = None) -> onnx.ModelProto:
    return _balanced(g, g.conv(x, into, len(CLASSES), 1), 3, len(CLASSES), size)


def _layer(g: _Graph, x: str, into: int, out: int = WIDTH, kernel: int = 3, dilation: int = 1) -> str:
    return g.add("Relu", g.conv(x, into, out, kernel, dilation))


def _halved(g: _Graph, x: str, into: int, kernel: int = 3) -> str:
    """A convolution of stride 2."""
    w = g.random.normal(0, 1.5 / np.sqrt(into * kernel**2), (WIDTH, into, kernel, kernel))
    return g.add("Relu", g.add("Conv", x, g.weight(w), pads=[1] * 4, strides=[2, 2], kernel_shape=[kernel] * 2))


def _pooled(g: _Graph, x: str) -> str:
    return g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])


def _enlarged(g: _Graph, x: str, how: str, factor: int = 2) -> str:
    if how == "transposed":
        w = g.random.normal(0, 1.5 / np.sqrt(WIDTH), (WIDTH, WIDTH, factor, factor))
        return g.add("ConvTranspose", x, g.weight(w), strides=[factor] * 2, kernel_shape=[factor] * 2)
    scales = g.weight([1, 1, factor, factor])
    if how == "nearest":
        kinds = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    else:
        kinds = {"mode": "linear", "coordinate_transformation_mode": how}
    return g.add("Resize", x, "", scales, **kinds)


def plain() -> onnx.ModelProto:
    g = _Graph(11)
    x = _layer(g, "x", 3)
    for _ in range(4):
        x = _layer(g, x, WIDTH)
    return _finish(g, x)


def strided() -> onnx.ModelProto:
    """Two convolutions of stride 2, one at a quarter of the resolution, blocks of 4 back."""
    g = _Graph(12)
    x = _layer(g, _halved(g, _halved(g, "x", 3), WIDTH), WIDTH)
    return _finish(g, _enlarged(g, x, "transposed", 4))


def dilated() -> onnx.ModelProto:
    g = _Graph(13)
    x = _layer(g, "x", 3)
    for dilation in (2, 4, 8):
        x = _layer(g, x, WIDTH, dilation=dilation)
    return _finish(g, x)


def unet(how: str, depth: int = 2, bottom: Callable[[_Graph, str], str] | None = None) -> onnx.ModelProto:
    """A U-Net whose upsampling is `how`; `bottom` is what its lowest level does besides a convolution."""
    g = _Graph(14)
    x, into, skips = "x", 3, []
    for _ in range(depth):
        x = _layer(g, x, into)
        skips.append(x)
        x, into = _pooled(g, x), WIDTH
    x = _layer(g, x, WIDTH)
    if bottom is not None:
        x = bottom(g, x)
    for skip in reversed(skips):
        x = g.add("Concat", _enlarged(g, x, how), skip, axis=1)
        x = _layer(g, x, 2 * WIDTH)
    return _finish(g, x)


def max_pool() -> onnx.ModelProto:
    """A fully convolutional network: overlapping max-pooling (3 px, stride 2) twice, bilinear back."""
    g = _Graph(15)
    x = _layer(g, "x", 3)
    for _ in range(2):
        x = g.add("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
        x = _layer(g, x, WIDTH)
    return _finish(g, _enlarged(g, x, "half_pixel", 4))


def tolerant_unet(depth: int = 3) -> onnx.ModelProto:
    """A U-Net that enlarges to whatever size its skip connection has, so that it takes windows of every size."""
    g = _Graph(17)
    x, into, skips = "x", 3, []
    for _ in range(depth):
        x = _layer(g, x, into)
        skips.append(x)
        x, into = g.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1), WIDTH
    x = _layer(g, x, WIDTH)
    for skip in reversed(skips):
        size = g.add("Concat", g.add("Shape", x, end=2), g.add("Shape", skip, start=2), axis=0)
        x = g.add("Resize", x, "", "", size, mode="nearest", coordinate_transformation_mode="asymmetric",
                  nearest_mode="floor")  # fmt: skip
        x = _layer(g, g.add("Concat", x, skip, axis=1), 2 * WIDTH)
    return _finish(g, x)


def tripled() -> onnx.ModelProto:
    """One level of 3 px blocks, and a convolution of 3 px before and at the end: period 3."""
    g = _Graph(18)
    w = g.random.normal(0, 1.0, (WIDTH, 3, 3, 3)) / np.sqrt(27)
    x = g.add("Relu", g.add("Conv", "x", g.weight(w), strides=[3, 3], kernel_shape=[3, 3]))
    x = _layer(g, x, WIDTH)
    return _finish(g, _enlarged(g, x, "transposed", 3))


def align_corners() -> onnx.ModelProto:
    return unet("align_corners")


def squeeze_excite(strength: float = 1.0) -> onnx.ModelProto:
    """A U-Net whose lowest level is gated by its own mean over the window, more or less."""

    def gate(g: _Graph, x: str) -> str:
        hidden = g.add("Relu", g.conv(g.add("GlobalAveragePool", x), WIDTH, 4, 1))
        return g.add("Mul", x, g.add("Sigmoid", g.conv(hidden, 4, WIDTH, 1, gain=1.5 * strength)))

    return unet("nearest", bottom=gate)


def group_norm() -> onnx.ModelProto:
    """A U-Net that normalises its lowest level in two groups, over the window."""

    def norm(g: _Graph, x: str) -> str:
        shape = g.add("Shape", x)
        grouped = g.add("Reshape", x, g.weight([0, 2, -1], np.int64))
        scaled = g.add("InstanceNormalization", grouped, g.weight(np.ones(2)), g.weight(np.zeros(2)))
        return g.add("Reshape", scaled, shape)

    return unet("transposed", bottom=norm)


def vit(size: tuple[int, int] | None = None, patch: int = 8, width: int = 16) -> onnx.ModelProto:
    """One block of attention over patches; with a `size`, positions are learned and the window is fixed."""
    g = _Graph(16)

    def dense(x: str, into: int, out: int, gain: float = 1.0) -> str:
        return g.add("MatMul", x, g.weight(g.random.normal(0, gain / np.sqrt(into), (into, out))))

    def norm(x: str) -> str:
        return g.add("LayerNormalization", x, g.weight(np.ones(width)), g.weight(np.zeros(width)), axis=-1)

    w = g.random.normal(0, 2 / np.sqrt(3 * patch**2), (width, 3, patch, patch))
    patches = g.add("Conv", "x", g.weight(w), strides=[patch] * 2, kernel_shape=[patch] * 2)
    shape = g.add("Shape", patches)
    flat = g.add("Reshape", patches, g.weight([0, width, -1], np.int64))
    x = g.add("Transpose", flat, perm=[0, 2, 1])  # [n, patches, width]
    if size is not None:
        x = g.add("Add", x, g.weight(g.random.normal(0, 0.5, (1, size[0] // patch * (size[1] // patch), width))))
    n = norm(x)
    query, key, value = (dense(n, width, width, gain) for gain in (2, 2, 1))
    scores = g.add("Mul", g.add("MatMul", query, g.add("Transpose", key, perm=[0, 2, 1])), g.weight(width**-0.5))
    x = g.add("Add", x, g.add("MatMul", g.add("Softmax", scores, axis=-1), value))
    x = g.add("Add", x, dense(g.add("Relu", dense(norm(x), width, 2 * width)), 2 * width, width))
    grid = g.add("Reshape", g.add("Transpose", x, perm=[0, 2, 1]), shape)
    fine = g.random.normal(0, 1.5 / np.sqrt(width), (width, WIDTH, patch, patch))
    return _finish(
        g, g.add("ConvTranspose", grid, g.weight(fine), strides=[patch] * 2, kernel_shape=[patch] * 2), size=size
    )


# Halos of windows on the period. U-Net of depth 2: the lowest level sees 1 px of 4 beyond the 4 px block on each side
# after convolutions at 1 and 2 px, then again on the way up.
NETWORKS: dict[str, Known] = {
    "plain": Known(plain, 1, 5),
    "strided": Known(strided, 4, 8),
    "dilated": Known(dilated, 1, 15),
    "unet transposed": Known(lambda: unet("transposed"), 4, 12),
    "unet nearest": Known(lambda: unet("nearest"), 4, 12),
    "unet bilinear": Known(lambda: unet("half_pixel"), 4, 16),
    "max-pool": Known(max_pool, 4, 16),
    "align_corners": Known(align_corners),
    "squeeze-excite": Known(squeeze_excite),
    "group norm": Known(group_norm),
    "vit": Known(vit),
}
