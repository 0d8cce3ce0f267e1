"""Labels, and where a prediction differs from them, as map tiles.

Both are drawn by the place at each tile pixel's centre, never pooled: an error tile shows what an accuracy counts.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from morecantile import TileMatrixSet

from tiler import zoom
from tiler.errors import MisfitError
from tiler.grid import centres
from tiler.labels import UNLABELLED, Labels, Reading, Truth
from tiler.paint import palette_png
from tiler.pixels import read_window
from tiler.ramps import Color
from tiler.values import Classes, Mask, Rect, View, hex_of

# Missed: the truth has the class, the prediction has not. False: the other way round. Told apart by all eyes
# (Okabe and Ito 2008, blue and vermilion).
MISSED: Color = (0, 114, 178, 255)
FALSE: Color = (213, 94, 0, 255)


def labels_on(labels: Labels, reading: Reading, view: View) -> Truth:
    """Judged class of the label pixel under each centre of a view, int16 [rows, cols] as `Reading.truth`.

    Raises:
        ReadError: they cannot be read.
    """
    grid = labels.grid
    where = centres(view, grid)
    truth: Truth = np.full(where.rows.shape, UNLABELLED, np.int16)
    # Comparisons with NaN are False.
    inside = (where.rows >= 0) & (where.rows < grid.height) & (where.cols >= 0) & (where.cols < grid.width)
    if not inside.any():
        return truth
    rows, cols = where.rows[inside].astype(np.int64), where.cols[inside].astype(np.int64)
    top, left = int(rows.min()), int(cols.min())
    rect = Rect(top, left, int(rows.max()) - top + 1, int(cols.max()) - left + 1)
    values, valid = read_window(labels.source, rect)
    rows, cols = rows - top, cols - left
    found, _ = reading.truth(values[0][rows, cols][None], valid[rows, cols][None])
    truth[inside] = found[0]
    return truth


def minzoom(labels: Labels, tms: TileMatrixSet, max_pixels: int) -> int:
    """The lowest zoom at which a tile covers at most `max_pixels` label pixels; below it none is read."""
    return zoom.minzoom(labels.grid, tms, max_pixels)


def label_png(truth: Truth, reading: Reading) -> bytes:
    """Labels in the colours of their classes; transparent where they say nothing.

    Raises:
        MisfitError: 256 classes leave no colour for nothing.
    """
    colors = _colors(reading)
    return palette_png(np.where(truth >= 0, truth, len(colors) - 1).astype(np.uint8), colors)


def error_png(truth: Truth, classes: Classes, known: Mask, reading: Reading, wanted: tuple[int, ...], by: str) -> bytes:
    """Where prediction and labels differ; transparent where they agree, or one of them says nothing.

    Args:
        truth: int16 [rows, cols].
        classes, known: uint8 and bool [rows, cols], the prediction.
        reading: what both mean.
        wanted: class numbers of the model; with some, what was missed and what is false of them is told apart.
        by: without, whose colour a wrong pixel gets: `truth` or `prediction`.

    Raises:
        MisfitError: 256 classes leave no colour for nothing.
    """
    found = reading.of_class[classes]
    both = known & (truth >= 0)
    if wanted:
        places = np.unique(reading.of_class[list(wanted)])
        drawn, seen = np.isin(truth, places), np.isin(found, places)
        marks = np.zeros(truth.shape, np.uint8)
        marks[both & drawn & ~seen] = 1
        marks[both & ~drawn & seen] = 2
        return palette_png(marks, [(0, 0, 0, 0), MISSED, FALSE])
    colors = _colors(reading)
    shown = truth if by == "truth" else found
    return palette_png(np.where(both & (truth != found), shown, len(colors) - 1).astype(np.uint8), colors)


def clear_png(side: int) -> bytes:
    """A transparent tile."""
    return palette_png(np.zeros((side, side), np.uint8), [(0, 0, 0, 0)])


def label_legend(reading: Reading) -> list[dict[str, Any]]:
    """Classes as labels show them, with the label numbers that mean them."""
    return [
        {"value": item.values[0], "name": item.name, "color": hex_of(item.color), "labels": list(item.labels)}
        for item in reading.classes
        if item.labels
    ]


def error_legend(reading: Reading, wanted: tuple[int, ...], by: str) -> list[dict[str, Any]]:
    """What the colours of an error tile stand for."""
    if not wanted:
        kind = "is, but predicted otherwise" if by == "truth" else "predicted, but is not"
        return [
            {"value": item.values[0], "name": item.name, "color": hex_of(item.color), "meaning": kind}
            for item in reading.classes
            if item.labels or by == "prediction"
        ]
    places = {int(reading.of_class[value]) for value in wanted}
    name = ", ".join(reading.classes[place].name for place in sorted(places))
    return [
        {"name": "missed", "color": hex_of(MISSED), "meaning": f"{name}, but predicted otherwise"},
        {"name": "false", "color": hex_of(FALSE), "meaning": f"predicted {name}, but is not"},
    ]


def etag_of(*decides: Any) -> str:
    """A strong ETag of everything that decides a tile's bytes."""
    return f'"{hashlib.sha256(repr(decides).encode()).hexdigest()[:24]}"'


def _colors(reading: Reading) -> list[Color]:
    """The classes' colours, and a last one for nothing."""
    if len(reading.classes) > 255:
        raise MisfitError(f"{len(reading.classes)} classes leave no colour for no label", "Merge two of them")
    return [*(item.color for item in reading.classes), (0, 0, 0, 0)]
