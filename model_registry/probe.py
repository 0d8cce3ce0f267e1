"""What a network really needs of its windows, measured with forward passes only.

Nothing is assumed about the runtime or the architecture. On strips of noise, along both axes (`strips`):

1. multiple: the smallest window size multiple that the network accepts and answers at its input's size;
2. period: the smallest shift of the input that shifts the answer;
3. halo, the "moat": everything outside a core and its halo is replaced by other noise, and by NaN where the network
   hands NaN on; the core's answer must not change. Binary search in multiples of the period;
4. the same core in windows of two sizes, and alone or in a batch, must get the same answer.

Only a network that passes all of it is `exact`. The tile alignment rule is that of Majurski and Bajcsy, "Exact
Tile-Based Segmentation Inference for Images Larger than GPU Memory", J. Res. NIST 126:126009 (2021), found here without
looking into the network. Networks with statistics over the window (Buglakova et al., arXiv 2503.19545) fail always.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from math import lcm

from model_registry import probe_cache
from model_registry.errors import ContractError
from model_registry.manifest import Exactness, Model
from model_registry.noise import Noise
from model_registry.runtimes import Runner
from model_registry.strips import Strip

VERSION = 1  # part of the cache key: raise it when a change here can change a result
HALO_LIMIT = 512  # px; a network that needs more is served as not exact
FALLBACK_HALO = 64  # px, for networks that no halo makes exact
UNSAFE_SHARE = 0.01  # of the core's pixels that other surroundings may move before "bounded" becomes "unsafe"
BUDGET_S = 30.0  # seconds after which searches stop and keep the (larger) halo that is already proven

# Sizes below are tried in this order; each size is an odd multiple, so that it proves no larger one.
_MULTIPLES = (1, 2, 3, 4, 6, 7, 8, 12, 14, 16, 24, 28, 32, 48, 56, 64, 96, 128)
_LENGTHS = (256, 512, 2 * HALO_LIMIT + 256)


@dataclass(frozen=True)
class Probe:
    """What was measured, in pixels; `halo` is a multiple of `period`, and for exact networks `multiple` is the period.

    notes: reasons for anything but "exact", and what could not be measured.
    """

    multiple: int
    period: int
    halo: int
    exactness: Exactness
    notes: tuple[str, ...] = ()


def measure_or_recall(model: Model, runner: Runner) -> Probe:
    """Return the probe of `model`: from its manifest when that states everything, from the cache, or measured now."""
    window = model.window
    if None not in (window.multiple, window.period, window.halo, model.exactness):
        assert window.multiple and window.period and window.halo is not None and model.exactness
        note = "stated by the manifest, not measured"
        return Probe(window.multiple, window.period, window.halo, model.exactness, (note,))
    key = probe_cache.key(model.digest, runner.runtime, runner.device, VERSION)
    known = probe_cache.read(key, Probe)
    if known is None:
        known = measure(model, runner)
        probe_cache.write(key, known)
    return known


def measure(model: Model, runner: Runner, budget_s: float = BUDGET_S) -> Probe:
    """Measure `model` through `runner.logits`; numbers that the manifest states are checked instead of searched.

    Raises:
        ContractError: no tried window size is accepted.
    """
    return _Measurement(model, runner, time.monotonic() + budget_s).run()


class _Measurement:
    def __init__(self, model: Model, runner: Runner, deadline: float) -> None:
        self.model, self.runner, self.deadline = model, runner, deadline
        self.noise = Noise(model, seed=7)
        self.notes: list[str] = []
        self.fixed = model.window.fixed or runner.demands.fixed

    def run(self) -> Probe:
        multiple = self.model.window.multiple or self.runner.demands.multiple
        multiple = multiple or (1 if self.fixed else self.find_multiple())
        strips, period = self.find_period(multiple)
        if period is None:
            stated = self.model.window.period
            text = "its answer does not move along with its input: statistics over the window, or too much context"
            if stated is not None:
                text = f"the stated period of {stated} px does not hold"
            return self.inexact(multiple, multiple, text)
        # One number for the size of windows and for their place: a size that is merely accepted (an odd one by a
        # network that halves its input) may still stretch the answer.
        period = lcm(period, multiple)
        halo = self.find_halo(strips, period)
        if halo is None:
            return self.inexact(multiple, period, f"pixels more than {self.reach(strips, period)} px away count")
        if not self.fixed:
            for strip in strips:
                difference = strip.size_difference(period, halo)
                if difference > strip.tolerance:
                    text = f"the answer depends on the window's size (by {difference:.1e} of its spread)"
                    return self.inexact(multiple, period, text, halo)
        difference = strips[0].batch_difference()
        if difference > strips[0].tolerance:
            text = f"the answer depends on the other windows of a batch (by {difference:.1e} of its spread)"
            return replace(self.inexact(multiple, period, text, halo), exactness="unsafe")
        if strips[0].spread == 0:
            return self.inexact(multiple, period, "it answers noise with a constant, so nothing could be measured")
        return Probe(period, period, halo, "exact", tuple(self.notes))

    def find_multiple(self) -> int:
        for multiple in _MULTIPLES:
            odd = -(-48 // multiple) | 1
            shape = (odd * multiple, (odd + 2) * multiple)
            try:
                answer = self.runner.logits(self.noise.scaled((1, len(self.model.bands), *shape)))
            except ContractError:
                continue
            if answer.shape[2:] == shape:
                return multiple
        raise ContractError(
            f"the network answers none of the window sizes tried, odd multiples of {_MULTIPLES[0]} to {_MULTIPLES[-1]}",
            "State window.multiple in the manifest",
        )

    def strips(self, length: int, multiple: int) -> list[Strip]:
        across = -(-64 // multiple) * multiple
        length = -(-length // multiple) * multiple
        shapes = [self.fixed] * 2 if self.fixed else [(across, length), (length, across)]
        logits, kind = self.runner.logits, self.model.kind
        return [Strip(logits, self.noise, shape, axis, kind) for shape, axis in zip(shapes, (1, 0), strict=True)]

    def find_period(self, multiple: int) -> tuple[list[Strip], int | None]:
        """Return the shortest strips on which the network is seen to be shift-equivariant, and its period."""
        strips: list[Strip] = []
        largest = multiple
        while largest < 64 and (self.fixed is None or largest * 8 <= min(self.fixed)):
            largest *= 2
        stated = self.model.window.period
        # A flipped window is counted from its end, so an augmented network wants that on its period, too.
        step = multiple if self.model.augment == "none" else lcm(largest, stated or 1)
        for length in (0,) if self.fixed else _LENGTHS:
            strips = self.strips(length, step)
            if not all(strip.moves_with(lcm(largest, stated or 1)) for strip in strips):
                continue
            if stated is not None:
                return strips, stated if all(strip.moves_with(stated) for strip in strips) else None
            shifts = [s for s in range(1, largest) if largest % s == 0]
            return strips, next((s for s in shifts if all(strip.moves_with(s) for strip in strips)), largest)
        return strips, None

    def find_halo(self, strips: list[Strip], period: int) -> int | None:
        """Return the smallest halo that holds on both axes, None when none does within the limit."""
        stated = self.model.window.halo
        if stated is not None:
            halo = -(-stated // period) * period
            if all(halo <= s.reach(period) and s.moat_holds(period, halo) for s in strips):
                return halo
            self.notes.append(f"the stated halo of {stated} px is too small")
        halo = 0
        for strip in strips:
            found = self.search(strip, period, halo)
            while found is None and not self.fixed and max(strip.shape) < _LENGTHS[-1]:
                longer = next(n for n in _LENGTHS if n > max(strip.shape))
                strip = self.strips(longer, period)[1 - strip.axis]
                found = self.search(strip, period, halo)
            if found is None:
                return None
            halo = found
            strips[1 - strip.axis] = strip
        # Both strips must have room for the halo that the other axis asked for.
        if min(strip.reach(period) for strip in strips) < halo:
            strips[:] = self.strips(max(max(s.shape) for s in strips), period)
        return halo

    def search(self, strip: Strip, period: int, least: int) -> int | None:
        """Return the smallest halo >= `least` that holds on `strip`; a larger proven one when time runs out."""
        found = self.bisect(strip, period, least, strip.nan_holds if strip.hands_nan_on(period) else strip.moat_holds)
        if found is not None and not strip.moat_holds(period, found):
            found = self.bisect(strip, period, found, strip.moat_holds)
        return found

    def bisect(self, strip: Strip, period: int, least: int, holds: Callable[[int, int], bool]) -> int | None:
        """Return the smallest halo >= `least` for which `holds(period, halo)`, which must not fail beyond it."""
        if least <= strip.reach(period) and holds(period, least):
            return least
        low, high = least // period, strip.reach(period) // period
        if high <= low or not holds(period, high * period):
            return None
        while high - low > 1:
            if time.monotonic() > self.deadline:
                self.notes.append("the search for the halo ran out of time; a smaller one may do")
                break
            middle = (low + high) // 2
            low, high = (low, middle) if holds(period, middle * period) else (middle, high)
        return high * period

    def reach(self, strips: list[Strip], period: int) -> int:
        return min(strip.reach(period) for strip in strips)

    def inexact(self, multiple: int, period: int, reason: str, halo: int = 0) -> Probe:
        """Return the probe of a network that is not exact, with a halo and how far surroundings still move it."""
        wanted = self.model.window.halo if self.model.window.halo is not None else max(halo, FALLBACK_HALO)
        if self.fixed:  # at least half of a fixed window must remain as its core
            wanted = min(wanted, min(self.fixed) // 4 // period * period)
        chosen = -(-wanted // period) * period
        strips = self.strips(max(512, 4 * chosen), period)
        moved = max(strip.moved(period, chosen, whole=self.fixed is not None) for strip in strips)
        exactness: Exactness = "unsafe" if moved > UNSAFE_SHARE else "bounded"
        kept = f"with a halo of {chosen} px, other surroundings move up to {100 * moved:.2g} % of the pixels"
        return replace(Probe(multiple, period, chosen, exactness), notes=(*self.notes, reason, kept))
