"""What a network answers that is no class: one number in a unit (regression), or a vector of channels (embedding).

A regression's number is `clip(activation(score) * scale + offset)`. Name, unit, range and ramp only say how it is
shown. An embedding is shown by three fixed components, which become red, green and blue: see `components`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model_registry.components import Components
from model_registry.errors import ManifestError

Float32 = npt.NDArray[np.float32]
Rgba = tuple[int, int, int, int]

# A value counts as moved when it differs by more than this share of the answer's own spread.
MOVED = 0.01


@dataclass(frozen=True, slots=True)
class Values:
    """The numbers of a regression or an embedding.

    channels: 1 for a regression; how many an embedding has, at least 3.
    name, unit: in the user's words, "canopy height" and "m".
    range: the values that get the ramp's first and last colour; of an embedding without `components`, what becomes
        black and full colour.
    ramp: the name of a colour map, or colours (RGBA) at equal distances.
    scale, offset, clip: how a score becomes the value; an end of `clip` that is None is open.
    components: what an embedding is shown by; None shows its first three channels.
    """

    channels: int = 1
    name: str = "value"
    unit: str = ""
    range: tuple[float, float] = (0.0, 1.0)
    ramp: str | tuple[Rgba, ...] = "viridis"
    scale: float = 1.0
    offset: float = 0.0
    clip: tuple[float | None, float | None] = (None, None)
    components: Components | None = None

    def __post_init__(self) -> None:
        """Refuse numbers that no picture can be made of."""
        low, high = self.range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ManifestError(f"output.value.range is {list(self.range)}", "Write [lowest, highest]")
        if not (math.isfinite(self.scale) and math.isfinite(self.offset)) or self.scale == 0:
            raise ManifestError(
                f"output.value has scale {self.scale} and offset {self.offset}", "Write finite numbers, scale not 0"
            )
        if None not in self.clip and not self.clip[0] < self.clip[1]:  # type: ignore[operator]
            raise ManifestError(f"output.value.clip is {list(self.clip)}", "Write [lowest, highest], null for no limit")
        if self.components is not None and self.components.channels != self.channels:
            raise ManifestError(
                f"the components are for {self.components.channels} channels, the model has {self.channels}",
                "Fit them again for this model",
            )

    @property
    def deciding(self) -> tuple[object, ...]:
        """What an answer depends on. Components too: with others, tiles under one revision would differ in colour."""
        return (self.channels, self.scale, self.offset, self.clip, self.components)


def finished(scores: Float32, values: Values, sigmoid: bool = False) -> Float32:
    """Return the values float32[B, K, H, W] of `scores` of the same shape, in memory of their own."""
    if sigmoid:
        # exp of a non-positive number only, so that large scores neither overflow nor warn.
        e = np.exp(-np.abs(scores))
        scores = np.where(scores >= 0, 1 / (1 + e), e / (1 + e)).astype(np.float32)
    answer = scores * np.float32(values.scale) + np.float32(values.offset)
    if values.clip != (None, None):
        # Not minimum and maximum alone: infinity is no large value but a mistake, which must be seen.
        answer = np.where(np.isfinite(answer), np.clip(answer, *values.clip), answer)
    return answer.astype(np.float32, copy=False)


def moved(before: Float32, after: Float32, spread: float | None = None) -> npt.NDArray[np.bool_]:
    """Return bool[B, H, W]: pixels whose value or vector [B, K, H, W] differs by more than 1 % of the spread.

    The distance is Euclidean over the channels. spread: see `spread_of`, by default that of `before`.
    """
    if spread is None:
        spread = spread_of(before)
    distance: Float32 = np.sqrt(np.square(after - before).sum(axis=1))
    return np.asarray(distance > MOVED * spread)


def spread_of(values: Float32) -> float:
    """Return the typical distance of a pixel's vector [B, K, H, W] from the mean one; of one channel, its deviation."""
    return float(np.sqrt(values.var(axis=(0, 2, 3), dtype=np.float64).sum()))
