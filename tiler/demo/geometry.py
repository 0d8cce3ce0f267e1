"""Plane geometry of the invented landscape: convex cells, cuts through them, and a gentle warp.

Points are float64 [N, 2] in pixels, x to the right and y downwards.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Box:
    """Smallest rectangle around a polygon: centre (x, y), angle of its long side (radians), side lengths (pixels)."""

    centre: tuple[float, float]
    angle: float
    long: float
    short: float


@dataclass(frozen=True)
class Cut:
    """The line that divided a cell of `parent_area` square pixels in two."""

    path: Points
    parent_area: float


def unit(angle: float) -> Points:
    """Unit vector [2] of an angle in radians."""
    return np.array([np.cos(angle), np.sin(angle)])


def area(ring: Points) -> float:
    """Area of a simple polygon in square pixels."""
    x, y = ring[:, 0], ring[:, 1]
    return float(abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2)


def bounding_box(ring: Points) -> Box:
    """Smallest rectangle around a convex ring: one of its sides lies along one of the ring's edges."""
    best: Box | None = None
    for edge in np.roll(ring, -1, axis=0) - ring:
        angle = float(np.arctan2(edge[1], edge[0]))
        along, across = ring @ unit(angle), ring @ unit(angle + np.pi / 2)
        width, height = float(np.ptp(along)), float(np.ptp(across))
        if best is not None and width * height >= best.long * best.short:
            continue
        middle = unit(angle) * (along.min() + width / 2) + unit(angle + np.pi / 2) * (across.min() + height / 2)
        turned = angle if width >= height else angle + np.pi / 2
        best = Box((float(middle[0]), float(middle[1])), turned, max(width, height), min(width, height))
    if best is None:
        raise ValueError("a ring needs at least three points")
    return best


def clip(ring: Points, point: Points, normal: Points) -> Points:
    """The part of a convex ring on the side of the line through `point` that `normal` points to."""
    side = (ring - point) @ normal
    kept: list[Points] = []
    for i in range(len(ring)):
        j = (i + 1) % len(ring)
        if side[i] >= 0:
            kept.append(ring[i])
        if (side[i] >= 0) != (side[j] >= 0):
            kept.append(ring[i] + (ring[j] - ring[i]) * (side[i] / (side[i] - side[j])))
    return np.array(kept).reshape(-1, 2)


def inset(ring: Points, distance: float, across: float | None = None) -> Points:
    """A convex ring moved inwards by `distance` pixels; empty [0, 2] when nothing is left.

    With a direction `across` (radians), only the edges that run across it move.
    """
    centre = ring.mean(axis=0)
    inner = ring
    for start, end in zip(ring, np.roll(ring, -1, axis=0), strict=True):
        edge = end - start
        length = float(np.hypot(*edge))
        if length < 1e-6 or len(inner) < 3:
            continue
        if across is not None and abs(edge @ unit(across)) > 0.7 * length:
            continue
        normal = np.array([-edge[1], edge[0]]) / length
        normal = normal if (centre - start) @ normal > 0 else -normal
        inner = clip(inner, start + normal * distance, normal)
    return inner if len(inner) >= 3 else np.zeros((0, 2))


def chord(ring: Points, point: Points, angle: float) -> Points:
    """The two points [2, 2] where the line through `point` in direction `angle` leaves a convex ring."""
    normal = unit(angle + np.pi / 2)
    half = clip(ring, point, normal)
    on_line = half[np.argsort(np.abs((half - point) @ normal))[:2]]
    return np.asarray(on_line, dtype=np.float64)


def subdivide(rng: np.random.Generator, ring: Points, target_area: float) -> tuple[list[Points], list[Cut]]:
    """Cut a convex ring into convex cells of about `target_area` square pixels; returns the cells and every cut."""
    waiting, cells, cuts = [ring], [], []
    while waiting:
        cell = waiting.pop()
        size = area(cell)
        if size < target_area * rng.uniform(0.8, 1.9):
            cells.append(cell)
            continue
        box = bounding_box(cell)
        # Long cells are cut across, compact ones along: that makes strips, as divided farmland has them.
        across = box.long / max(box.short, 1.0) > rng.uniform(1.25, 2.9)
        angle = box.angle + (np.pi / 2 if across else 0.0) + rng.normal(0, 0.045)
        reach = unit(box.angle) * box.long if across else unit(box.angle + np.pi / 2) * box.short
        point = np.array(box.centre) + reach * rng.uniform(-0.13, 0.13)
        normal = unit(angle + np.pi / 2)
        halves = clip(cell, point, normal), clip(cell, point, -normal)
        if min(len(half) for half in halves) < 3:
            cells.append(cell)
            continue
        cuts.append(Cut(chord(cell, point, angle), size))
        waiting.extend(halves)
    return cells, cuts


def contains(ring: Points, points: Points) -> NDArray[np.bool_]:
    """Which points [N, 2] lie in a convex ring, bool [N]."""
    edges = np.roll(ring, -1, axis=0) - ring
    to = points[:, None, :] - ring[None]
    cross = edges[None, :, 0] * to[..., 1] - edges[None, :, 1] * to[..., 0]
    return np.asarray(np.all(cross >= 0, axis=1) | np.all(cross <= 0, axis=1))


def densify(path: Points, step: float, closed: bool = False) -> Points:
    """The same path with a point at least every `step` pixels."""
    ends = np.roll(path, -1, axis=0) if closed else path[1:]
    parts: list[Points] = []
    for start, end in zip(path, ends, strict=False):
        count = max(1, int(np.ceil(np.hypot(*(end - start)) / step)))
        parts.append(start + (end - start) * (np.arange(count) / count)[:, None])
    if not closed:
        parts.append(path[-1:])
    return np.concatenate(parts)


@dataclass(frozen=True)
class Warp:
    """A smooth displacement, so that edges drawn with a ruler bend as if the ground had shaped them."""

    waves: Points  # [N, 5]: wave vector x, y (radians a pixel), phase, displacement x, y (pixels)

    @staticmethod
    def random(rng: np.random.Generator) -> Warp:
        """Six waves of 1100 to 3200 pixels, up to some 50 pixels of displacement each."""
        angle, length = rng.uniform(0, 2 * np.pi, 6), rng.uniform(1100, 3200, 6)
        k = 2 * np.pi / length
        push, turn = rng.uniform(0.008, 0.017, 6) * length, rng.uniform(0, 2 * np.pi, 6)
        phase = rng.uniform(0, 2 * np.pi, 6)
        wave_vector, displacement = (k * np.cos(angle), k * np.sin(angle)), (push * np.cos(turn), push * np.sin(turn))
        return Warp(np.stack([*wave_vector, phase, *displacement], axis=1))

    def shift(self, x: Points, y: Points) -> tuple[Points, Points]:
        """Displacement (dx, dy) in pixels at the points x, y; any shape that broadcasts."""
        dx, dy = np.zeros(np.broadcast_shapes(x.shape, y.shape)), np.zeros(np.broadcast_shapes(x.shape, y.shape))
        for kx, ky, phase, push_x, push_y in self.waves:
            wave = np.sin(kx * x + ky * y + phase)
            dx += push_x * wave
            dy += push_y * wave
        return dx, dy

    def __call__(self, path: Points) -> Points:
        """The path moved point by point."""
        dx, dy = self.shift(path[:, 0], path[:, 1])
        return path + np.stack([dx, dy], axis=1)
