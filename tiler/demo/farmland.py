"""Paints open land: meadow everywhere, then fields with their rows, tramlines and headlands."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiler.demo.canvas import (
    METRES,
    Canvas,
    Colour,
    Label,
    Mask,
    Window,
    around,
    burn,
    is_empty,
    pixel_grid,
    soft_step,
    windows_of,
)
from tiler.demo.geometry import Points, bounding_box, densify, inset
from tiler.demo.noise import F32, fractal_noise, grain, profile, smooth_noise
from tiler.demo.plan import Farm, Parcel, Plan, Use

_LINE = 4096  # samples of a random line across the rows; four samples a metre
HEADLAND = 24.0  # pixels: where machines turn at the ends of the rows


@dataclass(frozen=True)
class Crop:
    """How a crop looks from above."""

    name: str
    colour: Colour
    weight: float  # how common it is
    streaks: float  # contrast between rows
    tramlines: float  # how dark the wheel tracks are
    patches: float  # contrast of soil and growth
    ridge: float = 0.0  # contrast of regular rows, for row crops
    spacing: float = 1.5  # metres between those rows


CROPS = (
    Crop("winter wheat", (95, 124, 76), 3.0, 0.06, 0.24, 0.07),
    Crop("ripening wheat", (166, 156, 98), 2.4, 0.04, 0.17, 0.06),
    Crop("barley", (192, 172, 118), 2.2, 0.035, 0.13, 0.05),
    Crop("young maize", (137, 128, 88), 1.6, 0.06, 0.0, 0.09, 0.11, 2.25),
    Crop("maize", (84, 110, 64), 1.6, 0.06, 0.0, 0.07, 0.10, 1.5),
    Crop("rape", (176, 172, 88), 0.5, 0.04, 0.16, 0.06),
    Crop("bare soil", (144, 122, 95), 1.4, 0.07, 0.0, 0.11),
    Crop("dark soil", (117, 99, 76), 0.8, 0.08, 0.0, 0.10),
    Crop("stubble", (186, 167, 126), 1.2, 0.08, 0.06, 0.04),
    Crop("potatoes", (101, 116, 66), 0.9, 0.05, 0.05, 0.07, 0.16, 3.0),
    Crop("sugar beet", (90, 127, 66), 0.8, 0.06, 0.12, 0.07, 0.05, 1.5),
)

MEADOWS: tuple[Colour, ...] = ((125, 144, 82), (140, 151, 92), (118, 138, 74), (131, 148, 88))


@dataclass(frozen=True)
class Ground:
    """Random surfaces that all of the land shares, float32 [H, W], deviation about 1."""

    soil: F32  # tens of metres
    tufts: F32  # a few metres
    speckle: F32  # one pixel

    @staticmethod
    def random(rng: np.random.Generator, shape: tuple[int, int]) -> Ground:
        """Draw the three surfaces."""
        return Ground(fractal_noise(rng, shape, 260, 4), fractal_noise(rng, shape, 14, 2), grain(rng, shape))


def paint_land(rng: np.random.Generator, canvas: Canvas, plan: Plan, ground: Ground) -> None:
    """Meadow over the whole canvas, then every parcel of meadow, village green and field."""
    _paint_base(rng, canvas, ground)
    rings = [_outline(plan, parcel, 2.0) for parcel in plan.parcels]
    numbers = burn(canvas.shape, rings)
    tilled = burn(canvas.shape, [_tilled(plan, parcel) for parcel in plan.parcels])
    for i, window in windows_of(numbers, rings):
        inside = numbers[window] == i + 1
        parcel = plan.parcels[i]
        if parcel.use is Use.FIELD:
            _paint_field(rng, canvas, plan, parcel, window, inside, inside & (tilled[window] != i + 1), ground)
        elif parcel.use is Use.MEADOW:
            _paint_meadow(rng, canvas, window, inside, ground)
    _paint_gardens(rng, canvas, plan, ground)
    for farm in plan.farms:
        _paint_yard(canvas, farm, ground)


def _outline(plan: Plan, parcel: Parcel, distance: float) -> Points:
    """The warped ring of a parcel, `distance` pixels inside its boundary."""
    ring = inset(parcel.ring, distance)
    return plan.warp(densify(ring, 20, closed=True)) if len(ring) else ring


def _tilled(plan: Plan, parcel: Parcel) -> Points:
    """The warped part of a parcel between its two headlands."""
    ring = inset(parcel.ring, HEADLAND, across=bounding_box(parcel.ring).angle)
    return plan.warp(densify(ring, 20, closed=True)) if len(ring) else ring


def _turf(ground: Ground, window: Window) -> F32:
    """Brightness of grass: clumps rather than lines."""
    texture: F32 = (
        1 + 0.045 * ground.soil[window] + 0.08 * ground.tufts[window] + np.float32(0.04) * ground.speckle[window]
    )
    return texture


def _paint_base(rng: np.random.Generator, canvas: Canvas, ground: Ground) -> None:
    """Rough grass everywhere: verges and whatever no parcel covers."""
    everywhere = slice(0, canvas.shape[0]), slice(0, canvas.shape[1])
    turf = _turf(ground, everywhere)
    dry = smooth_noise(rng, canvas.shape, 90)
    for band, value, swing in zip(canvas.colour, (116, 135, 78), (9, 4, 3), strict=True):
        band[:] = (value + swing * dry) * turf


def _paint_meadow(rng: np.random.Generator, canvas: Canvas, window: Window, inside: Mask, ground: Ground) -> None:
    """A meadow: one green, brighter where it is dry, no rows."""
    colour = MEADOWS[rng.integers(len(MEADOWS))]
    texture = _turf(ground, window) * (1 + 0.03 * ground.soil[window])
    canvas.mix(window, inside.astype(np.float32), colour, texture)


def _paint_gardens(rng: np.random.Generator, canvas: Canvas, plan: Plan, ground: Ground) -> None:
    """Every village plot keeps its own lawn, so that fences show as changes of green."""
    rings = [plan.warp(densify(inset(plot.ring, 1.0), 20, closed=True)) for plot in plan.plots]
    numbers = burn(canvas.shape, rings)
    for i, window in windows_of(numbers, rings):
        green = MEADOWS[rng.integers(len(MEADOWS))]
        cover = np.float32(0.75) * (numbers[window] == i + 1)
        canvas.mix(window, cover, green, _turf(ground, window) * np.float32(rng.uniform(0.88, 1.06)))


def _paint_yard(canvas: Canvas, farm: Farm, ground: Ground) -> None:
    """Grass around a farmstead, worn towards its middle."""
    window = around(canvas.shape, (farm.x,), (farm.y,), 140)
    if is_empty(window):
        return
    x, y = pixel_grid(window)
    c, s = np.cos(farm.angle), np.sin(farm.angle)
    along, across = (x - farm.x) * c + (y - farm.y) * s, (y - farm.y) * c - (x - farm.x) * s
    away = np.maximum(np.abs(along) - 112, np.abs(across) - 62) + 3 * ground.tufts[window]
    cover = soft_step(away.astype(np.float32), 0.0, 3.0)
    canvas.mix(window, cover, (126, 140, 90), _turf(ground, window))
    canvas.label[window][cover > 0.5] = Label.OTHER


def _paint_field(
    rng: np.random.Generator,
    canvas: Canvas,
    plan: Plan,
    parcel: Parcel,
    window: Window,
    inside: Mask,
    headland: Mask,
    ground: Ground,
) -> None:
    """A crop in rows along the parcel's long side, across it on the headland."""
    weights = np.array([crop.weight for crop in CROPS])
    crop = CROPS[rng.choice(len(CROPS), p=weights / weights.sum())]
    across, along = _row_coordinates(plan, parcel, window)
    rows = np.where(headland, _rows(rng, crop, along, across), _rows(rng, crop, across, along))
    soil = np.clip(crop.patches * (ground.soil[window] + rng.normal(0, 0.3)), -0.3, 0.3)
    texture = (1 + soil + rows + 0.02 * ground.tufts[window] + 0.025 * ground.speckle[window]).astype(np.float32)
    tint = rng.normal(0, 3.0, 3) + rng.normal(0, 6.0)
    colour = (crop.colour[0] + tint[0], crop.colour[1] + tint[1], crop.colour[2] + tint[2])
    canvas.mix(window, inside.astype(np.float32), colour, texture)
    canvas.label[window][inside] = Label.FIELD


