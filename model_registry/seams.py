"""How much the place and the size of a window change what a network says of a pixel: the error of tiling, measured.

Two experiments, on noise or on windows of a real scene:

between_windows   four windows of one size, which overlap as neighbours do; where two of them show the same pixel, both
                  with a halo of at least h, how often do they disagree? What a network that is not exact costs.
crops             one pass over a whole image against windows that end h px beyond a core. What an exact network gains
                  by each pixel of its halo, and that nothing is left at the one that was measured.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import combinations
from math import lcm
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from model_registry import values
from model_registry.errors import ContractError
from model_registry.manifest import Model
from model_registry.noise import Noise
from model_registry.postprocess import Prediction
from model_registry.runtimes import Runner

Raw = npt.NDArray[np.generic]

MOVED_ALLOWED = 10e-6  # share of pixels; with DPROB_ALLOWED what a halo may leave before it counts as too small
DPROB_ALLOWED = 1e-2
LARGEST_SHARE = 4  # a halo of more than a 4th of its window leaves less than a quarter of what is inferred
_ONE_CLASS = 0.99  # of the pixels of noise in one class: then it does not tell how many pixels windows move
_STEPS = 16  # halos that are looked at, up to the largest
_OFFSET = 3 / 8  # of the window, between neighbours: with half of it no pixel would have the largest halo in both


class Seam(NamedTuple):
    """What remains in windows of `window` px (their shorter edge) when each pixel has `halo` px of context or more.

    moved: share (0..1) of the pixels whose class depends on the window that they are taken from; of a regression or
        an embedding, those whose value does by more than 1 % of the answer's spread.
    dprob: largest difference of a class's probability (0..1) among them, or of a value, relative to the spread; for a
        network that emits labels 1 if any pixel moved.
    """

    window: int
    halo: int
    moved: float
    dprob: float


def between_windows(
    runner: Runner,
    model: Model,
    image: Raw,
    shape: tuple[int, int],
    step: int,
) -> list[Seam]:
    """Return the disagreement of neighbouring windows by halo: multiples of `step` from 0 to a quarter of the window.

    Args:
        image: raw pixels [C, H, W] (physical ones for a model that wants these), at least `image_shape(shape, step)`.
        shape: (height, width) of the windows.
        step: px; windows start on its multiples.

    Raises:
        ContractError, MemoryError: the network cannot take such windows, or `image` is too small.
    """
    (height, width), (down, across) = shape, offset(shape, step)
    if image.shape[1] < height + down or image.shape[2] < width + across:
        raise ContractError(f"an image of {image.shape[1:]} px holds no two windows of {shape} px", "Use a larger one")
    answers = [
        (row, col, _answer(runner, model, image[:, row : row + height, col : col + width]))
        for row, col in ((0, 0), (0, across), (down, 0), (down, across))
    ]
    edge = min(shape)
    halos = spaced(edge // LARGEST_SHARE, step)
    pixels, moved, dprob = (np.zeros(len(halos)) for _ in range(3))
    for first, second in combinations(answers, 2):
        margins, differs, largest = _disagreement(first, second, shape)
        for n, halo in enumerate(halos):
            inside = margins >= halo
            pixels[n] += inside.sum()
            moved[n] += (differs & inside).sum()
            dprob[n] = max(dprob[n], float(largest[inside].max(initial=0)))
    return [Seam(edge, halo, float(moved[n] / pixels[n]), float(dprob[n])) for n, halo in enumerate(halos) if pixels[n]]


def remaining(
    runner: Runner, model: Model, shape: tuple[int, int], step: int, deadline: float
) -> tuple[list[Seam], bool, list[str]]:
    """Return what halos leave on noise, in windows of half that `shape` (where it is free), then of all of it.

    deadline: of time.monotonic; past it the full windows, which take four times as long as half ones, are left out.

    Returns:
        the seams; whether they tell anything (a network that makes one class of all noise moves no pixel, whatever its
        windows); notes on what could not be measured.
    """
    half = (shape[0] // 2 // step * step, shape[1] // 2 // step * step)
    sizes = [shape] if model.window.fixed or runner.demands.fixed or min(half) < 8 * step else [half, shape]
    found: list[Seam] = []
    telling = False
    begin = time.monotonic()
    for size in sizes:
        if found and time.monotonic() + 4 * (time.monotonic() - begin) > deadline:
            return found, telling, [f"windows of {min(size)} px take too long to measure what their halo leaves"]
        image = Noise(model, seed=9).landscape(image_shape(size, step), max(32, min(size) // 4))
        try:
            found += between_windows(runner, model, image, size, step)
            if size == sizes[0]:
                telling = _tells(_answer(runner, model, image[:, : size[0], : size[1]]))
        except (ContractError, MemoryError) as error:
            return found, telling, [f"windows of {min(size)} px cannot be run ({error})"]
    notes = [] if telling else ["noise is answered with one class, so what windows change can only be seen on imagery"]
    return found, telling, notes


def offset(shape: tuple[int, int], step: int) -> tuple[int, int]:
    """Return how far (rows, columns) neighbouring windows of `between_windows` lie apart: multiples of `step`."""
    down, across = (max(step, int(n * _OFFSET) // step * step) for n in shape)
    return down, across


def image_shape(shape: tuple[int, int], step: int) -> tuple[int, int]:
    """Return the (height, width) of the image that `between_windows` needs."""
    down, across = offset(shape, step)
    return shape[0] + down, shape[1] + across


def crops(runner: Runner, model: Model, image: Raw, halos: Iterable[int]) -> list[Seam]:
    """Return how a core's answer in windows that end `halo` px beyond it differs from one pass over all of `image`.

    image: raw pixels [C, H, W]; its middle is the core, what the largest halo leaves on each side.

    Raises:
        ContractError: the image is too small for the largest halo.
    """
    halos = sorted(set(halos))
    step = lcm(model.window.period or 1, model.window.multiple or 1)
    height, width = (n // step * step for n in image.shape[1:])
    margin = -(-halos[-1] // step) * step
    if min(height, width) - 2 * margin < step:
        raise ContractError(
            f"an image of {image.shape[1:]} px has no room for a halo of {margin} px", "Use a larger one"
        )
    image = image[:, :height, :width]
    whole = _answer(runner, model, image)
    core = np.s_[margin : height - margin, margin : width - margin]
    found = []
    for halo in halos:
        around = margin - halo
        window = image[:, around : height - around, around : width - around]
        inside = np.s_[halo : window.shape[1] - halo, halo : window.shape[2] - halo]
        differs, largest = _difference(whole, core, _answer(runner, model, window), inside)
        found.append(Seam(min(window.shape[1:]), halo, float(differs.mean()), float(largest.max())))
    return found


def choose_halo(found: Sequence[Seam]) -> Seam:
    """Return the smallest halo that leaves at most 10 ppm of moved pixels and 0.01 of probability, else the largest."""
    good = (seam for seam in found if seam.moved <= MOVED_ALLOWED and seam.dprob <= DPROB_ALLOWED)
    return next(good, found[-1])


def spaced(largest: int, step: int) -> list[int]:
    """Return about 16 evenly spaced multiples of `step` from 0 to `largest`, both included (rounded down)."""
    count = largest // step
    every = max(1, count // _STEPS)
    return sorted({count * step, *range(0, count * step + 1, every * step)})


def _tells(answer: Prediction) -> bool:
    """Whether an answer to noise is varied enough to show what windows change."""
    if answer.classes is None:
        return answer.values is not None and values.spread_of(answer.values) > 0
    return float(np.bincount(answer.classes.ravel()).max()) < _ONE_CLASS * answer.classes.size


def _answer(runner: Runner, model: Model, pixels: Raw) -> Prediction:
    return runner(np.ascontiguousarray(pixels[None]), None, model.emits != "labels")


def _disagreement(first: Any, second: Any, shape: tuple[int, int]) -> tuple[Any, Any, Any]:
    """Return (margin, differs, dprob), each [rows, columns], of the pixels that two windows share.

    margin: px from the nearest edge of either.
    """
    (row1, col1, one), (row2, col2, two) = first, second
    (height, width), top, left = shape, max(row1, row2), max(col1, col2)
    bottom, right = min(row1, row2) + height, min(col1, col2) + width
    rows, cols = np.arange(top, bottom), np.arange(left, right)
    down = np.min([n for start in (row1, row2) for n in (rows - start, start + height - 1 - rows)], axis=0)
    across = np.min([n for start in (col1, col2) for n in (cols - start, start + width - 1 - cols)], axis=0)
    differs, largest = _difference(
        one, np.s_[top - row1 : bottom - row1, left - col1 : right - col1],
        two, np.s_[top - row2 : bottom - row2, left - col2 : right - col2],
    )  # fmt: skip
    return np.minimum(down[:, None], across[None]), differs, largest


def _difference(one: Prediction, here: Any, two: Prediction, there: Any) -> tuple[Any, Any]:
    """Return (whether the class or value differs, largest difference of a probability), each [rows, columns]."""
    if one.values is not None and two.values is not None:
        spread = values.spread_of(one.values)
        first, second = one.values[0][(slice(None), *here)], two.values[0][(slice(None), *there)]
        distance = np.sqrt(np.square(first - second).sum(axis=0))
        return values.moved(first[None], second[None], spread)[0], distance / spread if spread else distance
    assert one.classes is not None and two.classes is not None
    differs = one.classes[0][here] != two.classes[0][there]
    if one.probabilities is None or two.probabilities is None:
        return differs, differs.astype(np.float32)
    first, second = one.probabilities[0][(slice(None), *here)], two.probabilities[0][(slice(None), *there)]
    return differs, np.abs(first - second).max(axis=0)
