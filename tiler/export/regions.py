"""Connected areas of a class raster that is read strip by strip.

An area is a set of pixels of one class that hang together by their sides (4-connected). Inside a strip they are found
at once; those that touch a strip's edge are joined across all strips, and only these are kept in mind: memory is that
of a strip plus a few bytes for each area on an edge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from tiler.errors import TooLargeError
from tiler.values import Classes, Mask

Ints = NDArray[np.int64]
Numbers = NDArray[np.int32]


@dataclass(frozen=True, slots=True, eq=False)
class Labels:
    """The connected areas of one array.

    Attributes:
        ids: int32 [rows, cols], the number of each pixel's area.
        classes: uint8 [areas], the class of each.
        sizes: int64 [areas], the sum of the weights of its pixels.
        first: int64 [areas], flat index of its first pixel in the array.
    """

    ids: Numbers
    classes: Classes
    sizes: Ints
    first: Ints


def label(pixels: Classes, weights: Ints) -> Labels:
    """Find the 4-connected areas of equal pixels. `weights` [rows] is what a pixel of each row weighs."""
    rows, cols = pixels.shape
    starts = np.ones((rows, cols), bool)
    np.not_equal(pixels[:, 1:], pixels[:, :-1], out=starts[:, 1:])
    runs = np.cumsum(starts.ravel(), dtype=np.int32).reshape(rows, cols)
    runs -= 1
    # Two runs of one class that lie on each other do so for the first time where one of them starts.
    meet = (pixels[1:] == pixels[:-1]) & (starts[1:] | starts[:-1])
    first_of_run = np.flatnonzero(starts)
    component = joined(len(first_of_run), runs[:-1][meet], runs[1:][meet])
    lengths = np.diff(first_of_run, append=rows * cols)
    sizes = np.bincount(component, lengths * weights[first_of_run // cols])  # exact: far below 2^53
    first = np.empty(len(sizes), np.int64)
    first[component[::-1]] = first_of_run[::-1]  # the last one written is the first
    return Labels(component[runs], pixels.ravel()[first], sizes.astype(np.int64), first)


def joined(count: int, left: NDArray[Any], right: NDArray[Any]) -> Numbers:
    """Number the groups that `count` things form when left[i] and right[i] belong together: int32 [count]."""
    links = coo_array((np.ones(len(left), np.int8), (left, right)), shape=(count, count))
    found: Numbers = connected_components(links, directed=False)[1].astype(np.int32)
    return found


def sides(ids: NDArray[Any], valid: Mask) -> tuple[NDArray[Any], NDArray[Any]]:
    """The ids on both sides of every pixel side between two areas, both of them valid; areas that touch twice twice."""
    found = []
    for one, other, seen in (
        (ids[:, :-1], ids[:, 1:], valid[:, :-1] & valid[:, 1:]),
        (ids[:-1], ids[1:], valid[:-1] & valid[1:]),
    ):
        differ = (one != other) & seen
        found.append((one[differ], other[differ]))
    return np.concatenate([pair[0] for pair in found]), np.concatenate([pair[1] for pair in found])


@dataclass(frozen=True, slots=True)
class Strips:
    """A raster of `height` x `width` class numbers, read in full rows.

    Attributes:
        read: (first row, rows) -> uint8 [rows, width].
        nodata: the number that is no class, or None.
        rows: rows of a strip.
        weights: int64 [height], what a pixel of each row weighs.
    """

    read: Callable[[int, int], Classes]
    height: int
    width: int
    nodata: int | None
    rows: int
    weights: Ints

    @property
    def count(self) -> int:
        """Number of strips."""
        return -(-self.height // self.rows)

    def __iter__(self) -> Iterator[tuple[int, int, Labels, Mask]]:
        """(number, first row, areas, which of them are of a class) of each strip, from the top."""
        for number in range(self.count):
            row = number * self.rows
            height = min(self.rows, self.height - row)
            labels = label(self.read(row, height), self.weights[row : row + height])
            yield number, row, labels, valid_of(labels.classes, self.nodata)


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What must be known of all strips before one of them can be drawn.

    Attributes:
        region: int32 [areas on edges of strips, in the order in which strips name them], the number of the whole area.
        last: int32 [whole areas on edges], the last strip in which each lies.
        count: all areas of a class.
        small: areas lighter than `least` that have a neighbour.
    """

    region: Numbers
    last: Numbers
    count: int
    small: int


