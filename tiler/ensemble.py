"""Cells of an ensemble from the cells of its members: which are needed, and what they become together.

The members' cells are cells of ordinary layers, asked of the engine as anybody's. Nothing here waits or reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tiler.answers import half
from tiler.assemble import decided
from tiler.blend import blended, cells_keeping
from tiler.combine import Look, mean, reach
from tiler.layer import Layer
from tiler.mosaic import Mosaic
from tiler.values import PRECISE, Cell, Floats, Halves, Rect, Scores
from tiler.windows import Block

# Pixels of an ensemble whose members' cells are held at the same time: they are precise, and many. A tile of the
# largest size fits, so that all of it is asked for at once.
ROUND_PIXELS = 3 * 2**21

# Pixels along each side of what is averaged in one go.
PIECE = 512


@dataclass(frozen=True, slots=True)
class Round:
    """Cells that are made together, and the cells of each member (in the members' order) that they are made of."""

    cells: tuple[Cell, ...]
    needs: tuple[tuple[Cell, ...], ...]


def rounds(layer: Layer, cells: Iterable[Cell]) -> Iterator[Round]:
    """What to ask the members for, one round after the other, so that memory has a bound."""
    ordered = sorted(set(cells))
    step = max(1, ROUND_PIXELS // layer.grid.cell**2)
    for start in range(0, len(ordered), step):
        part = tuple(ordered[start : start + step])
        yield Round(part, _needs(layer, part))


def _needs(layer: Layer, cells: Sequence[Cell]) -> tuple[tuple[Cell, ...], ...]:
    found: tuple[dict[Cell, None], ...] = tuple({} for _ in layer.members)
    for block in blocks(cells, layer.grid.cell):
        area = _inside(layer, block)
        for own, member in zip(found, layer.members, strict=True):
            own.update(dict.fromkeys(cells_keeping(reach(area, layer.grid, member.grid), member.grid)))
    return tuple(map(tuple, found))


def made(
    layer: Layer, cells: Sequence[Cell], scores: Sequence[Mapping[Cell, Scores]], probabilities: int
) -> dict[Cell, Scores]:
    """The ensemble's cells.

    Args:
        layer: of the ensemble.
        cells: those wanted.
        scores: of each member, in order: at least the cells of the round's `needs`, with precise probabilities.
        probabilities: whether they, and the spread, are kept.
    """
    found: dict[Cell, Scores] = {}
    for block in blocks(cells, layer.grid.cell):
        area = _inside(layer, block)
        whole = joined(
            layer,
            area,
            [
                _look(member, weight, reach(area, layer.grid, member.grid), own)
                for member, weight, own in zip(layer.members, layer.weights, scores, strict=True)
            ],
            probabilities,
        )
        for cell in block.cells():
            own = layer.grid.kept_of(cell)
            top, left = own.row_off - area.row_off, own.col_off - area.col_off
            found[cell] = whole.cut(slice(top, top + own.height), slice(left, left + own.width))
    return found


def joined(layer: Layer, area: Rect, looks: Sequence[Look], probabilities: int) -> Scores:
    """What an ensemble says of a rectangle of its grid, inside of the scene.

    Args:
        layer: of the ensemble.
        area: the pixels wanted.
        looks: one for each member, over at least `combine.reach` of the area.
        probabilities: whether they, and the spread, are wanted; `PRECISE` ones stay float32.
    """
    together = mean(area, layer.grid, looks, spread=bool(probabilities))
    classes = decided(layer, together.planes, None)
    if together.spread is None:
        return Scores(classes, together.valid)
    planes: Halves | Floats = together.planes if probabilities == PRECISE else half(together.planes)
    return Scores(classes, together.valid, planes, spread=half(together.spread[None]))


def blocks(cells: Iterable[Cell], cell: int) -> list[Block]:
    """Cells -> rectangles of them that hold each once, none larger than a piece; `cell` is their side in pixels."""
    most = max(1, PIECE // cell)
    runs: dict[int, list[tuple[int, int]]] = {}
    for row, col in sorted(cells):
        row_runs = runs.setdefault(row, [])
        if row_runs and row_runs[-1][1] == col - 1 and col - row_runs[-1][0] < most:
            row_runs[-1] = (row_runs[-1][0], col)
        else:
            row_runs.append((col, col))
    found: list[Block] = []
    open_blocks: dict[tuple[int, int], Block] = {}
    for row, row_runs in sorted(runs.items()):
        going: dict[tuple[int, int], Block] = {}
        for run in row_runs:
            above = open_blocks.get(run)
            if above is not None and above.last.row == row - 1 and above.rows < most:
                going[run] = Block(above.first, Cell(row, run[1]))
            else:
                going[run] = Block(Cell(row, run[0]), Cell(row, run[1]))
                if above is not None:
                    found.append(above)
        found += [block for run, block in open_blocks.items() if run not in going]
        open_blocks = going
    return found + list(open_blocks.values())


def _inside(layer: Layer, block: Block) -> Rect:
    """The scene's pixels of a block."""
    return layer.grid.core_of(block.first, block.last)


def _look(member: Layer, weight: float, rect: Rect, scores: Mapping[Cell, Scores]) -> Look:
    """A member's probabilities over a rectangle, from the cells that keep it."""
    grid = member.grid
    here = {cell: scores[cell] for cell in cells_keeping(rect, grid)}
    if grid.overlap:
        valid, planes = blended(grid, here, _probabilities, rect)
        assert planes is not None, "a member's cells have probabilities"
        return Look(grid, rect, weight, valid, planes)
    mosaic = Mosaic.of(grid, here, _probabilities)
    assert mosaic.planes is not None, "a member's cells have probabilities"
    top, left = rect.row_off - mosaic.top, rect.col_off - mosaic.left
    rows, cols = slice(top, top + rect.height), slice(left, left + rect.width)
    return Look(grid, rect, weight, mosaic.valid[rows, cols], np.asarray(mosaic.planes[:, rows, cols], np.float32))


def _probabilities(scores: Scores) -> Halves | Floats | None:
    return scores.probabilities
