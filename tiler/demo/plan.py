"""The plan of the landscape: who owns which cell, where roads and water run. Geometry only, no pixels."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np

from tiler.demo.geometry import Cut, Points, Warp, area, bounding_box, contains, densify, subdivide, unit

FIELD_AREA = 105_000.0  # square pixels: 2.6 hectares at 0.5 m
PLOT_AREA = 3_400.0  # 850 square metres
HALL_PLOT_AREA = 26_000.0
MARGIN = 260.0  # cells reach this far beyond the picture, so that none ends at its edge


class Use(Enum):
    """What a cell of land is used for."""

    FIELD = "field"
    MEADOW = "meadow"
    FOREST = "forest"
    VILLAGE = "village"
    HALLS = "halls"


class Surface(Enum):
    """What a way is made of."""

    PAVED = "paved"
    STREET = "street"
    GRAVEL = "gravel"
    TRACK = "track"
    YARD = "yard"


@dataclass(frozen=True)
class Parcel:
    """A convex cell before the warp and what grows on it."""

    ring: Points
    use: Use


@dataclass(frozen=True)
class Way:
    """A road or track along a path that is already warped."""

    surface: Surface
    path: Points


@dataclass(frozen=True)
class Farm:
    """A farmstead: its middle and the direction of the road it lies on (radians)."""

    x: float
    y: float
    angle: float


@dataclass(frozen=True)
class Plan:
    """Everything that is drawn later; paths are in pixels."""

    warp: Warp
    parcels: list[Parcel]
    plots: list[Parcel]
    ways: list[Way]
    farms: list[Farm]
    hedges: list[Points]
    river: Points
    river_width: float
    ponds: list[tuple[float, float, float]]  # x, y, radius


def make_plan(rng: np.random.Generator, size: int) -> Plan:
    """Divide a square of `size` pixels into land, ways and water."""
    warp = Warp.random(rng)
    cells, cuts = subdivide(rng, _outline(rng, size), FIELD_AREA)
    ways, hedges = _ways(rng, cuts, warp)
    river = _meander_clear_of(rng, size, ways)
    centres = _village_centres(rng, size, cuts, river)
    parcels = _assign_uses(rng, size, cells, river, centres)
    plots, streets = _villages(rng, parcels)
    ways += [Way(Surface.STREET, warp(densify(street, 20))) for street in streets]
    farms, yards = _farms(rng, parcels, ways, river, warp)
    return Plan(
        warp=warp,
        parcels=parcels,
        plots=plots,
        ways=ways + yards,
        farms=farms,
        hedges=hedges,
        river=river,
        river_width=float(rng.uniform(34, 62)),
        ponds=_ponds(rng, parcels, ways),
    )


def _outline(rng: np.random.Generator, size: int) -> Points:
    """A turned square that covers the picture with a margin: no road runs straight up the map."""
    half = size / 2 + MARGIN
    corners = np.array([[-half, -half], [half, -half], [half, half], [-half, half]])
    angle = rng.uniform(0.12, 0.55) * rng.choice([-1, 1])
    turn = np.array([unit(angle), unit(angle + np.pi / 2)])
    grown = abs(np.cos(angle)) + abs(np.sin(angle))
    return np.asarray(corners @ turn * grown + size / 2)


def _meander(rng: np.random.Generator, size: int) -> Points:
    """A river right across the picture, its heading swinging like a sine: the form real meanders take."""
    heading = rng.uniform(0, 2 * np.pi)
    step, wavelength = 12.0, rng.uniform(620, 900)
    count = int((2.4 * size + 3000) / step)
    s = (np.arange(count) - count // 2) * step
    swing = rng.uniform(0.7, 0.95) * np.sin(2 * np.pi * s / wavelength + rng.uniform(0, 2 * np.pi))
    drift = 0.4 * np.sin(2 * np.pi * s / (wavelength * 2.7) + rng.uniform(0, 2 * np.pi))
    path = np.cumsum(
        np.stack([np.cos(heading + swing + drift), np.sin(heading + swing + drift)], axis=1) * step, axis=0
    )
    through = size / 2 + rng.uniform(-0.22, 0.22, 2) * size
    return np.asarray(path - path[count // 2] + through, dtype=np.float64)


def _meander_clear_of(rng: np.random.Generator, size: int, ways: list[Way]) -> Points:
    """Of several meanders the one that runs least along roads: a road crosses a river, it does not follow its bed."""
    roads = np.concatenate([way.path for way in ways if way.surface in (Surface.PAVED, Surface.GRAVEL)])
    roads = roads[np.all((roads > 0) & (roads < size), axis=1)]
    rivers = [_meander(rng, size) for _ in range(12)]
    wet = [sum(_distance_to(river, point) < 40 for point in roads[::2]) for river in rivers]
    wet_share = [
        count / max(1, int(np.all((r > 0) & (r < size), axis=1).sum())) for count, r in zip(wet, rivers, strict=True)
    ]
    return rivers[int(np.argmin(wet_share))]


def _distance_to(path: Points, point: Points) -> float:
    """Distance in pixels from a point to the nearest vertex of a path."""
    return float(np.hypot(*(path - point).T).min())


def _village_centres(rng: np.random.Generator, size: int, cuts: list[Cut], river: Points) -> list[Points]:
    """Some points on the longest roads, apart from each other and from the river."""
    wanted = max(1, round(size * size / 5.2e6))
    roads = sorted(cuts, key=lambda cut: -cut.parent_area)[: max(2, 3 * wanted)]
    centres: list[Points] = []
    for _ in range(400):
        road = roads[rng.integers(len(roads))].path
        point = road[0] + (road[1] - road[0]) * rng.uniform(0.1, 0.9)
        inside = bool(np.all((point > 0.14 * size) & (point < 0.86 * size)))
        if not inside or _distance_to(river, point) < min(260, 0.2 * size):
            continue
        if all(np.hypot(*(point - other)) > 1200 for other in centres):
            centres.append(point)
        if len(centres) == wanted:
            break
    return centres or [np.full(2, size * 0.25)]


def _assign_uses(
    rng: np.random.Generator, size: int, cells: list[Points], river: Points, centres: list[Points]
) -> list[Parcel]:
    """Villages around their centres, woods in clumps, meadows by the river, fields elsewhere."""
    middles = np.array([cell.mean(axis=0) for cell in cells])
    areas = np.array([area(cell) for cell in cells])
    uses = np.full(len(cells), Use.FIELD, dtype=object)
    near_river = np.array([_distance_to(river, middle) for middle in middles])
    uses[(near_river < 130) | (rng.random(len(cells)) < 0.13)] = Use.MEADOW
    uses[_clumps(rng, middles, areas, size, share=0.2)] = Use.FOREST
    halls_left = 1 if size >= 2048 else 0
    for centre in centres:
        nearest = np.argsort(np.hypot(*(middles - centre).T))
        count = int(rng.integers(3, 6)) if size >= 1536 else 2
        uses[nearest[:count]] = Use.VILLAGE
        if halls_left and near_river[nearest[count]] > 200:
            uses[nearest[count]] = Use.HALLS
            halls_left -= 1
    return [Parcel(cell, use) for cell, use in zip(cells, uses, strict=True)]


def _clumps(rng: np.random.Generator, middles: Points, areas: Points, size: int, share: float) -> Points:
    """Indices of the cells that lie highest on a slow random surface, up to `share` of the picture's area."""
    height = np.zeros(len(middles))
    for _ in range(5):
        k = unit(rng.uniform(0, 2 * np.pi)) * 2 * np.pi / rng.uniform(900, 2400)
        height += np.sin(middles @ k + rng.uniform(0, 2 * np.pi))
    inside = np.all((middles > 0) & (middles < size), axis=1)
    order = np.argsort(-(height + rng.normal(0, 0.35, len(middles))))
    taken = np.cumsum((areas * inside)[order]) <= share * float((areas * inside).sum())
    taken[0] = True
    return np.asarray(order[taken])


