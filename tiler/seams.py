"""What is left to see of the borders between fixed windows, measured on places of the scene.

Around a crossing of borders the served answer is compared with that of one window whose middle lies on the crossing.
An exact model gives the same; any other has no right answer, only several, and this says how far they lie apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model_registry import values
from tiler.answers import scores_of
from tiler.assemble import decided
from tiler.blend import blended, cells_keeping
from tiler.layer import Layer
from tiler.pixels import read_window
from tiler.values import Floats, Mask, Rect, Scores

# Where crossings are looked for, as shares of the scene's cells; the middle first.
SHARES = (0.5, 0.25, 0.75)


@dataclass(frozen=True, slots=True)
class Seam:
    """The remaining seam. `None`: of a model that answers class numbers alone, or where nothing varies.

    Attributes:
        moved: share (0..1) of pixels near borders that another window gives another class (or value, by more than 1 %
            of the answer's spread).
        largest: largest difference there of a probability, value or component.
        step: mean difference of two neighbouring pixels across a border (or where an overlap begins), relative to the
            same two in a window that has no border there; 1 is no seam.
        unblended: the same of cells side by side.
        crossings: how many were looked at.
    """

    moved: float
    largest: float | None
    step: float | None
    unblended: float | None
    crossings: int


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """One crossing: planes [planes, rows, cols] served, side by side and centred, over the same pixels.

    borders: per axis, the first pixel after the border, or None. valid: bool [rows, cols].
    """

    served: Floats
    beside: Floats
    centred: Floats
    valid: Mask
    borders: tuple[int | None, int | None]


def measure(layer: Layer, count: int = 2) -> Seam | None:
    """Measure a layer's seams at `count` crossings, in the calling thread; some five windows are inferred for each.

    Returns None for an exact model, and where no window can be put across a border that has data around it.

    Raises:
        ReadError, ModelError: a window could not be read or inferred.
    """
    if layer.window_shape is None or layer.model.exactness == "exact" or _offset(layer) == 0:
        return None
    places: list[_Place] = []
    for row, col in _crossings(layer):
        place = _looked_at(layer, row, col)
        if place is not None:
            places.append(place)
        if len(places) == count:
            break
    if not places:
        return None
    reach = layer.grid.overlap or layer.grid.halo
    wrong = seen = 0
    largest = 0.0
    steps: list[NDArray[np.float64]] = []
    for place in places:
        near = place.valid & _near(place, reach)
        seen += int(near.sum())
        wrong += int((_moved(layer, place) & near).sum())
        largest = max(largest, float((np.abs(place.served - place.centred) * near).max()))
        steps.append(_steps(place, reach))
    if layer.model.emits == "labels":
        return Seam(wrong / max(seen, 1), None, None, None, len(places))
    served, beside, centred = np.sum(steps, axis=0)
    # Where nothing changes inside of a window, nothing can be said relative to it.
    told = centred > 0
    step, unblended = (float((one[told] / centred[told]).max(initial=0.0)) or None for one in (served, beside))
    return Seam(wrong / max(seen, 1), largest, step, unblended, len(places))


def _crossings(layer: Layer) -> Iterator[tuple[int | None, int | None]]:
    """Numbers of the cells below and right of crossings; None along an axis that has one cell only."""
    rows, cols = layer.grid.cell_rows, layer.grid.cell_cols
    if rows == cols == 1:
        return
    found = [
        (
            None if rows == 1 else min(max(1, round(rows * down)), rows - 1),
            None if cols == 1 else min(max(1, round(cols * across)), cols - 1),
        )
        for down in SHARES
        for across in SHARES
    ]
    yield from dict.fromkeys(found)


def _offset(layer: Layer) -> int:
    """Half a cell, as far as the model's period allows."""
    return layer.grid.cell // 2 // layer.grid.align * layer.grid.align


def _looked_at(layer: Layer, row: int | None, col: int | None) -> _Place | None:
    """The pixels around one crossing; None where most of them have no data."""
    grid = layer.grid
    top, left = (0 if number is None else number * grid.cell - _offset(layer) for number in (row, col))
    area = Rect(top, left, min(grid.cell, grid.height - top), min(grid.cell, grid.width - left))
    one = _inferred(layer, top, left).cut(*_within(area, top - grid.halo, left - grid.halo))
    if one.valid.mean() < 0.5:
        return None
    cells = {}
    for cell in cells_keeping(area, grid):
        kept = grid.kept_of(cell)
        window = _inferred(layer, cell.row * grid.cell, cell.col * grid.cell)
        rows, cols = _within(kept, cell.row * grid.cell - grid.halo, cell.col * grid.cell - grid.halo)
        cells[cell] = window.cut(rows, cols)
    beside = np.zeros_like(_planes(one))
    for cell, scores in cells.items():
        core, kept = grid.core_of(cell, cell), grid.kept_of(cell)
        first, end = max(core.row_off, area.row_off), min(core.row_off + core.height, area.row_off + area.height)
        begin, last = max(core.col_off, area.col_off), min(core.col_off + core.width, area.col_off + area.width)
        if first < end and begin < last:
            there = (slice(first - kept.row_off, end - kept.row_off), slice(begin - kept.col_off, last - kept.col_off))
            here = (slice(first - area.row_off, end - area.row_off), slice(begin - area.col_off, last - area.col_off))
            beside[:, *here] = _planes(scores)[:, *there]
    served = beside
    if grid.overlap:
        _, planes = blended(grid, cells, _planes, area)
        assert planes is not None, "what overlaps has planes"
        served = planes.astype(np.float32)
    borders = (None if row is None else row * grid.cell - top, None if col is None else col * grid.cell - left)
    return _Place(served, beside, _planes(one), one.valid, borders)


def _inferred(layer: Layer, top: int, left: int) -> Scores:
    """The scores of the whole window whose core begins at a pixel."""
    assert layer.window_shape is not None, "windows of one shape"
    window = Rect(top - layer.grid.halo, left - layer.grid.halo, *layer.window_shape)
    pixels, valid = read_window(layer.source, window)
    everything = layer.model.kind == "classes" and layer.model.emits != "labels"
    answer = layer.loaded.runner(np.ascontiguousarray(pixels[None]), probabilities=everything)
    return scores_of(layer.model, answer, 0, valid)


def _planes(scores: Scores) -> Floats:
    """What is compared: probabilities, values, components, or class numbers where there is nothing else."""
    for planes in (scores.probabilities, scores.values, scores.components):
        if planes is not None:
            return planes.astype(np.float32)
    assert scores.classes is not None, "a model answers something"
    return scores.classes[None].astype(np.float32)


def _within(area: Rect, top: int, left: int) -> tuple[slice, slice]:
    """`area` in a window whose first pixel is (top, left)."""
    row, col = area.row_off - top, area.col_off - left
    return slice(row, row + area.height), slice(col, col + area.width)


def _near(place: _Place, reach: int) -> Mask:
    """Pixels that are at most `reach` away from a border."""
    near = np.zeros(place.valid.shape, bool)
    down, across = place.borders
    if down is not None:
        near[max(0, down - reach) : down + reach] = True
    if across is not None:
        near[:, max(0, across - reach) : across + reach] = True
    return near


def _moved(layer: Layer, place: _Place) -> Mask:
    if layer.model.kind != "classes":
        return np.asarray(values.moved(place.centred[None], place.served[None])[0])
    if layer.model.emits == "labels":
        return np.asarray((place.served != place.centred)[0])
    return np.asarray(decided(layer, place.served, None) != decided(layer, place.centred, None))


def _steps(place: _Place, reach: int) -> NDArray[np.float64]:
    """[answers, 3]: summed differences across borders, and across where the overlap before and after them begins.

    The answers are the served one, that of cells side by side, and the centred one.
    """
    found = np.zeros((3, 3))
    for axis, border in enumerate(place.borders):
        if border is None:
            continue
        for number, at in enumerate((border - reach, border, border + reach)):
            if not 0 < at < place.valid.shape[axis]:
                continue
            both = place.valid.take(at, axis) & place.valid.take(at - 1, axis)
            for answer, planes in enumerate((place.served, place.beside, place.centred)):
                step = np.abs(planes.take(at, 1 + axis) - planes.take(at - 1, 1 + axis))
                found[answer, number] += float((step * both).sum(dtype=np.float64))
    return found
