"""Small areas are merged into their neighbours, so that no gap appears and no area is smaller than asked for.

The rule, for the raster as a whole: the smallest area below the limit takes the class with which it shares the longest
border (in pixel sides; the lower number where two are equal) and so becomes part of that neighbour; then the next
smallest; until none is left that has a neighbour. Of two areas of one size the one whose first pixel (row by row) comes
earlier is first. What lies alone in 'no data' has no neighbour, and stays.

An area that is smaller than all of its small neighbours may take its turn at any time: nothing that the rule does
before can reach it, and it reaches nobody whose turn is earlier. So windows may be worked off in any order and give
what one pass over the whole raster gives; areas that a window cuts, and those that wait for one, are left to other
windows. GDAL's sieve (gdal_sieve.py) leaves small areas among small areas as they are, and keeps the whole raster's
areas in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiler.export.regions import Ints, Strips, Survey, joined, label, sides, survey, valid_of
from tiler.values import Classes, Mask, Rect


@dataclass(frozen=True, slots=True, eq=False)
class _Graph:
    """Areas and which of them touch.

    classes, sizes, first: as in `Labels`, `first` counted over the whole raster. cut: bool, the area may be larger than
    the window shows. left, right, length: int64 [pairs], two areas and how many pixel sides they share.
    """

    classes: Classes
    sizes: Ints
    first: Ints
    cut: Mask
    left: Ints
    right: Ints
    length: Ints


def merged(
    pixels: Classes,
    weights: Ints,
    least: int,
    *,
    nodata: int | None,
    cut: tuple[bool, bool, bool, bool] = (False, False, False, False),
    origin: tuple[int, int, int] = (0, 0, 0),
) -> Classes | None:
    """Merge what can be merged with what this window shows.

    Args:
        pixels: uint8 [rows, cols].
        weights: int64 [rows], what a pixel of each row weighs.
        least: areas that weigh less are small.
        nodata: the number that is no class.
        cut: whether the raster goes on at the window's (top, left, bottom, right).
        origin: (row, column) of the window, and the raster's width, so that all windows name pixels alike.

    Returns:
        uint8 [rows, cols], or None where nothing changed.
    """
    labels = label(pixels, weights)
    valid = valid_of(labels.classes, nodata)
    small = valid & (labels.sizes < least)
    if not small.any():
        return None
    hangs_over = np.zeros(len(valid), bool)
    for is_cut, line in zip(cut, (labels.ids[0], labels.ids[:, 0], labels.ids[-1], labels.ids[:, -1]), strict=True):
        if is_cut:
            hangs_over[line] = True
    left, right = sides(labels.ids, valid[labels.ids])
    matters = small[left] | small[right]
    row, col, width = origin
    down, across = np.divmod(labels.first, pixels.shape[1])
    graph = _Graph(
        labels.classes,
        labels.sizes,
        (row + down) * (width or pixels.shape[1]) + col + across,
        hangs_over,
        *_paired(left[matters], right[matters], np.ones(int(matters.sum()), np.int64), len(valid)),
    )
    member = np.arange(len(valid))
    while len(turns := _turns(graph, least)):
        graph, group = _after(graph, turns)
        member = group[member]
    if len(graph.classes) == len(valid):
        return None
    return graph.classes[member][labels.ids]


def _turns(graph: _Graph, least: int) -> Ints:
    """The areas whose turn may come now: small, wholly seen, and no neighbour comes earlier."""
    sizes, first = graph.sizes, graph.first
    small = sizes < least
    waits = ~small | graph.cut
    lonely = np.ones(len(sizes), bool)
    for one, other in ((graph.left, graph.right), (graph.right, graph.left)):
        lonely[one] = False
        # What is cut may only be larger than it seems; it is behind for certain only if it already seems to be.
        earlier = (sizes[other] < sizes[one]) | (
            (sizes[other] == sizes[one]) & (graph.cut[other] | (first[other] < first[one]))
        )
        waits[one[earlier]] = True
    return np.flatnonzero(~waits & ~lonely)


def _after(graph: _Graph, turns: Ints) -> tuple[_Graph, Ints]:
    """The areas after some have been merged into their neighbours, and the new number of each old one."""
    count = len(graph.classes)
    moves = np.zeros(count, bool)
    moves[turns] = True
    one, other = np.concatenate([graph.left, graph.right]), np.concatenate([graph.right, graph.left])
    length = np.concatenate([graph.length, graph.length])
    at = moves[one]
    one, other, length = one[at], other[at], length[at]
    # Sides shared with each class, then the class with the most.
    key, where = np.unique(one * 256 + graph.classes[other], return_inverse=True)
    shared = np.bincount(where, length)
    area, number = key // 256, key % 256
    order = np.lexsort((-number, shared, area))
    ends = np.flatnonzero(np.diff(area[order], append=-1))
    classes = graph.classes.copy()
    classes[area[order][ends]] = number[order][ends].astype(np.uint8)

    same = classes[one] == graph.classes[other]
    group = joined(count, one[same], other[same]).astype(np.int64)
    groups = int(group.max()) + 1
    new_classes = np.empty(groups, np.uint8)
    new_classes[group] = classes
    first = np.full(groups, np.iinfo(np.int64).max)
    np.minimum.at(first, group, graph.first)
    cut = np.zeros(groups, bool)
    cut[group[graph.cut]] = True
    found = _Graph(
        new_classes,
        np.bincount(group, graph.sizes, minlength=groups).astype(np.int64),
        first,
        cut,
        *_paired(group[graph.left], group[graph.right], graph.length, groups),
    )
    return found, group


def _paired(left: NDArray[np.integer], right: NDArray[np.integer], length: Ints, count: int) -> tuple[Ints, Ints, Ints]:
    """Each pair of areas once, with the sum of its lengths; pairs of one area with itself drop out."""
    apart = left != right
    left, right, length = left[apart].astype(np.int64), right[apart].astype(np.int64), length[apart]
    key, where = np.unique(np.minimum(left, right) * count + np.maximum(left, right), return_inverse=True)
    total = np.bincount(where, length, minlength=len(key)).astype(np.int64)
    return key // count, key % count, total


def merged_all(
    read: Callable[[Rect], Classes],
    write: Callable[[Rect, Classes], None],
    strips: Strips,
    least: int,
    side: int,
    step: Callable[[int, int], None],
) -> Survey:
    """Apply the rule to a raster of any size, in place, by windows of `side` x `side` pixels.

    Each round goes over the raster four times, with windows moved by half their side, so that what a window cuts lies
    inside of another. Where an area that is small by weight is still longer than half a window, the next round has
    windows of twice the side.

    Args:
        read, write: pixels of a rectangle, uint8 [rows, cols].
        strips: the same raster by strips, for the survey that ends each round.
        least: areas that weigh less are small.
        side: of a window, in pixels.
        step: called with (windows done, windows known to come).

    Returns:
        The survey of the result, in which no area is small that has a neighbour.
    """
    height, width = strips.height, strips.width
    done, to_come = 0, 0
    while True:
        half = side // 2
        moved = [(down, right) for down in (0, half) for right in (0, half)]
        rects = [rect for down, right in moved for rect in _windows(height, width, side, down, right)]
        if side >= max(height, width):
            rects = rects[:1]  # it shows everything
        to_come += len(rects)
        for rect in rects:
            bottom, right = rect.row_off + rect.height, rect.col_off + rect.width
            found = merged(
                read(rect),
                strips.weights[rect.row_off : bottom],
                least,
                nodata=strips.nodata,
                cut=(rect.row_off > 0, rect.col_off > 0, bottom < height, right < width),
                origin=(rect.row_off, rect.col_off, width),
            )
            if found is not None:
                write(rect, found)
            done += 1
            step(done, to_come)
        result = survey(strips, most=height * width, least=least)
        if not result.small:
            return result
        side *= 2


def _windows(height: int, width: int, side: int, down: int, right: int) -> Iterator[Rect]:
    """Windows that cover a raster once, moved up by `down` and left by `right`."""
    for row in range(-down, height, side):
        for col in range(-right, width, side):
            top, left = max(0, row), max(0, col)
            yield Rect(top, left, min(row + side, height) - top, min(col + side, width) - left)
