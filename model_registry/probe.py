"""What a network really needs of its windows, measured with forward passes only.

Nothing is assumed about the runtime or the architecture. On strips of noise, along both axes (`strips`):

1. multiple: the smallest window size multiple that the network accepts and answers at its input's size;
2. period: the smallest shift of the input that shifts the answer;
3. halo, the "moat": everything outside a core and its halo is replaced by other noise, and by NaN where the network
   hands NaN on; the core's answer must not change. Binary search in multiples of the period;
4. the same core in windows of two sizes, and alone or in a batch, must get the same answer.

Only a network that passes all of it is `exact`. Of any other it is measured what a halo leaves: how often neighbouring
windows disagree (`seams`). It runs in windows of one size, with the smallest halo that is good enough or a large one.

The tile alignment rule is that of Majurski and Bajcsy, "Exact Tile-Based Segmentation Inference for Images Larger than
GPU Memory", J. Res. NIST 126:126009 (2021), found here without looking into the network. Networks with statistics over
the window (Buglakova et al., arXiv 2503.19545) fail always.
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
from model_registry.seams import LARGEST_SHARE, Seam, choose_halo, remaining
from model_registry.strips import Strip

VERSION = 3  # part of the cache key: raise it when a change here can change a result
HALO_LIMIT = 512  # px; a network that needs more is served as not exact
UNSAFE_SHARE = 0.01  # of the pixels that windows or other surroundings may move before "bounded" becomes "unsafe"
BUDGET_S = 30.0  # seconds after which searches stop and keep the (larger) halo that is already proven

# Sizes below are tried in this order; each size is an odd multiple, so that it proves no larger one.
_MULTIPLES = (1, 2, 3, 4, 6, 7, 8, 12, 14, 16, 24, 28, 32, 48, 56, 64, 96, 128)
_LENGTHS = (256, 512, 2 * HALO_LIMIT + 256)
# Periods searched are divisors of these: powers of two and 3, 5 or 7 times one, up to 256 px.
_PERIODS = (64, 96, 80, 112, 256)
_WORSE = 10.0  # times the cost of the best shift, from which a shift counts as off the period


@dataclass(frozen=True)
class Probe:
    """What was measured, in pixels; `halo` is a multiple of `period`, and for exact networks `multiple` is the period.

    errors: for networks that are not exact, what remains at each halo, in windows of half and of the full size.
    notes: reasons for anything but "exact", and what could not be measured.
    """

    multiple: int
    period: int
    halo: int
    exactness: Exactness
    notes: tuple[str, ...] = ()
    errors: tuple[Seam, ...] = ()

    @property
    def error(self) -> Seam | None:
        """What remains at the halo, in windows of the full size: nothing for exact networks, None if not measured."""
        if self.exactness == "exact":
            return Seam(0, self.halo, 0.0, 0.0)
        window = max((seam.window for seam in self.errors), default=0)
        return next((s for s in reversed(self.errors) if s.window == window and s.halo <= self.halo), None)


def measure_or_recall(model: Model, runner: Runner, remeasure: bool = False) -> Probe:
    """Return the probe of `model`: from its manifest when that states everything, from the cache, or measured now.

    remeasure: whether to ignore what was kept.
    """
    window = model.window
    if None not in (window.multiple, window.period, window.halo, model.exactness):
        assert window.multiple and window.period and window.halo is not None and model.exactness
        note = "stated by the manifest, not measured"
        return Probe(window.multiple, window.period, window.halo, model.exactness, (note,))
    key = probe_cache.key(model.digest, runner.runtime, runner.device, VERSION)
    known = None if remeasure else probe_cache.read(key, Probe)
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
        """Return what was found, in the order of the module's steps; the first that fails makes the network inexact.

        Raises:
            ContractError: see `find_multiple`.
        """
        multiple = self.model.window.multiple or self.runner.demands.multiple
        multiple = multiple or (1 if self.fixed else self.find_multiple())
        strips, period = self.find_period(multiple)
        if period is None:
            step = self.likely_period(multiple)
            text = self.why_not(strips, step)
            stated = self.model.window.period
            if stated is not None:
                text = f"the stated period of {stated} px does not hold: {text}"
            return self.inexact(multiple, step, text)
        # One number for the size of windows and for their place: a size that is merely accepted (an odd one by a
        # network that halves its input) may still stretch the answer.
        period = lcm(period, multiple)
        halo = self.find_halo(strips, period)
        if halo is None:
            return self.inexact(multiple, period, self.too_far(self.reach(strips, period)))
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
        """Return the smallest multiple, in px, of which an odd number of rows and columns is answered at their size.

        Raises:
            ContractError: none of those tried is.
        """
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
        across, length = self.model.window.edge(64, multiple), self.model.window.edge(length, multiple)
        shapes = [self.fixed] * 2 if self.fixed else [(across, length), (length, across)]
        logits, kind = self.runner.logits, self.model.kind
        return [Strip(logits, self.noise, shape, axis, kind) for shape, axis in zip(shapes, (1, 0), strict=True)]

    def find_period(self, multiple: int) -> tuple[list[Strip], int | None]:
        """Return the shortest strips on which the network is seen to be shift-equivariant, and its period."""
        strips: list[Strip] = []
        stated = self.model.window.period
        largest = [lcm(self.with_room(n), multiple) for n in _PERIODS]
        step = multiple
        if self.model.augment != "none":
            # A flipped window is counted from its end, so an augmented network wants that on its period, too.
            largest = largest[:1]
            step = lcm(largest[0], stated or 1)
        for length in (0,) if self.fixed else dict.fromkeys(self.model.window.edge(n, step) for n in _LENGTHS):
            strips = self.strips(length, step)
            moving = (n for n in largest if all(strip.moves_with(lcm(n, stated or 1)) for strip in strips))
            found = next(moving, None)
            if found is None:
                continue
            if stated is not None:
                return strips, stated if all(strip.moves_with(stated) for strip in strips) else None
            shifts = [s for s in range(1, found) if found % s == 0]
            return strips, next((s for s in shifts if all(strip.moves_with(s) for strip in strips)), found)
        return strips, None

    def with_room(self, shift: int) -> int:
        """Return `shift`, halved until a fixed window, or the largest that is allowed, has room for it."""
        most = shift
        if self.fixed is not None:
            most = min(self.fixed) // 8
        elif self.model.window.max is not None:
            most = self.model.window.max // 2
        while shift % 2 == 0 and shift > most:
            shift //= 2
        return shift

    def likely_period(self, multiple: int) -> int:
        """Return the period of what is local in a network that is not exact: off it, a shift costs many times more."""
        strips = self.strips(_LENGTHS[0], multiple)
        divisors = {s for n in _PERIODS[:-1] for s in range(1, n + 1) if n % s == 0}
        shifts = sorted(n for n in {lcm(s, multiple) for s in divisors} if 8 * n <= min(s.length for s in strips))
        costs = [max(strip.shift_cost(shift) for strip in strips) for shift in shifts]
        least = min(costs, default=0.0)
        return next((s for s, cost in zip(shifts, costs, strict=True) if cost <= _WORSE * least), multiple)

    def why_not(self, strips: list[Strip], step: int) -> str:
        """Return what kind of network it is whose answer does not move along with its input."""
        far = self.reach(strips, step)
        if all(strip.noise_holds(step, far) for strip in strips):
            return (
                "the answer depends on the place in the window or on its size (as with align_corners=True or learned "
                "positions), not on what lies far away"
            )
        return self.too_far(far)

    def too_far(self, reach: int) -> str:
        """Return the reason of a network that no halo up to `reach` px makes exact."""
        return (
            f"what lies more than {reach} px away counts: statistics over the window (squeeze-excite, group or "
            "instance norm), attention, or too much context"
        )

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
            while found is None and not self.fixed:
                room = max(strip.shape)
                longer = next((n for n in _LENGTHS if min(n, self.model.window.edge(n, period)) > room), None)
                if longer is None:
                    break
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
        """Return the probe of a network that is not exact, with a halo and what it leaves.

        halo: one that is needed at least.
        """
        edge = min(self.model.window.preferred, self.model.window.max or self.model.window.preferred)
        shape = self.fixed or (max(period, edge // period * period),) * 2
        affordable = min(shape) // LARGEST_SHARE // period * period
        errors, telling, unmeasured = remaining(self.runner, self.model, shape, period, self.deadline)
        self.notes += unmeasured
        full = [seam for seam in errors if seam.window == min(shape)]
        stated = self.model.window.halo
        if stated is not None:
            wanted = stated
        else:  # what noise tells nothing of may still show on imagery
            wanted = max(halo, choose_halo(full).halo if full and telling else affordable)
        chosen = -(-wanted // period) * period
        if self.fixed or stated is None:
            chosen = min(chosen, affordable)
        probe = Probe(multiple, period, chosen, "bounded", errors=tuple(errors))
        worst = max(strip.moved(period, chosen) for strip in self.strips(max(512, 4 * chosen), period))
        left, told = probe.error, f"with a halo of {chosen} px in windows of {min(shape)} px,"
        if left is not None:
            self.notes.append(
                f"{told} neighbouring windows differ in {100 * left.moved:.2g} % of the pixels of noise, by up to "
                f"{left.dprob:.2g} of probability"
            )
        self.notes.append(f"{told} much darker or brighter surroundings move up to {100 * worst:.2g} % of them")
        unsafe = max(worst, left.moved if left is not None else 0.0) > UNSAFE_SHARE
        return replace(probe, exactness="unsafe" if unsafe else "bounded", notes=(reason, *self.notes))
