"""Which windows a model is warmed up with: those that a map's first views ask for.

Windows of an exact model are whole cells and one halo, so their shapes are a small set: multiples of a cell. A runtime
prepares for each of them when it first comes.
"""

from __future__ import annotations

import sys

from model_registry import Model
from tiler.layer import cutting

# Pixels along each side of a map tile; at a model's own resolution it lies over so many of the model's.
TILE = 256

# (down, across) in tiles: one, bands of a viewport, and what is left of it beside the first band.
VIEWS = ((1, 1), (1, 2), (2, 1), (2, 2), (3, 1), (1, 3), (3, 2), (2, 3))


def usual_windows(model: Model, max_pixels: int) -> list[tuple[int, int]]:
    """(height, width) in px of the windows that come most, halo included, the most frequent first.

    Args:
        model: probed, so that halo and period are known.
        max_pixels: windows larger than this are left out; one that must be so large is not.
    """
    cut = cutting(model)
    if cut.shape is not None:
        return [cut.shape]

    most = sys.maxsize if model.window.max is None else (model.window.max - 2 * cut.halo) // cut.cell

    def side(tiles: int, more: int) -> int:
        return min(-(-tiles * TILE // cut.cell) + more, most) * cut.cell + 2 * cut.halo

    # A tile seldom begins where a cell does: then it needs one more.
    found = [(side(down, more), side(across, also)) for down, across in VIEWS for more in (0, 1) for also in (0, 1)]
    fitting = [(height, width) for height, width in dict.fromkeys(found) if height * width <= max_pixels]
    return fitting or [found[0]]
