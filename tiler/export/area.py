"""Which part of a frame is exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tiler.export.order import Order
from tiler.grid import Grid
from tiler.values import Mask, Rect


@dataclass(frozen=True)
class Area:
    """All of it."""

    region: Rect
    geometry: Mapping[str, Any] | None = None

    def mask(self, rect: Rect) -> Mask | None:
        """None: every pixel counts."""
        return None

    def touches(self, rect: Rect) -> bool:
        """Whether any pixel counts."""
        return True


def area_of(order: Order, grid: Grid) -> Area:
    """The area of an order."""
    return Area(Rect(0, 0, grid.height, grid.width))
