"""Scores of cells -> what one view shows. The only place that resamples predictions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from model_registry.postprocess import argmax
from tiler.grid import Footprint
from tiler.layer import Layer
from tiler.mosaic import Mosaic, Planes, Taps, pool
from tiler.sampled import Sampled
from tiler.values import NUMBERS, Cell, Classes, Floats, Mask, Scores, Style, View

# The confidence of a model that answers class numbers only: no probability, but still a number in JSON.
UNKNOWN = -1.0


@dataclass(frozen=True, slots=True, eq=False)
class Picture:
    """A prediction on a view's pixels, not yet coloured.

    Attributes:
        view: whose pixels these are.
        style: what was asked for.
        values: uint8 [1, rows, cols] class values; float32 [bands, rows, cols] probabilities in 0..1, values in their
            own unit, an embedding's three components, or class value and confidence (0..1, or UNKNOWN).
        valid: bool [rows, cols], False outside of the scene, without data, or masked by the style.
        band_names: one per band, in the user's words.
    """

    view: View
    style: Style
    values: Classes | Floats
    valid: Mask
    band_names: tuple[str, ...]


def assemble(
    layer: Layer,
    view: View,
    where: Footprint,
    scores: Mapping[Cell, Scores],
    style: Style,
    sampled: Sampled | None = None,
) -> Picture:
    """Put a view together from the cells under it.

    With one sample per pixel it is a lookup (or, for `bilinear`, a warp of probabilities or values). With several, a
    pixel shows the majority class, or the mean probability or value, of the real predictions under it; it is valid when
    half of them are.

    Args:
        layer: whose scores these are.
        view: the pixels wanted.
        where: the view's samples on the layer's grid.
        scores: all cells that the samples touch, but for those that are known otherwise.
        style: what is wanted of them.
        sampled: what exported files say of the samples; it goes before the cells.
    """
    if not scores:
        return blank(layer, view, style) if sampled is None else _from_files(layer, view, where, style, sampled)
    mosaic = Mosaic.over(where, layer.grid, scores, _planes_of(layer, style))
    taps = mosaic.taps(where, style.resampling)
    show = _numbers if style.output in NUMBERS else _classes
    valid, values = show(layer, mosaic, taps, where.samples, style, sampled)
    shown: Classes | Floats = values * valid
    return Picture(view, style, shown, valid, band_names(layer, style))


def blank(layer: Layer, view: View, style: Style) -> Picture:
    """A picture without any valid pixel."""
    names = band_names(layer, style)
    shape = (len(names), view.height, view.width)
    empty: Classes | Floats = np.zeros(shape, np.uint8) if style.output == "class" else np.zeros(shape, np.float32)
    return Picture(view, style, empty, np.zeros(shape[1:], bool), names)


def band_names(layer: Layer, style: Style) -> tuple[str, ...]:
    """Names of the bands that a style shows."""
    values = layer.model.values
    if values is not None:
        if style.output == "rgb":
            kind = "channel" if values.components is None else "component"
            return tuple(f"{kind} {number}" for number in (1, 2, 3))
        if values.channels == 1:
            return (f"{values.name} ({values.unit})" if values.unit else values.name,)
        return tuple(f"{values.name} {number + 1}" for number in range(values.channels))
    if style.output == "class_confidence":
        return ("class", "confidence")
    if style.output != "probability":
        return (style.output,)
    wanted = style.classes or tuple(item.value for item in layer.model.classes)
    by_value = {item.value: item.name for item in layer.model.classes}
    return tuple(by_value[value] for value in wanted)


def wants(layer: Layer, style: Style) -> bool:
    """Whether a style needs all that the network says: see `Style.needs_probabilities`.

    Classes of overlapping windows cannot be blended, so their probabilities are needed whatever is shown. Components of
    an embedding can: they are sums of its channels.
    """
    if style.output == "class_confidence" and layer.model.emits == "labels":
        return False
    return style.needs_probabilities or (layer.grid.overlap > 0 and layer.model.kind == "classes")


def _planes_of(layer: Layer, style: Style) -> Callable[[Scores], Planes | None] | None:
    if style.output == "rgb":
        return lambda scores: scores.components
    if style.output == "value":
        return lambda scores: scores.values
    if style.output == "spread":
        return lambda scores: scores.spread
    return (lambda scores: scores.probabilities) if wants(layer, style) else None


def _from_files(layer: Layer, view: View, where: Footprint, style: Style, sampled: Sampled) -> Picture:
    """What exported files say by themselves."""
    valid: Mask = sampled.valid
    values: Classes | Floats = sampled.values
    if style.output == "class":
        valid, classes, _ = _pooled(layer, valid, values[0], None, where.samples)
        valid, values = _chosen(valid, classes, style), classes[None]
    else:
        if style.output == "probability" and style.classes:
            values = values[[_position(layer, value) for value in style.classes]]
        if where.samples > 1:
            valid, values = _means(iter(values), valid, where.samples)
        if style.threshold is not None:
            valid = valid & (values.max(axis=0) >= style.threshold)
    shown: Classes | Floats = values * valid
    return Picture(view, style, shown, valid, band_names(layer, style))


def _chosen(valid: Mask, classes: Classes, style: Style) -> Mask:
    """Pixels of the classes that are wanted."""
    return valid & np.isin(classes, style.classes) if style.classes else valid


def _numbers(
    layer: Layer, mosaic: Mosaic, taps: Taps, samples: int, style: Style, sampled: Sampled | None
) -> tuple[Mask, Floats]:
    """(valid, values): the numbers themselves, or their mean over the valid samples of a pixel."""
    planes = _known(mosaic.planes)
    valid, taken = taps.valid, (taps.take(plane) for plane in planes)
    if sampled is not None:
        known = sampled.known
        valid = np.where(known, sampled.valid, valid)
        taken = (np.where(known, told, own) for told, own in zip(sampled.values, taken, strict=True))
    return (valid, np.stack(list(taken))) if samples == 1 else _means(taken, valid, samples)


def _means(planes: Iterator[Floats], valid: Mask, samples: int) -> tuple[Mask, Floats]:
    """(valid, means): planes of samples [rows, cols], averaged over the valid ones of each pixel."""
    count = pool(valid, samples)
    # One plane after the other: an embedding has many, and each has several samples per pixel.
    means = [pool(plane * valid, samples) / np.maximum(count, 1) for plane in planes]
    return count * 2 >= samples * samples, np.stack(means).astype(np.float32)


def _classes(
    layer: Layer, mosaic: Mosaic, taps: Taps, samples: int, style: Style, sampled: Sampled | None
) -> tuple[Mask, Classes | Floats]:
    """(valid, values): class numbers, probabilities, or the winner's probability."""
    planes = None if mosaic.planes is None else np.stack([taps.take(plane) for plane in mosaic.planes])
    decides = style.threshold if layer.loaded.binary else None
    if taps.around or decides is not None or mosaic.classes is None:
        classes = decided(layer, _known(planes), decides)
    else:
        classes = taps.nearest(mosaic.classes)
    valid = taps.valid
    if sampled is not None:
        # Sample by sample, before the majority: the same pixels, whichever way each of them is known.
        classes = np.where(sampled.known, sampled.values[0], classes)
        valid = np.where(sampled.known, sampled.valid, valid)
    valid, classes, planes = _pooled(layer, valid, classes, planes, samples)
    if style.output == "class":
        valid = _chosen(valid, classes, style)
        if style.threshold is not None and decides is None:
            valid = valid & (confidence(layer, classes, _known(planes)) >= style.threshold)
        return valid, classes[None]
    if style.output == "class_confidence":
        # A model that answers numbers only does not say how sure it is.
        sure = np.full(classes.shape, UNKNOWN, np.float32) if planes is None else confidence(layer, classes, planes)
        valid = _chosen(valid, classes, style)
        if style.threshold is not None and decides is None and planes is not None:
            valid = valid & (sure >= style.threshold)
        return valid, np.stack([classes.astype(np.float32), sure])
    planes = _known(planes)
    values = planes if style.output == "probability" else confidence(layer, classes, planes)[None]
    if style.output == "probability" and style.classes:
        values = planes[[_position(layer, value) for value in style.classes]]
    if style.threshold is not None and (decides is None or style.output == "probability"):
        valid = valid & (values.max(axis=0) >= style.threshold)
    return valid, values


