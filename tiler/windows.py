"""Which rectangles to infer, as a function of the cells that are missing. No threads, no arrays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tiler.values import Cell


def merge(missing: Iterable[Cell], max_side: int) -> Iterator[tuple[Cell, Cell]]:
    """Cut missing cells into rectangles, so that neighbours pay one halo together.

    Args:
        missing: cells to cover, each exactly once.
        max_side: a rectangle has at most this many cells along each side.

    Yields:
        (first, last): upper left and lower right cell, both inclusive. Only missing cells are inside.
    """
    left = set(missing)
    while left:
        first = min(left)
        width = 1
        while width < max_side and Cell(first.row, first.col + width) in left:
            width += 1
        height = 1
        while height < max_side and all(Cell(first.row + height, first.col + col) in left for col in range(width)):
            height += 1
        last = Cell(first.row + height - 1, first.col + width - 1)
        left.difference_update(inside(first, last))
        yield first, last


def inside(first: Cell, last: Cell) -> Iterator[Cell]:
    """The cells of a rectangle, row by row."""
    for row in range(first.row, last.row + 1):
        for col in range(first.col, last.col + 1):
            yield Cell(row, col)


def side_within(max_pixels: int, cell: int, halo: int) -> int:
    """Cells along the side of the largest square window that has at most `max_pixels` pixels, halo included."""
    return max(1, (int(max_pixels**0.5) - 2 * halo) // cell)
