"""An invented stretch of farmland as an aerial camera would see it, with the true class of every pixel.

Plan the land, paint the ground, build, plant, let the sun shine. One seed gives one landscape.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiler.demo.buildings import paint_buildings
from tiler.demo.canvas import Canvas
from tiler.demo.farmland import Ground, paint_land
from tiler.demo.light import Sun, expose
from tiler.demo.outline import flown
from tiler.demo.plan import make_plan
from tiler.demo.trees import plant
from tiler.demo.water import paint_water, shore_distance
from tiler.demo.ways import paint_ways

NO_LABEL = 255  # label of pixels the camera never saw


@dataclass(frozen=True)
class Landscape:
    """A picture at 0.5 m a pixel and the truth about it."""

    rgb: NDArray[np.uint8]  # [3, H, W]; 1..255 where valid, 0 elsewhere
    labels: NDArray[np.uint8]  # [H, W]; a canvas.Label where valid, NO_LABEL elsewhere
    valid: NDArray[np.bool_]  # [H, W]


def generate(seed: int, size: int = 4096) -> Landscape:
    """The landscape of a seed, `size` by `size` pixels; the same seed and size always give the same pixels."""
    if size < 256:
        raise ValueError(f"a landscape needs at least 256 pixels a side, got {size}")
    # A stream of its own for each step: a change to one leaves the others as they were.
    layout, land, wet, traffic, masonry, woods, sky, edge = np.random.default_rng(seed).spawn(8)
    plan = make_plan(layout, size)
    canvas = Canvas.blank(size)
    ground = Ground.random(land, canvas.shape)
    paint_land(land, canvas, plan, ground)
    shore = shore_distance(wet, canvas.shape, plan)
    paint_water(wet, canvas, shore, ground.tufts)
    paint_ways(traffic, canvas, plan, ground)
    paint_buildings(masonry, canvas, plan)
    plant(woods, canvas, plan, ground, shore)
    rgb = expose(sky, canvas, Sun.random(sky))
    valid = flown(edge, size)
    rgb *= valid.astype(np.uint8)
    return Landscape(rgb, np.where(valid, canvas.label, np.uint8(NO_LABEL)), valid)
