"""Sun, shadow and camera: from ground colour and height to the numbers a sensor would deliver."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tiler.demo.canvas import METRES, Canvas, Label
from tiler.demo.noise import F32, blur, fractal_noise

SKY: tuple[float, float, float] = (0.40, 0.45, 0.54)  # what remains without sun: shadows are bluish


@dataclass(frozen=True)
class Sun:
    """Where the sun stands, radians; azimuth clockwise from north, which is up."""

    azimuth: float
    elevation: float

    @staticmethod
    def random(rng: np.random.Generator) -> Sun:
        """A flight between mid-morning and early afternoon in summer."""
        return Sun(float(np.radians(rng.uniform(125, 215))), float(np.radians(rng.uniform(40, 54))))

    @property
    def towards(self) -> tuple[float, float]:
        """Unit vector (x, y) on the picture towards the sun."""
        return float(np.sin(self.azimuth)), float(-np.cos(self.azimuth))


def shadow(height: F32, sun: Sun) -> F32:
    """How much of the sun is hidden, float32 [H, W] 0..1: march towards the sun and keep the highest ray."""
    rows, columns = height.shape
    x, y = sun.towards
    drop = METRES * np.tan(sun.elevation)
    roof = np.zeros_like(height)
    for step in range(1, int(np.ceil(float(height.max()) / drop)) + 1):
        dx, dy = round(step * x), round(step * y)
        here = slice(max(0, -dy), min(rows, rows - dy)), slice(max(0, -dx), min(columns, columns - dx))
        there = slice(max(0, dy), min(rows, rows + dy)), slice(max(0, dx), min(columns, columns + dx))
        np.maximum(roof[here], height[there] - np.float32(step * drop), out=roof[here])
    hidden: F32 = np.clip((roof - height - np.float32(0.15)) / np.float32(0.9), 0, 1)
    return hidden


def sunlight(canvas: Canvas, sun: Sun, relief: F32) -> F32:
    """Direct light, float32 [H, W], 1 on flat open ground: faces turned to the sun get more, shaded ones none."""
    east, south = _slopes(canvas, relief)
    x, y = sun.towards
    flat, up = np.float32(np.cos(sun.elevation)), np.float32(np.sin(sun.elevation))
    facing = (up - flat * (np.float32(x) * east + np.float32(y) * south)) / np.sqrt(1 + east**2 + south**2)
    light: F32 = np.clip(facing / up, 0, 1.75) * (1 - shadow(canvas.height, sun))
    return light


def _slopes(canvas: Canvas, relief: F32) -> tuple[F32, F32]:
    """Rise to the east and to the south of what is seen, float32 [H, W]: crowns by height, roofs as drawn."""
    crown = canvas.label == Label.FOREST
    roof = canvas.label == Label.BUILDING
    slopes: list[F32] = []
    for axis, drawn in ((1, canvas.slope[0]), (0, canvas.slope[1])):
        rise = (np.roll(canvas.height, -1, axis) - np.roll(canvas.height, 1, axis)) * np.float32(1 / (2 * METRES))
        hills = (np.roll(relief, -1, axis) - np.roll(relief, 1, axis)) * np.float32(1 / (2 * METRES))
        tilt = np.where(crown, np.clip(rise, -1.6, 1.6) * np.float32(0.75), hills)
        slopes.append(np.where(roof, drawn, tilt).astype(np.float32))
    return slopes[0], slopes[1]


def expose(rng: np.random.Generator, canvas: Canvas, sun: Sun) -> NDArray[np.uint8]:
    """The picture uint8 [3, H, W], 1..255: lit, hazed, slightly blurred, noisy, with the tint of the day."""
    relief = fractal_noise(rng, canvas.shape, 700, 3) * np.float32(4.5)
    light = sunlight(canvas, sun, relief)
    gain, gamma = rng.uniform(0.99, 1.11), rng.uniform(0.90, 1.02)
    cast = rng.normal(1, 0.022, 3)
    haze = np.array([1.0, 1.03, 1.12]) * rng.uniform(3, 11)
    picture = np.empty((3, *canvas.shape), np.uint8)
    for band in range(3):
        lit = canvas.colour[band] * (np.float32(SKY[band]) + light * np.float32(1 - SKY[band]))
        soft = np.float32(0.45) * lit + np.float32(0.55) * blur(lit)
        toned = 255 * np.power(np.clip(soft * (gain * cast[band]), 0, 255) / 255, gamma) + haze[band]
        toned += rng.standard_normal(canvas.shape, np.float32) * np.float32(1.6)
        # 0 is the scene's nodata value: no seen pixel may hold it.
        picture[band] = np.clip(np.rint(toned), 1, 255)
    return picture