def _villages(rng: np.random.Generator, parcels: list[Parcel]) -> tuple[list[Parcel], list[Points]]:
    """Building plots inside the village cells, and the streets between them."""
    plots: list[Parcel] = []
    streets: list[Points] = []
    for parcel in parcels:
        if parcel.use not in (Use.VILLAGE, Use.HALLS):
            continue
        village = parcel.use is Use.VILLAGE
        rings, cuts = subdivide(rng, parcel.ring, PLOT_AREA if village else HALL_PLOT_AREA)
        plots += [Parcel(ring, parcel.use) for ring in rings]
        streets += [cut.path for cut in cuts if cut.parent_area > (19_000 if village else 70_000)]
    return plots, streets


def _ways(rng: np.random.Generator, cuts: list[Cut], warp: Warp) -> tuple[list[Way], list[Points]]:
    """Old, long cuts are roads, later ones tracks; some of the last carry a hedge instead."""
    ways: list[Way] = []
    hedges: list[Points] = []
    largest = max(cut.parent_area for cut in cuts)
    for cut in cuts:
        path = warp(densify(cut.path, 20))
        if cut.parent_area > min(3.0e6, 0.45 * largest):
            ways.append(Way(Surface.PAVED, path))
        elif cut.parent_area > 9.0e5:
            ways.append(Way(Surface.GRAVEL, path))
        elif cut.parent_area > 3.2e5 and rng.random() < 0.6:
            ways.append(Way(Surface.TRACK, path))
        elif rng.random() < 0.16:
            hedges.append(path)
    return ways, hedges


