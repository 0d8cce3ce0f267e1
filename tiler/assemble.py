"""Scores of cells -> what one view shows. The only place that resamples predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiler.grid import Footprint
from tiler.layer import Layer
from tiler.values import Cell, Classes, Floats, Mask, Scores, Style, View

Indices = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A prediction on a view's pixels, not yet coloured.

    Attributes:
        view: whose pixels these are.
        style: what was asked for.
        values: uint8 [1, rows, cols] class values, or float32 [bands, rows, cols] in 0..1.
        valid: bool [rows, cols], False outside of the scene, without data, or masked by the style.
        band_names: one per band, in the user's words.
    """

    view: View
    style: Style
    values: Classes | Floats
    valid: Mask
    band_names: tuple[str, ...]


def assemble(layer: Layer, view: View, where: Footprint, scores: Mapping[Cell, Scores], style: Style) -> Picture:
    """Put a view together from the cells under it.

    With one sample per pixel it is a lookup (or, for `bilinear`, a warp of probabilities). With several, a pixel shows
    the majority class, or the mean probability, of the real predictions under it; it is valid when half of them are.

    Args:
        layer: whose scores these are.
        view: the pixels wanted.
        where: the view's samples on the layer's grid.
        scores: all cells that the samples touch.
        style: what is wanted of them.
    """
    names = band_names(layer, style)
    if not scores:
        return blank(layer, view, style)
    mosaic = _Mosaic.of(layer, scores, style)
    sampled = _bilinear(mosaic, where) if style.resampling == "bilinear" else _nearest(mosaic, where)
    valid, classes, planes = _pooled(layer, sampled, where.samples)
    if style.output == "class":
        values: Classes | Floats = classes[None]
        if style.classes:
            valid = valid & np.isin(classes, style.classes)
        if style.threshold is not None and planes is not None:
            valid = valid & (_confidence(layer, planes) >= style.threshold)
    else:
        assert planes is not None, "planes are read whenever probabilities are shown"
        values = planes if style.output == "probability" else _confidence(layer, planes)[None]
        if style.output == "probability" and style.classes:
            values = planes[[_position(layer, value) for value in style.classes]]
        if style.threshold is not None:
            valid = valid & (values.max(axis=0) >= style.threshold)
    shown: Classes | Floats = values * valid
    return Picture(view, style, shown, valid, names)


def blank(layer: Layer, view: View, style: Style) -> Picture:
    """A picture without any valid pixel."""
    names = band_names(layer, style)
    shape = (len(names), view.height, view.width)
    empty: Classes | Floats = np.zeros(shape, np.uint8) if style.output == "class" else np.zeros(shape, np.float32)
    return Picture(view, style, empty, np.zeros(shape[1:], bool), names)


def band_names(layer: Layer, style: Style) -> tuple[str, ...]:
    """Names of the bands that a style shows."""
    if style.output != "probability":
        return (style.output,)
    wanted = style.classes or tuple(item.value for item in layer.model.classes)
    by_value = {item.value: item.name for item in layer.model.classes}
    return tuple(by_value[value] for value in wanted)


def _position(layer: Layer, value: int) -> int:
    return next(index for index, item in enumerate(layer.model.classes) if item.value == value)


def _confidence(layer: Layer, planes: Floats) -> Floats:
    confidence: Floats = planes.max(axis=0)
    return confidence


