"""Three fixed components of an embedding, which a map shows as red, green and blue.

Principal components (Pearson 1901; Hotelling 1933) of sample pixels, fitted once, kept in a small JSON file beside the
model and listed in its manifest with a checksum. They are part of the model and never fitted to what is being looked
at: the same vector has the same colour in every tile, on every server, after every restart.

    {"mean": [K numbers], "matrix": [3 x K numbers], "low": [3], "high": [3], "explained": [3]}

component = matrix . (vector - mean); low becomes 0, high 255. A matrix of zeros and three ones shows channels as they
are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.errors import ContractError, ManifestError

Float32 = npt.NDArray[np.float32]
Triple = tuple[float, float, float]

PERCENTILES = (2.0, 98.0)  # of the samples' components that become black and full colour
MAX_BYTES = 4 << 20  # of the file: some 60,000 channels


@dataclass(frozen=True, slots=True)
class Components:
    """A projection from K channels to three colours; plain numbers, so that a `Model` stays a plain value.

    mean: K numbers. matrix: three rows of K. low, high: of each component, what becomes 0 and 255.
    explained: share (0..1) of the samples' variance in each component; 0 where nobody knows.
    """

    mean: tuple[float, ...]
    matrix: tuple[tuple[float, ...], ...]
    low: Triple
    high: Triple
    explained: Triple = (0.0, 0.0, 0.0)

    def __post_init__(self) -> None:
        """Refuse shapes that do not belong together, and ranges of no width."""
        if len(self.matrix) != 3 or any(len(row) != len(self.mean) for row in self.matrix):
            raise ManifestError(
                f"the components' matrix is {[len(row) for row in self.matrix]}, the mean {len(self.mean)} numbers",
                "Write three rows with one number per channel",
            )
        numbers = (*self.mean, *(n for row in self.matrix for n in row), *self.low, *self.high, *self.explained)
        if not all(map(math.isfinite, numbers)) or not all(a < b for a, b in zip(self.low, self.high, strict=True)):
            raise ManifestError(
                f"the components' low is {list(self.low)}, high {list(self.high)}",
                "All numbers must be finite, and each low smaller than its high",
            )

    @property
    def channels(self) -> int:
        """How many channels a vector has."""
        return len(self.mean)


def fit_components(samples: Iterable[Float32], low: float = PERCENTILES[0], high: float = PERCENTILES[1]) -> Components:
    """Return the three principal components of sample pixels; the same samples give the same components.

    Args:
        samples: arrays [K, H, W] or [N, K] of vectors, all of one K >= 3. NaN pixels are left out.
        low, high: percentiles of each component that become black and full colour.

    Raises:
        ContractError: fewer than three channels, or nothing that varies.
    """
    found = [_vectors(sample).astype(np.float64) for sample in samples]
    vectors = np.concatenate(found) if found else np.zeros((0, 3))
    vectors = vectors[np.isfinite(vectors).all(axis=1)]
    if vectors.shape[1] < 3 or len(vectors) < 4:
        raise ContractError(
            f"{len(vectors)} sample pixels of {vectors.shape[1]} channels have no three components",
            "Give more pixels, of at least three channels",
        )
    mean = vectors.mean(axis=0)
    centred = vectors - mean
    variances, axes = np.linalg.eigh(centred.T @ centred / len(centred))
    order = np.argsort(-variances, kind="stable")[:3]
    if not variances[order[0]] > 0:
        raise ContractError("all sample pixels have the same vector", "Give samples of a scene with some contents")
    matrix = axes[:, order].T
    # An eigenvector's sign is free: the largest loading is made positive, so that a fit can be repeated.
    matrix = matrix * np.sign(matrix[np.arange(3), np.abs(matrix).argmax(axis=1)])[:, None]
    ends = np.percentile(centred @ matrix.T, [low, high], axis=0)
    # A component that does not vary is grey.
    ends[1] = np.maximum(ends[1], ends[0] + 1e-6 * max(1.0, float(np.abs(ends).max())))
    total = float(variances.clip(0).sum())
    return Components(
        mean=tuple(_short(mean)),
        matrix=tuple(tuple(_short(row)) for row in matrix),
        low=_triple(_short(ends[0])),
        high=_triple(_short(ends[1])),
        explained=_triple([round(float(v) / total, 6) for v in variances[order].clip(0)]),
    )


def first_three(channels: int, low: float, high: float) -> Components:
    """Return the components of an embedding that has none of its own: its first three channels, `low` to `high`."""
    rows = tuple(tuple(float(i == j) for j in range(channels)) for i in range(3))
    return Components((0.0,) * channels, rows, (low,) * 3, (high,) * 3)


def project(values: Float32, components: Components) -> Float32:
    """Return the three components float32[B, 3, H, W] of vectors float32[B, K, H, W]."""
    matrix, bias = arrays(components)
    batch, channels, height, width = values.shape
    flat: Float32 = matrix @ values.reshape(batch, channels, height * width)
    return np.asarray(flat + bias[:, None], np.float32).reshape(batch, 3, height, width)


def arrays(components: Components) -> tuple[Float32, Float32]:
    """Return (matrix float32[3, K], bias float32[3]): component = matrix . vector + bias."""
    matrix = np.asarray(components.matrix, np.float64)
    return matrix.astype(np.float32), -(matrix @ np.asarray(components.mean, np.float64)).astype(np.float32)


def to_json(components: Components) -> bytes:
    """Return the content of a components file."""
    names = ("mean", "matrix", "low", "high", "explained")
    return (json.dumps({name: getattr(components, name) for name in names}) + "\n").encode()


def from_json(data: bytes) -> Components:
    """Read what `to_json` wrote.

    Raises:
        ManifestError: it is something else.
    """
    try:
        found: Any = json.loads(data)
        return Components(
            mean=_floats(found["mean"]),
            matrix=tuple(_floats(row) for row in found["matrix"]),
            low=_triple(_floats(found["low"])),
            high=_triple(_floats(found["high"])),
            explained=_triple(_floats(found.get("explained", [0, 0, 0]))),
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ManifestError(
            "the components' file is not a JSON object with mean, matrix, low and high", "Fit the components again"
        ) from None


def _vectors(sample: Float32) -> Float32:
    if sample.ndim == 2:
        return sample
    return sample.reshape(sample.shape[0], -1).T


def _short(numbers: npt.NDArray[np.float64]) -> list[float]:
    """Eight digits: more than float32 has, and none that differ between BLAS libraries for no reason."""
    return [float(f"{number:.8g}") for number in numbers]


def _floats(numbers: Any) -> tuple[float, ...]:
    if not isinstance(numbers, list) or any(isinstance(n, bool) or not isinstance(n, int | float) for n in numbers):
        raise ValueError("not a list of numbers")
    return tuple(float(n) for n in numbers)


def _triple(numbers: Iterable[float]) -> Triple:
    red, green, blue = numbers
    return red, green, blue