def _farms(
    rng: np.random.Generator, parcels: list[Parcel], ways: list[Way], river: Points, warp: Warp
) -> tuple[list[Farm], list[Way]]:
    """Farmsteads beside some roads, in open land away from the river, each with its drive and yard."""
    open_land = [parcel.ring for parcel in parcels if parcel.use in (Use.FIELD, Use.MEADOW)]
    farms: list[Farm] = []
    yards: list[Way] = []
    for way in ways:
        if way.surface not in (Surface.GRAVEL, Surface.PAVED) or rng.random() < 0.35:
            continue
        i = int(rng.integers(len(way.path) - 1))
        ahead = way.path[i + 1] - way.path[i]
        angle = float(np.arctan2(ahead[1], ahead[0]))
        away = unit(angle + np.pi / 2) * rng.choice([-1, 1])
        middle = way.path[i] + away * 92
        before_warp = (2 * middle - warp(middle[None])[0])[None]
        apart = all(np.hypot(middle[0] - farm.x, middle[1] - farm.y) > 350 for farm in farms)
        if not apart or _distance_to(river, middle) < 190 or not any(contains(r, before_warp)[0] for r in open_land):
            continue
        farms.append(Farm(float(middle[0]), float(middle[1]), angle))
        court = middle - away * 32
        yards.append(Way(Surface.YARD, np.stack([way.path[i], court])))
        yards.append(Way(Surface.YARD, np.stack([court - unit(angle) * 40, court + unit(angle) * 40])))
    return farms, yards


def _ponds(rng: np.random.Generator, parcels: list[Parcel], ways: list[Way]) -> list[tuple[float, float, float]]:
    """Ponds in the middle of some meadows and woods, where no way passes."""
    wet = [p for p in parcels if p.use in (Use.MEADOW, Use.FOREST)]
    ponds: list[tuple[float, float, float]] = []
    for parcel in wet:
        box = bounding_box(parcel.ring)
        radius = float(min(rng.uniform(32, 85), box.short * 0.3))
        if rng.random() > 0.2 or box.short < 150:
            continue
        if all(_distance_to(way.path, np.array(box.centre)) > 1.3 * radius + 22 for way in ways):
            ponds.append((*box.centre, radius))
    return ponds