@dataclass(frozen=True, slots=True, eq=False)
class _Mosaic:
    """Cells side by side. `top`, `left`: grid pixels of the first row and column."""

    top: int
    left: int
    classes: Classes
    valid: Mask
    planes: NDArray[np.float16] | None

    @classmethod
    def of(cls, layer: Layer, scores: Mapping[Cell, Scores], style: Style) -> _Mosaic:
        grid = layer.grid
        rows, cols = [cell.row for cell in scores], [cell.col for cell in scores]
        top, left = min(rows) * grid.cell, min(cols) * grid.cell
        height = min((max(rows) + 1) * grid.cell, grid.height) - top
        width = min((max(cols) + 1) * grid.cell, grid.width) - left
        classes, valid = np.zeros((height, width), np.uint8), np.zeros((height, width), bool)
        planes = None
        if style.needs_probabilities:
            planes = np.zeros((len(layer.model.classes), height, width), np.float16)
        for cell, score in scores.items():
            row, col = cell.row * grid.cell - top, cell.col * grid.cell - left
            area = (slice(row, row + score.valid.shape[0]), slice(col, col + score.valid.shape[1]))
            classes[area], valid[area] = score.classes, score.valid
            if planes is not None and score.probabilities is not None:
                planes[(slice(None), *area)] = score.probabilities
        return cls(top, left, classes, valid, planes)

    def locate(self, where: Footprint) -> tuple[Indices, Indices, Mask]:
        """Row and column of each sample in the mosaic (clipped), and whether it lies inside."""
        height, width = self.valid.shape
        with np.errstate(invalid="ignore"):
            rows, cols = np.floor(where.rows) - self.top, np.floor(where.cols) - self.left
            inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width)
        return (
            np.where(inside, rows, 0).astype(np.int64),
            np.where(inside, cols, 0).astype(np.int64),
            inside,
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Samples:
    """What lies under each sample: valid [rows, cols], classes [rows, cols], planes [classes, rows, cols] or None."""

    valid: Mask
    classes: Classes | None
    planes: Floats | None


def _nearest(mosaic: _Mosaic, where: Footprint) -> _Samples:
    rows, cols, inside = mosaic.locate(where)
    valid = mosaic.valid[rows, cols] & inside
    planes = None if mosaic.planes is None else mosaic.planes[:, rows, cols].astype(np.float32)
    return _Samples(valid, mosaic.classes[rows, cols], planes)


def _bilinear(mosaic: _Mosaic, where: Footprint) -> _Samples:
    """Probabilities between pixel centres; neighbours without data do not count. Valid as the nearest pixel is."""
    assert mosaic.planes is not None, "bilinear warping asks for probabilities"
    rows, cols, inside = mosaic.locate(where)
    valid = mosaic.valid[rows, cols] & inside
    height, width = mosaic.valid.shape
    y, x = np.nan_to_num(where.rows) - mosaic.top - 0.5, np.nan_to_num(where.cols) - mosaic.left - 0.5
    row0, col0 = np.floor(y).astype(np.int64), np.floor(x).astype(np.int64)
    total = np.zeros(valid.shape, np.float32)
    planes = np.zeros((mosaic.planes.shape[0], *valid.shape), np.float32)
    for down in (0, 1):
        for right in (0, 1):
            row = np.clip(row0 + down, 0, height - 1)
            col = np.clip(col0 + right, 0, width - 1)
            weight = np.abs(1 - down - (y - row0)) * np.abs(1 - right - (x - col0)) * mosaic.valid[row, col]
            planes += weight.astype(np.float32) * mosaic.planes[:, row, col]
            total += weight.astype(np.float32)
    planes /= np.where(total > 0, total, 1)
    return _Samples(valid & (total > 0), None, planes)


def _pooled(layer: Layer, sampled: _Samples, samples: int) -> tuple[Mask, Classes, Floats | None]:
    """Samples -> pixels: majority of classes, mean of probabilities, valid where at least half of the samples are."""
    valid, planes = sampled.valid, sampled.planes
    values = np.asarray([item.value for item in layer.model.classes], np.uint8)
    classes = sampled.classes if sampled.classes is not None else values[np.argmax(_known(planes), axis=0)]
    if samples == 1:
        return valid, classes, planes
    height, width = valid.shape[0] // samples, valid.shape[1] // samples

    def pool(array: NDArray[np.generic]) -> Floats:
        blocks = array.reshape(*array.shape[:-2], height, samples, width, samples)
        pooled: Floats = blocks.sum(axis=(-3, -1), dtype=np.float32)
        return pooled

    count = pool(valid)
    if planes is not None:
        planes = np.asarray(pool(planes * valid) / np.maximum(count, 1), np.float32)
    votes = np.stack([pool((classes == value) & valid) for value in values])
    return count * 2 >= samples * samples, values[votes.argmax(axis=0)], planes


def _known(planes: Floats | None) -> Floats:
    assert planes is not None, "without classes there are probabilities"
    return planes
