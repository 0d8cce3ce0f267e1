"""Paints houses, barns and halls: roofs with ridges, and the heights that cast their shadows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiler.demo.canvas import METRES, Canvas, Colour, Label, Window, around, is_empty, pixel_grid
from tiler.demo.geometry import bounding_box, unit
from tiler.demo.noise import F32
from tiler.demo.plan import Farm, Plan, Use

TILES: tuple[Colour, ...] = (
    (176, 98, 70),
    (160, 84, 62),
    (186, 112, 82),
    (150, 92, 74),
    (120, 82, 70),
    (104, 98, 98),
    (86, 84, 88),
    (140, 126, 116),
)
SHEETS: tuple[Colour, ...] = ((196, 196, 194), (174, 176, 178), (150, 142, 132), (206, 202, 196), (132, 112, 100))


@dataclass(frozen=True)
class House:
    """A rectangle with a roof. Lengths in pixels, heights in metres, slope in metres a metre (0 is a flat roof)."""

    x: float
    y: float
    angle: float
    long: float
    short: float
    eaves: float
    pitch: float
    hipped: bool
    colour: Colour
    panels: bool = False


def paint_buildings(rng: np.random.Generator, canvas: Canvas, plan: Plan) -> None:
    """Houses on village plots, halls on theirs, and farmsteads beside the tracks."""
    for plot in plan.plots:
        box = bounding_box(plot.ring)
        middle = plan.warp(np.array([box.centre]))[0]
        make = _hall if plot.use is Use.HALLS else _house
        if rng.random() < 0.07:
            continue
        for _ in range(4):  # a street may run close: try other places on the plot
            if _build(canvas, make(rng, float(middle[0]), float(middle[1]), box.angle, box.long, box.short), rng):
                break
    for farm in plan.farms:
        _farmstead(rng, canvas, farm)


def _house(rng: np.random.Generator, x: float, y: float, angle: float, long: float, short: float) -> list[House]:
    """A dwelling somewhere near the middle of its plot, sometimes with a wing or a garage."""
    turned = angle + rng.choice([0.0, np.pi / 2]) + rng.normal(0, 0.03)
    length, width = rng.uniform(22, 34), rng.uniform(18, 24)
    aside = unit(angle) * rng.uniform(-0.14, 0.14) * long + unit(angle + np.pi / 2) * rng.uniform(-0.1, 0.1) * short
    x, y = x + float(aside[0]), y + float(aside[1])
    colour = TILES[rng.integers(len(TILES))]
    main = House(
        x,
        y,
        turned,
        length,
        width,
        rng.uniform(3.2, 6.2),
        rng.uniform(0.5, 0.95),
        rng.random() < 0.25,
        colour,
        rng.random() < 0.22,
    )
    shift = unit(turned) * (length / 2) * rng.choice([-1, 1]) + unit(turned + np.pi / 2) * width * rng.choice(
        [-0.3, 0.3]
    )
    if rng.random() < 0.3:
        wing = House(
            x + shift[0] * 0.6,
            y + shift[1],
            turned + np.pi / 2,
            width * 1.3,
            length * 0.45,
            main.eaves,
            main.pitch,
            False,
            colour,
        )
        return [main, wing]
    if rng.random() < 0.5:
        gap = unit(turned) * (length / 2 + 10) * rng.choice([-1, 1])
        garage = House(x + gap[0], y + gap[1], turned, 13, 12, 2.6, 0.0, False, SHEETS[rng.integers(len(SHEETS))])
        return [main, garage]
    return [main]


def _hall(rng: np.random.Generator, x: float, y: float, angle: float, long: float, short: float) -> list[House]:
    """A flat-roofed hall that fills much of its plot."""
    colour = SHEETS[rng.integers(len(SHEETS))]
    length, width = long * rng.uniform(0.5, 0.68), short * rng.uniform(0.45, 0.62)
    return [House(x, y, angle, length, width, rng.uniform(7, 11), 0.0, False, colour)]


def _farmstead(rng: np.random.Generator, canvas: Canvas, farm: Farm) -> None:
    """A farmhouse between two barns, around the yard."""
    middle = np.array([farm.x, farm.y])
    _build(canvas, _house(rng, farm.x, farm.y, farm.angle, 12, 12), rng)
    for side in (-1, 1):
        place = middle + unit(farm.angle) * side * rng.uniform(64, 74) + rng.normal(0, 6, 2)
        colour = (TILES + SHEETS)[rng.integers(len(TILES) + len(SHEETS))]
        turn = farm.angle + np.pi / 2 + rng.normal(0, 0.02)
        length, width = rng.uniform(50, 80), rng.uniform(26, 36)
        panels = rng.random() < 0.4
        _build(canvas, [House(place[0], place[1], turn, length, width, 5.0, 0.35, False, colour, panels)], rng)


def _build(canvas: Canvas, houses: list[House], rng: np.random.Generator) -> bool:
    """Draw one building, unless a part would stand in water, on a road or on another; says whether it was drawn."""
    windows = [around(canvas.shape, (house.x,), (house.y,), house.long * 0.75 + house.short * 0.5) for house in houses]
    if any(is_empty(window) for window in windows):
        return False
    for house, window in zip(houses, windows, strict=True):
        taken = canvas.label[window] >= Label.WATER
        if bool((taken & (_outside(house, window) < 3)).any()):
            return False
    for house, window in zip(houses, windows, strict=True):
        _roof(canvas, house, window, rng)
    return True


def _local(house: House, window: Window) -> tuple[F32, F32]:
    """Pixels along and across the ridge from the middle of a house, float32 [h, w]."""
    x, y = pixel_grid(window)
    c, s = np.cos(house.angle), np.sin(house.angle)
    along = (x - house.x) * c + (y - house.y) * s
    across = (y - house.y) * c - (x - house.x) * s
    return along.astype(np.float32), across.astype(np.float32)


def _outside(house: House, window: Window) -> F32:
    """Signed distance in pixels to the walls, float32 [h, w]; negative inside."""
    along, across = _local(house, window)
    return np.maximum(np.abs(along) - house.long / 2, np.abs(across) - house.short / 2)


def _roof(canvas: Canvas, house: House, window: Window, rng: np.random.Generator) -> None:
    """Height, slope, colour and label of one roof; where two parts meet the higher one shows."""
    along, across = _local(house, window)
    outside = _outside(house, window)
    to_eaves = house.short / 2 - np.abs(across)
    to_gable = house.long / 2 - np.abs(along) if house.hipped else np.full_like(along, np.inf)
    rise = np.minimum(to_eaves, to_gable) * METRES * house.pitch
    height = (house.eaves + rise).astype(np.float32)
    shown = (outside < 0) & (height > canvas.height[window])
    canvas.height[window][shown] = height[shown]
    on_side = to_eaves <= to_gable
    fall_along = np.where(on_side, 0, -np.sign(along)) * house.pitch
    fall_across = np.where(on_side, -np.sign(across), 0) * house.pitch
    c, s = np.cos(house.angle), np.sin(house.angle)
    canvas.slope[0][window][shown] = (fall_along * c - fall_across * s)[shown]
    canvas.slope[1][window][shown] = (fall_along * s + fall_across * c)[shown]
    _cover(canvas, house, window, shown, along, across, rng)
    canvas.label[window][shown] = Label.BUILDING


def _cover(
    canvas: Canvas,
    house: House,
    window: Window,
    shown: np.ndarray[tuple[int, ...], np.dtype[np.bool_]],
    along: F32,
    across: F32,
    rng: np.random.Generator,
) -> None:
    """Tiles in courses, a light ridge, or a flat roof with an edge, vents and sometimes solar panels."""
    mottle = 1 + 0.045 * rng.standard_normal(along.shape, np.float32)
    tint = rng.normal(0, 6)
    colour = (house.colour[0] + tint, house.colour[1] + tint, house.colour[2] + tint)
    if house.pitch:
        mottle = mottle * (1 + 0.04 * np.sin(along * 2.1)) + 0.10 * (np.abs(across) < 0.8)
    else:
        inner = np.minimum(house.short / 2 - np.abs(across), house.long / 2 - np.abs(along))
        mottle = mottle - 0.16 * (inner < 1.6) - 0.05 * (along % 18 < 1.2)
        mottle = mottle + 0.16 * ((along % 36 < 5) & (across % 30 < 4) & (inner > 6))
    canvas.mix(window, shown.astype(np.float32), colour, mottle.astype(np.float32))
    if house.panels:
        area = shown & (across > 2) & (across < house.short / 2 - 2) & (np.abs(along) < house.long * 0.38)
        canvas.mix(
            window,
            area.astype(np.float32) * np.float32(0.9),
            (44, 50, 72),
            (1 + 0.12 * (along % 4 < 1)).astype(np.float32),
        )
