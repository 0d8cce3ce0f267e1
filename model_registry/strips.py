"""Experiments on one strip of noise: does a network's answer at its middle change when ... changes?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from model_registry import values
from model_registry.errors import ContractError
from model_registry.manifest import Kind
from model_registry.noise import Noise
from model_registry.postprocess import Float32

_WIDTH = 32  # px along the strip whose answers are compared
# Relative to the spread of the scores. A shifted window may add up in another order, which is float32 noise of some
# 1e-7; a network off its period was seen to move by as little as 2e-5.
_TOLERANCE = 4e-6


class Strip:
    """Noise [1, C, H, W] that is long along `axis` (0 rows, 1 columns), and the network's answer to it."""

    def __init__(
        self,
        logits: Callable[[Float32], Float32],
        noise: Noise,
        shape: tuple[int, int],
        axis: int,
        kind: Kind = "classes",
    ) -> None:
        """Keep what is needed; the network is first called by the first experiment."""
        self.logits, self.noise, self.shape, self.axis, self.kind = logits, noise, shape, axis, kind
        self.length = shape[axis]
        self.tolerance = 2 * _TOLERANCE
        self._pixels = noise.scaled((1, noise.channels, *shape))
        self._answer: Float32 | None = None
        self._others: Float32 | None = None
        self._nan: bool | None = None

    @property
    def answer(self) -> Float32:
        """Scores of the strip, [1, K, H, W]."""
        if self._answer is None:
            self._answer = self.logits(self._pixels)
        return self._answer

    @property
    def spread(self) -> float:
        """Standard deviation of the scores; 0 for a network that answers everything alike."""
        return float(self.answer.std())

    def cut(self, x: Float32, start: int, stop: int) -> Float32:
        """Return `x` from `start` to `stop` along the strip."""
        return x[..., start:stop] if self.axis == 1 else x[..., start:stop, :]

    def core(self, period: int) -> tuple[int, int]:
        """Return (start, stop) of the middle: whole periods, starting on one."""
        width = -(-_WIDTH // period) * period
        start = (self.length - width) // 2 // period * period
        return start, start + width

    def reach(self, period: int) -> int:
        """Return the largest halo, a multiple of `period`, that can be tested here with something outside it."""
        start, stop = self.core(period)
        return max(0, (min(start, self.length - stop) - 1) // period * period)

    def moves_with(self, shift: int) -> bool:
        """Whether shifting the input by `shift` px shifts the answer, as seen at the middle of the overlap."""
        pair = self._shifted(shift)
        return pair is not None and self._difference(*pair) <= _TOLERANCE

    def shift_cost(self, shift: int) -> float:
        """Return the mean difference of the scores after a shift by `shift` px; infinite where the strip is too short.

        The mean, unlike the largest, tells a network that merely notices the shift from one that answers otherwise.
        """
        pair = self._shifted(shift)
        return float("inf") if pair is None else float(np.mean(np.abs(pair[0] - pair[1])))

    def shift_moves(self, shift: int) -> float | None:
        """Return the share (0..1) of pixels that a shift by `shift` px moves (`moved`), None on too short a strip."""
        pair = self._shifted(shift)
        return None if pair is None else moved(*pair, self.kind)

    def _shifted(self, shift: int) -> tuple[Float32, Float32] | None:
        """Return the scores of the same pixels before and after a shift of the input, None on too short a strip."""
        if self.length - shift < 2 * _WIDTH:
            return None
        along = list(self.shape)
        along[self.axis] = shift
        more = self.noise.scaled((1, self.noise.channels, *along))
        shifted = self.cut(np.concatenate([self._pixels, more], axis=2 + self.axis), shift, shift + self.length)
        start = (self.length + shift - _WIDTH) // 2
        before = self.cut(self.answer, start, start + _WIDTH)
        return before, self.cut(self.logits(shifted), start - shift, start - shift + _WIDTH)

    def moat_holds(self, period: int, halo: int) -> bool:
        """Whether the core's answer ignores all that lies beyond `halo`: other noise, and NaN where it is handed on."""
        return self.noise_holds(period, halo) and (not self.hands_nan_on(period) or self.nan_holds(period, halo))

    def noise_holds(self, period: int, halo: int) -> bool:
        """Whether other noise beyond `halo` leaves every bit of the core's answer as it is."""
        start, stop = self.core(period)
        wanted = self.cut(self.answer, start, stop)
        for other in self._other_noise():
            got = self.cut(self.logits(self._surrounded(other, start - halo, stop + halo)), start, stop)
            # The same shapes are added up in the same order: not one bit may differ.
            if not np.array_equal(wanted, got):
                return False
        return True

    def nan_holds(self, period: int, halo: int) -> bool:
        """Whether NaN beyond `halo` leaves the core finite.

        Stricter than noise and a single forward pass: NaN also travels through dead units and past the last bit of a
        sum. It only tells something where the network hands NaN on (`hands_nan_on`; some runtimes answer 0 instead).
        """
        start, stop = self.core(period)
        poisoned = self._surrounded(np.full_like(self._pixels, np.nan), start - halo, stop + halo)
        return bool(np.isfinite(self.cut(self.logits(poisoned), start, stop)).all())

    def size_difference(self, period: int, halo: int) -> float:
        """Return how much the core's answer differs when the window ends right after its halo."""
        return self._difference(self.cut(self.answer, *self.core(period)), self._cropped(period, halo))

    def _cropped(self, period: int, halo: int) -> Float32:
        """Return the core's scores from a window that ends right after its halo."""
        start, stop = self.core(period)
        try:
            window = self.cut(self._pixels, start - halo, stop + halo)
            return self.cut(self.logits(np.ascontiguousarray(window)), halo, halo + stop - start)
        except ContractError:  # too small for this network: the next larger window that starts on the period
            halo = min(self.reach(period), halo + period * -(-64 // period))
            window = self.cut(self._pixels, start - halo, stop + halo)
            return self.cut(self.logits(np.ascontiguousarray(window)), halo, halo + stop - start)

    def batch_difference(self) -> float:
        """Return how much the answer differs when other noise lies before it in a batch."""
        batch = np.concatenate([next(iter(self._other_noise())), self._pixels])
        return self._difference(self.answer, self.logits(batch)[1:])

    def moved(self, period: int, halo: int) -> float:
        """Return the largest share of the core's pixels that other surroundings beyond `halo` move (`moved`).

        They are other noise, darker noise and brighter noise in a window of the same size.
        """
        start, stop = self.core(period)
        before = self.cut(self.answer, start, stop)
        shares = []
        for other in self._other_noise():
            got = self.cut(self.logits(self._surrounded(other, start - halo, stop + halo)), start, stop)
            shares.append(moved(before, got, self.kind))
        return max(shares)

    def _other_noise(self) -> list[Float32]:
        if self._others is None:
            shape = self._pixels.shape
            tones = ((0.0, 1.0), (0.0, 0.3), (0.7, 1.0))
            self._others = np.stack([self.noise.scaled(shape, *tone) for tone in tones])
        return list(self._others)

    def _surrounded(self, other: Float32, start: int, stop: int) -> Float32:
        mixed = other.copy()
        self.cut(mixed, max(0, start), stop)[:] = self.cut(self._pixels, max(0, start), stop)
        return mixed

    def hands_nan_on(self, period: int) -> bool:
        """Whether NaN in the core makes all of the core's answer NaN."""
        if self._nan is None:
            start, stop = self.core(period)
            poisoned = self._pixels.copy()
            self.cut(poisoned, start, stop)[:] = np.nan
            try:
                self._nan = bool(np.isnan(self.cut(self.logits(poisoned), start, stop)).all())
            except ContractError:
                self._nan = False
        return self._nan

    def _difference(self, a: Float32, b: Float32) -> float:
        """Return the largest difference relative to the spread of the scores, beyond what float32 itself loses."""
        rounding = 8 * float(np.finfo(np.float32).eps) * float(np.max(np.abs(a)))
        largest = max(0.0, float(np.max(np.abs(a - b))) - rounding)
        return largest / self.spread if self.spread else largest


def moved(before: Float32, after: Float32, kind: Kind) -> float:
    """Return the share (0..1) of pixels [B, K, H, W] with another class, or with another value (`values.moved`)."""
    differs = values.moved(before, after) if kind != "classes" else _classes(before) != _classes(after)
    return float(np.mean(differs))


def _classes(scores: Float32) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    return scores.argmax(axis=1) if scores.shape[1] > 1 else (scores[:, 0] >= 0.5).astype(np.intp)
