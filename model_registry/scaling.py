"""The arithmetic between a raster's numbers and a network's input, in MLM's words.

The operations and their formulas are those of the Machine Learning Model extension to STAC (stac-extensions/mlm,
README, "Value Scaling Object"):

    min-max   (x - minimum) / (maximum - minimum)       offset    x - value
    z-score   (x - mean) / stddev                       scale     x / value
    clip      min(max(x, minimum), maximum)             clip-min, clip-max   one side of clip

Each of them is one of two steps, `(x - a) / b` or `min(max(x, a), b)`, with one a and b per band. `constants` gives
them; every runtime uses those same float32 numbers, so that numpy and torch agree to the bit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from model_registry.errors import ManifestError
from model_registry.manifest import Nodata, Op, OpKind

Float32 = npt.NDArray[np.float32]

PARAMETERS: dict[OpKind, tuple[str, ...]] = {
    "min-max": ("minimum", "maximum"),
    "z-score": ("mean", "stddev"),
    "clip": ("minimum", "maximum"),
    "clip-min": ("minimum",),
    "clip-max": ("maximum",),
    "offset": ("value",),
    "scale": ("value",),
}
KINDS = get_args(OpKind)


class Step(NamedTuple):
    """One step on all channels: "affine" is (x - a) / b, "clip" is min(max(x, a), b); a and b are float64[C]."""

    kind: Literal["affine", "clip"]
    a: npt.NDArray[np.float64]
    b: npt.NDArray[np.float64]


def constants(op: Op, channels: int) -> Step:
    """Return the step of `op`; channels that it does not name get the numbers that change nothing."""
    chosen = list(op.bands)
    if op.kind.startswith("clip"):
        low, high = np.full(channels, -np.inf), np.full(channels, np.inf)
        if op.kind != "clip-max":
            low[chosen] = op.numbers[0]
        if op.kind != "clip-min":
            high[chosen] = op.numbers[-1]
        return Step("clip", low, high)
    subtract, divide = np.zeros(channels), np.ones(channels)
    if op.kind != "scale":
        subtract[chosen] = op.numbers[0]
    if op.kind == "scale":
        divide[chosen] = op.numbers[0]
    elif op.kind == "z-score":
        divide[chosen] = op.numbers[1]
    elif op.kind == "min-max":
        divide[chosen] = np.subtract(op.numbers[1], op.numbers[0])
    return Step("affine", subtract, divide)


def apply(ops: Sequence[Op], x: Float32) -> Float32:
    """Return `x` float32[B, C, H, W] after all `ops`, in order, in float32; `x` itself is left alone."""
    for op in ops:
        kind, a, b = constants(op, x.shape[1])
        first, second = (v.astype(np.float32)[None, :, None, None] for v in (a, b))
        x = (x - first) / second if kind == "affine" else np.minimum(np.maximum(x, first), second)
    return x


def fill_values(nodata: Nodata, ops: Sequence[Op], channels: int) -> Float32:
    """Return float32[C]: what to write into missing pixels, in raw units; "mean" is what scales to 0."""
    if nodata.fill != "mean":
        return np.full(channels, nodata.fill, dtype=np.float32)
    return _raw_of(np.zeros(channels), [constants(op, channels) for op in ops]).astype(np.float32)


def raw_range(ops: Sequence[Op], channels: int) -> tuple[Float32, Float32] | None:
    """Return (low, high), float32[C] each: the raw values that the scaling is written for; None when it says nothing.

    min-max and clip: minimum to maximum; z-score: mean - 2 stddev (not below 0 when mean >= 0) to mean + 4 stddev;
    clip-max and scale: 0 to that value. The first operation that tells an upper end decides for its bands.
    """
    low, high = np.zeros(channels), np.full(channels, np.nan)
    before: list[Step] = []
    for op in ops:
        at = list(op.bands)
        ends = _own_range(op)
        if ends is not None:
            ends_low, ends_high = (np.zeros(channels), np.ones(channels))
            ends_low[at], ends_high[at] = ends
            new = np.isin(np.arange(channels), at) & np.isnan(high)
            low, high = (np.where(new, _raw_of(end, before), old) for end, old in ((ends_low, low), (ends_high, high)))
        before.append(constants(op, channels))
    if np.isnan(high).all():
        return None
    high = np.where(np.isnan(high), np.nanmax(high), high)
    return low.astype(np.float32), high.astype(np.float32)


def _own_range(op: Op) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]] | None:
    numbers = np.asarray(op.numbers, dtype=np.float64)
    if op.kind in ("min-max", "clip"):
        return numbers[0], numbers[1]
    if op.kind == "z-score":
        mean, deviation = numbers
        lower = mean - 2 * deviation
        return np.where(mean >= 0, np.maximum(lower, 0), lower), mean + 4 * deviation
    if op.kind in ("clip-max", "scale"):
        return np.zeros_like(numbers[0]), numbers[0]
    return None


def _raw_of(values: npt.NDArray[np.float64], steps: Sequence[Step]) -> npt.NDArray[np.float64]:
    """Walk back from scaled `values` float64[C] to raw ones; a clip keeps what lies within it."""
    for kind, a, b in reversed(steps):
        values = values * b + a if kind == "affine" else np.clip(values, a, b)
    return values


def read_value_scaling(entries: Any, bands: int) -> tuple[Op, ...]:
    """Read MLM's `value_scaling`: null, one object for all bands, or one object (or null) for each band.

    Raises:
        ManifestError: another number of objects, an unknown type, a missing or unusable number.
    """
    if not entries:
        return ()
    if isinstance(entries, Mapping):
        entries = [entries]
    if len(entries) not in (1, bands):
        raise ManifestError(
            f"value_scaling has {len(entries)} entries for {bands} bands", "Write one entry, or one for each band"
        )
    if len(entries) == 1:
        return () if _is_null(entries[0]) else (read_op(entries[0], bands),)
    grouped: dict[str, list[tuple[int, Op]]] = {}
    for index, entry in enumerate(entries):
        if not _is_null(entry):
            op = read_op(entry, 1)
            grouped.setdefault(op.kind, []).append((index, op))
    return tuple(
        Op(
            found[0][1].kind,
            tuple(zip(*((n[0] for n in op.numbers) for _, op in found), strict=True)),
            tuple(index for index, _ in found),
        )
        for found in grouped.values()
    )


def read_op(entry: Any, bands: int) -> Op:
    """Read one operation; each of its numbers may be one for all bands or a list with one for each band."""
    if not isinstance(entry, Mapping):
        raise ManifestError(f"scaling entry {entry!r} is not an object", 'Write e.g. {type: "scale", value: 255}')
    kind = entry.get("type")
    if kind == "processing":
        raise ManifestError(
            "scaling type 'processing' (an expression) is not evaluated",
            "Write the same as a list of operations under serving.preprocess, or bake it into the network",
        )
    if kind not in PARAMETERS:
        raise ManifestError(f"unknown scaling type {kind!r}", f"Use one of {', '.join(KINDS)}")
    names = PARAMETERS[kind]
    unknown = set(entry) - {"type", *names}
    if unknown:
        raise ManifestError(
            f"scaling {kind!r} has the unknown key {sorted(unknown)[0]!r}", f"It takes {' and '.join(names)}"
        )
    op = Op(kind, tuple(_per_band(entry, name, bands) for name in names), tuple(range(bands)))
    step = constants(op, bands)
    if step.kind == "affine" and not np.all(step.b):
        raise ManifestError(f"scaling {dict(entry)!r} divides by zero", "Check its numbers")
    if step.kind == "clip" and np.any(step.a > step.b):
        raise ManifestError(f"scaling {dict(entry)!r} has minimum > maximum", "Swap the two")
    return op


def _per_band(entry: Mapping[str, Any], name: str, bands: int) -> tuple[float, ...]:
    value = entry.get(name)
    values = list(value) if isinstance(value, list | tuple) else [value] * bands
    if len(values) != bands:
        raise ManifestError(
            f"{name} of scaling {entry['type']!r} has {len(values)} numbers for {bands} bands", "Give one or one each"
        )
    numbers = tuple(float(v) for v in values if isinstance(v, int | float) and not isinstance(v, bool))
    if len(numbers) != bands or not all(map(math.isfinite, numbers)):
        raise ManifestError(f"{name} of scaling {entry['type']!r} is {value!r}", "Write a finite number")
    return numbers


def _is_null(entry: Any) -> bool:
    return entry is None or (isinstance(entry, Mapping) and entry.get("type", "") is None)
