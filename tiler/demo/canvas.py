"""What painters draw on: ground colour, height above ground and true label of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray
from rasterio.features import rasterize

from tiler.demo.geometry import Points
from tiler.demo.noise import F32

METRES = 0.5  # ground size of a pixel

Colour = tuple[float, float, float]
Mask = NDArray[np.bool_]
Window = tuple[slice, slice]


class Label(IntEnum):
    """True class of a pixel. 0 is land like any other, not the absence of an answer."""

    OTHER = 0
    FIELD = 1
    FOREST = 2
    WATER = 3
    ROAD = 4
    BUILDING = 5


@dataclass
class Canvas:
    """The picture while it is being painted."""

    colour: F32  # [3, H, W] ground colour under full sun, 0..255
    height: F32  # [H, W] metres above ground
    slope: F32  # [2, H, W] rise to the east and to the south of roofs, metres a metre
    label: NDArray[np.uint8]  # [H, W]

    @staticmethod
    def blank(size: int) -> Canvas:
        """Black, flat, and nothing but other land."""
        shape = (size, size)
        return Canvas(
            colour=np.zeros((3, *shape), np.float32),
            height=np.zeros(shape, np.float32),
            slope=np.zeros((2, *shape), np.float32),
            label=np.zeros(shape, np.uint8),
        )

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.label.shape[0], self.label.shape[1]

    def mix(self, window: Window, cover: F32, colour: Colour, texture: F32 | float = 1.0) -> None:
        """Lay `colour * texture` over a window; `cover` 0..1 [h, w] says how opaque it is at each pixel."""
        for band, value in zip(self.colour, colour, strict=True):
            band[window] += cover * (np.float32(value) * texture - band[window])


def around(shape: tuple[int, int], x: Sequence[float] | Points, y: Sequence[float] | Points, reach: float) -> Window:
    """The window of a picture that holds all points x, y and `reach` pixels around; empty slices when outside."""
    top, bottom = np.clip([np.min(y) - reach, np.max(y) + reach + 1], 0, shape[0]).astype(int)
    left, right = np.clip([np.min(x) - reach, np.max(x) + reach + 1], 0, shape[1]).astype(int)
    return slice(top, bottom), slice(left, right)


def is_empty(window: Window) -> bool:
    """Whether a window holds no pixel."""
    return any(part.stop <= part.start for part in window)


def pixel_grid(window: Window) -> tuple[Points, Points]:
    """Pixel centres of a window: x [1, w] and y [h, 1], in pixels of the whole picture."""
    rows, columns = window
    x = np.arange(columns.start, columns.stop, dtype=np.float64)[None, :] + 0.5
    y = np.arange(rows.start, rows.stop, dtype=np.float64)[:, None] + 0.5
    return x, y


def burn(shape: tuple[int, int], rings: Sequence[Points]) -> NDArray[np.int32]:
    """Polygons as numbers, int32 [H, W]: ring i becomes i + 1, pixels outside every ring 0."""
    shapes = [
        ({"type": "Polygon", "coordinates": [np.concatenate([ring, ring[:1]]).tolist()]}, i + 1)
        for i, ring in enumerate(rings)
        if len(ring) >= 3
    ]
    if not shapes:
        return np.zeros(shape, np.int32)
    burnt: NDArray[np.int32] = rasterize(shapes, out_shape=shape, fill=0, dtype="int32")
    return burnt


def windows_of(numbers: NDArray[np.int32], rings: Sequence[Points]) -> list[tuple[int, Window]]:
    """For every ring its index and the window around it, leaving out rings outside the picture."""
    shape = (numbers.shape[0], numbers.shape[1])
    found = [(i, around(shape, ring[:, 0], ring[:, 1], 1)) for i, ring in enumerate(rings) if len(ring) >= 3]
    return [(i, window) for i, window in found if not is_empty(window)]


def distance_along(shape: tuple[int, int], paths: Sequence[Points], reach: float) -> tuple[F32, F32]:
    """Distance to the nearest path and distance travelled along it, both float32 [H, W] in pixels.

    Only pixels closer than `reach` are filled in; the others hold infinity and 0.
    """
    nearest = np.full(shape, np.inf, np.float32)
    travelled = np.zeros(shape, np.float32)
    for path in paths:
        lengths = np.hypot(*np.diff(path, axis=0).T)
        starts = np.concatenate([[0.0], np.cumsum(lengths)])
        for start, end, length, before in zip(path[:-1], path[1:], lengths, starts[:-1], strict=True):
            window = around(shape, (start[0], end[0]), (start[1], end[1]), reach)
            if is_empty(window) or length == 0:
                continue
            x, y = pixel_grid(window)
            t = np.clip(((x - start[0]) * (end[0] - start[0]) + (y - start[1]) * (end[1] - start[1])) / length**2, 0, 1)
            away = np.hypot(x - start[0] - t * (end[0] - start[0]), y - start[1] - t * (end[1] - start[1]))
            closer = away < np.minimum(nearest[window], reach)
            nearest[window][closer] = away[closer]
            travelled[window][closer] = (before + t * length)[closer]
    return nearest, travelled


def soft_step(value: F32, edge: float, width: float = 1.0) -> F32:
    """1 where `value` is well below `edge`, 0 well above, a ramp of `width` between."""
    ramp: F32 = np.clip((edge - value) / width + 0.5, 0, 1).astype(np.float32)
    return ramp
