"""Which rectangle of cells to infer next, as a function of what waits. No threads, no arrays, no clock.

An exact model gives a pixel the same answer in every window that holds it with its halo. So what is inferred may follow
what is wanted now: neighbouring cells that wait are merged into one rectangle and pay one halo together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from tiler.values import Cell

# The seed's own rectangle is taken whole when at least this share of it waits.
MIN_WAITING_SHARE = 0.6

# A strip is added when what it costs is at most this share of what its cells would cost as a window of their own: a
# halo. Cells left out are mostly merged with others later, so that whole price is seldom paid.
MAX_PRICE = 0.35

# The first window of an idle engine whose speed is not known yet has about this many pixels: a first tile soon is
# worth more than a halo saved.
FIRST_PIXELS = 512 * 512

# A window is cut back to the requests that it answers whole when at least this share of it is left. For requests that
# are half inside it may get SLACK times as large as allowed, as long as MIN_GROWN_SHARE of it waits.
MIN_WHOLE_SHARE = 0.35
SLACK = 1.3
MIN_GROWN_SHARE = 0.85

# What waits is cut into bands across its shorter side as long as a band is not longer than this, in sides of the
# square that a window may be; of anything larger, squares are cut.
BAND = 1.6


@dataclass(frozen=True, slots=True)
class Block:
    """A rectangle of cells, from `first` (upper left) to `last` (lower right), both inclusive."""

    first: Cell
    last: Cell

    @property
    def rows(self) -> int:
        """Cells from top to bottom."""
        return self.last.row - self.first.row + 1

    @property
    def cols(self) -> int:
        """Cells from left to right."""
        return self.last.col - self.first.col + 1

    def __contains__(self, cell: Cell) -> bool:
        return self.first.row <= cell.row <= self.last.row and self.first.col <= cell.col <= self.last.col

    def cells(self) -> Iterator[Cell]:
        """All cells, row by row."""
        for row in range(self.first.row, self.last.row + 1):
            for col in range(self.first.col, self.last.col + 1):
                yield Cell(row, col)

    def halves(self) -> tuple[Block, Block] | None:
        """The block cut in two across its longer side; None for a single cell."""
        if self.rows == self.cols == 1:
            return None
        if self.rows >= self.cols:
            cut = self.first.row + self.rows // 2
            return Block(self.first, Cell(cut - 1, self.last.col)), Block(Cell(cut, self.first.col), self.last)
        cut = self.first.col + self.cols // 2
        return Block(self.first, Cell(self.last.row, cut - 1)), Block(Cell(self.first.row, cut), self.last)


@dataclass(frozen=True, slots=True)
class Shape:
    """How large windows may get.

    Attributes:
        cell, halo: in pixels.
        max_pixels: of a window, halo included. A single cell is always allowed.
        single: True when every cell must be inferred alone (models that are not exact).
        max_side: along each side of a window, halo included; None: as `max_pixels` allows.
    """

    cell: int
    halo: int
    max_pixels: int
    single: bool = False
    max_side: int | None = None

    def fits(self, rows: int, cols: int) -> bool:
        """Whether a window of so many cells is allowed."""
        if rows == cols == 1:
            return True
        height, width = (count * self.cell + 2 * self.halo for count in (rows, cols))
        too_long = self.max_side is not None and max(height, width) > self.max_side
        return not self.single and not too_long and height * width <= self.max_pixels


def form(
    waiting: Collection[Cell],
    seed: Iterable[Cell],
    shape: Shape,
    max_pixels: int | None = None,
) -> Block:
    """The next block to infer.

    Args:
        waiting: cells of one layer that somebody waits for and nobody works on; any container with fast `in`.
        seed: those among them that are most urgent (one tile's), at least one.
        shape: limits.
        max_pixels: what it may grow to, if less than `shape` allows (an answer must not take too long).

    Returns:
        A block that holds at least one cell of the seed, and hardly a cell that does not wait.
    """
    if max_pixels is not None:
        shape = replace(shape, max_pixels=min(shape.max_pixels, max_pixels))
    block = _start([cell for cell in seed if cell in waiting], shape)
    bands = _bands(block, waiting, shape)
    while (larger := _larger(block, waiting, shape, bands or _squarer(block))) is not None:
        block = larger
    return block


def fitted(
    block: Block,
    seed: Iterable[Cell],
    requests: Iterable[Iterable[Cell]],
    waiting: Collection[Cell],
    shape: Shape,
    max_pixels: int | None = None,
) -> Block:
    """A block that ends where requests do: a part of one would be of no use until the next window has the rest.

    So whole tiles come sooner, and a client that leaves in between leaves no halves behind.

    Args:
        block, seed: as `form` gives and takes them.
        requests: the cells of each.
        waiting: those of them that are still to be inferred.
        shape, max_pixels: limits, as `form` takes them. What is half inside may make the block SLACK times larger.

    Returns:
        The rectangle of what waits of the requests inside and of as many as fit of those that are half inside; or the
        block itself where less than MIN_WHOLE_SHARE of it would be left, or nothing of the seed: whose turn it is gets
        something.
    """
    limit = shape.max_pixels if max_pixels is None else min(shape.max_pixels, int(SLACK * max_pixels))
    shape = replace(shape, max_pixels=limit)
    whole, halves = _inside(block, requests, waiting)
    for cells in halves:
        larger = around(whole + cells)
        if shape.fits(larger.rows, larger.cols) and _waits(larger, waiting) >= MIN_GROWN_SHARE:
            whole = whole + cells
    if not whole:
        return block
    end = around(whole)
    if end.rows * end.cols < MIN_WHOLE_SHARE * block.rows * block.cols:
        return block
    return end if any(cell in waiting and cell in end for cell in seed) else block


def _inside(
    block: Block, requests: Iterable[Iterable[Cell]], waiting: Collection[Cell]
) -> tuple[list[Cell], list[list[Cell]]]:
    """What waits of the requests that a block answers whole; and of those at least half inside, the fullest first."""
    whole: list[Cell] = []
    halves: list[tuple[float, list[Cell]]] = []
    for cells in requests:
        own = [cell for cell in cells if cell in waiting]
        inside = sum(cell in block for cell in own)
        if inside == len(own):
            whole += own
        elif 2 * inside >= len(own):
            halves.append((inside / len(own), own))
    halves.sort(key=lambda half: -half[0])
    return whole, [own for _, own in halves]


def around(cells: Collection[Cell]) -> Block:
    """The smallest block around cells, at least one."""
    rows, cols = [cell.row for cell in cells], [cell.col for cell in cells]
    return Block(Cell(min(rows), min(cols)), Cell(max(rows), max(cols)))


def _waits(block: Block, waiting: Collection[Cell]) -> float:
    """The share of a block's cells that wait."""
    return sum(cell in waiting for cell in block.cells()) / (block.rows * block.cols)


def _start(wanted: list[Cell], shape: Shape) -> Block:
    """The seed's own rectangle if it is whole and small enough, else its first cell."""
    whole = around(wanted)
    if len(wanted) >= MIN_WAITING_SHARE * whole.rows * whole.cols and shape.fits(whole.rows, whole.cols):
        return whole
    first = min(wanted)
    return Block(first, first)


# Ways to grow, the preferred one first: True adds rows, False columns.
Ways = tuple[bool, ...]


def _bands(block: Block, waiting: Collection[Cell], shape: Shape) -> Ways | None:
    """How to grow if what waits around a block is best cut into bands; None if into squares.

    A band across the whole shorter side leaves whole rectangles on either side of it, and no rest that pays a halo for
    a few cells.
    """
    tall, wide = (_reach(block, waiting, shape, rows) for rows in (True, False))
    side = min(tall, wide) * shape.cell + 2 * shape.halo
    if side * side > BAND**2 * shape.max_pixels:
        return None
    return (True, False) if tall <= wide else (False, True)


def _squarer(block: Block) -> Ways:
    """How to grow to stay as square as can be."""
    return (True, False) if block.rows < block.cols else (False, True)


def _reach(block: Block, waiting: Collection[Cell], shape: Shape, rows: bool) -> int:
    """Rows (columns) that a block would have if it grew only up and down (left and right)."""
    while (grown := _larger(block, waiting, shape, (rows,))) is not None:
        block = grown
    return block.rows if rows else block.cols


def _larger(block: Block, waiting: Collection[Cell], shape: Shape, ways: Ways) -> Block | None:
    """The block with one row or column more, in the first of the ways that is worth it; None when none is."""
    first, last = block.first, block.last
    across, down = range(first.col, last.col + 1), range(first.row, last.row + 1)
    wider = [
        (Block(Cell(first.row, first.col - 1), last), [Cell(row, first.col - 1) for row in down]),
        (Block(first, Cell(last.row, last.col + 1)), [Cell(row, last.col + 1) for row in down]),
    ]
    taller = [
        (Block(Cell(first.row - 1, first.col), last), [Cell(first.row - 1, col) for col in across]),
        (Block(first, Cell(last.row + 1, last.col)), [Cell(last.row + 1, col) for col in across]),
    ]
    for grown, added in (strip for rows in ways for strip in (taller if rows else wider)):
        if _is_worth(added, waiting, shape) and shape.fits(grown.rows, grown.cols):
            return grown
    return None


def _is_worth(strip: list[Cell], waiting: Collection[Cell], shape: Shape) -> bool:
    """Whether a strip of cells costs less as part of a block than those of it that wait would cost by themselves."""
    wanted = sum(cell in waiting for cell in strip)
    if not wanted:
        return False
    alone = (wanted * shape.cell + 2 * shape.halo) * (shape.cell + 2 * shape.halo)
    cost = len(strip) * shape.cell**2
    return wanted == len(strip) or cost <= MAX_PRICE * alone
