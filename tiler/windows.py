"""Which rectangle of cells to infer next, as a function of what waits. No threads, no arrays, no clock.

An exact model gives a pixel the same answer in every window that holds it with its halo. So what is inferred may follow
what is wanted now: neighbouring cells that wait are merged into one rectangle and pay one halo together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace

from tiler.values import Cell

# A rectangle grows by a row or column when at least this share of its cells waits. What does not wait is inferred for
# nobody, but a cell left out pays a halo of its own: below about this share that is the cheaper loss.
MIN_WAITING_SHARE = 0.6

# The first window of an idle engine has at most this many pixels: a first tile soon is worth more than a halo saved.
FIRST_PIXELS = 512 * 512


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
    """

    cell: int
    halo: int
    max_pixels: int
    single: bool = False

    def fits(self, rows: int, cols: int) -> bool:
        """Whether a window of so many cells is allowed."""
        if rows == cols == 1:
            return True
        side = 2 * self.halo
        return not self.single and (rows * self.cell + side) * (cols * self.cell + side) <= self.max_pixels


def form(
    waiting: Collection[Cell],
    seed: Iterable[Cell],
    shape: Shape,
    *,
    first: bool = False,
    max_pixels: int | None = None,
) -> Block:
    """The next block to infer.

    Args:
        waiting: cells of one layer that somebody waits for and nobody works on; any container with fast `in`.
        seed: those among them that are most urgent (one tile's), at least one.
        shape: limits.
        first: whether an idle engine waits for it; then it stays small.
        max_pixels: what it may grow to, if less than `shape` allows (a slow device's answer must not take too long).

    Returns:
        A block that holds at least one cell of the seed, and hardly a cell that does not wait.
    """
    wanted = sorted(cell for cell in seed if cell in waiting)
    block = _largest_inside(wanted, shape)
    limits = (shape.max_pixels, FIRST_PIXELS if first else None, max_pixels)
    shape = replace(shape, max_pixels=min(limit for limit in limits if limit is not None))
    while (larger := _best_growth(block, waiting, shape)) is not None:
        block = larger
    return block


def _largest_inside(wanted: list[Cell], shape: Shape) -> Block:
    """The seed's own rectangle if it is whole and small enough, else the first rectangle inside of it."""
    rows, cols = [cell.row for cell in wanted], [cell.col for cell in wanted]
    whole = Block(Cell(min(rows), min(cols)), Cell(max(rows), max(cols)))
    if len(wanted) >= MIN_WAITING_SHARE * whole.rows * whole.cols and shape.fits(whole.rows, whole.cols):
        return whole
    known = set(wanted)
    first = wanted[0]
    height = width = 1
    while Cell(first.row, first.col + width) in known and shape.fits(1, width + 1):
        width += 1
    while shape.fits(height + 1, width) and all(
        Cell(first.row + height, first.col + col) in known for col in range(width)
    ):
        height += 1
    return Block(first, Cell(first.row + height - 1, first.col + width - 1))


def _best_growth(block: Block, waiting: Collection[Cell], shape: Shape) -> Block | None:
    """The block with one row or column more, the side that keeps it squarest first; None when no side will do."""
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
    for grown, added in wider + taller if block.cols <= block.rows else taller + wider:
        share = sum(cell in waiting for cell in added) / len(added)
        if share >= MIN_WAITING_SHARE and shape.fits(grown.rows, grown.cols):
            return grown
    return None