def survey(strips: Strips, *, most: int, least: int = 0, step: Callable[[int], None] = lambda strip: None) -> Survey:
    """Join the areas that lie in several strips, and count all.

    Args:
        strips: the raster.
        most: more areas than this are refused.
        least: weight below which an area counts as small.
        step: called after each strip with how many are done.

    Raises:
        TooLargeError: more than `most` areas; told as soon as it is certain.
    """
    inner, small, known = 0, 0, 0
    pairs: list[tuple[Ints, Ints]] = []
    parts: list[tuple[NDArray[Any], ...]] = []
    above: tuple[Ints, Classes, Mask] | None = None
    met: list[Ints] = []  # areas on edges with a neighbour in the next strip
    for number, _, labels, valid in strips:
        ids = labels.ids
        edge = edge_of(ids, number, strips.count)
        numbers = np.full(len(valid), -1, np.int64)
        numbers[edge] = known + np.arange(len(edge))
        touched = np.zeros(len(valid), bool)
        if least:
            for side in sides(ids, valid[ids]):
                touched[side] = True
        inside = valid & (numbers < 0)
        inner += int(inside.sum())
        small += int((inside & touched & (labels.sizes < least)).sum())
        if inner > most:
            raise too_many(most)
        if above is not None:
            upper, upper_classes, upper_valid = above
            lower, lower_classes = numbers[ids[0]], labels.classes[ids[0]]
            both = upper_valid & valid[ids[0]]
            pairs.append(distinct(upper, lower, both & (upper_classes == lower_classes)))
            met += list(distinct(upper, lower, both & (upper_classes != lower_classes)))
        above = numbers[ids[-1]], labels.classes[ids[-1]], valid[ids[-1]]
        parts.append((valid[edge], touched[edge], labels.sizes[edge], np.full(len(edge), number, np.int32)))
        known += len(edge)
        step(number + 1)
    seen, touched, sizes, strip = (np.concatenate([part[field] for part in parts]) for field in range(4))
    left, right = (np.concatenate([pair[end] for pair in pairs] or [np.empty(0, np.int64)]) for end in (0, 1))
    region = joined(known, left, right) if known else np.empty(0, np.int32)
    for ends in met:
        touched[ends] = True
    whole = int(region.max(initial=-1)) + 1
    last = np.zeros(whole, np.int32)
    np.maximum.at(last, region, strip)
    is_class, has_neighbour = np.zeros(whole, bool), np.zeros(whole, bool)
    is_class[region[seen]] = True
    has_neighbour[region[touched]] = True
    light = np.bincount(region, sizes, minlength=whole) < least
    count = inner + int(is_class.sum())
    if count > most:
        raise too_many(most)
    return Survey(region, last, count, small + int((is_class & has_neighbour & light).sum()))


@dataclass(frozen=True, slots=True, eq=False)
class Strip:
    """A strip whose areas have their names in the whole raster.

    Attributes:
        number, row: of the strip, and its first row.
        ids: int64 [rows, width], -1 where no class is. An area that touches a strip's edge has its number in the
            survey, in all strips alike; all others have higher ones.
        names: int64 [areas], the ids in this strip, and
        classes: uint8 [areas], the class of each. An area that hangs together in another strip only is there twice.
    """

    number: int
    row: int
    ids: Ints
    names: Ints
    classes: Classes

    def class_of(self, ids: Ints) -> Classes:
        """The classes of some areas of this strip."""
        order = np.argsort(self.names)
        found: Classes = self.classes[order[np.searchsorted(self.names, ids, sorter=order)]]
        return found


def numbered(strips: Strips, found: Survey) -> Iterator[Strip]:
    """The strips once more, with the names that the survey has found."""
    known, inner = 0, len(found.last)
    for number, row, labels, valid in strips:
        edge = edge_of(labels.ids, number, strips.count)
        names = inner + np.arange(len(valid), dtype=np.int64)
        names[edge] = found.region[known : known + len(edge)]
        names[~valid] = -1
        known, inner = known + len(edge), inner + len(valid)
        yield Strip(number, row, names[labels.ids], names, labels.classes)


def edge_of(ids: Numbers, number: int, count: int) -> NDArray[Any]:
    """The areas of a strip that may go on in its neighbours, in the order of their numbers."""
    lines = [ids[0]] * (number > 0) + [ids[-1]] * (number < count - 1)
    return np.unique(np.concatenate(lines)) if lines else np.empty(0, np.int32)


def distinct(left: Ints, right: Ints, where: Mask) -> tuple[Ints, Ints]:
    """The pairs (left, right), each once for a run of columns."""
    left, right = left[where], right[where]
    new = np.ones(len(left), bool)
    new[1:] = (left[1:] != left[:-1]) | (right[1:] != right[:-1])
    return left[new], right[new]


def valid_of(classes: Classes, nodata: int | None) -> Mask:
    """Which areas are of a class."""
    return np.ones(classes.shape, bool) if nodata is None else classes != nodata


def too_many(most: int) -> TooLargeError:
    """The refusal of a raster that is too finely speckled."""
    return TooLargeError(
        f"the prediction has more than {most:,} connected areas, too many polygons to be of use",
        "Raise min_area, so that small areas are merged into their neighbours, or export a smaller area",
    )