def decided(layer: Layer, planes: Floats, threshold: float | None) -> Classes:
    """Class values of probabilities [classes, rows, cols], by the rules of `model_registry.postprocess`.

    `threshold` takes the place of the model's own, for masks only: the second class where its probability reaches it.
    """
    values = np.asarray([item.value for item in layer.model.classes], np.uint8)
    own = layer.model.threshold
    if threshold is not None or (layer.loaded.binary and layer.loaded.channels == 1):
        limit = threshold if threshold is not None else 0.5 if own is None else own
        return np.asarray(values[(planes[1] >= limit).astype(np.uint8)])
    best, largest = (found[0] for found in argmax(planes[None]))
    if own is not None:
        best = np.where(largest < own, 0, best)
    return np.asarray(values[best])


def _position(layer: Layer, value: int) -> int:
    return next(index for index, item in enumerate(layer.model.classes) if item.value == value)


def confidence(layer: Layer, classes: Classes, planes: Floats) -> Floats:
    """The winner's probability; of a mask, that of the class that is shown, which a threshold may have chosen."""
    if layer.loaded.binary:
        return np.asarray(np.where(classes == layer.model.classes[1].value, planes[1], planes[0]))
    found: Floats = planes.max(axis=0)
    return found


def _pooled(
    layer: Layer, valid: Mask, classes: Classes, planes: Floats | None, samples: int
) -> tuple[Mask, Classes, Floats | None]:
    """Samples -> pixels: majority of classes, mean of probabilities, valid where at least half of the samples are."""
    if samples == 1:
        return valid, classes, planes
    count = pool(valid, samples)
    if planes is not None:
        planes = np.asarray(pool(planes * valid, samples) / np.maximum(count, 1), np.float32)
    values = np.asarray([item.value for item in layer.model.classes], np.uint8)
    votes = np.stack([pool((classes == value) & valid, samples) for value in values])
    return count * 2 >= samples * samples, values[votes.argmax(axis=0)], planes


def _known(planes: Planes | None) -> Planes:
    assert planes is not None, "a style that needs planes has asked for them"
    return planes
