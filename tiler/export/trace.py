"""Outlines of areas, strip by strip: what crosses a strip's edge is put together again at the edge, exactly.

An outline runs along pixel sides with its area on the left (seen with north up), so shells are counter-clockwise and
holes clockwise. It turns a corner wherever the area does, and has a vertex wherever two other areas (or 'no data') part
along its side: all that meet at a point have it as a vertex, so neighbours fit without gaps. Where an area touches
itself at a corner only, its outline goes around what lies between: a hole there touches the shell at one point, and
every ring is simple.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray

from tiler.export.regions import Ints, Strip
from tiler.values import Classes

Shapes = NDArray[np.object_]
Points = NDArray[np.int32]
# Strips done, polygons in pixel coordinates (x = column, y = -row), the class of each (uint8).
Batch = tuple[int, Shapes, Classes]

# Of areas that are handed on together; one alone may have more.
BATCH_VERTICES = 500_000

# The four sides of a pixel in the order in which an outline turns left: top (walked west), left (south), bottom (east),
# right (north).
HEAD_ROW, HEAD_COL = np.array([0, 1, 1, 0]), np.array([0, 0, 1, 1])


@dataclass(frozen=True, slots=True, eq=False)
class Lines:
    """Outlines of one strip, or closed rings.

    vertices: int32 [n, 2], (column, row) in the raster. ends: int64 [lines], where each line ends in `vertices`.
    area: int64 [lines], whose outline it is. start, next: int64 [lines], the side that a line begins with, and the one
    that it goes on with in another strip; -1 for closed rings.
    """

    vertices: Points
    ends: Ints
    area: Ints
    start: Ints
    next: Ints


@dataclass(slots=True)
class _Pending:
    """The outline of an area that is not complete yet."""

    rings: list[Points] = field(default_factory=list)
    pieces: dict[int, tuple[Points, int]] = field(default_factory=dict)


def polygons(strips: Iterable[Strip], width: int, last: NDArray[np.int32]) -> Iterator[Batch]:
    """Polygons of all areas, each as soon as it is complete.

    Args:
        strips: as of `regions.numbered`.
        width: columns of the raster.
        last: int32, for each area that touches a strip's edge (the lowest ids) the last strip in which it lies.

    Yields:
        (strips done, polygons in pixel coordinates: x = column, y = -row, class uint8 of each).
    """
    pending: dict[int, _Pending] = {}
    classes: dict[int, int] = {}
    for strip, above, below in _with_neighbours(strips, np.full(width, -1, np.int64)):
        found = outlines(strip.ids, strip.row, above, below)
        inner = found.area >= len(last)
        lengths = np.diff(found.ends, prepend=0)
        crossing = np.flatnonzero(~inner)
        known = strip.class_of(found.area[crossing])
        for line, number in zip(crossing.tolist(), known.tolist(), strict=True):
            area, end, then = int(found.area[line]), int(found.ends[line]), int(found.next[line])
            vertices = found.vertices[end - lengths[line] : end].copy()
            kept = pending.setdefault(area, _Pending())
            classes[area] = number
            if then < 0:
                kept.rings.append(vertices)
            else:
                kept.pieces[int(found.start[line])] = vertices, then
        shapes, areas = _assembled(found.vertices[np.repeat(inner, lengths)], lengths[inner], found.area[inner])
        yield strip.number + 1, shapes, strip.class_of(areas)
        complete = [area for area in pending if last[area] == strip.number]
        while complete:
            # A few at a time: with the last strip all that reach through the scene are complete.
            rings: list[tuple[int, Points]] = []
            held = 0
            while complete and held < BATCH_VERTICES:
                area = complete.pop()
                closed = _closed(pending.pop(area))
                rings += [(area, ring) for ring in closed]
                held += sum(map(len, closed))
            shapes, areas = _assembled(
                np.concatenate([ring for _, ring in rings]),
                np.array([len(ring) for _, ring in rings]),
                np.array([area for area, _ in rings]),
            )
            yield strip.number + 1, shapes, np.array([classes.pop(area) for area in areas.tolist()], np.uint8)


def _assembled(vertices: Points, lengths: Ints, area: Ints) -> tuple[Shapes, Ints]:
    """Polygons of whole areas from rings of `lengths` vertices each, and the area that each is; in order of areas."""
    if not len(lengths):
        return np.empty(0, object), np.empty(0, np.int64)
    points = vertices.astype(np.float64)
    points[:, 1] *= -1
    begins = np.cumsum(lengths) - lengths
    following = np.arange(len(points)) + 1
    following[begins + lengths - 1] = begins
    x, y = points.T
    is_hole = np.add.reduceat(x * y[following] - x[following] * y, begins) < 0
    rings = shapely.linearrings(points, indices=np.repeat(np.arange(len(lengths)), lengths))
    order = np.lexsort((is_hole, area))  # the shell comes before its holes
    names, indices = np.unique(area[order], return_inverse=True)
    return shapely.polygons(rings[order], indices=indices), names


def outlines(ids: Ints, row: int, above: Ints, below: Ints) -> Lines:
    """The outlines of the areas of one strip, cut where they leave it.

    Args:
        ids: int64 [rows, cols], the area of each pixel, -1 for none.
        row: the strip's first row in the raster.
        above, below: int64 [cols], the ids of the rows beside it; -1 beyond the raster.
    """
    rows, width = ids.shape
    padded = np.full((rows + 2, width + 2), -1, np.int64)
    padded[1:-1, 1:-1], padded[0, 1:-1], padded[-1, 1:-1] = ids, above, below
    step = width + 2
    flat = padded.ravel()
    sides, after, kept = [], [], []
    # Of each side: the way to the pixel beyond it, and to the two pixels ahead, on the area's own side and beyond.
    for side, beyond, ahead in ((0, -step, -1), (1, -1, step), (2, step, 1), (3, 1, -step)):
        differ = np.zeros((rows + 2, width + 2), bool)
        shifted = padded[1 + (side == 2) - (side == 0) :, 1 + (side == 3) - (side == 1) :][:rows, :width]
        np.logical_and(ids != shifted, ids >= 0, out=differ[1:-1, 1:-1])
        at = np.flatnonzero(differ)
        own, other = flat[at], flat[at + beyond]
        same_ahead, same_across = flat[at + ahead] == own, flat[at + ahead + beyond] == own
        right, straight = same_across, same_ahead & ~same_across
        owner = np.where(right, at + ahead + beyond, np.where(straight, at + ahead, at))
        turn = np.where(right, side - 1, np.where(straight, side, side + 1)) % 4
        sides.append(at * 4 + side)
        after.append(owner * 4 + turn)
        kept.append(~straight | (other != flat[at + ahead + beyond]))
    code = np.concatenate(sides)
    order = np.argsort(code, kind="stable")
    code, follows, corner = code[order], np.concatenate(after)[order], np.concatenate(kept)[order]
    leaves = (follows < 4 * step) | (follows >= 4 * step * (rows + 1))
    place = np.searchsorted(code, follows)
    place[leaves] = -1

    def absolute(codes: Ints) -> Ints:
        pixel, side = np.divmod(codes, 4)
        down, right = np.divmod(pixel, step)
        found: Ints = ((down - 1 + row) * width + right - 1) * 4 + side
        return found

    sequence, ends, first, final = _walked(place, corner | leaves, leaves)
    pixel, edge = np.divmod(code[sequence], 4)
    is_corner = corner[sequence]
    pixel, edge = pixel[is_corner], edge[is_corner]
    vertices = np.stack([pixel % step - 1 + HEAD_COL[edge], pixel // step - 1 + row + HEAD_ROW[edge]], axis=1)
    kept_ends = np.concatenate([[0], np.cumsum(is_corner)])[ends]
    following = np.where(leaves[final], absolute(follows[final]), -1)
    return Lines(vertices.astype(np.int32), kept_ends, flat[code[first] // 4], absolute(code[first]), following)


def _walked(place: Ints, stops: NDArray[np.bool_], leaves: NDArray[np.bool_]) -> tuple[Ints, Ints, Ints, Ints]:
    """Follow every line from stop to stop.

    Returns:
        The stops in the order of the lines, where each line ends among them, and each line's first and last side.
    """
    count = len(place)
    jump = np.where(stops, np.arange(count), place)
    while not np.array_equal(further := jump[jump], jump):
        jump = further
    entered = np.zeros(count, bool)
    entered[place[place >= 0]] = True
    after = np.where(leaves, -1, jump[place]).tolist()
    seen = bytearray(count)
    sequence: list[int] = []
    ends: list[int] = []
    starts = np.flatnonzero(~entered)
    first: list[int] = starts.tolist()
    final: list[int] = []
    for here in jump[starts].tolist():
        while here >= 0:
            sequence.append(here)
            seen[here] = 1
            here = after[here]
        ends.append(len(sequence))
        final.append(sequence[-1])
    for start in np.flatnonzero(stops).tolist():
        if seen[start]:
            continue
        here = start
        while not seen[here]:
            sequence.append(here)
            seen[here] = 1
            here = after[here]
        ends.append(len(sequence))
        first.append(start)
        final.append(start)
    return (
        np.asarray(sequence, np.int64),
        np.asarray(ends, np.int64),
        np.asarray(first, np.int64),
        np.asarray(final, np.int64),
    )


def _closed(pending: _Pending) -> list[Points]:
    """All rings of a complete area."""
    rings, pieces = pending.rings, pending.pieces
    while pieces:
        start, (vertices, here) = pieces.popitem()
        parts = [vertices]
        while here != start:
            vertices, here = pieces.pop(here)
            parts.append(vertices)
        rings.append(np.concatenate(parts))
    return rings


def _with_neighbours(strips: Iterable[Strip], outside: Ints) -> Iterator[tuple[Strip, Ints, Ints]]:
    """Each strip with the rows of ids above and below it."""
    held, above = None, outside
    for strip in strips:
        if held is not None:
            yield held, above, strip.ids[0]
            above = held.ids[-1]
        held = strip
    if held is not None:
        yield held, above, outside
