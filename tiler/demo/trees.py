"""Plants trees: woods crown by crown, river banks, hedges, gardens, orchards. Each crown is a small dome."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from tiler.demo.canvas import Canvas, Label, burn
from tiler.demo.farmland import Ground
from tiler.demo.geometry import Points, bounding_box, contains, densify, inset
from tiler.demo.noise import F32, smooth_noise
from tiler.demo.plan import Plan, Surface, Use


@dataclass(frozen=True)
class Trees:
    """Many trees, one entry each."""

    xy: Points  # [N, 2] pixels
    radius: Points  # [N] pixels
    conifer: NDArray[np.bool_]  # [N]

    def __len__(self) -> int:
        return len(self.radius)

    def where(self, keep: NDArray[np.bool_]) -> Trees:
        """Only the trees marked in bool [N]."""
        return Trees(self.xy[keep], self.radius[keep], self.conifer[keep])


def plant(rng: np.random.Generator, canvas: Canvas, plan: Plan, ground: Ground, shore: F32) -> None:
    """Forest floor first, then every tree that has room."""
    woods = _woods(rng, canvas, plan, shore)
    _paint_floor(canvas, woods, ground)
    groups = [
        _wood_trees(rng, canvas.shape, woods),
        _bank_trees(rng, canvas.shape, shore),
        _line_trees(rng, plan.hedges, step=9, radius=(3.2, 6.5), share=0.9),
        _line_trees(rng, _avenues(rng, plan), step=26, radius=(5, 8), share=0.85),
        _garden_trees(rng, plan),
        _orchards(rng, plan),
    ]
    trees = Trees(*(np.concatenate([getattr(g, name) for g in groups]) for name in ("xy", "radius", "conifer")))
    _grow(rng, canvas, _with_room(canvas, trees), ground)


def _woods(rng: np.random.Generator, canvas: Canvas, plan: Plan, shore: F32) -> NDArray[np.bool_]:
    """Forest cells with an uneven outline, and some copses that follow no boundary, bool [H, W]."""
    woods = burn(canvas.shape, _rings(plan, (Use.FOREST,), 5.0)) > 0
    copses = smooth_noise(rng, canvas.shape, 300) + 0.3 * smooth_noise(rng, canvas.shape, 60) > 2.15
    copses &= burn(canvas.shape, _rings(plan, (Use.FIELD, Use.MEADOW), 3.0)) > 0
    free = (canvas.label < Label.WATER) & (shore > 6)
    for farm in plan.farms:
        free &= (np.arange(canvas.shape[1])[None, :] - farm.x) ** 2 + (
            np.arange(canvas.shape[0])[:, None] - farm.y
        ) ** 2 > 130**2
    return np.asarray((woods | copses) & free)


def _rings(plan: Plan, uses: tuple[Use, ...], distance: float) -> list[Points]:
    """Warped outlines, `distance` pixels inside, of all parcels with one of these uses."""
    cells = [inset(parcel.ring, distance) for parcel in plan.parcels if parcel.use in uses]
    return [plan.warp(densify(cell, 20, closed=True)) for cell in cells if len(cell)]


def _paint_floor(canvas: Canvas, woods: NDArray[np.bool_], ground: Ground) -> None:
    """Dark undergrowth between the crowns; it is forest too."""
    window = slice(0, canvas.shape[0]), slice(0, canvas.shape[1])
    canvas.mix(window, woods.astype(np.float32), (62, 78, 44), np.asarray(1 + 0.12 * ground.tufts, dtype=np.float32))
    canvas.label[woods] = Label.FOREST


def _jittered(rng: np.random.Generator, shape: tuple[int, int], step: float) -> Points:
    """Points [N, 2] on a grid of `step` pixels, each pushed off its knot."""
    x, y = np.meshgrid(np.arange(step / 2, shape[1], step), np.arange(step / 2, shape[0], step))
    knots = np.stack([x.ravel(), y.ravel()], axis=1)
    return np.clip(knots + rng.uniform(-0.42, 0.42, knots.shape) * step, 0, [shape[1] - 1, shape[0] - 1])


def _at(surface: NDArray[np.generic], xy: Points) -> NDArray[np.generic]:
    """Values [N] of a surface [H, W] at points [N, 2] inside it."""
    picked: NDArray[np.generic] = surface[xy[:, 1].astype(int), xy[:, 0].astype(int)]
    return picked


def _wood_trees(rng: np.random.Generator, shape: tuple[int, int], woods: NDArray[np.bool_]) -> Trees:
    """Stands of conifers and of broadleaves, and clearings where the wood has been thinned."""
    xy = _jittered(rng, shape, 9.5)
    xy = xy[_at(woods, xy).astype(bool)]
    mixture = smooth_noise(rng, shape, 330)
    conifer = _at(mixture, xy).astype(float) + rng.normal(0, 0.45, len(xy)) > 0.1
    thin = _at(smooth_noise(rng, shape, 130), xy).astype(float)
    broad = rng.uniform(5.5, 9.5, len(xy))
    radius = np.where(conifer, rng.uniform(4.2, 6.6, len(xy)), broad)
    # Broad crowns need more room, so fewer of them stand.
    keep = (rng.random(len(xy)) < np.where(conifer, 0.97, 0.72)) & (rng.random(len(xy)) > np.clip(thin - 1.5, 0, 0.9))
    return Trees(xy, radius, conifer).where(keep)


def _bank_trees(rng: np.random.Generator, shape: tuple[int, int], shore: F32) -> Trees:
    """A broken belt of broadleaves along the water."""
    xy = _jittered(rng, shape, 10)
    away = _at(shore, xy).astype(float)
    belt = _at(smooth_noise(rng, shape, 160), xy).astype(float)
    xy = xy[(away > 6) & (away < 24) & (belt > 0.15) & (rng.random(len(xy)) < 0.8)]
    return Trees(xy, rng.uniform(4.5, 9, len(xy)), np.zeros(len(xy), bool))


def _avenues(rng: np.random.Generator, plan: Plan) -> list[Points]:
    """Both sides of some paved roads, as paths."""
    sides: list[Points] = []
    for way in plan.ways:
        if way.surface is not Surface.PAVED or rng.random() > 0.4:
            continue
        ahead = np.gradient(way.path, axis=0)
        beside = np.stack([-ahead[:, 1], ahead[:, 0]], axis=1) / np.maximum(np.hypot(*ahead.T), 1e-6)[:, None]
        sides += [way.path + beside * 15, way.path - beside * 15]
    return sides


def _line_trees(
    rng: np.random.Generator, paths: list[Points], step: float, radius: tuple[float, float], share: float
) -> Trees:
    """Broadleaves along paths, with gaps."""
    points = [densify(path, step) for path in paths] or [np.zeros((0, 2))]
    xy = np.concatenate(points)
    xy = xy[rng.random(len(xy)) < share]
    xy = xy + rng.normal(0, 1.2, xy.shape)
    return Trees(xy, rng.uniform(*radius, len(xy)), np.zeros(len(xy), bool))


def _garden_trees(rng: np.random.Generator, plan: Plan) -> Trees:
    """Three or four small trees on every plot."""
    rows: list[Points] = [np.zeros((0, 2))]
    for plot in plan.plots:
        box = bounding_box(plot.ring)
        reach = 0.5 * min(box.long, 90.0)
        rows.append(np.array(box.centre) + rng.uniform(-reach, reach, (int(rng.integers(1, 5)), 2)))
    xy = plan.warp(np.concatenate(rows))
    return Trees(xy, rng.uniform(2.8, 6.5, len(xy)), rng.random(len(xy)) < 0.2)


def _orchards(rng: np.random.Generator, plan: Plan) -> Trees:
    """Some meadows carry fruit trees in a loose grid, others a lone tree or two."""
    rows: list[Points] = [np.zeros((0, 2))]
    for parcel in plan.parcels:
        if parcel.use is not Use.MEADOW:
            continue
        ring = inset(parcel.ring, 18)
        if not len(ring):
            continue
        low, high = ring.min(axis=0), ring.max(axis=0)
        if rng.random() < 0.3:
            x, y = np.meshgrid(np.arange(low[0], high[0], 23), np.arange(low[1], high[1], 23))
            points = np.stack([x.ravel(), y.ravel()], axis=1)
            points = points[rng.random(len(points)) < 0.75]
        else:
            points = rng.uniform(low, high, (3, 2))
        rows.append(points[contains(ring, points)])
    xy = plan.warp(np.concatenate(rows))
    return Trees(xy + rng.normal(0, 1.5, xy.shape), rng.uniform(3.5, 6, len(xy)), np.zeros(len(xy), bool))


def _with_room(canvas: Canvas, trees: Trees) -> Trees:
    """Only trees whose trunk stands on land, off roads, tilled fields and roofs, and whose crown clears the roofs."""
    h, w = canvas.shape
    inside = np.all((trees.xy > 0) & (trees.xy < [w, h]), axis=1)
    trees = trees.where(inside)
    keep = np.ones(len(trees), bool)
    reach = trees.radius * 0.7
    for dx, dy in ((0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)):
        spot = np.clip(trees.xy + np.stack([dx * reach, dy * reach], axis=1), 0, [w - 1, h - 1])
        keep &= np.isin(_at(canvas.label, spot), (Label.OTHER, Label.FIELD, Label.FOREST))
    return trees.where(keep)


@cache
def _dome(radius: int, conifer: bool) -> F32:
    """Height of a crown 0..1, float32 [2r+1, 2r+1], 0 outside: a cone for conifers, a half ball for broadleaves."""
    r = radius / 2  # half pixels, so that sizes differ finely
    n = int(np.ceil(r))
    axis = np.arange(-n, n + 1)
    away = np.hypot(axis[None, :], axis[:, None]) / r
    shape = 1 - away**1.15 if conifer else np.sqrt(np.maximum(1 - away**2, 0))
    return np.where(away < 1, np.maximum(shape, 0), 0).astype(np.float32)


def _grow(rng: np.random.Generator, canvas: Canvas, trees: Trees, ground: Ground) -> None:
    """Stamp every crown into the height surface, the taller one on top, and colour it by its tree."""
    owner = np.zeros(canvas.shape, np.int32)
    h, w = canvas.shape
    tall = np.where(trees.conifer, 2.6, 1.25) * trees.radius * rng.uniform(0.8, 1.2, len(trees))
    for i in range(len(trees)):
        dome = _dome(round(2 * float(trees.radius[i])), bool(trees.conifer[i]))
        n = dome.shape[0] // 2
        x, y = int(trees.xy[i, 0]), int(trees.xy[i, 1])
        top, left = max(y - n, 0), max(x - n, 0)
        part = dome[top - (y - n) : h - (y - n), left - (x - n) : w - (x - n)]
        window = slice(top, top + part.shape[0]), slice(left, left + part.shape[1])
        # The crown is the upper half of the tree; stems do not show from above.
        crown = np.float32(tall[i]) * (np.float32(0.45) + np.float32(0.55) * part)
        seen = (part > 0) & (crown > canvas.height[window])
        canvas.height[window][seen] = crown[seen]
        owner[window][seen] = i + 1
    _colour_crowns(rng, canvas, trees, owner, ground)


def _colour_crowns(
    rng: np.random.Generator, canvas: Canvas, trees: Trees, owner: NDArray[np.int32], ground: Ground
) -> None:
    """Each tree its own green, leaves as speckle; every crown is labelled forest."""
    leafy = owner > 0
    base = np.where(trees.conifer[:, None], [58.0, 82.0, 50.0], [88.0, 116.0, 54.0])
    spread = rng.normal(0, 1, (len(trees), 1)) * [9.0, 8.0, 5.0] + rng.normal(0, 3, (len(trees), 3))
    colours = np.concatenate([np.zeros((1, 3)), base + spread]).astype(np.float32)
    leaves = (1 + 0.07 * ground.speckle + 0.03 * ground.soil)[leafy]
    for band in range(3):
        canvas.colour[band][leafy] = colours[owner[leafy], band] * leaves
    canvas.height[leafy] += np.float32(0.28) * ground.speckle[leafy]
    canvas.label[leafy] = Label.FOREST
