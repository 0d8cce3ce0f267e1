"""Noise in a model's own range of input values, so that its deep layers answer as they do to images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry import scaling
from model_registry.manifest import Model
from model_registry.postprocess import Float32

# Where neither scaling nor dtype says more: bytes are full range, 16 bit integers are reflectance * 10000.
_RANGES = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 4000), "int16": (0, 4000)}


class Noise:
    """A source of reproducible noise for one model, half of it white and half coarse (8 px), as images are."""

    def __init__(self, model: Model, seed: int) -> None:
        """Find the range of raw values that the model is written for."""
        self.channels = len(model.bands)
        self._dtype = np.dtype(model.input_dtypes[0] if model.input_values == "dn" else np.float32)
        self._ops = model.scaling
        self._random = np.random.default_rng(seed)
        low, high = _RANGES.get(model.input_dtypes[0], (0, 1)) if model.input_values == "dn" else (0, 1)
        self._low, self._high = scaling.raw_range(model.scaling, self.channels) or (
            np.full(self.channels, low, dtype=np.float32),
            np.full(self.channels, high, dtype=np.float32),
        )

    def scaled(self, shape: tuple[int, ...], darkest: float = 0.0, brightest: float = 1.0) -> Float32:
        """Return float32[B, C, H, W] of that `shape`, already scaled; the two shares narrow the raw range."""
        return scaling.apply(self._ops, self._values(shape, darkest, brightest))

    def raw(self, shape: tuple[int, ...], dtype: npt.DTypeLike | None = None) -> npt.NDArray[np.generic]:
        """Return raw pixels [B, C, H, W] as a raster would hold them, in the model's own dtype unless one is given."""
        wanted = self._dtype if dtype is None else np.dtype(dtype)
        return _rounded(self._values(shape, 0.0, 1.0), wanted)

    def landscape(self, shape: tuple[int, int], patch: int = 64) -> npt.NDArray[np.generic]:
        """Return raw pixels [C, H, W] in the model's own dtype whose patches (px) differ in tone and contrast.

        As fields, water and roofs do: plain noise has the same statistics everywhere, so that a network which looks at
        the statistics of its window would seem not to.
        """
        height, width = shape
        coarse = (1, self.channels, -(-height // patch), -(-width // patch))
        darkest = 0.6 * self._random.random(coarse, dtype=np.float32)
        contrast = 0.1 + 0.3 * self._random.random(coarse, dtype=np.float32)
        low, more = (t.repeat(patch, axis=2).repeat(patch, axis=3)[..., :height, :width] for t in (darkest, contrast))
        values = self._values((1, self.channels, height, width), low, low + more)
        return _rounded(values[0], self._dtype)

    def _values(self, shape: tuple[int, ...], darkest: float | Float32, brightest: float | Float32) -> Float32:
        batch, channels, height, width = shape
        white = self._random.random(shape, dtype=np.float32)
        rough = (batch, channels, -(-height // 8), -(-width // 8))
        coarse = self._random.random(rough, dtype=np.float32).repeat(8, axis=2).repeat(8, axis=3)
        share = darkest + (brightest - darkest) * (white + coarse[:, :, :height, :width]) / 2
        low, high = (v[None, :, None, None] for v in (self._low, self._high))
        return (low + (high - low) * share).astype(np.float32)


def _rounded(values: Float32, wanted: np.dtype[Any]) -> npt.NDArray[np.generic]:
    """Return `values` as pixels of that dtype."""
    if wanted.kind == "f":
        return values.astype(wanted)
    limits = np.iinfo(wanted)
    return np.clip(np.rint(values), limits.min, limits.max).astype(wanted)
