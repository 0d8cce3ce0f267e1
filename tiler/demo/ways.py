"""Paints roads, streets and tracks, their verges and the cars on them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tiler.demo.canvas import Canvas, Colour, Label, distance_along, soft_step
from tiler.demo.farmland import Ground
from tiler.demo.geometry import Points
from tiler.demo.noise import F32
from tiler.demo.plan import Plan, Surface, Way


@dataclass(frozen=True)
class Style:
    """How one kind of way looks; lengths in pixels."""

    half_width: float
    verge: float
    colour: Colour
    rough: float  # contrast of stains and gravel
    ruts: bool = False  # grass grows between two wheel tracks
    line: bool = False  # white dashes along the middle


STYLES = {
    Surface.TRACK: Style(3.0, 2.5, (156, 146, 112), 0.06, ruts=True),
    Surface.GRAVEL: Style(3.6, 4.0, (180, 168, 142), 0.06),
    Surface.YARD: Style(4.6, 2.0, (172, 164, 146), 0.05),
    Surface.STREET: Style(5.0, 1.5, (140, 139, 136), 0.03),
    Surface.PAVED: Style(7.0, 7.0, (133, 132, 131), 0.03, line=True),
}


def paint_ways(rng: np.random.Generator, canvas: Canvas, plan: Plan, ground: Ground) -> None:
    """Every way, the humblest first, so that junctions show the better surface."""
    for surface, style in STYLES.items():
        paint_surface(canvas, [way for way in plan.ways if way.surface is surface], style, ground)
    _park_cars(rng, canvas, plan)


def paint_surface(canvas: Canvas, ways: list[Way], style: Style, ground: Ground) -> None:
    """Ways of one style: verge, surface, and what is drawn on it. Only paved ones bridge water."""
    if not ways:
        return
    away, travelled = distance_along(canvas.shape, [way.path for way in ways], style.half_width + style.verge + 2)
    window = slice(0, canvas.shape[0]), slice(0, canvas.shape[1])
    dry = np.ones(canvas.shape, np.float32) if style.line else (canvas.label != Label.WATER).astype(np.float32)
    verge = soft_step(away, style.half_width + style.verge, 2.0) * (canvas.label == Label.FIELD)
    canvas.mix(window, verge.astype(np.float32), (118, 136, 78), np.asarray(1 + 0.08 * ground.tufts, dtype=np.float32))
    canvas.label[verge > 0.5] = Label.OTHER
    cover = soft_step(away, style.half_width) * dry
    if style.ruts:
        cover *= np.clip(0.45 + np.abs(away - 0.2) * 0.5, 0, 1).astype(np.float32)
    stains = 1 + style.rough * (0.6 * ground.soil + 0.5 * ground.tufts + 0.5 * ground.speckle)
    canvas.mix(window, cover, style.colour, stains.astype(np.float32))
    canvas.label[(away < style.half_width) & (dry > 0)] = Label.ROAD
    if style.line:
        _mark(canvas, away, travelled, style)


def _mark(canvas: Canvas, away: F32, travelled: F32, style: Style) -> None:
    """White dashes in the middle and a thin line near both edges; thinner than a pixel, hence never quite white."""
    window = slice(0, canvas.shape[0]), slice(0, canvas.shape[1])
    dashes = soft_step(away, 0.4) * (travelled % 18 < 9)
    edges = soft_step(np.abs(away - style.half_width + 1.2), 0.1)
    canvas.mix(window, (0.5 * dashes + 0.45 * edges).astype(np.float32), (222, 222, 216))


CAR_COLOURS: tuple[Colour, ...] = (
    (225, 225, 225),
    (60, 62, 66),
    (120, 122, 126),
    (150, 40, 36),
    (48, 70, 120),
    (30, 30, 32),
)


def _park_cars(rng: np.random.Generator, canvas: Canvas, plan: Plan) -> None:
    """A few cars, 4.5 m by 2 m, each in its lane and turned along the road."""
    for way in plan.ways:
        if way.surface not in (Surface.PAVED, Surface.STREET):
            continue
        lane = 3.2 if way.surface is Surface.PAVED else 2.6
        for i in np.flatnonzero(rng.random(len(way.path) - 1) < 0.05):
            step = way.path[i + 1] - way.path[i]
            ahead = step / max(float(np.hypot(*step)), 1e-6)
            beside = np.array([-ahead[1], ahead[0]])
            middle = way.path[i] + beside * lane * rng.choice([-1, 1])
            _stamp_car(canvas, middle, ahead, CAR_COLOURS[rng.integers(len(CAR_COLOURS))])


def _stamp_car(canvas: Canvas, middle: Points, ahead: Points, colour: Colour) -> None:
    """One car as a small turned box, 1.4 m high so that it casts a shadow."""
    left, top = int(middle[0]) - 7, int(middle[1]) - 7
    if left < 0 or top < 0 or left + 15 > canvas.shape[1] or top + 15 > canvas.shape[0]:
        return
    window = slice(top, top + 15), slice(left, left + 15)
    if not np.all(canvas.label[top + 6 : top + 9, left + 6 : left + 9] == Label.ROAD):
        return
    x, y = np.arange(left, left + 15)[None, :] + 0.5 - middle[0], np.arange(top, top + 15)[:, None] + 0.5 - middle[1]
    along, across = np.abs(x * ahead[0] + y * ahead[1]), np.abs(y * ahead[0] - x * ahead[1])
    body = soft_step(np.maximum(along - 4.4, across - 1.9).astype(np.float32), 0.0)
    canvas.mix(window, body, colour)
    glass = body * soft_step(np.abs(along - 2.2).astype(np.float32), 0.4)
    canvas.mix(window, (0.5 * glass).astype(np.float32), (40, 46, 52))
    np.maximum(canvas.height[window], 1.4 * (body > 0.5), out=canvas.height[window])
