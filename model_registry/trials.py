"""One candidate tried: does it give the reference's classes, and how fast is it?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry import values
from model_registry.candidates import Candidate
from model_registry.errors import ContractError, ModelError
from model_registry.manifest import Model, Precision, RuntimeName
from model_registry.noise import Noise
from model_registry.runtimes import Prediction, Runner, Unscale, load_runner

FAR = 1e-3  # of the values' spread: what fp32 runtimes may differ by
NEAR = 1e-4  # two probabilities closer than this are a tie, which fp32 runtimes may break differently
BUDGET_S = (
    4.0  # for one candidate's timing, and for the reference's answers; what is slow gets smaller or fewer windows
)
_MOST_WINDOWS, _MOST_EDGE = 8, 512  # of the caller's samples, what is looked at

Raw = npt.NDArray[np.generic]


@dataclass(frozen=True)
class Trial:
    """What became of one candidate.

    pixels_per_second: of its best of three windows, raw pixels in, class numbers out.
    moved: share of pixels (0..1) whose class is not the reference's; near ties count too. Of values: `values.moved`.
    dropped: why it may not be used; "" if it may.
    seams: why its windows would show (`moat.fault`), "" if they do not, None if that was not looked at.
    """

    runtime: RuntimeName
    precision: Precision
    pixels_per_second: float = 0.0
    moved: float = 0.0
    dropped: str = ""
    seams: str | None = None

    @property
    def candidate(self) -> Candidate:
        """What was tried."""
        return Candidate(self.runtime, self.precision)


class Bench:
    """The windows that all candidates of one model are tried on, and the reference's answers to them."""

    def __init__(
        self, model: Model, reference: Runner, samples: Sequence[Raw] = (), unscale: Unscale | None = None
    ) -> None:
        """Take raw windows [C, H, W] of a scene as `samples`, noise where there are none; see `choice.choose`."""
        self.model = model
        noise = Noise(model, seed=5)
        self.windows = usable(model, samples)
        self.unscale = unscale if self.windows else None
        self.on = "the scene" if self.windows else "noise"
        if not self.windows:
            height, width = model.window.fixed or (_edge(model, 256),) * 2
            self.windows = [noise.raw((1, noise.channels, height, width)) for _ in range(2)]
        self.answers: list[Prediction] = []
        begin = time.perf_counter()
        for x in self.windows:
            if time.perf_counter() - begin < BUDGET_S:
                self.answers.append(reference(x, self.unscale, model.emits != "labels"))
        self.windows = self.windows[: len(self.answers)]
        edge = self._affordable(reference, noise)
        self.timed = noise.raw((1, noise.channels, *(model.window.fixed or (edge, edge))), self.windows[0].dtype)

    def _affordable(self, reference: Runner, noise: Noise) -> int:
        """Return the edge of a window that the reference answers four times within the budget."""
        edge = _edge(self.model, min(self.model.window.preferred, 1024))
        if self.model.window.fixed:
            return edge
        small = _edge(self.model, 128)
        per_pixel = seconds(reference, noise.raw((1, noise.channels, small, small)), None, 1) / small**2
        while edge > small and 4 * per_pixel * edge**2 > BUDGET_S:
            edge = _edge(self.model, edge // 2)
        return edge

    def compare(self, runner: Runner) -> tuple[float, str]:
        """Return (moved share, reason to drop `runner` or "")."""
        moved = wrong = total = 0
        for x, answer in zip(self.windows, self.answers, strict=True):
            if answer.values is not None:
                # All channels of an embedding, whose components alone would hide what the others do.
                got = runner(x, self.unscale, True).values
                assert got is not None, "what the reference answers, every runner answers"
                differs = values.moved(answer.values, got)
                far = np.abs(got - answer.values).max(axis=1) > FAR * values.spread_of(answer.values)
            else:
                differs = np.asarray(runner(x, self.unscale).classes != answer.classes)
                far = differs & ~_near(answer.probabilities, self.model, differs)
            moved, total = moved + int(differs.sum()), total + differs.size
            wrong += int(far.sum()) if runner.precision == "fp32" else 0
        what = "class" if self.model.kind == "classes" else "value"
        reason = f"it gives {wrong} of {total} pixels of {self.on} another {what} than the reference" if wrong else ""
        return moved / total, reason

    def speed(self, runner: Runner) -> float:
        """Return pixels per second: a warm-up, then the best of three, fewer where they would take too long."""
        took = seconds(runner, self.timed, self.unscale, 3, warm=1)
        return float(self.timed.shape[2] * self.timed.shape[3] / took)

    def cpu_seconds(self, runner: Runner) -> float:
        """Return CPU seconds per million pixels, over all threads of this process: one call, best on a warm runner."""
        start = time.process_time()
        runner(self.timed, self.unscale)
        took = time.process_time() - start
        return took / (float(self.timed.shape[2] * self.timed.shape[3]) / 1e6)

    def trial(self, candidate: Candidate, reference: Runner, device: str, threads: int | None) -> Trial:
        """Try `candidate`; whatever goes wrong with it is a reason to drop it."""
        own = candidate == (reference.runtime, reference.precision)
        try:
            runner = reference if own else load_runner(self.model, device, threads, *candidate)
        except ModelError as error:
            return Trial(*candidate, dropped=str(error))
        try:
            moved, reason = (0.0, "") if own else self.compare(runner)
            return Trial(*candidate, pixels_per_second=self.speed(runner), moved=moved, dropped=reason)
        except (ModelError, MemoryError) as error:
            return Trial(*candidate, dropped=str(error))
        finally:
            if not own:
                runner.close()


def usable(model: Model, samples: Sequence[Raw]) -> list[Raw]:
    """Return up to eight of `samples` as [1, C, H, W], cut down to sizes that the model accepts.

    Raises:
        ContractError: a sample with another number of bands.
    """
    found: list[Raw] = []
    for sample in samples[:_MOST_WINDOWS]:
        x = sample if sample.ndim == 4 else sample[None]
        if x.ndim != 4 or x.shape[1] != len(model.bands):
            raise ContractError(
                f"a sample has the shape {list(sample.shape)}", f"Give windows [{len(model.bands)}, row, column]"
            )
        step = lcm(model.window.period or 1, model.window.multiple or 1)
        most = max(step, min(_MOST_EDGE, model.window.max or _MOST_EDGE))
        height, width = model.window.fixed or (min(n, most) // step * step for n in x.shape[2:])
        if 0 < height <= x.shape[2] and 0 < width <= x.shape[3]:
            found.append(np.ascontiguousarray(x[:1, :, :height, :width]))
    return found


def seconds(runner: Runner, x: Raw, unscale: Unscale | None, times: int, warm: int = 0) -> float:
    """Return the shortest of up to `times` calls, after `warm` calls that do not count."""
    best, begin = float("inf"), time.perf_counter()
    for n in range(warm + times):
        start = time.perf_counter()
        runner(x, unscale)
        if n >= warm:
            best = min(best, time.perf_counter() - start)
            if time.perf_counter() - begin > BUDGET_S:
                break
    return best


def _edge(model: Model, wish: int) -> int:
    return model.window.edge(wish, lcm(model.window.period or 1, model.window.multiple or 1))


def _near(probabilities: Any, model: Model, where: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Return bool[B, H, W], within `where`: pixels so close to another decision that rounding may decide."""
    near = np.zeros(where.shape, dtype=bool)
    if probabilities is None:  # labels: nothing tells a tie
        return near
    shares = probabilities.transpose(1, 0, 2, 3)[:, where]  # [K, n]
    two = np.sort(shares, axis=0)[-2:]
    close = two[1] - two[0] <= NEAR
    if model.threshold is not None:  # several classes: the largest share is held against it; binary: that of class 1
        for decisive in (two[1], shares[1]) if len(shares) == 2 else (two[1],):
            close |= np.abs(decisive - model.threshold) <= NEAR
    near[where] = close
    return near
