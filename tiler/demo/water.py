"""Paints the river and the ponds, with soft, uneven banks."""

from __future__ import annotations

import numpy as np

from tiler.demo.canvas import Canvas, Colour, Label, distance_along, soft_step
from tiler.demo.noise import F32, fractal_noise, smooth_noise
from tiler.demo.plan import Plan

FLOODPLAIN = 40.0  # pixels of grass between a bank and the first field
DEEP: Colour = (52, 74, 70)
SHALLOW: Colour = (104, 112, 84)
MUD: Colour = (148, 140, 108)


def shore_distance(rng: np.random.Generator, shape: tuple[int, int], plan: Plan) -> F32:
    """Signed distance to the nearest shore, float32 [H, W] in pixels: negative in water, capped at 160 on land."""
    reach = 160 + plan.river_width
    river, _ = distance_along(shape, [plan.river], reach)
    uneven = fractal_noise(rng, shape, 120, 4)
    shore = river - plan.river_width / 2 * (1 + 0.16 * smooth_noise(rng, shape, 400))
    for x, y, radius in plan.ponds:
        shore = np.minimum(shore, _pond(shape, x, y, radius))
    return np.asarray(np.clip(shore + 4.5 * uneven, -400, 160), dtype=np.float32)


def _pond(shape: tuple[int, int], x: float, y: float, radius: float) -> F32:
    """Signed distance to a pond, float32 [H, W]; a circle that three swells pull out of shape."""
    right, down = np.arange(shape[1])[None, :] - x, np.arange(shape[0])[:, None] - y
    angle = np.arctan2(down, right)
    swell = 1 + 0.2 * np.sin(2 * angle + x) + 0.1 * np.sin(3 * angle + y)
    return np.asarray(np.hypot(right, down) - radius * swell, dtype=np.float32)


def paint_water(rng: np.random.Generator, canvas: Canvas, shore: F32, grass: F32) -> None:
    """Grass over the floodplain, a muddy margin, then water that darkens away from its bank."""
    everywhere = slice(0, canvas.shape[0]), slice(0, canvas.shape[1])
    plain = (soft_step(shore, FLOODPLAIN, 3.0) * (canvas.label == Label.FIELD)).astype(np.float32)
    turf = np.asarray(1 + 0.09 * grass, dtype=np.float32)
    canvas.mix(everywhere, plain, (112, 134, 78), turf)
    canvas.label[plain > 0.5] = Label.OTHER
    wet = np.clip(0.35 + 0.5 * smooth_noise(rng, canvas.shape, 50), 0, 0.9).astype(np.float32)
    canvas.mix(everywhere, soft_step(shore, 3.5, 3.0) * wet, MUD, turf)
    ripple = np.asarray(1 + 0.03 * fractal_noise(rng, canvas.shape, 180, 3), dtype=np.float32)
    canvas.mix(everywhere, soft_step(shore, 0.0, 1.6), SHALLOW, ripple)
    canvas.mix(everywhere, soft_step(shore, -9.0, 16.0), DEEP, ripple)
    canvas.label[shore < 0] = Label.WATER