def _row_coordinates(plan: Plan, parcel: Parcel, window: Window) -> tuple[F32, F32]:
    """Metres across and along the rows, float32 [h, w]; rows bend with the parcel's own warped edge."""
    x, y = pixel_grid(window)
    dx, dy = plan.warp.shift(x, y)
    angle = bounding_box(parcel.ring).angle
    along = ((x - dx) * np.cos(angle) + (y - dy) * np.sin(angle)) * METRES
    across = ((y - dy) * np.cos(angle) - (x - dx) * np.sin(angle)) * METRES
    return across.astype(np.float32), along.astype(np.float32)


def _rows(rng: np.random.Generator, crop: Crop, across: F32, along: F32) -> F32:
    """Relative brightness [h, w] that the work of machines leaves: streaks, regular rows, tramlines."""
    streaks = profile(rng, _LINE, 2.2) * 0.7 + profile(rng, _LINE, 9.0) * 0.7
    sample = (across * 4 + 0.4 * np.sin(along / 17)).astype(np.int32) % _LINE
    rows = crop.streaks * streaks[sample]
    if crop.ridge:
        rows = rows + crop.ridge * np.sin(across * np.float32(2 * np.pi / crop.spacing))
    if crop.tramlines:
        pitch = 20.0 if crop.streaks < 0.05 else 16.0
        # Two wheels 1.8 m apart, each half a metre wide.
        beside = np.abs((across + rng.uniform(0, pitch)) % pitch - 1.4)
        rows = rows - crop.tramlines * np.clip(1.2 - 2.2 * np.abs(beside - 0.9), 0, 1)
    return np.asarray(rows, dtype=np.float32)
