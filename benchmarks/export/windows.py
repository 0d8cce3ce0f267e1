"""The windows that an export of a whole scene infers, as JSON: `python -m ... MODEL SCENE OUT.json PRECISION THREADS`.

Of each the rectangle that is read and the one that is kept, as (row, column, height, width). Also measures what is
still unknown of the network on this machine, and keeps it, so that nobody pays for it later.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from model_registry import load
from tiler.export.plan import window_cells, windows
from tiler.layer import fit
from tiler.scene import SceneRef, open_scene
from tiler.values import Cell, Rect


def main() -> None:
    """Write them."""
    model, scene, out, precision, threads = sys.argv[1:]
    wish: Any = {"policy": precision, "runtime": os.environ.get("TILER_RUNTIME", "auto")}
    layer = fit(open_scene(SceneRef(scene)), load(model, "cpu", int(threads), **wish))
    grid = layer.grid
    rows, cols = (window_cells(cells, layer.shape) for cells in (grid.cell_rows, grid.cell_cols))
    found = []
    for block in windows(Rect(0, 0, grid.height, grid.width), grid.cell, rows, cols, Cell(0, 0)):
        _, window = layer.window_of(block.first, block.last)
        core = grid.core_of(block.first, block.last)
        height, width = min(core.height, grid.height - core.row_off), min(core.width, grid.width - core.col_off)
        found.append((_numbers(window), (core.row_off, core.col_off, height, width)))
    Path(out).write_text(json.dumps(found))
    runner = layer.loaded.runner
    print(json.dumps({"runtime": runner.runtime, "precision": runner.precision, "windows": len(found)}))


def _numbers(rect: Rect) -> tuple[int, int, int, int]:
    return rect.row_off, rect.col_off, rect.height, rect.width


if __name__ == "__main__":
    main()
